"""Random shooting: the best of many random sequences of actions (Richards 2005; Nagabandi et al. 2018).

Actions are uniform within the bounds, or over the choices. Plans are independent of each other.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Action, Array, Box, Key, Model, Planner, Spec, State, Tree
from mbrl_jax.planners.mpc.common import PlanInfo, bounds, draw, is_discrete, legal_start, need_below, uniform_table
from mbrl_jax.planners.mpc.proposals import propose, replace_last
from mbrl_jax.planners.mpc.score import score


@config
class Shooting:
    """Settings of random shooting."""

    horizon: int = setting(default=25, low=1, help="planning horizon in steps")
    population: int = setting(default=2500, low=1, help="candidates")
    particles: int = setting(default=20, low=1, help="rollouts per candidate; 1 for deterministic models")
    proposals: int = setting(default=0, low=0, help="candidates that follow the model's prior, if any")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")


def shooting(cfg: Shooting, spec: Spec) -> Planner:
    """Random shooting, for continuous and for discrete actions.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete, or a bounded box.
    Returns:
      the planner; its memory is empty.
    Raises:
      ValueError: a setting out of its range, or actions without bounds.
    """
    check(cfg)
    need_below("proposals", cfg.proposals, "population", cfg.population)
    box = None if is_discrete(spec) else bounds(spec)

    def sample(key: Key, model: Model, state: State) -> Array:
        if box is None:
            return draw(key, legal_start(model, state, uniform_table(spec, cfg.horizon)), cfg.population)
        assert isinstance(spec.action, Box)
        shape = (cfg.population, cfg.horizon, *spec.action.shape)
        return jax.random.uniform(key, shape, spec.action.dtype, box.low, box.high)

    def plan(key: Key, model: Model, state: State, warm: Tree) -> tuple[Action, Tree, PlanInfo]:
        key_sample, key_prior, key_score = jax.random.split(key, 3)
        proposed = propose(model, key_prior, state, cfg.proposals, cfg.horizon, spec)
        samples = replace_last(sample(key_sample, model, state), proposed)
        scores = score(model, key_score, state, samples, cfg.gamma, cfg.particles)
        best = jnp.argmax(scores)
        chosen = tree.take(samples, best)
        return chosen[0], warm, PlanInfo(chosen, scores[best])

    return narrow_planner(Planner(lambda: (), plan))
