"""Losses of SAC, DQN and PPO on batches of four rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.loss_cases import LossCase
from mbrl_jax.agents import dqn, ppo, rnd, sac
from mbrl_jax.core import Box, Discrete, Spec, Transition

SPECS = {"discrete": Spec(Box((3,)), Discrete(4)), "continuous": Spec(Box((3,)), Box((2,), -1.0, 1.0))}
ROWS = 4


def batch(spec: Spec) -> Transition:
    """Rows [4, ...], two of them terminal."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, ROWS, 3)).astype(np.float32)
    discrete = isinstance(spec.action, Discrete)
    action = rng.integers(0, 4, ROWS) if discrete else rng.uniform(-0.9, 0.9, (ROWS, 2)).astype(np.float32)
    reward, discount = rng.normal(size=ROWS).astype(np.float32), np.array([1, 0, 1, 0], np.float32)
    return Transition(*map(jnp.asarray, (obs, action, reward, discount, next_obs, discount == 0)))


def of_sac(spec: Spec) -> list[LossCase]:
    cfg, rows, key = sac.SACConfig(hidden=(8,), target_entropy=0.5), batch(spec), jax.random.key(1)
    nets, learner = sac.networks(cfg, spec), jax.jit(sac.make(cfg, spec).init)(jax.random.key(0))
    acting: dict[str, Any] = {"nets": nets, "critic": learner.critic, "alpha": jnp.float32(0.3)}
    return [
        LossCase("sac", sac.critic_loss, learner.critic, (rows,), {"nets": nets, "targets": jnp.arange(4.0)}),
        LossCase("sac", sac.policy_loss, learner.policy, (key, rows), acting),
    ]


def of_ppo(spec: Spec) -> list[LossCase]:
    cfg, rows = ppo.PPOConfig(hidden=(8,)), batch(spec)
    nets, learner = ppo.networks(cfg, spec), jax.jit(ppo.make(cfg, spec).init)(jax.random.key(0))
    log_prob = jax.vmap(lambda row: nets.dist(learner.policy, row.obs).log_prob(row.action))(rows)
    data = ppo.Row(rows.obs, rows.action, log_prob + 0.1, jnp.arange(4.0), rows.reward)
    weights: dict[str, Any] = {"nets": nets, "clip": 0.2, "value_weight": 0.5, "entropy_weight": 0.01}
    return [
        LossCase("ppo", ppo.policy_loss, learner.policy, (data,), {"nets": nets, "clip": 0.2}),
        LossCase("ppo", ppo.value_loss, learner.value, (data,), {"nets": nets}),
        LossCase("ppo", ppo.ppo_loss, (learner.policy, learner.value), (data,), weights),
    ]


def of_dqn(spec: Spec) -> LossCase:
    rows = batch(spec)
    net = dqn.network(spec.obs, (8,), spec.num_actions)
    q = jax.jit(net.init)(jax.random.key(0))
    targets = dqn.td_targets(q, q, rows, net=net, gamma=0.9, double=True)
    return LossCase("dqn", dqn.q_loss, q, (rows,), {"net": net, "targets": targets, "huber": 1.0})


def of_rnd(spec: Spec) -> LossCase:
    cfg = rnd.RNDConfig(hidden=(8,), features=4)
    nets = rnd.networks(cfg, spec)
    target, predictor = nets.target.init(jax.random.key(0)), nets.predictor.init(jax.random.key(1))
    return LossCase("", rnd.rnd_loss, predictor, (batch(spec).obs,), {"nets": nets, "target": target})


def cases() -> list[LossCase]:
    """Every public loss of these agents, in each kind of action."""
    temperature = LossCase("sac", sac.temperature_loss, jnp.float32(-1.0), (jnp.float32(0.7),), {"target_entropy": 0.5})
    both = [case for spec in SPECS.values() for case in (*of_sac(spec), *of_ppo(spec))]
    return [*both, temperature, of_dqn(SPECS["discrete"]), of_rnd(SPECS["discrete"])]
