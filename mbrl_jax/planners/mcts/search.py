"""What the tree searches share: evaluation of nodes by the model, the result of a search, and reuse of its tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key, Model, State, StepOut
from mbrl_jax.planners.mcts import reuse
from mbrl_jax.planners.mcts.tree import LARGEST, SCALARS, Node, Tree, broken, first_max, unpack

FORBIDDEN = -1e9  # logit of an illegal action
UNLIKELY = -1e8  # logit of a legal action in place of NaN


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
    Raises:
      ValueError: the mask is not of shape [A].
    """
    if model.legal is None:
        return jnp.ones(num_actions, bool)
    legal = model.legal(state)
    need_shape("legal", legal, (num_actions,), "a mask of all actions")
    return legal.astype(bool)


def logits_at(model: Model, key: Key, state: State, num_actions: int) -> Array:
    """The logits [A] of the model's prior, by `usable_logits`; 0 where it has none.

    Args:
      model: asked for its `prior`.
      key: for the model's prior; used once.
      state: of the model.
      num_actions: A.
    Raises:
      ValueError: the prior is not of shape [A].
    """
    if model.prior is None:
        return jnp.zeros(num_actions, jnp.float32)
    logits = model.prior(key, state)
    need_shape("prior", logits, (num_actions,), "logits of all actions")
    return usable_logits(logits, model.legal is not None)


def usable_logits(logits: Array, masked: bool) -> Array:
    """Logits [A] of which a softmax makes probabilities, whatever a model gave: NaN and infinity are the least likely.

    Args:
      logits: [A].
      masked: whether a mask says which actions are legal. Without one a logit of minus infinity forbids an action,
        unless all have it.
    """
    logits = jnp.minimum(jnp.where(logits < jnp.inf, logits, UNLIKELY), -UNLIKELY)  # False for NaN
    if masked:
        return jnp.maximum(logits, UNLIKELY)
    return jnp.where(jnp.any(logits > 0.5 * FORBIDDEN), logits, 0.0)


def value_at(model: Model, key: Key, state: State) -> Array:
    """The model's value []; 0 where it has none.

    Raises:
      ValueError: it is not a scalar.
    """
    if model.value is None:
        return jnp.zeros((), jnp.float32)
    value = model.value(key, state)
    need_shape("value", value, (), "a scalar")
    return value


def root_value(value: Array) -> Array:
    """The root's value []; 0 where it is not finite, for it is only what other values are compared with."""
    return jnp.where(jnp.abs(value) <= LARGEST, value, 0.0)


def need_shape(field: str, array: Any, shape: tuple[int, ...], meaning: str) -> None:
    """Checks what a function of a model returned.

    Args:
      field: of `Model`, for the message.
      array: what it returned.
      shape: wanted.
      meaning: of an array of that shape, for the message.
    Raises:
      ValueError: an array of another shape, or no array.
    """
    if jnp.shape(array) != shape:
        raise ValueError(f"model.{field} must return {meaning}, shape {shape}, got shape {jnp.shape(array)}")


def checked_step(out: Any, field: str = "step") -> StepOut:
    """What `model.step`, or another function of a model, returned, after a check.

    Raises:
      ValueError: it is no `StepOut`, or its reward or discount is no scalar.
    """
    if not isinstance(out, StepOut):
        raise ValueError(f"model.{field} must return a StepOut(state, reward, discount), got a {type(out).__name__}")
    need_shape(field, out.reward, (), "a scalar reward")
    need_shape(field, out.discount, (), "a scalar discount")
    return out


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
        out = checked_step(model.step(keys[0], state, action))
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


def playable(root: Node, legal: Array) -> Array:
    """[A] bool: the legal actions whose edge is not broken; all legal ones where every edge is."""
    sound = legal & ~broken(root.q)
    return jnp.where(jnp.any(sound), sound, legal)


def shares(root: Node, legal: Array) -> Array:
    """[A] each action's share of the visits of playable actions; equal shares where none of those was visited."""
    able = playable(root, legal)
    counted = jnp.where(able, root.visits, 0.0)
    counted = jnp.where(jnp.any(counted > 0.0), counted, able.astype(counted.dtype))
    return counted / jnp.sum(counted)


def shown_q(root: Node) -> Array:
    """[A] Q where tried, V where not; of a broken edge the least of them, for no number says how bad it is."""
    q = jnp.where(root.visits > 0, root.q, root.value)
    bad = broken(q)
    return jnp.where(bad, jnp.minimum(root.value, jnp.min(jnp.where(bad, jnp.inf, q))), q)


def most_shared(policy: Array, q: Array) -> Array:
    """The action of the largest share, among equals the one of the highest value; [] int32."""
    return first_max(jnp.where(policy == jnp.max(policy), q, -jnp.inf))


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
