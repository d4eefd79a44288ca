"""The cross-entropy method in the form of PETS, and its categorical form for discrete actions.

Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials" (arXiv 1805.12114), and their code. Continuous:

    c   = min( v, ((μ - low) / 2)², ((high - μ) / 2)² )                   a variance whose draws stay inside the bounds
    x   ~ μ + √c · N(0, 1) truncated at two standard deviations
    μ  <- α μ + (1 - α) mean(elites),   v <- α v + (1 - α) var(elites)
    v_0 = ((high - low) / 4)², at the start of every plan

It executes μ_0, then shifts μ by a step, with the centre of the range as its last entry. Discrete (Rubinstein 1999),
with a table p [H, A] of probabilities and φ the setting `floor`:

    x_t ~ (1 - φ) p_t + φ / A,   p <- α p + (1 - α) frequency in elites

It executes the most probable first action, then shifts p. A plan starts from the even mixture of p and the uniform
table, as the variance starts anew in the continuous form.

Differs from the paper's code in: there is no early stop at a small variance; NaN scores rank last and are never elites,
and an iteration without elites changes nothing; the discrete form is not in it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Action, Array, Box, Key, Model, Planner, Spec, State
from mbrl_jax.planners.mpc import common
from mbrl_jax.planners.mpc.common import Bounds, PlanInfo
from mbrl_jax.planners.mpc.proposals import propose, replace_last
from mbrl_jax.planners.mpc.score import score

WIDENED = 0.5  # share of the uniform table in the table that a plan starts from


@config
class CEM:
    """Settings of the cross-entropy method."""

    horizon: int = setting(default=25, low=1, help="planning horizon in steps")
    population: int = setting(default=500, low=2, help="candidates per iteration")
    elites: int = setting(default=50, low=1, help="best candidates that the next iteration is fitted to")
    iterations: int = setting(default=5, low=1, help="iterations of sampling and scoring per plan")
    particles: int = setting(default=20, low=1, help="rollouts per candidate; 1 for deterministic models")
    proposals: int = setting(default=0, low=0, help="candidates that follow the model's prior, if any")
    alpha: float = setting(default=0.1, low=0, below=1, help="momentum: weight of the old mean and variance")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")
    floor: float = setting(default=0.05, above=0, high=1, help="discrete actions: fraction of uniform draws")


def cem(cfg: CEM, spec: Spec) -> Planner:
    """The cross-entropy method, for continuous and for discrete actions.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete, or a bounded box.
    Returns:
      the planner; its memory is the mean [H, *shape], or the table [H, A], shifted by a step.
    Raises:
      ValueError: a setting out of its range, or actions without bounds.
    """
    check(cfg)
    common.need_below("elites", cfg.elites, "population", cfg.population)
    common.need_below("proposals", cfg.proposals, "population", cfg.population)
    return _categorical(cfg, spec) if common.is_discrete(spec) else _gaussian(cfg, spec)


def spread_within(mean: Array, variance: Array, box: Bounds) -> Array:
    """The standard deviation whose draws, truncated at two of them, stay inside the bounds.

    Args:
      mean, variance: [..., *shape] of the draws.
      box: the bounds of an action [*shape].
    Returns:
      [..., *shape], at most √variance.
    """
    room = jnp.minimum(mean - box.low, box.high - mean) / 2.0
    return jnp.minimum(jnp.sqrt(variance), jnp.maximum(room, 0.0))


def refit(
    mean: Array, variance: Array, samples: Array, scores: Array, elites: int, alpha: Array | float
) -> tuple[Array, Array]:
    """The next mean and variance: a weighted average of the old ones and the elites'.

    Args:
      mean, variance: [H, *shape] before.
      samples: [N, H, *shape].
      scores: [N], minus infinity for samples that do not count.
      elites: number of elites.
      alpha: weight of the old mean and variance, in [0, 1).
    Returns:
      mean and variance [H, *shape].
    """
    index, weights = common.elites(scores, elites)
    new_mean, new_variance = common.moments(weights, samples[index])
    return (
        common.new_or_old(weights, alpha * mean + (1.0 - alpha) * new_mean, mean),
        common.new_or_old(weights, alpha * variance + (1.0 - alpha) * new_variance, variance),
    )


def _gaussian(cfg: CEM, spec: Spec) -> Planner:
    box = common.bounds(spec)
    assert isinstance(spec.action, Box)
    dtype = spec.action.dtype
    shape = (cfg.horizon, *spec.action.shape)

    def init() -> Array:
        return jnp.broadcast_to(box.centre, shape)

    def plan(key: Key, model: Model, state: State, warm: Array) -> tuple[Action, Array, PlanInfo]:
        key_prior, key_iterations = jax.random.split(key)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)

        def iterate(at: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
            mean, variance = at
            key_draw, key_score = jax.random.split(jax.random.fold_in(key_iterations, i))
            noise = jax.random.truncated_normal(key_draw, -2.0, 2.0, (cfg.population, *shape), jnp.float32)
            # Clipped for the rounding of a mean that lies next to a bound.
            samples = box.clip(mean + spread_within(mean, variance, box) * noise).astype(dtype)
            samples = replace_last(samples, proposed)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
            return refit(mean, variance, samples, scores, cfg.elites, cfg.alpha), jnp.max(scores)

        start = (warm, jnp.broadcast_to(jnp.square(box.half / 2.0), shape))
        (mean, _), best = jax.lax.scan(iterate, start, jnp.arange(cfg.iterations))
        chosen = mean.astype(dtype)
        return chosen[0], common.shift(mean, box.centre), PlanInfo(chosen, best[-1])

    return narrow_planner(Planner(init, plan))


def _categorical(cfg: CEM, spec: Spec) -> Planner:
    def init() -> Array:
        return common.uniform_table(spec, cfg.horizon)

    def plan(key: Key, model: Model, state: State, warm: Array) -> tuple[Action, Array, PlanInfo]:
        key_prior, key_iterations = jax.random.split(key)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)

        def iterate(table: Array, i: Array) -> tuple[Array, Array]:
            key_draw, key_score = jax.random.split(jax.random.fold_in(key_iterations, i))
            chances = common.legal_start(model, state, common.mixed_with_uniform(table, cfg.floor))
            samples = replace_last(common.draw(key_draw, chances, cfg.population), proposed)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
            index, weights = common.elites(scores, cfg.elites)
            new = common.frequencies(weights, samples[index], spec.num_actions)
            return common.new_or_old(weights, cfg.alpha * table + (1.0 - cfg.alpha) * new, table), jnp.max(scores)

        start = common.mixed_with_uniform(warm, WIDENED)
        table, best = jax.lax.scan(iterate, start, jnp.arange(cfg.iterations))
        chosen = jnp.argmax(common.legal_start(model, state, table), -1).astype(jnp.int32)
        last = jnp.full(spec.num_actions, 1.0 / spec.num_actions, jnp.float32)
        return chosen[0], common.shift(table, last), PlanInfo(chosen, best[-1])

    return narrow_planner(Planner(init, plan))
