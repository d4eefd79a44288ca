"""AlphaZero: tree search on the true environment, guided by a learned policy and value.

Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play".
The search runs in the environment's own `step` from its current state, so the loop must run it with
`wrappers.reveal_state`. The network gives the prior p and the value v of a leaf, and learns from the search's policy π
and the n-step return z of each position:

    L = H(π, p) + c H(z, v)

Differs from the paper in: n-step returns, bootstrapped from the search, as well as final results; values are classes of
a transformed scale, as in MuZero; decoupled weight decay with Adam; no symmetries of the board.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.learned_model import LearnedModel, state_model
from mbrl_jax.agents.search_policy import SearchConfig, check_rows, make_search, split_mask, unsearched
from mbrl_jax.agents.uct import true_model
from mbrl_jax.buffers.sequence import Step, Window, sequence
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Buffer, Env, Key, Metrics, Model, Obs, Params, Replay, Spec, State, Tree
from mbrl_jax.models.muzero.losses import SearchTargets, n_step_returns, was_searched
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.transforms import signed_hyperbolic, signed_parabolic
from mbrl_jax.ops.two_hot import integer_bins, two_hot_cross_entropy, two_hot_decode


@config
class AlphaZeroConfig:
    """Settings of AlphaZero."""

    search: SearchConfig = SearchConfig()
    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of the hidden layers of policy and value")
    layer_norm: bool = setting(default=True, help="layer norm before each hidden activation")
    support: int = setting(default=10, low=1, help="largest class n: transformed values are classes from -n to n")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount factor per step")
    n_steps: int = setting(default=10, low=1, help="number n of steps after which a return bootstraps")
    batch: int = setting(default=128, low=1, help="positions per gradient update")
    lr: float = setting(default=2e-3, above=0, help="Adam's learning rate")
    weight_decay: float = setting(default=1e-4, low=0, help="decoupled weight decay per update, as a factor on lr")
    value_weight: float = setting(default=0.5, low=0, help="weight c of the value loss")


class Learner(NamedTuple):
    """What AlphaZero has learned so far."""

    params: Params
    opt: Any  # Adam's state
    updates: Array  # [] int32, gradient updates so far


def window(cfg: AlphaZeroConfig) -> int:
    """Rows of the windows that AlphaZero's buffer must give."""
    return cfg.n_steps + 1


def buffer(cfg: AlphaZeroConfig, capacity: int, num_envs: int) -> Buffer:
    """The buffer that AlphaZero learns from: uniform windows of `window(cfg)` rows; arguments as of `muzero.buffer`."""
    return sequence(capacity, window(cfg), num_envs)


class Heads(NamedTuple):
    """The networks over observations, without their parameters."""

    policy: Net  # -> logits [A]
    value: Net  # -> logits [2n + 1]
    bins: Array  # [2n + 1] the integers from -n to n


def heads(cfg: AlphaZeroConfig, spec: Spec) -> Heads:
    """AlphaZero's networks; their last layers start at 0, as a uniform policy and values of 0."""
    bins = integer_bins(cfg.support)

    def head(out: int) -> Net:
        return network(spec.obs, cfg.hidden, out, out_scale=0.0, channels=0, layer_norm=cfg.layer_norm)

    return Heads(head(spec.num_actions), head(len(bins)), bins)


def guided_model(params: Params, *, nets: Heads, env: Env) -> Model:
    """The simulator as a model, with the network's prior and value of its states.

    Args:
      params: the networks'.
      nets: the networks.
      env: with `observe`.
    """

    def prior(key: Key, state: State) -> Array:
        del key
        return nets.policy.apply(params["policy"], network_input(env, state))

    def value(key: Key, state: State) -> Array:
        del key
        logits = nets.value.apply(params["value"], network_input(env, state))
        return two_hot_decode(logits, nets.bins, signed_parabolic)

    return true_model(env)._replace(prior=prior, value=value)


def need_observe(env: Env) -> Callable[[State], Obs]:
    """The environment's `observe`.

    Raises:
      ValueError: it has none.
    """
    if env.observe is None:
        raise ValueError(f"{env.spec.name} must have `observe`: AlphaZero's network sees the observations of states")
    return env.observe


def network_input(env: Env, state: State) -> Obs:
    """What the networks see of a state: its observation without the mask of legal actions."""
    return split_mask(need_observe(env)(state))[0]


