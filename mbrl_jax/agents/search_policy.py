"""The search policy that AlphaZero and MuZero share: which tree search picks the actions, and how greedily.

Gumbel search after Danihelka et al. 2022, "Policy improvement by planning with Gumbel"; PUCT with a falling temperature
after Silver et al. 2018. The records of settings here hold what an agent leaves open of `planners.mcts.Gumbel` and
`planners.mcts.PUCT`: the discount is the agent's own, and PUCT's temperature follows a schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Array, Key, Model, Obs, Planner, Spec, State, Tree
from mbrl_jax.envs.games import Masked
from mbrl_jax.models.muzero.losses import SearchTargets
from mbrl_jax.ops.policies import greedy
from mbrl_jax.planners.mcts import PUCT, Gumbel, gumbel, puct

RANDOM_ACTION = 0x57A1  # folded into a key: keeps the draw of a random action apart from what the search draws


@config
class GumbelSearch:
    """Settings of Gumbel search as an agent's policy; each is that of `planners.mcts.Gumbel`."""

    simulations: int = setting(default=16, low=1, help="model steps per search")
    max_depth: int = setting(default=0, low=0, help="largest depth of the tree in steps; 0 for no limit")
    considered: int = setting(default=16, low=1, help="largest number of root actions that are searched")
    c_visit: float = setting(default=50.0, low=0, help="visit-independent part of the weight σ of values")
    c_scale: float = setting(default=0.1, above=0, help="weight of values against logits")
    least_range: float = setting(
        default=1e-8, above=0, help="smallest range of a node's values that is scaled to [0, 1], in units of value"
    )
    schedule: str = setting(
        default="parallel", choices=("parallel", "serial"), help="simulations of a halving round: at once or in turn"
    )
    gumbel_scale: float = setting(default=1.0, low=0, help="scale of the Gumbel noise at the root while exploring")


@config
class PUCTSearch:
    """Settings of PUCT as an agent's policy; each is that of `planners.mcts.PUCT`."""

    simulations: int = setting(default=32, low=1, help="model steps per search")
    max_depth: int = setting(default=0, low=0, help="largest depth of the tree in steps; 0 for no limit")
    c1: float = setting(default=1.25, above=0, help="weight of the prior")
    c2: float = setting(
        default=19652.0, above=0, help="number of visits at which the prior's weight has grown by log 2"
    )
    normalise: str = setting(
        default="siblings", choices=("siblings", "tree"), help="set of values whose range is scaled to [0, 1]"
    )
    dirichlet_fraction: float = setting(
        default=0.25, low=0, high=1, help="share of Dirichlet noise in the root's prior while exploring"
    )
    dirichlet_alpha: float = setting(
        default=0.3, above=0, help="concentration of the Dirichlet noise; about 10 / number of actions"
    )
    tie_noise: float = setting(default=1e-7, low=0, help="largest random addition to a score, to break ties")


@config
class SearchConfig:
    """Which tree search picks an agent's actions, and how greedily."""

    kind: str = setting(
        default="gumbel", choices=("gumbel", "puct"), help="tree search that acts; settings of the other have no effect"
    )
    gumbel: GumbelSearch = GumbelSearch()
    puct: PUCTSearch = PUCTSearch()
    first_temperature: float = setting(
        default=1.0, above=0, help="temperature of PUCT's draw among visit counts before the first update"
    )
    temperature: float = setting(
        default=0.25, above=0, help="temperature of PUCT's draw among visit counts after decay_updates"
    )
    random: float = setting(default=0.0, low=0, high=1, help="share of uniformly random legal actions while exploring")
    decay_updates: int = setting(
        default=5_000, low=1, help="number of gradient updates over which PUCT's temperature falls linearly"
    )


def temperature(cfg: SearchConfig, updates: Array) -> Array:
    """T [] of PUCT's draw, probabilities in proportion to N^(1/T), after `updates` [] gradient updates."""
    done = jnp.minimum(updates / cfg.decay_updates, 1.0)
    return cfg.first_temperature + (cfg.temperature - cfg.first_temperature) * done


