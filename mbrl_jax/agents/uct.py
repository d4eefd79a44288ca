"""UCT on the true environment; nothing is learned.

Browne et al. 2012, "A Survey of Monte Carlo Tree Search Methods": new leaves are valued by random rollouts. The search
runs in the environment's own `step` from its current state, so the loop must run it with `wrappers.reveal_state`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.agents.learned_model import LearnedModel, state_model
from mbrl_jax.core.config import check, config
from mbrl_jax.core.types import Agent, Array, Env, Key, Model, State, Tree, no_update, plan_anew
from mbrl_jax.envs.games import Masked
from mbrl_jax.envs.model import as_model
from mbrl_jax.planners.mcts import UCT, uct


@config
class UCTConfig:
    """Settings of UCT on the true environment."""

    uct: UCT = UCT()


def make(cfg: UCTConfig, env: Env) -> Agent:
    """UCT with random rollouts in its own environment.

    With `uct.reuse` the agent's carry is the subtree below the action it took. That suits deterministic environments
    in which nobody else moves: the next search takes the subtree's root for the current state.

    Args:
      cfg: settings; floats may be traced.
      env: before `wrappers.reveal_state`, so that a game's mask of legal actions can be read from its states.
    Raises:
      ValueError: a setting out of range, or continuous actions.
    """
    check(cfg)
    example = example_state(env) if cfg.uct.reuse else None
    planner, model = uct(cfg.uct, env.spec, example), true_model(env)

    def act(key: Key, learner: Tree, carry: Tree, obs: State, explore: bool) -> tuple[Array, Tree, Tree]:
        del learner, explore
        action, carry, _ = planner.plan(key, model, obs, carry)
        return action, carry, ()

    return Agent(lambda key: (), planner.init, act, no_update, follow=plan_anew(planner))


def example_state(env: Env) -> State:
    """A state of the environment with every number 0, for its shapes and dtypes."""
    shapes = jax.eval_shape(env.reset, jax.random.key(0))[0]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def true_model(env: Env) -> Model:
    """The simulator as a model, with the mask of legal actions where its observations have one."""
    observe, model = env.observe, as_model(env)
    if observe is None:
        return model
    seen = jax.eval_shape(lambda: observe(env.reset(jax.random.key(0))[0]))
    return model._replace(legal=lambda state: observe(state).legal) if isinstance(seen, Masked) else model


def learned_model(cfg: UCTConfig, env: Env, learner: Tree) -> LearnedModel:
    """What was learned, as a planner's model: the simulator itself, over its states.

    Args:
      cfg: settings.
      env: of the environment.
      learner: what was learned.
    """
    del cfg, learner
    return state_model(true_model(env))
