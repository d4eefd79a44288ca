"""Losses of the offline agents on batches of four rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from helpers.loss_cases import LossCase
from helpers.loss_cases.model_free import SPECS, batch
from mbrl_jax.agents import sac
from mbrl_jax.agents.offline import bc, combo, iql, rambo
from mbrl_jax.core import Discrete, Spec
from mbrl_jax.models.dynamics.ensemble import ensemble
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian


def of_bc(spec: Spec) -> LossCase:
    net = bc.network(bc.BCConfig(hidden=(8,)), spec)
    kwargs: dict[str, Any] = {"net": net, "discrete": isinstance(spec.action, Discrete)}
    return LossCase("bc", bc.policy_loss, net.init(jax.random.key(0)), (batch(spec),), kwargs)


def of_iql(spec: Spec) -> list[LossCase]:
    cfg, rows = iql.IQLConfig(hidden=(8,)), batch(spec)
    nets, learner = iql.networks(cfg, spec), jax.jit(iql.make(cfg, spec).init)(jax.random.key(0))
    weights: dict[str, Any] = {"nets": nets, "advantage": jnp.array([0.5, -0.2, 0.1, 2.0]), "temperature": 3.0}
    return [
        LossCase(
            "iql", iql.value_loss, learner.value, (rows,), {"nets": nets, "target": learner.target, "expectile": 0.7}
        ),
        LossCase("iql", iql.critic_loss, learner.critic, (rows,), {"nets": nets, "value": learner.value, "gamma": 0.9}),
        LossCase("iql", iql.policy_loss, learner.policy, (rows,), weights | {"max_weight": 100.0}),
    ]


def of_combo(spec: Spec) -> LossCase:
    cfg = sac.SACConfig(hidden=(8,), target_entropy=0.5)
    nets, learner = sac.networks(cfg, spec), jax.jit(sac.make(cfg, spec).init)(jax.random.key(0))
    kwargs = {"nets": nets, "action": spec.action, "actions": 3, "real": jnp.arange(4) < 2}
    args = (jax.random.key(1), batch(spec), learner.policy)
    return LossCase("combo", combo.conservative_loss, learner.critic, args, kwargs)


def of_rambo(spec: Spec) -> LossCase:
    member = gaussian(GaussianConfig(hidden=(8,)), spec)
    rows = batch(spec)
    outcome = jnp.concatenate([rows.next_obs, rows.reward[:, None]], 1)
    steps = rambo.Steps(rows.obs, rows.action, outcome, jnp.array([1.0, -0.5, 0.3, -0.8]))
    return LossCase(
        "rambo", rambo.adversarial_loss, ensemble(member, 2).init(jax.random.key(0)), (steps,), {"member": member}
    )


def of_sac(agent: str) -> LossCase:
    """MOPO and MOReL learn by SAC's losses."""
    spec = SPECS["continuous"]
    cfg = sac.SACConfig(hidden=(8,))
    nets, learner = sac.networks(cfg, spec), jax.jit(sac.make(cfg, spec).init)(jax.random.key(0))
    kwargs = {"nets": nets, "targets": jnp.arange(4.0)}
    return LossCase(agent, sac.critic_loss, learner.critic, (batch(spec),), kwargs)


def cases() -> list[LossCase]:
    """Every public loss of these agents, in each kind of action."""
    own = [case for spec in SPECS.values() for case in (of_bc(spec), *of_iql(spec), of_combo(spec), of_rambo(spec))]
    return [*own, of_sac("mopo"), of_sac("morel")]
