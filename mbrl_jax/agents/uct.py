"""UCT on the true environment; nothing is learned.

Browne et al. 2012, "A Survey of Monte Carlo Tree Search Methods": leaves are valued by random rollouts. The search runs
in the environment's own `step` from the very state it is in, so the loop must run it with `wrappers.reveal_state`.
"""

from __future__ import annotations

import jax

from mbrl_jax.core.config import check, config
from mbrl_jax.core.types import Agent, Array, Env, Key, Model, State, Tree, no_update
from mbrl_jax.envs.games import Masked
from mbrl_jax.envs.model import as_model
from mbrl_jax.planners.mcts import UCT, uct


@config
class UCTConfig:
    """Settings of UCT on the true environment."""

    uct: UCT = UCT()


def make(cfg: UCTConfig, env: Env) -> Agent:
    """UCT with random play in its own environment.

    Args:
      cfg: settings; floats may be traced.
      env: before `wrappers.reveal_state`, so that a game's mask of legal actions can be had from its states.
    Raises:
      ValueError: a setting out of range, or continuous actions.
    """
    check(cfg)
    tree, model = uct(cfg.uct, env.spec), true_model(env)

    def act(key: Key, learner: Tree, carry: Tree, obs: State, explore: bool) -> tuple[Array, Tree, Tree]:
        del learner, explore
        action, carry, _ = tree.plan(key, model, obs, carry)
        return action, carry, ()

    return Agent(lambda key: (), tree.init, act, no_update)


def true_model(env: Env) -> Model:
    """The simulator as a model, with the mask of legal actions where its observations have one."""
    observe, model = env.observe, as_model(env)
    if observe is None:
        return model
    seen = jax.eval_shape(lambda: observe(env.reset(jax.random.key(0))[0]))
    return model._replace(legal=lambda state: observe(state).legal) if isinstance(seen, Masked) else model
