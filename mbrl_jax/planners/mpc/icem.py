"""iCEM: the cross-entropy method with coloured noise and kept elites.

Pinneri et al. 2020, "Sample-efficient Cross-Entropy Method for Real-time Planning" (arXiv 2008.06389), and their code:

    N_i = max(2 K, N_{i-1} / 1.25)                    fewer candidates in every iteration
    x   = clip( μ + σ · coloured noise )              one sequence of power f^-β per action
    μ  <- α μ + (1 - α) mean(elites),   σ <- α σ + (1 - α) std(elites)

A few elites of an iteration are candidates of the next one; in a plan's first iteration these are the elites of the
last plan, shifted by a step, with a freshly drawn last action. In the last iteration μ itself is a candidate, and the
first action of the best candidate is executed; μ is shifted by a step with its last entry repeated, and σ starts anew.

Differs from the paper's code in: kept elites replace fresh candidates, so an iteration scores N_i in all, and they are
scored again with the others, so that a lucky score in a stochastic model is not kept; the noise has unit variance
exactly (`noise.coloured`); NaN scores rank last; elites are reset with the episode, as they are in the memory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Action, Array, Box, Key, Model, Planner, Spec, State
from mbrl_jax.planners.mpc import common
from mbrl_jax.planners.mpc.common import Bounds, PlanInfo
from mbrl_jax.planners.mpc.noise import coloured
from mbrl_jax.planners.mpc.proposals import propose, replace_last
from mbrl_jax.planners.mpc.score import score


@config
class ICEM:
    """Settings of iCEM."""

    horizon: int = setting(default=30, low=1, help="planning horizon in steps")
    population: int = setting(default=40, low=2, help="candidates in the first iteration")
    decay: int = setting(default=80, low=1, high=100, help="population of an iteration, in percent of the one before")
    elites: int = setting(default=10, low=1, help="best candidates that the next iteration is fitted to")
    kept: int = setting(default=3, low=0, help="elites that stay candidates, at most elites")
    iterations: int = setting(default=3, low=1, help="iterations of sampling and scoring per plan")
    particles: int = setting(default=1, low=1, help="rollouts per candidate; 1 for deterministic models")
    proposals: int = setting(default=0, low=0, help="candidates that follow the model's prior, if any")
    beta: float = setting(default=2.0, low=0, help="exponent of the noise's power spectrum; 0 for white noise")
    std: float = setting(default=0.5, above=0, help="initial standard deviation, in half ranges of the action")
    alpha: float = setting(default=0.1, low=0, below=1, help="momentum: weight of the old mean and deviation")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")


class Memory(NamedTuple):
    """What iCEM keeps between the plans of an episode."""

    mean: Array  # [H, *shape]
    elites: Array  # [kept, H, *shape] shifted; their last action is to be replaced
    scored: Array  # [kept] bool: False in an episode's first plan, and for elites without a finite score


class Iteration(NamedTuple):
    """What an iteration hands to the next."""

    mean: Array  # [H, *shape]
    std: Array  # [H, *shape]
    elites: Array  # [kept, H, *shape]
    scored: Array  # [kept] bool, as in `Memory`
    chosen: Array  # [H, *shape] the best candidate
    score: Array  # [] its score


def populations(cfg: ICEM) -> tuple[int, ...]:
    """Candidates of each iteration: N_i = max(2 K, N_{i-1} · decay / 100) rounded down, but never above the first.

    Returns:
      one number for each iteration.
    """
    sizes = [cfg.population]
    while len(sizes) < cfg.iterations:
        sizes.append(min(cfg.population, max(2 * cfg.elites, sizes[-1] * cfg.decay // 100)))
    return tuple(sizes)


def candidates(
    at: Iteration, noise: Array, box: Bounds, proposed: Action | None, *, first: bool, last: bool
) -> Array:  # fmt: skip
    """The candidates of an iteration: fresh ones, kept elites, in the last iteration the mean, and proposals.

    Args:
      at: the search so far.
      noise: [N, H, *shape] of unit variance.
      box: the bounds of an action.
      proposed: [n, H, *shape] sequences that follow the model's prior, if any.
      first: whether this is a plan's first iteration, whose kept elites lack a last action.
      last: whether this is its last.
    Returns:
      [N, H, *shape].
    """
    samples = box.clip(at.mean + at.std * noise)
    elites, kept = at.elites, at.elites.shape[0]
    if first:
        elites = elites.at[:, -1].set(samples[:kept, -1])
    keep = at.scored.reshape(-1, *(1 for _ in at.mean.shape))
    samples = samples.at[:kept].set(jnp.where(keep, elites, samples[:kept]))
    if last:
        samples = samples.at[kept].set(at.mean)
    return replace_last(samples, proposed)


def refit(at: Iteration, samples: Array, scores: Array, elites: int, alpha: Array | float) -> Iteration:
    """The search after an iteration: mean and deviation are weighted averages of the old ones and the elites'.

    Args:
      at: the search before.
      samples: [N, H, *shape].
      scores: [N], minus infinity for samples that do not count.
      elites: K, number of elites.
      alpha: weight of the old mean and deviation, in [0, 1).
    """
    kept = at.elites.shape[0]
    index, weights = common.elites(scores, elites)
    top = samples[index].astype(at.mean.dtype)
    new_mean, variance = common.moments(weights, top)
    mean = common.new_or_old(weights, alpha * at.mean + (1.0 - alpha) * new_mean, at.mean)
    std = common.new_or_old(weights, alpha * at.std + (1.0 - alpha) * jnp.sqrt(variance), at.std)
    best_elites, scored = top[:kept], weights[:kept] > 0.0
    return Iteration(mean, std, best_elites, scored, common.new_or_old(weights, top[0], mean), scores[index[0]])


def check_sizes(cfg: ICEM, spec: Spec) -> None:
    """Checks iCEM's settings against each other and against the actions.

    Raises:
      ValueError: a setting out of its range, or discrete actions.
    """
    check(cfg)
    common.need_below("elites", cfg.elites, "population", cfg.population)
    if cfg.kept > cfg.elites:
        raise ValueError(f"kept must be at most elites ({cfg.elites}), got {cfg.kept}")
    # One more candidate is the mean, in the last iteration.
    smallest = min(populations(cfg))
    common.need_below("kept + proposals + 1", cfg.kept + cfg.proposals + 1, "the smallest population", smallest)
    if common.is_discrete(spec):
        raise ValueError(f"icem needs continuous actions, {spec.name} has discrete ones; use cem")


def icem(cfg: ICEM, spec: Spec) -> Planner:
    """iCEM, for continuous actions; `cem` plans discrete ones, for which there is no coloured noise.

    Args:
      cfg: settings; floats may be traced.
      spec: actions a bounded box.
    Returns:
      the planner; its memory is a `Memory`.
    Raises:
      ValueError: a setting out of its range, discrete actions, or actions without bounds.
    """
    check_sizes(cfg, spec)
    sizes, box = populations(cfg), common.bounds(spec)
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
        std = jnp.broadcast_to(cfg.std * box.half, shape)
        at = Iteration(warm.mean, std, warm.elites, warm.scored, warm.mean, jnp.float32(-jnp.inf))
        # Not a scan: each iteration has a size of its own.
        for i, (key_score, n) in enumerate(zip(keys, sizes, strict=True)):
            fresh, noise = noise[:n], noise[n:]
            samples = candidates(at, fresh, box, proposed, first=i == 0, last=i == cfg.iterations - 1).astype(dtype)
            scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
            at = refit(at, samples, scores, cfg.elites, cfg.alpha)

        later = jax.vmap(common.shift)(at.elites, at.elites[:, -1]) if cfg.kept else at.elites
        chosen = at.chosen.astype(dtype)
        return chosen[0], Memory(common.shift(at.mean, at.mean[-1]), later, at.scored), PlanInfo(chosen, at.score)

    return narrow_planner(Planner(init, plan))
