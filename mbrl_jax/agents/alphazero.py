"""AlphaZero: tree search on the true environment, guided by a learned policy and value.

Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play".
The search runs in the environment's own `step` from the very state it is in, so the loop must run it with
`wrappers.reveal_state`. The network gives the prior p and the value v of a leaf, and learns from the search's policy π
and n-step return z of each position:

    L = H(π, p) + c H(z, v)

Differs from the paper in: n-step returns, bootstrapped from the search, as well as final results; values are classes of
a transformed scale, as in MuZero; decoupled weight decay with Adam; no symmetries of the board.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.search_policy import SearchConfig, searching, split_mask
from mbrl_jax.agents.uct import true_model
from mbrl_jax.buffers.sequence import Window, sequence
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Buffer, Env, Key, Metrics, Model, Obs, Params, Replay, Spec, State, Tree
from mbrl_jax.models.muzero.losses import SearchTargets, n_step_returns
from mbrl_jax.models.muzero.networks import decode
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.transforms import signed_hyperbolic
from mbrl_jax.ops.two_hot import integer_bins, two_hot


@config
class AlphaZeroConfig:
    """Settings of AlphaZero."""

    search: SearchConfig = SearchConfig()
    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of the hidden layers of policy and value")
    layer_norm: bool = setting(default=True, help="normalise each hidden layer before its activation")
    support: int = setting(default=10, low=1, help="n; transformed values are classes from -n to n")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount per step")
    n_steps: int = setting(default=10, low=1, help="steps of a return before it bootstraps")
    batch: int = setting(default=128, low=1, help="positions per update")
    lr: float = setting(default=2e-3, above=0, help="Adam's learning rate")
    weight_decay: float = setting(default=1e-4, low=0, help="decoupled, per update times lr")
    value_weight: float = setting(default=0.5, low=0, help="c, of the value's loss")


class Learner(NamedTuple):
    """What AlphaZero has learned so far."""

    params: Params
    opt: Any  # Adam's state
    updates: Array  # [] int32, so far


def window(cfg: AlphaZeroConfig) -> int:
    """Rows of the windows that AlphaZero's buffer must give."""
    return cfg.n_steps + 1


def buffer(cfg: AlphaZeroConfig, capacity: int, num_envs: int) -> Buffer:
    """The buffer that AlphaZero learns from: windows of `window(cfg)` rows.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: environments side by side.
    """
    return sequence(capacity, window(cfg), num_envs)


class Heads(NamedTuple):
    """The networks over observations, without their parameters."""

    policy: Net  # -> logits [A]
    value: Net  # -> logits [2n + 1]
    bins: Array  # [2n + 1]


def heads(cfg: AlphaZeroConfig, spec: Spec) -> Heads:
    """AlphaZero's networks; their last layers start at 0, as a uniform policy and values of 0."""
    bins = integer_bins(cfg.support)

    def head(out: int) -> Net:
        return network(spec.obs, cfg.hidden, out, out_scale=0.0, channels=0, layer_norm=cfg.layer_norm)

    return Heads(head(spec.num_actions), head(len(bins)), bins)


def guided(cfg: AlphaZeroConfig, env: Env, params: Params) -> Model:
    """The simulator as a model, with what the network says of its states."""
    nets, observe = heads(cfg, env.spec), env.observe
    assert observe is not None

    def seen(state: State) -> Obs:
        return split_mask(observe(state))[0]

    return true_model(env)._replace(
        prior=lambda key, state: nets.policy.apply(params["policy"], seen(state)),
        value=lambda key, state: decode(nets.value.apply(params["value"], seen(state)), nets.bins),
    )


def make(cfg: AlphaZeroConfig, env: Env) -> Agent:
    """AlphaZero in its own environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      env: before `wrappers.reveal_state`; it must have `observe`, whose vectors or planes the network sees.
    Raises:
      ValueError: a setting out of range, or an environment without `observe` or with continuous actions.
    """
    check(cfg)
    spec, observe = env.spec, env.observe
    if observe is None:
        raise ValueError(f"{spec.name} must have `observe`: AlphaZero's network sees the observations of states")
    nets = heads(cfg, spec)
    adam = optax.adamw(cfg.lr, weight_decay=cfg.weight_decay)

    def init(key: Key) -> Learner:
        key_policy, key_value = jax.random.split(key)
        params = {"policy": nets.policy.init(key_policy), "value": nets.value.init(key_value)}
        return Learner(params, adam.init(params), jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: State, explore: bool) -> tuple[Array, Tree, SearchTargets]:
        search = searching(cfg.search, spec, cfg.gamma, learner.updates, explore)
        action, found = search(key, guided(cfg, env, learner.params), obs)
        return action, carry, found

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        sampled: Window = replay.sample(key, cfg.batch)
        steps = sampled.steps
        if steps.reward.shape[0] != window(cfg):
            raise ValueError(f"windows must have n_steps + 1 = {window(cfg)} rows, got {steps.reward.shape[0]}")
        found: SearchTargets = steps.extras
        returns = jax.vmap(n_step_returns, (1, 1, 1, 1, 1, None, None))
        z = returns(steps.reward, steps.discount, steps.last, found.followed, found.value, cfg.gamma, cfg.n_steps)[:, 0]
        at = jax.tree.map(lambda leaf: leaf[0], steps)
        weight = jnp.where(at.last, 0.0, sampled.weight)  # nothing was searched at the end of an episode

        def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
            def one(state: State, target: Array, z: Array) -> tuple[Array, Array]:
                obs = split_mask(observe(state))[0]
                classes = two_hot(signed_hyperbolic(z), nets.bins)
                return (
                    optax.softmax_cross_entropy(nets.policy.apply(params["policy"], obs), target),
                    optax.softmax_cross_entropy(nets.value.apply(params["value"], obs), classes),
                )

            terms = jax.vmap(one)(at.obs, at.extras.policy, z)
            of_policy, of_value = (jnp.mean(weight * term) for term in terms)
            return of_policy + cfg.value_weight * of_value, (of_policy, of_value)

        grads, (of_policy, of_value) = jax.grad(loss, has_aux=True)(learner.params)
        params, opt = descend(adam, grads, learner.opt, learner.params)
        metrics = {"policy_loss": of_policy, "value_loss": of_value, "value": jnp.mean(z)}
        return Learner(params, opt, learner.updates + 1), metrics, ()

    return Agent(init, lambda: (), act, update)
