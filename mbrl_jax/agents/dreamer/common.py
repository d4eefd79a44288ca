"""What the Dreamers share around their equations: a window's rows as a model is driven, and an actor's memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.buffers.sequence import Step
from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Box, Discrete, Key, Obs, Space, Spec
from mbrl_jax.models.rssm.rssm import RSSM, Latent, Rows, Tracked, action_code, code_size, previous
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.observations import Decoder


class Memory(NamedTuple):
    """What an actor remembers of its episode."""

    latent: Latent
    action: Array  # [A] the code of the action that follows it; zeros before an episode


def initial_carry(rssm: RSSM, space: Space) -> Memory:
    """The memory before an episode: zeros, from which a step is the same as one that is told that it is the first."""
    return Memory(rssm.start(), jnp.zeros(code_size(space)))


def sense(rssm: RSSM, params: Any, key: Key, memory: Memory, token: Array) -> Tracked:
    """What one more observation makes of an actor's memory: the state, posterior and prior of one step."""
    at = rssm.track(params, key, memory.latent, memory.action[None], token[None], jnp.zeros(1, bool))
    return tree.take(at, 0)


def driven_windows(steps: Step, rssm: RSSM, space: Space, context: bool) -> tuple[Latent, Rows]:
    """`driven` of many windows [L, B, ...]: the states before the rows [B, ...], and the rows [T, B, ...]."""
    return jax.vmap(lambda window: driven(window, rssm, space, context), 1, (0, 1))(steps)


def driven(steps: Step, rssm: RSSM, space: Space, context: bool) -> tuple[Latent, Rows]:
    """A window of a buffer as a model is driven through it.

    With context, the first row only gives the latent that the actor was in there and the action it took: the model
    starts from them, and goes through the rows after it. Without, it starts anew: the first row counts as the first of
    an episode.

    Args:
      steps: one window [L, ...]; with context its `extras` are `Latent`s.
      rssm: the model.
      space: of the actions.
      context: whether the first row is context.
    Returns:
      the state before the rows, and the rows [L - 1, ...] with context, else [L, ...].
    """
    codes = jax.vmap(lambda action: action_code(space, action))(steps.action)
    if context:
        after = jax.tree.map(lambda leaf: leaf[1:], steps)
        return tree.take(steps.extras, 0), _rows(after, codes[:-1], after.first)
    return rssm.start(), _rows(steps, previous(codes), steps.first.at[0].set(True))


def _rows(steps: Step, codes: Array, first: Array) -> Rows:
    return Rows(steps.obs, codes, steps.reward, steps.discount, first, steps.last)


def need_unit_actions(spec: Spec) -> None:
    """Refuses continuous actions that are not vectors in [-1, 1].

    Raises:
      ValueError: they are not.
    """
    action: Any = spec.action
    if isinstance(action, Discrete):
        return
    unit = isinstance(action, Box) and np.all(np.asarray(action.low) == -1) and np.all(np.asarray(action.high) == 1)
    if not unit or len(action.shape) != 1:
        raise ValueError(f"{spec.name}: actions must be a vector in [-1, 1] (wrappers.scale_action), got {action}")


def rssm_open_loop_model(space: Space, encode: Net, rssm: RSSM, decode: Decoder, params: Any) -> OpenLoopModel:
    """An `OpenLoopModel` of a recurrent state-space model's parts.

    Args:
      space: of the actions.
      encode, rssm, decode: the networks.
      params: theirs, as fields `encoder`, `rssm` and `decoder`.
    """

    def track(key: Key, obs: Obs, action: Action) -> Latent:
        codes = previous(jax.vmap(lambda a: action_code(space, a))(action))
        tokens = jax.vmap(encode.apply, (None, 0))(params.encoder, obs)
        return rssm.track(params.rssm, key, rssm.start(), codes, tokens, jnp.arange(len(tokens)) == 0).states

    def step(key: Key, state: Latent, action: Action) -> Latent:
        return rssm.step(params.rssm, key, state, action)

    def show(state: Latent) -> Array:
        return decode.mode(decode.net.apply(params.decoder, state.deter, state.stoch.reshape(-1)))

    return OpenLoopModel(track, step, show)