def make_planner(cfg: SearchConfig, spec: Spec, *, gamma: Array | float, updates: Array, explore: bool) -> Planner:
    """The planner that `kind` names: noisy while exploring, greedy in evaluation.

    Args:
      cfg: settings.
      spec: the environment's.
      gamma: discount per step.
      updates: [] gradient updates so far, for the temperature.
      explore: static.
    """
    if cfg.kind == "gumbel":
        noise = {} if explore else {"gumbel_scale": 0.0}
        return gumbel(Gumbel(gamma=gamma, **(_settings(cfg.gumbel) | noise)), spec)  # pyright: ignore[reportArgumentType]
    noise = (
        {"temperature": temperature(cfg, updates)}
        if explore
        else {"dirichlet_fraction": 0.0, "temperature": 0.0, "tie_noise": 0.0}
    )
    return puct(PUCT(gamma=gamma, **(_settings(cfg.puct) | noise)), spec)  # pyright: ignore[reportArgumentType]


def _settings(cfg: Any) -> dict[str, Any]:
    """The fields of a config by name."""
    return {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}


def make_search(
    cfg: SearchConfig, spec: Spec, *, gamma: Array | float, updates: Array, explore: bool
) -> Callable[[Key, Model, State], tuple[Array, SearchTargets]]:
    """The search policy as a function: (key, model, state) -> action [], search targets of that state.

    The target value is that of the improved policy, Σ_a π(a) Q(a). Sequential Halving also visits actions that it then
    drops, so the mean over visits would be too low. In evaluation nothing is random, not even ties.

    While exploring, a share `random` of the actions is drawn uniformly from the legal ones. A latent model that has
    seen good moves only knows neither the consequences of bad ones nor that they earn nothing.

    Args:
      cfg, spec, gamma, updates, explore: as for `make_planner`.
    """
    planner = make_planner(cfg, spec, gamma=gamma, updates=updates, explore=explore)

    def search(key: Key, model: Model, state: State) -> tuple[Array, SearchTargets]:
        action, _, info = planner.plan(key, model, state, planner.init())
        if cfg.kind == "puct" and not explore:
            action = greedy(info.policy)
        from_search = jnp.ones((), bool)
        if explore:
            legal = jnp.ones(spec.num_actions, bool) if model.legal is None else model.legal(state)
            action, from_search = random_action(jax.random.fold_in(key, RANDOM_ACTION), action, legal, share=cfg.random)
        return action, SearchTargets(info.policy, jnp.sum(info.policy * info.q), from_search)

    return search


def random_action(key: Key, action: Array, legal: Array, *, share: Array | float) -> tuple[Array, Array]:
    """Replaces an action, with probability `share`, by one drawn uniformly from the legal ones.

    Args:
      key: used once.
      action: [] the search's.
      legal: [A] bool.
      share: in [0, 1].
    Returns:
      the action [], and whether it is still the search's [] bool.
    """
    key_whether, key_which = jax.random.split(key)
    from_search = ~jax.random.bernoulli(key_whether, jnp.asarray(share, jnp.float32))
    drawn = jax.random.categorical(key_which, jnp.where(legal, jnp.float32(0.0), -jnp.inf))
    return jnp.where(from_search, action, drawn).astype(action.dtype), from_search


def unsearched(key: Key, learner: Tree, carry: Tree, obs: Obs, action: Array, *, num_actions: int) -> tuple:
    """The `follow` of agents that search: no search, and so neither a policy nor a value to learn from.

    Args:
      key, learner, obs, action: as of `FollowFn`; not used.
      carry: returned as it is.
      num_actions: A.
    Returns:
      the carry; `SearchTargets` of zeros.
    """
    del key, learner, obs, action
    zero = jnp.zeros((), jnp.float32)
    return carry, SearchTargets(jnp.zeros(num_actions, jnp.float32), zero, jnp.zeros((), bool))


def split_mask(obs: Obs) -> tuple[Obs, Array | None]:
    """An observation without its mask of legal actions, and the mask [A], None where there is none."""
    return (obs.obs, obs.legal) if isinstance(obs, Masked) else (obs, None)


def check_rows(found: int, needed: int, formula: str) -> None:
    """Checks the length of the windows that a buffer gives.

    Args:
      found: rows of a window.
      needed: rows that the agent learns from.
      formula: how `needed` follows from the settings, for the message.
    Raises:
      ValueError: they differ.
    """
    if found != needed:
        raise ValueError(f"windows must have {formula} = {needed} rows, got {found}")
