"""MuZero: planning by tree search in a latent model that is learned for nothing else.

Schrittwieser et al. 2020 (arXiv 1911.08265), equations in `models.muzero.networks` and `models.muzero.losses`;
Reanalyse after Schrittwieser et al. 2021 (arXiv 2104.06294); Gumbel search after Danihelka et al. 2022, "Policy
improvement by planning with Gumbel"; the consistency loss of EfficientZero (Ye et al. 2021, arXiv 2111.00210). Every
step is a search from s = h(o) with prior p and value v; what is kept of it, its policy π and its value ν = Σ_a π(a)
Q(a), is what the model learns from:

    L = Σ_k w_k [ H(π_k, p^k) + c H(z_k, v^k) + H(u_k, r^k) ] + c' L_consistency

Reanalyse searches positions of the batch anew, with a target network that follows the newest (τ = 1: is the newest),
and writes what it finds back. Returns z end with the ν stored, or with that network's own v, which costs no search and
is never old. Priorities are |ν - z| of the first row of a window.

Differs from the papers in: networks are small and normalised by layer; ν is weighted by the improved policy instead of
visits; weight decay is decoupled, with Adam and a bound on the gradient's norm; past the end of an episode no policy is
learned, and past a time limit nothing is; Gumbel's own noise explores, and the temperature is for PUCT alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.search_policy import SearchConfig, searching, split_mask, temperature
from mbrl_jax.buffers.prioritized import prioritized
from mbrl_jax.buffers.sequence import Feedback, Step, Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Buffer, Key, Metrics, Obs, Params, Replay, Spec, Tree
from mbrl_jax.models.muzero.losses import (
    SearchTargets,
    Targets,
    consistency_loss,
    make_targets,
    unroll_model,
    unrolled_losses,
)
from mbrl_jax.models.muzero.networks import MuZeroNetConfig, bind, decode, muzero, root
from mbrl_jax.ops.optim import descend


@config
class MuZeroConfig:
    """Settings of MuZero."""

    net: MuZeroNetConfig = MuZeroNetConfig()
    search: SearchConfig = SearchConfig()
    players: int = setting(default=1, choices=(1, 2), help="2 for games in which players move in turn")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount per step")
    unroll: int = setting(default=5, low=1, help="K, steps of the dynamics in a loss")
    n_steps: int = setting(default=10, low=1, help="n, steps of a return before it bootstraps")
    batch: int = setting(default=128, low=1, help="windows per update")
    lr: float = setting(default=2e-3, above=0, help="Adam's learning rate, before it falls")
    lr_decay: float = setting(default=1.0, above=0, high=1, help="what lr is multiplied by, every lr_decay_updates")
    lr_decay_updates: int = setting(default=10_000, low=1, help="updates before lr falls, and falls again")
    weight_decay: float = setting(default=1e-4, low=0, help="decoupled, per update times lr")
    max_grad_norm: float = setting(default=5.0, above=0, help="longer gradients are scaled down to it")
    value_weight: float = setting(default=0.25, low=0, help="c, of the value's loss; 1 for board games")
    consistency_weight: float = setting(default=2.0, low=0, help="c', with net.project above 0")
    reanalyse: int = setting(default=0, low=0, help="windows of each batch that are searched anew")
    bootstrap: str = setting(
        default="search", choices=("search", "network"), help="whose values returns end with: stored, or the target's"
    )
    tau: float = setting(default=1.0, above=0, high=1, help="share that moves into the target network per update")
    priorities: bool = setting(default=False, help="draw windows by priority instead of uniformly")
    alpha: float = setting(default=1.0, low=0, high=1, help="exponent of priorities; 0 is uniform")
    beta: float = setting(default=1.0, low=0, high=1, help="exponent of importance weights; 1 corrects wholly")


class Learner(NamedTuple):
    """What MuZero has learned so far."""

    params: Params
    target: Params  # of reanalyse and of bootstraps
    opt: Any  # Adam's state
    updates: Array  # [] int32, so far


def window(cfg: MuZeroConfig) -> int:
    """Rows of the windows that MuZero's buffer must give."""
    return cfg.unroll + cfg.n_steps + 1


def buffer(cfg: MuZeroConfig, capacity: int, num_envs: int) -> Buffer:
    """The buffer that MuZero learns from: windows of `window(cfg)` rows, uniform or by priority.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: environments side by side.
    """
    if cfg.priorities:
        return prioritized(capacity, window(cfg), num_envs, cfg.alpha, cfg.beta)
    return sequence(capacity, window(cfg), num_envs)


