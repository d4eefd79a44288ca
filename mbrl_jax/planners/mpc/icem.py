"""iCEM: the cross-entropy method with coloured noise and a memory of good plans.

Pinneri et al. 2020, "Sample-efficient Cross-Entropy Method for Real-time Planning" (arXiv 2008.06389), and their code:

    N_i = max(2 K, N_{i-1} / 1.25)                    fewer candidates in every iteration
    x   = clip( μ + σ · coloured noise )              one sequence of power f^-β per action
    μ  <- α μ + (1 - α) mean(elites),   σ <- α σ + (1 - α) std(elites)

A few elites of the iteration before are candidates again; in a plan's first iteration, those of the last plan shifted
by a step, with a freshly drawn last action. The last iteration tries μ itself. The first action of its best candidate
is executed; μ is shifted by a step with its last entry repeated, and σ starts anew.

Differs from the code in: kept elites take the place of fresh candidates, so an iteration scores N_i in all, and they
are scored again with the others, so that one lucky score in a stochastic model does not live on; the noise has unit
variance exactly (`noise.coloured`); elites cannot outlive an episode, being part of the memory that `init` clears.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Box, Key, Model, Planner, Spec, State
from mbrl_jax.planners.mpc import common
from mbrl_jax.planners.mpc.common import PlanInfo
from mbrl_jax.planners.mpc.noise import coloured
from mbrl_jax.planners.mpc.proposals import propose, replace_last
from mbrl_jax.planners.mpc.score import score


@config
class ICEM:
    """Settings of iCEM."""

    horizon: int = setting(default=30, low=1, help="steps looked ahead")
    population: int = setting(default=40, low=2, help="candidates of the first iteration")
    decay: int = setting(default=80, low=1, high=100, help="percent of the population that the next iteration keeps")
    elites: int = setting(default=10, low=1, help="best candidates the next iteration follows; below population")
    kept: int = setting(default=3, low=0, help="elites that are candidates again; at most elites")
    iterations: int = setting(default=3, low=1, help="rounds of drawing and scoring per plan")
    particles: int = setting(default=1, low=1, help="lives per candidate; 1 where nothing is random")
    proposals: int = setting(default=0, low=0, help="candidates that follow the model's prior, if it has one")
    beta: float = setting(default=2.0, low=0, help="exponent of the noise's spectrum; 0 is white")
    std: float = setting(default=0.5, above=0, help="first standard deviation, in half ranges of the action")
    alpha: float = setting(default=0.1, low=0, below=1, help="momentum: what stays of the old mean and deviation")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")


class Memory(NamedTuple):
    """What iCEM keeps between the plans of an episode."""

    mean: Array  # [H, *shape]
    elites: Array  # [kept, H, *shape] already shifted, all but their last action
    scored: Array  # [kept] bool: False in an episode's first plan, and for elites without a finite score


def populations(cfg: ICEM) -> tuple[int, ...]:
    """Candidates scored in each iteration: N_i = max(2 K, N_{i-1} · decay / 100) rounded down, never above the first.

    Returns:
      one number per iteration.
    """
    sizes = [cfg.population]
    while len(sizes) < cfg.iterations:
        sizes.append(min(cfg.population, max(2 * cfg.elites, sizes[-1] * cfg.decay // 100)))
    return tuple(sizes)


def icem(cfg: ICEM, spec: Spec) -> Planner:
    """iCEM, for continuous actions; `cem` plans discrete ones, between which nothing is coloured.

    Args:
      cfg: settings; floats may be traced.
      spec: actions a bounded box.
    Returns:
      the planner; its memory is a `Memory`.
    Raises:
      ValueError: a setting out of its range, discrete actions, or actions without bounds.
    """
    check(cfg)
    sizes = populations(cfg)
    common.need_below("elites", cfg.elites, "population", cfg.population)
    if cfg.kept > cfg.elites:
        raise ValueError(f"kept must be at most elites ({cfg.elites}), got {cfg.kept}")
    # One more candidate is the mean, in the last iteration.
    common.need_below("kept + proposals + 1", cfg.kept + cfg.proposals + 1, "the smallest population", min(sizes))
    if common.is_discrete(spec):
        raise ValueError(f"icem needs continuous actions, {spec.name} has discrete ones; use cem")
    box = common.bounds(spec)
    assert isinstance(spec.action, Box)
    entries, dtype = spec.action.shape, spec.action.dtype
    shape = (cfg.horizon, *entries)

    def init() -> Memory:
        mean = jnp.broadcast_to(box.centre, shape)
        return Memory(mean, jnp.broadcast_to(mean, (cfg.kept, *shape)), jnp.zeros(cfg.kept, bool))

    def plan(key: Key, model: Model, state: State, warm: Memory) -> tuple[Action, Memory, PlanInfo]:
        key_prior, key_noise, *keys = jax.random.split(key, cfg.iterations + 2)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)
        # The noise of all iterations at once: it depends on none of them, and is compiled once.
        noise = jnp.moveaxis(coloured(key_noise, cfg.beta, (sum(sizes), *entries), cfg.horizon), -1, 1)
        mean, old, scored = warm
        std = jnp.broadcast_to(cfg.std * box.half, shape)
        chosen, best = mean, jnp.float32(-jnp.inf)
        # Not a scan: each iteration has a size of its own.
        for i, (key_score, n) in enumerate(zip(keys, sizes, strict=True)):
            fresh, noise = noise[:n], noise[n:]
            samples = box.clip(mean + std * fresh)
            if i == 0:  # the elites of the plan before lack a last action
                old = old.at[:, -1].set(samples[: cfg.kept, -1])
            keep = scored.reshape(-1, *(1 for _ in shape))
            samples = samples.at[: cfg.kept].set(jnp.where(keep, old, samples[: cfg.kept]))
            if i == cfg.iterations - 1:
                samples = samples.at[cfg.kept].set(mean)
            samples = replace_last(samples, proposed).astype(dtype)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)

            index, weights = common.elites(scores, cfg.elites)
            top = samples[index].astype(mean.dtype)
            new_mean, variance = common.moments(weights, top)
            mean = common.held(weights, cfg.alpha * mean + (1.0 - cfg.alpha) * new_mean, mean)
            std = common.held(weights, cfg.alpha * std + (1.0 - cfg.alpha) * jnp.sqrt(variance), std)
            old, scored = top[: cfg.kept], weights[: cfg.kept] > 0.0
            chosen, best = common.held(weights, top[0], mean), scores[index[0]]

        later = jax.vmap(common.shift)(old, old[:, -1]) if cfg.kept else old
        chosen = chosen.astype(dtype)
        return chosen[0], Memory(common.shift(mean, mean[-1]), later, scored), PlanInfo(chosen, best)

    return Planner(init, plan)
