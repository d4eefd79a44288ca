"""MuZero: planning by tree search in a latent model that is learned for the search alone.

Schrittwieser et al. 2020 (arXiv 1911.08265), equations in `models.muzero.networks` and `models.muzero.losses`;
Reanalyse after Schrittwieser et al. 2021 (arXiv 2104.06294); Gumbel search after Danihelka et al. 2022, "Policy
improvement by planning with Gumbel"; the consistency loss of EfficientZero (Ye et al. 2021, arXiv 2111.00210). Every
action comes from a search at s = h(o) with prior p and value v. The search's policy π and its value ν = Σ_a π(a) Q(a)
are stored, and are what the model learns from:

    L = Σ_k w_k [ H(π_k, p^k) + c H(z_k, v^k) + H(u_k, r^k) ] + c' L_consistency

Reanalyse searches some windows of the batch anew, with a target network that follows the newest one (τ = 1: is the
newest), and writes the result back into the buffer. Returns z bootstrap from the stored ν, or from the target network's
v, which costs no search and is never stale. Priorities are |ν - z| of the first row of a window.

Differs from the papers in: networks are small and use layer norm; ν is weighted by the improved policy instead of
visits; weight decay is decoupled, with Adam and a bound on the gradient's norm; past the end of an episode no policy is
learned, and past a time limit nothing is; with Gumbel search its noise explores, and there is no temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.search_policy import (
    SearchConfig,
    check_rows,
    make_search,
    split_mask,
    temperature,
    unsearched,
)
from mbrl_jax.agents.standardized import inner_of, model_in_units, standardized
from mbrl_jax.buffers.prioritized import prioritized
from mbrl_jax.buffers.sequence import Feedback, Step, Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Buffer, Key, Metrics, Model, Obs, Params, Replay, Spec, State, Tree
from mbrl_jax.models.muzero.losses import SearchTargets, Targets, make_targets, muzero_loss
from mbrl_jax.models.muzero.networks import Latent, MuZeroNetConfig, Networks, bind, muzero, root
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.transforms import signed_parabolic
from mbrl_jax.ops.two_hot import two_hot_decode


@config
class MuZeroConfig:
    """Settings of MuZero."""

    net: MuZeroNetConfig = MuZeroNetConfig()
    search: SearchConfig = SearchConfig()
    players: int = setting(default=1, choices=(1, 2), help="number of players who move in turn")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount factor per step")
    unroll: int = setting(default=5, low=1, help="number K of steps for which the loss unrolls the dynamics")
    n_steps: int = setting(default=10, low=1, help="number n of steps after which a return bootstraps")
    batch: int = setting(default=128, low=1, help="windows per gradient update")
    lr: float = setting(default=2e-3, above=0, help="Adam's learning rate at the first update")
    lr_decay: float = setting(
        default=1.0, above=0, high=1, help="factor on the learning rate after every lr_decay_updates updates"
    )
    lr_decay_updates: int = setting(
        default=10_000, low=1, help="number of gradient updates between two decays of the learning rate"
    )
    weight_decay: float = setting(default=1e-4, low=0, help="decoupled weight decay per update, as a factor on lr")
    max_grad_norm: float = setting(
        default=5.0, above=0, help="largest global norm of a gradient; longer ones are clipped"
    )
    value_weight: float = setting(default=0.25, low=0, help="weight c of the value loss; 1 for board games")
    consistency_weight: float = setting(
        default=2.0, low=0, help="weight c' of the consistency loss, with net.project above 0"
    )
    reanalyse: int = setting(default=0, low=0, help="number of windows of each batch that are searched anew")
    bootstrap: str = setting(
        default="search",
        choices=("search", "network"),
        help="source of bootstrap values: stored search or target network",
    )
    tau: float = setting(
        default=1.0, above=0, high=1, help="step of the target network towards the newest parameters per update"
    )
    priorities: bool = setting(default=False, help="sampling of windows by priority instead of uniformly")
    alpha: float = setting(default=1.0, low=0, high=1, help="exponent α of priorities; 0 samples uniformly")
    beta: float = setting(default=1.0, low=0, high=1, help="exponent β of importance weights; 1 corrects fully")
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by their running root mean square")


class Learner(NamedTuple):
    """What MuZero has learned so far."""

    params: Params
    target: Params  # target network, for Reanalyse and bootstraps
    opt: Any  # Adam's state
    updates: Array  # [] int32, gradient updates so far


def window(cfg: MuZeroConfig) -> int:
    """Rows of the windows that MuZero's buffer must give."""
    return cfg.unroll + cfg.n_steps + 1


