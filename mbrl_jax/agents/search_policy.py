"""The search policy that AlphaZero and MuZero share: which tree search an agent acts by, and how greedily.

Gumbel search after Danihelka et al. 2022, "Policy improvement by planning with Gumbel"; PUCT with a falling temperature
after Silver et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import config, replace, setting
from mbrl_jax.core.types import (
    Array,
    Key,
    Model,
    Obs,
    Planner,
    Spec,
    State,
)
from mbrl_jax.envs.games import Masked
from mbrl_jax.models.muzero.losses import SearchTargets
from mbrl_jax.ops.policies import greedy
from mbrl_jax.planners.mcts import PUCT, Gumbel, gumbel, puct

STRAY = 0x57A1  # sets the keys of random actions apart from those that a search splits off


@config
class SearchConfig:
    """Which tree search an agent acts by, and how greedily."""

    kind: str = setting(default="gumbel", choices=("gumbel", "puct"), help="the search; the other's settings rest")
    gumbel: Gumbel = Gumbel(simulations=16)
    puct: PUCT = PUCT(simulations=32)
    first_temperature: float = setting(default=1.0, above=0, help="of PUCT's choice among visits, before any update")
    temperature: float = setting(default=0.25, above=0, help="after the decay")
    random: float = setting(
        default=0.0, low=0, high=1, help="share of actions drawn from all legal ones instead, while exploring"
    )
    decay_updates: int = setting(default=5_000, low=1, help="updates over which the temperature falls, linearly")


def temperature(cfg: SearchConfig, updates: Array) -> Array:
    """T [] of action choice after `updates` [] of them: counts^(1/T) in proportion."""
    done = jnp.minimum(updates / cfg.decay_updates, 1.0)
    return cfg.first_temperature + (cfg.temperature - cfg.first_temperature) * done


def planner(cfg: SearchConfig, spec: Spec, gamma: Array | float, updates: Array, explore: bool) -> Planner:
    """The planner that `kind` names, noisy where it explores and greedy where it does not.

    Args:
      cfg: settings.
      spec: the environment's.
      gamma: discount per step; that of the planner's own settings does not count.
      updates: made so far, for the temperature.
      explore: static.
    """
    if cfg.kind == "gumbel":
        return gumbel(replace(cfg.gumbel, {"gamma": gamma} | ({} if explore else {"gumbel_scale": 0.0})), spec)
    quiet = {"dirichlet_fraction": 0.0, "temperature": 0.0, "tie_noise": 0.0}
    return puct(
        replace(cfg.puct, {"gamma": gamma} | ({"temperature": temperature(cfg, updates)} if explore else quiet)), spec
    )


def searching(
    cfg: SearchConfig, spec: Spec, gamma: Array | float, updates: Array, explore: bool
) -> Callable[[Key, Model, State], tuple[Array, SearchTargets]]:
    """A search as a function: (key, model, state) -> action, what is learned from it; arguments as for `planner`.

    The value is that of acting by the improved policy, Σ_a π(a) Q(a): Sequential Halving spends visits on actions it
    then drops, so that the mean over visits would be lower. Without exploring nothing is random, ties neither.

    A share `random` of the actions is drawn from all legal ones: a latent model that only ever saw good moves knows
    neither what bad ones lead to nor what they do not earn.
    """
    chosen = planner(cfg, spec, gamma, updates, explore)

    def stray(key: Key, model: Model, state: State, action: Array) -> tuple[Array, Array]:
        """The action, or sometimes another, and whether it is the search's."""
        key_whether, key_which = jax.random.split(jax.random.fold_in(key, STRAY))
        legal = jnp.ones(spec.num_actions, bool) if model.legal is None else model.legal(state)
        follow = ~jax.random.bernoulli(key_whether, cfg.random)
        drawn = jax.random.categorical(key_which, jnp.where(legal, 0.0, -jnp.inf))
        return jnp.where(follow, action, drawn).astype(action.dtype), follow

    def search(key: Key, model: Model, state: State) -> tuple[Array, SearchTargets]:
        action, _, info = chosen.plan(key, model, state, chosen.init())
        if cfg.kind == "puct" and not explore:
            action = greedy(info.visits)
        followed = jnp.ones((), bool)
        if explore:
            action, followed = stray(key, model, state, action)
        return action, SearchTargets(info.policy, jnp.sum(info.policy * info.q), followed)

    return search


def split_mask(obs: Obs) -> tuple[Obs, Array | None]:
    """An observation without its mask of legal actions, and the mask if there is one."""
    return (obs.obs, obs.legal) if isinstance(obs, Masked) else (obs, None)
