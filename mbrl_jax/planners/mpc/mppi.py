"""Model-predictive path integral control: plans as averages weighted by exponentiated returns.

`mppi` is the form of Nagabandi et al. 2019, "Deep Dynamics Models for Learning Dexterous Manipulation" (PDDM, arXiv
1909.11652), after Williams et al. 2017. Continuous:

    n_t = β (μ_t + σ ε_t) + (1 - β) n_{t-1},   n_{-1} the last executed action,   n clipped to the bounds
    w   ∝ exp( κ (G - max G) ),   μ <- Σ w n

for any number of iterations; it executes μ_0 and shifts μ by a step, with its last entry repeated. σ never shrinks.
Discrete, with a table p [H, A] of probabilities and φ the setting `explore`:

    x_t ~ (1 - φ) p_t + φ / A,   p <- Σ w 1[x_t = a]

It executes the most probable first action and shifts p, with a uniform last row.

`mppi_elites` is the form of TD-MPC2 (Hansen et al. 2024, arXiv 2310.16828), for short horizons with a `value` and a
`prior`: only the K best candidates have a weight, and the deviation is fitted to them within limits. The executed
action is that of an elite drawn by its weight, plus noise.

    w ∝ exp( κ (G - max G) ) over elites,   μ <- Σ w x,   σ <- clip( √ Σ w (x - μ)², low, high )

Differs from the papers in: deviations are in half ranges of the action; NaN scores have weight 0, and an iteration
without a finite score changes nothing; the discrete form is not in them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Action, Array, Box, Key, Model, Planner, Spec, State
from mbrl_jax.planners.mpc import common
from mbrl_jax.planners.mpc.common import PlanInfo
from mbrl_jax.planners.mpc.proposals import propose, replace_last
from mbrl_jax.planners.mpc.score import score


@config
class MPPI:
    """Settings of MPPI."""

    horizon: int = setting(default=25, low=1, help="planning horizon in steps")
    population: int = setting(default=350, low=2, help="candidates per iteration")
    iterations: int = setting(default=5, low=1, help="iterations of sampling and scoring per plan")
    particles: int = setting(default=20, low=1, help="rollouts per candidate; 1 for deterministic models")
    proposals: int = setting(default=0, low=0, help="candidates that follow the model's prior, if any")
    kappa: float = setting(default=1.0, above=0, help="inverse temperature, per unit of return; larger is greedier")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")
    sigma: float = setting(default=0.5, above=0, help="continuous actions: noise deviation in half ranges")
    beta: float = setting(default=0.9, above=0, high=1, help="continuous actions: smoothing, weight of the new action")
    explore: float = setting(default=0.5, above=0, high=1, help="discrete actions: fraction of uniform draws")


class Memory(NamedTuple):
    """What MPPI keeps between the plans of an episode with continuous actions."""

    mean: Array  # [H, *shape]
    action: Array  # [*shape] executed last


def mppi(cfg: MPPI, spec: Spec) -> Planner:
    """MPPI, for continuous and for discrete actions.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete, or a bounded box.
    Returns:
      the planner; its memory is a `Memory`, or for discrete actions the table [H, A].
    Raises:
      ValueError: a setting out of its range, or actions without bounds.
    """
    check(cfg)
    common.need_below("proposals", cfg.proposals, "population", cfg.population)
    return _categorical(cfg, spec) if common.is_discrete(spec) else _gaussian(cfg, spec)


def smoothed(previous: Array, drawn: Array, beta: Array | float) -> Array:
    """Smoothing over time: n_t = β u_t + (1 - β) n_{t-1}.

    Args:
      previous: [*shape] n_{-1}.
      drawn: [N, H, *shape] u.
      beta: β, in (0, 1].
    Returns:
      [N, H, *shape] n.
    """

    def one(last: Array, now: Array) -> tuple[Array, Array]:
        new = beta * now + (1.0 - beta) * last
        return new, new

    start = jnp.broadcast_to(previous, drawn[:, 0].shape)
    return jnp.swapaxes(jax.lax.scan(one, start, jnp.swapaxes(drawn, 0, 1))[1], 0, 1)


def _gaussian(cfg: MPPI, spec: Spec) -> Planner:
    box = common.bounds(spec)
    assert isinstance(spec.action, Box)
    dtype = spec.action.dtype
    shape = (cfg.horizon, *spec.action.shape)

    def init() -> Memory:
        return Memory(jnp.broadcast_to(box.centre, shape), box.centre)

    def plan(key: Key, model: Model, state: State, warm: Memory) -> tuple[Action, Memory, PlanInfo]:
        key_prior, key_iterations = jax.random.split(key)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)

        def iterate(mean: Array, i: Array) -> tuple[Array, Array]:
            key_draw, key_score = jax.random.split(jax.random.fold_in(key_iterations, i))
            noise = cfg.sigma * box.half * jax.random.normal(key_draw, (cfg.population, *shape), jnp.float32)
            samples = box.clip(smoothed(warm.action, mean + noise, cfg.beta)).astype(dtype)
            samples = replace_last(samples, proposed)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
            weights = common.soft_weights(scores, cfg.kappa)
            return common.new_or_old(weights, common.average(weights, samples), mean), jnp.max(scores)

        mean, best = jax.lax.scan(iterate, warm.mean, jnp.arange(cfg.iterations))
        chosen = mean.astype(dtype)
        return chosen[0], Memory(common.shift(mean, mean[-1]), mean[0]), PlanInfo(chosen, best[-1])

    return narrow_planner(Planner(init, plan))


def _categorical(cfg: MPPI, spec: Spec) -> Planner:
    def init() -> Array:
        return common.uniform_table(spec, cfg.horizon)

    def plan(key: Key, model: Model, state: State, warm: Array) -> tuple[Action, Array, PlanInfo]:
        key_prior, key_iterations = jax.random.split(key)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)

        def iterate(table: Array, i: Array) -> tuple[Array, Array]:
            key_draw, key_score = jax.random.split(jax.random.fold_in(key_iterations, i))
            chances = common.legal_start(model, state, common.mixed_with_uniform(table, cfg.explore))
            samples = replace_last(common.draw(key_draw, chances, cfg.population), proposed)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
            weights = common.soft_weights(scores, cfg.kappa)
            new = common.frequencies(weights, samples, spec.num_actions)
            return common.new_or_old(weights, new, table), jnp.max(scores)

        table, best = jax.lax.scan(iterate, warm, jnp.arange(cfg.iterations))
        chosen = jnp.argmax(common.legal_start(model, state, table), -1).astype(jnp.int32)
        last = jnp.full(spec.num_actions, 1.0 / spec.num_actions, jnp.float32)
        return chosen[0], common.shift(table, last), PlanInfo(chosen, best[-1])

    return narrow_planner(Planner(init, plan))


@config
class MPPIElites:
    """Settings of TD-MPC2's planner."""

    horizon: int = setting(default=3, low=1, help="planning horizon in steps")
    population: int = setting(default=512, low=2, help="candidates per iteration, proposals included")
    elites: int = setting(default=64, low=1, help="best candidates that the next iteration is fitted to")
    iterations: int = setting(default=6, low=1, help="iterations of sampling and scoring per plan")
    particles: int = setting(default=1, low=1, help="rollouts per candidate; 1 for deterministic models")
    proposals: int = setting(default=24, low=0, help="candidates that follow the model's prior, if any")
    kappa: float = setting(default=0.5, above=0, help="inverse temperature of the elites' weights, per unit of return")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount per step")
    min_std: float = setting(default=0.05, above=0, help="smallest deviation, in half ranges of the action")
    max_std: float = setting(default=2.0, above=0, help="initial and largest deviation, in half ranges")
    explore: float = setting(default=1.0, low=0, help="noise on the executed action, in its deviations")


