"""What the tree searches share: the model's answers for a node, what is told of a search, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key, Model, State, StepOut
from mbrl_jax.planners.mcts import reuse
from mbrl_jax.planners.mcts.tree import SCALARS, Node, Tree, first_max, unpack


class SearchInfo(NamedTuple):
    """What a search tells of the root."""

    policy: Array  # [A] the improved policy: a target to learn from
    value: Array  # [] mean of all returns found, the model's own value among them
    visits: Array  # [A] int32
    q: Array  # [A] values of the edges; where never visited, what the planner takes for them
    raw_value: Array  # [] the model's value, without search
    tree: Any = ()  # `Tree` where `keep_tree`


def one_step(model: Model) -> Callable[[Key, State, Array], StepOut]:
    """The model's step, once it is clear that there is but one.

    Raises:
      ValueError: the model holds several worlds.
    """
    if model.members > 1:
        raise ValueError(
            f"model.members must be 1, got {model.members}: a tree search needs one step; bind one world, model.at(w), "
            "or an ensemble whose step is 'ts1' or 'mean'"
        )
    return model.step


def legal_at(model: Model, state: State, num_actions: int) -> Array:
    """Mask [A] of the actions allowed in a state: all, where the model does not say."""
    if model.legal is None:
        return jnp.ones(num_actions, bool)
    return model.legal(state).astype(bool)


def logits_at(model: Model, key: Key, state: State, num_actions: int) -> Array:
    """Logits [A] of the model's prior; 0 where it has none."""
    return jnp.zeros(num_actions) if model.prior is None else model.prior(key, state)


def value_at(model: Model, key: Key, state: State) -> Array:
    """The model's value []; 0 where it has none."""
    return jnp.zeros(()) if model.value is None else model.value(key, state)


def asker(
    model: Model,
    key: Key,
    keep: Callable[[Key, State], Array],
    value: Callable[[Key, State], Array],
) -> Callable[[State, Array], tuple[StepOut, Array, Array]]:
    """The `step` of `tree.expand`: one step of the model, and what a new node keeps.

    Args:
      model: any with one world.
      key: used once.
      keep: (key, state) -> [P], what goes into the node's prior.
      value: (key, state) -> [].
    """

    def one(keys: Key, state: State, action: Array) -> tuple[StepOut, Array, Array]:
        out = model.step(keys[0], state, action)
        return out, keep(keys[1], out.state), value(keys[2], out.state)

    def every(states: State, actions: Array) -> tuple[StepOut, Array, Array]:
        return jax.vmap(one)(jax.random.split(key, (actions.shape[0], 3)), states, actions)

    return every


def summary(tree: Tree, num_actions: int, policy: Array, q: Array, keep_tree: bool) -> SearchInfo:
    """What there is to tell of a finished search.

    Args:
      tree: after the last simulation.
      num_actions: A.
      policy: [A].
      q: [A].
      keep_tree: whether the tree itself goes along.
    """
    root = unpack(tree.rows[0], num_actions)
    return SearchInfo(policy, root.value, root.visits.astype(jnp.int32), q, root.raw, tree if keep_tree else ())


def most_visited(root: Node, q: Array) -> Array:
    """The action taken most often, the one of the highest value among equals; [] int32."""
    return first_max(jnp.where(root.visits == jnp.max(root.visits), q, -jnp.inf))


def rows_kept(wanted: bool, simulations: int, state: State) -> int:
    """How many nodes a planner keeps from one plan to the next: 0 without `reuse`, else as many as a plan makes.

    Raises:
      ValueError: `reuse` without an example of the model's states.
    """
    if wanted and state is None:
        raise ValueError("reuse needs state, an example of the model's states, to keep a tree of them")
    return simulations if wanted else 0


def memory(keep: int, num_actions: int, state: State) -> Any:
    """What an episode starts with: a kept tree with nothing in it, or `()`; a node's prior is one number per action."""
    return reuse.empty(4 * num_actions + SCALARS, state, keep) if keep else ()


def begin(start: Tree, warm: Any, num_actions: int) -> Tree:
    """The new tree, with what was kept in it."""
    return reuse.resume(start, warm, num_actions) if isinstance(warm, Tree) else start


def remember(tree: Tree, action: Array, num_actions: int, keep: int) -> Any:
    """What the next plan gets, if the action is taken."""
    return reuse.kept_below(tree, action, num_actions, keep) if keep else ()
