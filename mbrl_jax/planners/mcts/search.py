"""What the tree searches share: evaluation of nodes by the model, the result of a search, and reuse of its tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key, Model, State, StepOut
from mbrl_jax.planners.mcts import reuse
from mbrl_jax.planners.mcts.tree import SCALARS, Node, Tree, first_max, unpack


class SearchInfo(NamedTuple):
    """The result of a search at its root."""

    policy: Array  # [A] the improved policy: a target to learn from
    value: Array  # [] mean of all returns, the model's own value among them
    visits: Array  # [A] int32
    q: Array  # [A] values of the actions; of those never visited, the planner's estimate
    raw_value: Array  # [] the model's value, without search
    tree: Any = ()  # `Tree` with `keep_tree`


def need_one_member(model: Model) -> None:
    """Checks that the model has one `step`.

    Raises:
      ValueError: the model has several members.
    """
    if model.members > 1:
        raise ValueError(
            f"model.members must be 1, got {model.members}: a tree search needs one step; bind one member, "
            "model.at(i), or an ensemble whose step is 'ts1' or 'mean'"
        )


def legal_at(model: Model, state: State, num_actions: int) -> Array:
    """Mask [A] of the actions that are legal in a state; all are where the model has no `legal`.

    Args:
      model: asked for its `legal`.
      state: of the model.
      num_actions: A.
    """
    if model.legal is None:
        return jnp.ones(num_actions, bool)
    return model.legal(state).astype(bool)


def logits_at(model: Model, key: Key, state: State, num_actions: int) -> Array:
    """The logits [A] of the model's prior; 0 where it has none.

    Args:
      model: asked for its `prior`.
      key: for the model's prior; used once.
      state: of the model.
      num_actions: A.
    """
    return jnp.zeros(num_actions) if model.prior is None else model.prior(key, state)


def value_at(model: Model, key: Key, state: State) -> Array:
    """The model's value []; 0 where it has none."""
    return jnp.zeros(()) if model.value is None else model.value(key, state)


def evaluator(
    model: Model,
    key: Key,
    prior: Callable[[Key, State], Array],
    value: Callable[[Key, State], Array],
) -> Callable[[State, Array], tuple[StepOut, Array, Array]]:
    """The `step` of `tree.expand`: one step of the model, and prior and value of the new node.

    Args:
      model: any with one member.
      key: used once.
      prior: (key, state) -> [P], the node's prior.
      value: (key, state) -> [].
    Returns:
      (states [k, ...], actions [k]) -> StepOut [k], priors [k, P], values [k].
    """

    def one(keys: Key, state: State, action: Array) -> tuple[StepOut, Array, Array]:
        out = model.step(keys[0], state, action)
        return out, prior(keys[1], out.state), value(keys[2], out.state)

    def every(states: State, actions: Array) -> tuple[StepOut, Array, Array]:
        return jax.vmap(one)(jax.random.split(key, (actions.shape[0], 3)), states, actions)

    return every


def summary(tree: Tree, num_actions: int, policy: Array, q: Array, keep_tree: bool) -> SearchInfo:
    """The result of a finished search.

    Args:
      tree: after the last simulation.
      num_actions: A.
      policy: [A].
      q: [A].
      keep_tree: whether to return the tree itself.
    """
    root = unpack(tree.rows[0], num_actions)
    return SearchInfo(policy, root.value, root.visits.astype(jnp.int32), q, root.raw, tree if keep_tree else ())


def most_visited(root: Node, q: Array) -> Array:
    """The most visited action, among equals the one of the highest value; [] int32."""
    return first_max(jnp.where(root.visits == jnp.max(root.visits), q, -jnp.inf))


def rows_kept(reused: bool, simulations: int, state: State) -> int:
    """How many nodes a planner keeps from one search to the next: 0 without `reuse`, else as many as a search makes.

    Args:
      reused: the planner's setting `reuse`.
      simulations: model steps per search, each adds at most one node.
      state: an example of the model's states, or None.
    Raises:
      ValueError: `reuse` without an example of the model's states.
    """
    if reused and state is None:
        raise ValueError("reuse needs state, an example of the model's states, to keep a tree of them")
    return simulations if reused else 0


def memory(keep: int, num_actions: int, state: State) -> Any:
    """The planner's memory at the start of an episode: an empty tree with `reuse`, else `()`; P is A here.

    Args:
      keep: largest number of kept nodes, from `rows_kept`; 0 without `reuse`.
      num_actions: A.
      state: an example of the model's states; not read if `keep` is 0.
    """
    return reuse.empty(4 * num_actions + SCALARS, state, keep) if keep else ()


def begin(start: Tree, warm: Any, num_actions: int) -> Tree:
    """The new tree, with the nodes kept from the search before.

    Args:
      start: from `new_tree`, with the current state at its root.
      warm: the planner's memory: a kept tree, or `()` without `reuse`.
      num_actions: A.
    """
    return reuse.resume(start, warm, num_actions) if isinstance(warm, Tree) else start


def remember(tree: Tree, action: Array, num_actions: int, keep: int) -> Any:
    """The memory for the next search, if the action is taken: the tree below it with `reuse`, else `()`.

    Args:
      tree: after the last simulation.
      action: [] int32, a root action.
      num_actions: A.
      keep: largest number of kept nodes, from `rows_kept`; 0 without `reuse`.
    """
    return reuse.kept_below(tree, action, num_actions, keep) if keep else ()
