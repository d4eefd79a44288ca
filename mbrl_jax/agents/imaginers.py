"""What there is to see of World Models' dreams and of TD-MPC2's latent rollouts (`agents.imagination`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.agents.imagination import Imaginer
from mbrl_jax.agents.tdmpc2 import Learner as TDMPC2Learner
from mbrl_jax.agents.tdmpc2 import TDMPC2Config
from mbrl_jax.agents.world_models import Learner as WorldModelsLearner
from mbrl_jax.agents.world_models import WorldModelsConfig
from mbrl_jax.core.types import Action, Array, Key, Obs, Spec
from mbrl_jax.models import mdn_rnn, tdmpc
from mbrl_jax.models.mdn_rnn import DreamState
from mbrl_jax.models.tdmpc_parts import decode as decoded
from mbrl_jax.models.vae import vae

LATENTS = 5  # of TD-MPC2's, that are shown


def dreams(cfg: WorldModelsConfig, spec: Spec, learner: WorldModelsLearner) -> Imaginer:
    """World Models' dream at its temperature: V encodes and rebuilds observations, M dreams on from its memory.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    sight = vae(cfg.vision, spec.obs)
    dynamics = mdn_rnn.mdn_rnn(cfg.memory, sight.size, spec)
    model = mdn_rnn.bind(dynamics, learner.memory, cfg.temperature)

    def track(key: Key, obs: Obs, action: Action) -> DreamState:
        del key

        def one(memory: Any, at: tuple[Array, Action]) -> tuple[Any, DreamState]:
            z, action = at
            return dynamics.remember(learner.memory, memory, z, action), DreamState(z, memory)

        seen = jax.vmap(lambda obs: sight.encode(learner.vision, obs).mean)(obs)
        return jax.lax.scan(one, dynamics.start(), (seen, action))[1]

    def step(key: Key, state: DreamState, action: Action) -> DreamState:
        return model.step(key, state, action).state

    return Imaginer(track, step, lambda state: sight.decode(learner.vision, state.z))


def latents(cfg: TDMPC2Config, spec: Spec, learner: TDMPC2Learner) -> Imaginer:
    """TD-MPC2's rollout: nothing is decoded, so values and latents stand beside those of the encoded observations.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    Returns:
      Shown are the mean of all values at the policy's mean action, and the first entries of the latent.
    """
    nets = tdmpc.tdmpc(cfg.net, spec)
    world, policy = learner.params

    def step(key: Key, state: tdmpc.Latent, action: Action) -> tdmpc.Latent:
        del key
        return tdmpc.advance(nets, world, state, action)

    def decode(state: tdmpc.Latent) -> Array:
        action = tdmpc.draw(nets, policy, jax.random.key(0), state).mean
        logits = tdmpc.value_logits(nets, world.values, state, action)
        value = jnp.mean(jax.vmap(decoded, (0, None))(logits, nets.bins))
        return jnp.concatenate([value[None], state.z[:LATENTS]])

    def show(obs: Obs) -> Array:
        return decode(tdmpc.encode(nets, world, obs))

    names = ("value", *(f"z[{i}]" for i in range(LATENTS)))
    return Imaginer(
        lambda key, obs, action: jax.vmap(lambda obs: tdmpc.encode(nets, world, obs))(obs), step, decode, show, names
    )
