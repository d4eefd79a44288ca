"""What the three Dreamers share around their equations: policies, the actor's carry, and windows as model input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.buffers.sequence import Step
from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Box, Key, Model, MultiDiscrete, Obs, Space, Spec
from mbrl_jax.models.rssm.rssm import RSSM, Latent, Rows, Tracked, action_code, code_size, previous
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.observations import Decoder


class Policy(NamedTuple):
    """A distribution over actions, as pure functions of the actor network's outputs [O].

    An action is whatever `sample` gives, which may be relaxed (one-hot vectors, numbers beyond [-1, 1]); `to_env` turns
    it into one that the environment takes.
    """

    sample: Callable[[Key, Array], Action]  # (key, outputs) -> action
    mode: Callable[[Array], Action]  # (outputs) -> the most likely action
    log_prob: Callable[[Array, Action], Array]  # (outputs, action) -> [] nats
    entropy: Callable[[Array], Array]  # (outputs) -> [] nats
    to_env: Callable[[Action], Action]  # (action) -> action for the environment
    outputs: int  # O


def factored_policy(space: MultiDiscrete, one: Callable[[int], Policy]) -> Policy:
    """Independent policies of all entries of an action: log-probabilities and entropies are sums.

    Args:
      space: of the actions.
      one: (n) -> the policy over n actions: its outputs are n logits, its actions numbers or one-hot vectors.
    """
    policies = [one(n) for n in space.nvec]

    def parts(action: Array) -> list[Array]:
        numbers = jnp.issubdtype(action.dtype, jnp.integer)
        return [action[i] for i in range(len(policies))] if numbers else space.split(action)

    def joined(actions: list[Array]) -> Array:
        return jnp.concatenate([jnp.atleast_1d(action) for action in actions])

    def sample(key: Key, out: Array) -> Array:
        keys = jax.random.split(key, len(policies))
        each = zip(policies, keys, space.split(out), strict=True)
        return joined([policy.sample(key, logits) for policy, key, logits in each])

    def log_prob(out: Array, action: Array) -> Array:
        each = zip(policies, space.split(out), parts(action), strict=True)
        return sum((policy.log_prob(logits, part) for policy, logits, part in each), jnp.float32(0))

    def mode(out: Array) -> Array:
        return joined([policy.mode(logits) for policy, logits in zip(policies, space.split(out), strict=True)])

    def entropy(out: Array) -> Array:
        each = zip(policies, space.split(out), strict=True)
        return sum((policy.entropy(logits) for policy, logits in each), jnp.float32(0))

    def to_env(action: Array) -> Array:
        return joined([policy.to_env(part) for policy, part in zip(policies, parts(action), strict=True)])

    return Policy(sample, mode, log_prob, entropy, to_env, space.size)


def check_calibrated(calibrated: bool, spec: Spec) -> None:
    """Checks that a reconstruction that is to be calibrated is one of vectors.

    Args:
      calibrated: the setting.
      spec: of the environment.
    Raises:
      ValueError: observations are of another form.
    """
    if calibrated and not (isinstance(spec.obs, Box) and len(spec.obs.shape) == 1):
        raise ValueError("calibrated must be false where observations are not vectors, got true")


class ActorCarry(NamedTuple):
    """What an actor carries from step to step of an episode."""

    latent: Latent  # the model state at the last observation
    action: Array  # [A] `action_code` of the action taken there; zeros before an episode


def initial_carry(rssm: RSSM, space: Space) -> ActorCarry:
    """The carry before an episode: zeros, from which a step equals one marked as the first of an episode."""
    return ActorCarry(rssm.start(), jnp.zeros(code_size(space), jnp.float32))


def observe_step(key: Key, params: Any, carry: ActorCarry, token: Array, *, rssm: RSSM) -> Tracked:
    """One filtering step of an actor.

    Args:
      key: for sampling the latent.
      params: the RSSM's.
      carry: from the step before.
      token: [E] the new observation, encoded.
      rssm: the model.
    Returns:
      state, posterior and prior at the new observation, without a time axis.
    """
    tracked = rssm.track(params, key, carry.latent, carry.action[None], token[None], jnp.zeros(1, bool))
    return tree.take(tracked, 0)


def carry_after(
    key: Key, params: Any, carry: ActorCarry, token: Array, action: Action, *, rssm: RSSM, space: Space
) -> ActorCarry:
    """An actor's carry after a given action.

    Args:
      key, params, carry, token, rssm: as in `observe_step`.
      action: that is taken at the observation.
      space: of the actions.
    """
    return ActorCarry(observe_step(key, params, carry, token, rssm=rssm).states, action_code(space, action))


def batch_model_inputs(steps: Step, *, rssm: RSSM, space: Space, context: bool) -> tuple[Latent, Rows]:
    """`model_inputs` of B windows.

    Args:
      steps: [L, B, ...] time-major windows; with context their `extras` are `Latent`s.
      rssm, space, context: as in `model_inputs`.
    Returns:
      the states before the rows [B, ...], and the rows [T, B, ...]: T = L - 1 with context, else L.
    """
    return jax.vmap(lambda window: model_inputs(window, rssm=rssm, space=space, context=context), 1, (0, 1))(steps)


def model_inputs(steps: Step, *, rssm: RSSM, space: Space, context: bool) -> tuple[Latent, Rows]:
    """A buffer's window as input of a model's loss: each row with the action that led to it.

    With context the first row gives only the model state and the action at its observation, and the model starts from
    there. Without, the model starts from zeros, and the first row counts as the first of an episode.

    Args:
      steps: one window [L, ...]; with context its `extras` are `Latent`s.
      rssm: the model.
      space: action space.
      context: whether the first row is context.
    Returns:
      the state before the rows, and the rows: [L - 1, ...] with context, else [L, ...].
    """
    codes = jax.vmap(lambda action: action_code(space, action))(steps.action)
    if context:
        after = jax.tree.map(lambda leaf: leaf[1:], steps)
        return tree.take(steps.extras, 0), _rows(after, codes[:-1], after.first)
    return rssm.start(), _rows(steps, previous(codes), steps.first.at[0].set(True))


def _rows(steps: Step, codes: Array, first: Array) -> Rows:
    return Rows(steps.obs, codes, steps.reward, steps.discount, first, steps.last)


def rssm_open_loop_model(space: Space, encode: Net, rssm: RSSM, decode: Decoder, params: Any) -> OpenLoopModel:
    """An `OpenLoopModel` from an RSSM with its encoder and decoder.

    Args:
      space: action space.
      encode, rssm, decode: the networks.
      params: their parameters, as fields `encoder`, `rssm` and `decoder`.
    """

    def track(key: Key, obs: Obs, action: Action) -> Latent:
        codes = previous(jax.vmap(lambda a: action_code(space, a))(action))
        tokens = jax.vmap(encode.apply, (None, 0))(params.encoder, obs)
        return rssm.track(params.rssm, key, rssm.start(), codes, tokens, jnp.arange(len(tokens)) == 0).states

    def step(key: Key, state: Latent, action: Action) -> Latent:
        return rssm.step(params.rssm, key, state, action)

    def reconstruct(state: Latent) -> Array:
        return decode.mode(decode.net.apply(params.decoder, state.deter, state.stoch.reshape(-1)))

    return OpenLoopModel(track, step, reconstruct)


def rssm_learned_model(model: Model, space: Space, encode: Net, rssm: RSSM, params: Any) -> LearnedModel:
    """A `LearnedModel` from an RSSM with its encoder.

    Args:
      model: bound, over latent states.
      space: action space.
      encode, rssm: the networks.
      params: their parameters, as fields `encoder` and `rssm`.
    Returns:
      the model; an observation becomes the state that an actor would have after it, at the start of an episode.
    """

    def first(key: Key, obs: Obs) -> Latent:
        token = encode.apply(params.encoder, obs)
        return observe_step(key, params.rssm, initial_carry(rssm, space), token, rssm=rssm).states

    return LearnedModel(model, first)