def buffer(cfg: MuZeroConfig, capacity: int, num_envs: int) -> Buffer:
    """The buffer that MuZero learns from: windows of `window(cfg)` rows, uniform or by priority.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: parallel environments.
    """
    if cfg.priorities:
        return prioritized(capacity, window(cfg), num_envs, cfg.alpha, cfg.beta)
    return sequence(capacity, window(cfg), num_envs)


def make(cfg: MuZeroConfig, spec: Spec) -> Agent:
    """MuZero for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or planes, in `Masked` where not every action is legal; actions discrete.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    if cfg.reanalyse > cfg.batch:
        raise ValueError(f"reanalyse must be at most batch ({cfg.batch}), got {cfg.reanalyse}")
    nets = muzero(cfg.net, spec)

    def plan(key: Key, params: Params, updates: Array, obs: Obs, explore: bool) -> tuple[Array, SearchTargets]:
        search = make_search(cfg.search, spec, gamma=cfg.gamma, updates=updates, explore=explore)
        return search_latent(key, params, obs, nets=nets, search=search, players=cfg.players)

    def init(key: Key) -> Learner:
        params = nets.init(key)
        opt = make_optimizer(cfg, 0).init(params)
        return Learner(params, jax.tree.map(jnp.copy, params), opt, jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, SearchTargets]:
        action, found = plan(key, learner.params, learner.updates, obs, explore)
        return action, carry, found

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_search, key_targets = jax.random.split(key, 3)
        sampled: Window = replay.sample(key_sample, cfg.batch)
        steps: Step = sampled.steps
        check_rows(len(steps.reward), window(cfg), "unroll + n_steps + 1")

        search = lambda key, obs: plan(key, learner.target, learner.updates, obs, True)[1]  # noqa: E731
        found = reanalyse(key_search, steps, search=search, count=cfg.reanalyse)
        values = found.value
        if cfg.bootstrap == "network":
            values = bootstrap_values(learner.target, steps, found, nets=nets)
        targets = jax.vmap(partial(make_targets, gamma=cfg.gamma, n=cfg.n_steps, unroll=cfg.unroll), (0, 1, 1))(
            jax.random.split(key_targets, cfg.batch), steps, found._replace(value=values)
        )
        obs = jax.tree.map(lambda leaf: leaf[: cfg.unroll + 1], split_mask(steps.obs)[0])
        grads, metrics = jax.grad(muzero_loss, has_aux=True)(
            learner.params, obs, targets, nets=nets, weight=sampled.weight, value_weight=cfg.value_weight,
            consistency_weight=cfg.consistency_weight,
        )  # fmt: skip
        params, opt = descend(make_optimizer(cfg, learner.updates), grads, learner.opt, learner.params)
        target = optax.incremental_update(params, learner.target, cfg.tau)
        metrics |= {"value": jnp.mean(targets.value[:, 0]), "temperature": temperature(cfg.search, learner.updates)}
        feedback = Feedback(
            sampled.index,
            priorities(values, targets) if cfg.priorities else None,
            found if cfg.reanalyse else None,
        )
        return Learner(params, target, opt, learner.updates + 1), metrics, feedback

    follow = partial(unsearched, num_actions=spec.num_actions)
    agent = Agent(init, lambda: (), act, update, follow=follow)
    return standardized(agent, spec, obs=cfg.normalize_obs, rewards=cfg.scale_rewards)


def search_latent(
    key: Key,
    params: Params,
    obs: Obs,
    *,
    nets: Networks,
    search: Callable[[Key, Model, State], tuple[Array, SearchTargets]],
    players: int = 1,
) -> tuple[Array, SearchTargets]:
    """A search from one observation in the latent model.

    Args:
      key: used once.
      params: the networks'.
      obs: one observation, with its mask of legal actions if it has one.
      nets: the networks.
      search: (key, model, state) -> action [], `SearchTargets`; from `search_policy.make_search`.
      players: 1, or 2 who move in turn.
    Returns:
      the action [], and what the search found.
    """
    obs, legal = split_mask(obs)
    return search(key, bind(nets, params, players, masked=legal is not None), root(nets, params, obs, legal))


def reanalyse(key: Key, steps: Step, *, search: Callable[[Key, Obs], SearchTargets], count: int) -> SearchTargets:
    """Search targets of a batch, the first `count` windows searched anew (Schrittwieser et al. 2021).

    The last row of an episode keeps what is stored, as does every row's `from_search`: the actions stay those taken.

    Args:
      key: used once.
      steps: [L, B, ...] with `SearchTargets` as extras.
      search: (key, obs) -> `SearchTargets` of one observation, by the target network.
      count: 0..B; the windows of a batch are in random order.
    Returns:
      [L, B, ...].
    """
    stored: SearchTargets = steps.extras
    if not count:
        return stored
    head = lambda record: jax.tree.map(lambda leaf: leaf[:, :count], record)  # noqa: E731
    old = head(stored)
    keys = jax.random.split(key, (steps.reward.shape[0], count))
    fresh = jax.vmap(jax.vmap(search))(keys, head(steps.obs))._replace(from_search=old.from_search)
    fresh = tree.where(head(steps.last), old, fresh)
    return jax.tree.map(lambda new, old: jnp.concatenate([new, old[:, count:]], 1), fresh, stored)


def bootstrap_values(params: Params, steps: Step, found: SearchTargets, *, nets: Networks) -> Array:
    """The target network's own values v, for returns to bootstrap from.

    Where a return is cut at once, at a random action or at the end of an episode, the search's ν stays: the network
    would otherwise learn from itself alone.

    Args:
      params: the target network's.
      steps: [L, B, ...].
      found: [L, B, ...] searches at these rows.
      nets: the networks.
    Returns:
      [L, B] values.
    """
    obs, _ = split_mask(steps.obs)

    def value(obs: Obs) -> Array:
        return two_hot_decode(nets.predict(params, nets.represent(params, obs))[1], nets.bins, signed_parabolic)

    cut = steps.last | ~found.from_search
    return jnp.where(cut, found.value, jax.vmap(jax.vmap(value))(obs))


def make_optimizer(cfg: MuZeroConfig, updates: Array | int) -> optax.GradientTransformation:
    """Adam with decoupled weight decay and clipping by global norm, at the learning rate after `updates` updates."""
    lr = learning_rate(updates, lr=cfg.lr, decay=cfg.lr_decay, decay_updates=cfg.lr_decay_updates)
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),  # pyright: ignore[reportArgumentType]
        optax.adamw(lr, weight_decay=cfg.weight_decay),  # pyright: ignore[reportArgumentType]
    )


def learning_rate(updates: Array | int, *, lr: Array | float, decay: Array | float, decay_updates: int) -> Array:
    """The decayed learning rate, lr · decay^⌊updates / decay_updates⌋.

    Args:
      updates: [] gradient updates so far, at least 0.
      lr: learning rate at first, above 0.
      decay: factor of each decay, in (0, 1].
      decay_updates: gradient updates between two decays, at least 1.
    Returns:
      the learning rate [].
    """
    return jnp.asarray(lr * decay ** (updates // decay_updates), jnp.float32)


def priorities(values: Array, targets: Targets) -> Array:
    """|ν - z| of each window's first row, [B]; 0 where that row ends an episode and nothing can be learned.

    Args:
      values: [L, B] ν.
      targets: [B, ...].
    """
    return targets.value_mask[:, 0] * jnp.abs(values[0] - targets.value[:, 0])


def learned_model(cfg: MuZeroConfig, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over latent states, with prior and value.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets, params = muzero(cfg.net, spec), inner_of(learner).params

    def encode(key: Key, obs: Obs) -> Latent:
        del key
        return root(nets, params, *split_mask(obs))

    return model_in_units(LearnedModel(bind(nets, params, cfg.players), encode), learner)
