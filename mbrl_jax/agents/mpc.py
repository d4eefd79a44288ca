"""Planning with the true dynamics: the upper bound that every learned model is compared with.

In every step the planner searches with the environment's own `step` from the environment's current state, and the
plan's first action is taken. Nothing is learned. The environment must give its state as its observation
(`wrappers.reveal_state`).
"""

from __future__ import annotations

from mbrl_jax.agents.learned_model import LearnedModel, state_model
from mbrl_jax.core.config import check, config
from mbrl_jax.core.types import Action, Agent, Env, Key, State, Tree, no_update, plan_anew
from mbrl_jax.envs.model import as_model
from mbrl_jax.planners.mpc.cem import CEM
from mbrl_jax.planners.mpc.choice import PlannerConfig, make_planner
from mbrl_jax.planners.mpc.mppi import MPPI
from mbrl_jax.planners.mpc.shooting import Shooting


@config
class MPCConfig:
    """Settings of planning with the true dynamics: by default one rollout per candidate, for deterministic ones."""

    planner: PlannerConfig = PlannerConfig(
        kind="icem", shooting=Shooting(particles=1), cem=CEM(particles=1), mppi=MPPI(particles=1)
    )


def make(cfg: MPCConfig, env: Env) -> Agent:
    """A planner in its own environment.

    Args:
      cfg: settings; floats may be traced.
      env: not yet wrapped in `wrappers.reveal_state`; the loop must run the wrapped one.
    Returns:
      the agent; its observations are the environment's states.
    Raises:
      ValueError: a setting out of range, or actions that the planner cannot handle.
    """
    check(cfg)
    planner, model = make_planner(cfg.planner, env.spec), as_model(env)

    def act(key: Key, learner: Tree, carry: Tree, obs: State, explore: bool) -> tuple[Action, Tree, Tree]:
        del learner, explore
        action, carry, _ = planner.plan(key, model, obs, carry)
        return action, carry, ()

    return Agent(lambda key: (), planner.init, act, no_update, follow=plan_anew(planner))


def learned_model(cfg: MPCConfig, env: Env, learner: Tree) -> LearnedModel:
    """What was learned, as a planner's model: the simulator itself, over its states.

    Args:
      cfg: settings.
      env: of the environment.
      learner: what was learned.
    """
    del cfg, learner
    return state_model(as_model(env))
