"""Hand-made batches for the losses of the three Dreamers, R2-Dreamer and Plan2Explore."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.loss_cases import LossCase
from mbrl_jax.agents.dreamer import actor_critic_v1_v2, actor_critic_v3, plan2explore, v1, v2
from mbrl_jax.core import Box, Discrete, Spec
from mbrl_jax.models.rssm import dreamer_v1_v2, dreamer_v3, r2_dreamer
from mbrl_jax.models.rssm.rssm import Latent, Rows

OBS, ACTIONS, T, B, N, H = 3, 2, 4, 2, 5, 2
SPEC = Spec(Box((OBS,)), Discrete(ACTIONS))
KEY = jax.random.key(0)


def floats(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def moved(rng: np.random.Generator, params: Any) -> Any:
    """Parameters none of which is at its initial 0 or 1."""
    return jax.tree.map(lambda leaf: leaf + 0.1 * floats(rng, *leaf.shape), params)


def rows(rng: np.random.Generator) -> Rows:
    """Two windows, the second of which ends an episode in its middle."""
    last = jnp.zeros((T, B), bool).at[1, 1].set(True)
    first = jnp.roll(last, 1, 0)
    actions = jnp.asarray(np.eye(ACTIONS, dtype=np.float32)[rng.integers(0, ACTIONS, (T, B))])
    return Rows(floats(rng, T, B, OBS), actions, floats(rng, T, B) * ~first, 1.0 - last, first, last)


def states(rng: np.random.Generator, rssm: Any, *shape: int) -> Latent:
    return jax.tree.map(lambda leaf: floats(rng, *shape, *leaf.shape), rssm.start())


def cases() -> list[LossCase]:
    """Every public loss of the Dreamers, once."""
    return [*first_two(), *third(), *explorer()]


def first_two() -> list[LossCase]:
    rng, out = np.random.default_rng(0), []
    cfg = dreamer_v1_v2.DreamerNetConfig(deter=4, units=4, layers=1, stoch=2, classes=3)
    for name, agent, weights, extra in (
        ("dreamer_v1", v1, {}, {}),
        ("dreamer_v2", v2, {"balance": 0.8}, {"reinforce": 0.5, "entropy": 0.1}),
    ):
        nets = dreamer_v1_v2.networks(cfg, SPEC, gaussian=agent is v1)
        policy = actor_critic_v1_v2.one_hot_policy(ACTIONS)
        heads = actor_critic_v1_v2.actor_critic(cfg, nets.rssm.size, policy)
        model, actor, critic = (moved(rng, jax.jit(net.init)(KEY)) for net in (nets, heads.actor, heads.critic))
        scales = {"nets": nets, "kl_scale": 1.0, "free": 0.0, "cont_scale": 1.0} | weights
        windows = states(rng, nets.rssm, B), rows(rng)
        out.append(LossCase(name, agent.model_loss, model, (KEY, *windows), scales, smooth=agent is v1))
        imagining = {"model": model, "critic": critic, "nets": nets, "heads": heads, "horizon": H}
        imagining |= {"gamma": 0.9, "lam": 0.8} | extra
        out.append(LossCase(name, agent.actor_loss, actor, (KEY, states(rng, nets.rssm, N)), imagining, smooth=False))
        trajectory = actor_critic_v1_v2.Trajectory(
            floats(rng, N, H + 1, nets.rssm.size),
            floats(rng, N, H, ACTIONS),
            floats(rng, N, H + 1),
            jnp.ones((N, H + 1)),
        )
        imagined = actor_critic_v1_v2.Imagined(trajectory, floats(rng, N, H), jnp.ones((N, H)))
        out.append(LossCase(name, actor_critic_v1_v2.critic_loss, critic, (imagined,), {"net": heads.critic}))
    return out


def third() -> list[LossCase]:
    rng, make = np.random.default_rng(1), partial(LossCase, "dreamer_v3")
    cfg = dreamer_v3.DreamerV3NetConfig(deter=4, units=4, stoch=2, classes=3, blocks=2, bins=11)
    nets = dreamer_v3.dreamer_v3(cfg, SPEC)
    r2 = dreamer_v3.dreamer_v3(dreamer_v3.DreamerV3NetConfig(**(vars(cfg) | {"decoder": False})), SPEC)
    params, r2_params = moved(rng, jax.jit(nets.init)(KEY)), moved(rng, jax.jit(r2.init)(KEY))
    windows = KEY, states(rng, nets.rssm, B), rows(rng)
    scales = {"weights": jnp.array([1.0, 0.5]), "gamma": 0.9, "free": 0.0}
    step = actor_critic_v3.ImaginedStep(floats(rng, N, nets.rssm.size), jnp.arange(N) % ACTIONS)
    batch = actor_critic_v3.ActorCriticBatch(step, *(floats(rng, N) for _ in range(3)), jnp.ones(N))
    policy = {"nets": nets, "policy": actor_critic_v3.make_policy(SPEC.action, 0.01), "entropy": 0.1}
    critic = {"nets": nets, "ema_weight": 1.0}
    replayed = states(rng, nets.rssm, T, B), floats(rng, T - 1, B)
    ema = {"ema_values": floats(rng, T - 1, B), "weights": jnp.ones((T - 1, B))}
    projected = floats(rng, N, r2.rssm.size), floats(rng, N, cfg.units)
    return [
        make(dreamer_v3.model_loss, params, windows, {"nets": nets} | scales, smooth=False),
        make(dreamer_v3.model_loss, r2_params, windows, {"nets": r2} | scales, smooth=False),
        make(actor_critic_v3.policy_loss, params.actor, (batch,), policy),
        make(actor_critic_v3.critic_loss, params.critic, (batch,), critic),
        make(actor_critic_v3.actor_critic_loss, (params.actor, params.critic), (batch,), policy | critic),
        make(actor_critic_v3.replay_critic_loss, params.critic, replayed, critic | ema),
        make(r2_dreamer.redundancy_loss, r2_params.decoder, projected, {"project": r2.project}),
    ]


def explorer() -> list[LossCase]:
    rng = np.random.default_rng(2)
    net = plan2explore.predictor(plan2explore.Plan2ExploreConfig(hidden=(4,)), 4 + 6, ACTIONS, 6)
    ensemble = jax.jit(lambda key: plan2explore.init_ensemble(key, net, 3))(KEY)
    replayed = Latent(floats(rng, T, B, 4), floats(rng, T, B, 2, 3)), rows(rng)
    return [LossCase("dreamer_v3", plan2explore.ensemble_loss, ensemble, replayed, {"net": net})]