def mppi_elites(cfg: MPPIElites, spec: Spec) -> Planner:
    """TD-MPC2's planner, for continuous actions.

    Args:
      cfg: settings; floats may be traced. Planners that only differ in `explore` can share their memory.
      spec: actions a bounded box.
    Returns:
      the planner; its memory is the mean [H, *shape] shifted by a step, with the centre as its last entry.
    Raises:
      ValueError: a setting out of its range, discrete actions, or actions without bounds.
    """
    check(cfg)
    common.need_below("elites", cfg.elites, "population", cfg.population)
    common.need_below("proposals", cfg.proposals, "population", cfg.population)
    box = common.bounds(spec)
    assert isinstance(spec.action, Box)
    dtype = spec.action.dtype
    shape = (cfg.horizon, *spec.action.shape)

    def init() -> Array:
        return jnp.broadcast_to(box.centre, shape)

    def plan(key: Key, model: Model, state: State, warm: Array) -> tuple[Action, Array, PlanInfo]:
        key_prior, key_iterations, key_elite, key_noise = jax.random.split(key, 4)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)

        def iterate(at: tuple[Array, ...], i: Array) -> tuple[tuple[Array, ...], None]:
            mean, std, *_ = at
            key_draw, key_score = jax.random.split(jax.random.fold_in(key_iterations, i))
            noise = jax.random.normal(key_draw, (cfg.population, *shape), jnp.float32)
            samples = replace_last(box.clip(mean + std * noise).astype(dtype), proposed)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
            index, finite = common.elites(scores, cfg.elites)
            weights = common.soft_weights(jnp.where(finite > 0.0, scores[index], -jnp.inf), cfg.kappa)
            top = samples[index]
            new_mean, variance = common.moments(weights, top)
            new_std = jnp.clip(jnp.sqrt(variance), cfg.min_std * box.half, cfg.max_std * box.half)
            mean, std = common.new_or_old(weights, new_mean, mean), common.new_or_old(weights, new_std, std)
            return (mean, std, top, weights, jnp.max(scores)), None

        widest = jnp.broadcast_to(cfg.max_std * box.half, shape)
        blank = jnp.zeros((cfg.elites, *shape), dtype)
        start = (warm, widest, blank, jnp.zeros(cfg.elites, jnp.float32), jnp.float32(-jnp.inf))
        (mean, std, top, weights, best), _ = jax.lax.scan(iterate, start, jnp.arange(cfg.iterations))
        # Without a finite score there is no elite to draw: the unchanged mean is the plan.
        drawn = jax.random.categorical(key_elite, jnp.log(weights))
        chosen = common.new_or_old(weights, top[drawn], mean).astype(dtype)
        noise = cfg.explore * std[0] * jax.random.normal(key_noise, shape[1:], jnp.float32)
        action = box.clip(chosen[0] + noise).astype(dtype)
        return action, common.shift(mean, box.centre), PlanInfo(chosen, best)

    return narrow_planner(Planner(init, plan))