def value_targets(steps: Step, *, gamma: Array | float, n: int) -> Array:
    """n-step returns z of the first rows of windows (see `models.muzero.losses`), [B].

    Args:
      steps: [n + 1, B, ...] with `SearchTargets` as extras.
      gamma: discount per step.
      n: steps of a return.
    """
    found: SearchTargets = steps.extras
    returns = jax.vmap(partial(n_step_returns, gamma=gamma, n=n), 1, 1)
    return returns(steps.reward, steps.discount, steps.last, found.from_search, found.value)[0]


def alphazero_loss(
    params: Params,
    obs: Obs,
    policy: Array,
    value: Array,
    *,
    nets: Heads,
    weight: Array | float = 1.0,
    value_weight: Array | float = 0.5,
) -> tuple[Array, Metrics]:
    """AlphaZero's loss of a batch of positions.

        L = mean_b weight_b H(π_b, p_b)  +  c mean_b weight_b H(z_b, v_b)

    Args:
      params: the networks'.
      obs: [B, ...] without masks of legal actions.
      policy: [B, A] π, probabilities.
      value: [B] z.
      nets: the networks.
      weight: [B] importance weights, 0 where a position is not to be learned from.
      value_weight: c.
    Returns:
      loss []; metrics "policy_loss" and "value_loss", without c.
    """

    def one(obs: Obs, policy: Array, value: Array) -> tuple[Array, Array]:
        return (
            optax.softmax_cross_entropy(nets.policy.apply(params["policy"], obs), policy),
            two_hot_cross_entropy(nets.value.apply(params["value"], obs), value, nets.bins, signed_hyperbolic),
        )

    of_policy, of_value = (jnp.mean(weight * term) for term in jax.vmap(one)(obs, policy, value))
    return of_policy + value_weight * of_value, {"policy_loss": of_policy, "value_loss": of_value}


def make(cfg: AlphaZeroConfig, env: Env) -> Agent:
    """AlphaZero in its own environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      env: before `wrappers.reveal_state`; it must have `observe`, whose vectors or planes the network sees.
    Raises:
      ValueError: a setting out of range, or an environment without `observe` or with continuous actions.
    """
    check(cfg)
    spec = env.spec
    need_observe(env)
    nets = heads(cfg, spec)
    adam = optax.adamw(cfg.lr, weight_decay=cfg.weight_decay)

    def init(key: Key) -> Learner:
        key_policy, key_value = jax.random.split(key)
        params = {"policy": nets.policy.init(key_policy), "value": nets.value.init(key_value)}
        return Learner(params, adam.init(params), jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: State, explore: bool) -> tuple[Array, Tree, SearchTargets]:
        search = make_search(cfg.search, spec, gamma=cfg.gamma, updates=learner.updates, explore=explore)
        action, found = search(key, guided_model(learner.params, nets=nets, env=env), obs)
        return action, carry, found

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        sampled: Window = replay.sample(key, cfg.batch)
        check_rows(len(sampled.steps.reward), window(cfg), "n_steps + 1")
        z = value_targets(sampled.steps, gamma=cfg.gamma, n=cfg.n_steps)
        first: Step = jax.tree.map(lambda leaf: leaf[0], sampled.steps)
        obs = jax.vmap(partial(network_input, env))(first.obs)
        # Nothing was searched at the end of an episode and in the warm-up.
        weight = jnp.where(~first.last & was_searched(first.extras.policy), sampled.weight, 0.0)
        grads, metrics = jax.grad(alphazero_loss, has_aux=True)(
            learner.params, obs, first.extras.policy, z, nets=nets, weight=weight, value_weight=cfg.value_weight
        )
        params, opt = descend(adam, grads, learner.opt, learner.params)
        return Learner(params, opt, learner.updates + 1), metrics | {"value": jnp.mean(z)}, ()

    follow = partial(unsearched, num_actions=spec.num_actions)
    return Agent(init, lambda: (), act, update, follow=follow)


def learned_model(cfg: AlphaZeroConfig, env: Env, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model: the simulator over its states, with the learned prior and value.

    Args:
      cfg: settings.
      env: of the environment.
      learner: what was learned.
    """
    return state_model(guided_model(learner.params, nets=heads(cfg, env.spec), env=env))