def make(cfg: MuZeroConfig, spec: Spec) -> Agent:
    """MuZero for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or planes, in `Masked` where not every action is allowed; actions discrete.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    if cfg.reanalyse > cfg.batch:
        raise ValueError(f"reanalyse must be at most batch ({cfg.batch}), got {cfg.reanalyse}")
    nets = muzero(cfg.net, spec)

    def adam(updates: Array | int) -> optax.GradientTransformation:
        lr = learning_rate(cfg, updates)
        return optax.chain(
            optax.clip_by_global_norm(cfg.max_grad_norm),  # pyright: ignore[reportArgumentType]
            optax.adamw(lr, weight_decay=cfg.weight_decay),  # pyright: ignore[reportArgumentType]
        )

    def plan(key: Key, params: Params, updates: Array, obs: Obs, explore: bool) -> tuple[Array, SearchTargets]:
        obs, legal = split_mask(obs)
        model = bind(nets, params, cfg.players, masked=legal is not None)
        return searching(cfg.search, spec, cfg.gamma, updates, explore)(key, model, root(nets, params, obs, legal))

    def init(key: Key) -> Learner:
        params = nets.init(key)
        return Learner(params, jax.tree.map(jnp.copy, params), adam(0).init(params), jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, SearchTargets]:
        action, found = plan(key, learner.params, learner.updates, obs, explore)
        return action, carry, found

    def reanalysed(key: Key, learner: Learner, steps: Step) -> SearchTargets:
        """Searches [L, B] with the first `reanalyse` windows' afresh."""
        stored: SearchTargets = steps.extras
        if not cfg.reanalyse:
            return stored
        rows = steps.reward.shape[0]
        obs = jax.tree.map(lambda leaf: leaf[:, : cfg.reanalyse], steps.obs)
        keys = jax.random.split(key, (rows, cfg.reanalyse))
        search = jax.vmap(jax.vmap(lambda key, obs: plan(key, learner.target, learner.updates, obs, True)[1]))
        old = jax.tree.map(lambda leaf: leaf[:, : cfg.reanalyse], stored)
        fresh = search(keys, obs)._replace(followed=old.followed)
        # An episode's last row stays as it is: nothing is done there.
        fresh = tree.where(steps.last[:, : cfg.reanalyse], old, fresh)
        return jax.tree.map(lambda new, old: jnp.concatenate([new, old[:, cfg.reanalyse :]], 1), fresh, stored)

    def bootstraps(learner: Learner, steps: Step, found: SearchTargets) -> Array:
        """Values [L, B] for returns to end with."""
        if cfg.bootstrap == "search":
            return found.value
        obs, _ = split_mask(steps.obs)

        def value(obs: Obs) -> Array:
            return decode(nets.predict(learner.target, nets.represent(learner.target, obs))[1], nets.bins)

        # Where the return ends at once for a random action, the network would learn from itself alone.
        own = steps.last | ~found.followed
        return jnp.where(own, found.value, jax.vmap(jax.vmap(value))(obs))

    def losses(params: Params, obs: Obs, target: Targets) -> dict[str, Array]:
        """Terms of one window's loss, from its observations [K + 1, ...]."""
        first = jax.tree.map(lambda leaf: leaf[0], obs)
        unrolled = unroll_model(nets, params, first, target.action)
        terms = unrolled_losses(unrolled, target, nets.bins)
        if cfg.net.project:
            later = jax.tree.map(lambda leaf: leaf[1:], obs)
            terms["consistency"] = consistency_loss(nets, params, unrolled.latent[1:], later, target.seen)
        return terms

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_search, key_targets = jax.random.split(key, 3)
        sampled: Window = replay.sample(key_sample, cfg.batch)
        steps = sampled.steps
        if steps.reward.shape[0] != window(cfg):
            raise ValueError(f"windows must have unroll + n_steps + 1 = {window(cfg)} rows, got {len(steps.reward)}")
        found = reanalysed(key_search, learner, steps)
        values = bootstraps(learner, steps, found)
        keys = jax.random.split(key_targets, cfg.batch)
        targets = jax.vmap(make_targets, (0, 1, 1, None, None, None))(
            keys, steps, found._replace(value=values), cfg.gamma, cfg.n_steps, cfg.unroll
        )
        obs = jax.tree.map(lambda leaf: leaf[: cfg.unroll + 1], split_mask(steps.obs)[0])

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            terms = jax.vmap(losses, (None, 1, 0))(params, obs, targets)
            means = {name: jnp.mean(sampled.weight * term) for name, term in terms.items()}
            weights = {"value": cfg.value_weight, "consistency": cfg.consistency_weight}
            return sum((weights.get(name, 1.0) * mean for name, mean in means.items()), jnp.zeros(())), means

        grads, means = jax.grad(loss, has_aux=True)(learner.params)
        params, opt = descend(adam(learner.updates), grads, learner.opt, learner.params)
        target = optax.incremental_update(params, learner.target, cfg.tau)
        metrics = {f"{name}_loss": mean for name, mean in means.items()}
        metrics |= {"value": jnp.mean(targets.value[:, 0]), "temperature": temperature(cfg.search, learner.updates)}
        feedback = Feedback(
            sampled.index,
            priorities(values, targets) if cfg.priorities else None,
            found if cfg.reanalyse else None,
        )
        return Learner(params, target, opt, learner.updates + 1), metrics, feedback

    return Agent(init, lambda: (), act, update)


def learning_rate(cfg: MuZeroConfig, updates: Array | int) -> Array:
    """Adam's rate [] after `updates` of them: lr · lr_decay^⌊updates / lr_decay_updates⌋."""
    return jnp.asarray(cfg.lr * cfg.lr_decay ** (updates // cfg.lr_decay_updates))


def priorities(values: Array, targets: Targets) -> Array:
    """|ν - z| of each window's first row, [B]; 0 where that row ends an episode and nothing can be learned.

    Args:
      values: [L, B] ν.
      targets: [B, ...].
    """
    return targets.value_mask[:, 0] * jnp.abs(values[0] - targets.value[:, 0])
