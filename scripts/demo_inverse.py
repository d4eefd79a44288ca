"""Imitation from observations: an expert balances CartPole, and only its observations are known, not its actions.

    python scripts/demo_inverse.py

An inverse model p(a | o, o') is fitted to random transitions; it labels the expert's observations with actions; a
policy network is fitted to the labels by cross-entropy and plays (Torabi et al. 2018, arXiv 1805.01954).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Env, Key, Metrics, Params, Transition
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.dynamics import inverse as inverses
from mbrl_jax.models.dynamics.ensemble import member
from mbrl_jax.models.dynamics.fit import FitConfig, trainer
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net

Policy = Callable[[Key, Array], Array]  # (key, obs) -> action


def collect(env: Env, policy: Policy, key: Key, steps: int, num_envs: int) -> Transition:
    """Transitions [steps, num_envs, ...] of a policy, with a reset after every episode."""
    key_reset, key_steps = jax.random.split(key)

    def one(at: tuple[Any, Array], key: Key) -> tuple[tuple[Any, Array], Transition]:
        key_act, key_step, key_reset = jax.random.split(key, 3)
        state, obs = at
        action = policy(key_act, obs)
        state, next_obs, reward, discount, last = env.step(key_step, state, action)
        row = Transition(obs, action, reward, discount, next_obs, last)
        return tree.where(last, env.reset(key_reset), (state, next_obs)), row

    start = jax.vmap(env.reset)(jax.random.split(key_reset, num_envs))
    return jax.lax.scan(jax.vmap(one), start, jax.random.split(key_steps, (steps, num_envs)))[1]


def first_episodes(rows: Transition) -> tuple[Array, Array]:
    """The return [N] and the mask [T, N] of each environment's first episode, from rows [T, N, ...]."""
    going = jnp.cumprod(jnp.concatenate([jnp.ones_like(rows.last[:1]), ~rows.last[:-1]]), axis=0)
    return jnp.sum(going * rows.reward, axis=0), going.astype(bool)


def fit_inverse(model: inverses.Inverse, cfg: FitConfig, key: Key, rows: Transition) -> inverses.InverseParams:
    """Fits an inverse model to rows [T, N, ...]; returns the best of `cfg.members`."""
    key_init, key_fit = jax.random.split(key)
    buffer = uniform(rows.last.size)
    fits = trainer(inverses.as_member(model), cfg)
    data = buffer.add(buffer.init(jax.tree.map(lambda leaf: leaf[0, 0], rows)), rows)
    state, _ = fits.fit(key_fit, fits.init(key_init), buffer.replay(data))
    return member(state.params, state.elites[0])


def clone(net: Net, key: Key, obs: Array, actions: Array, mask: Array, steps: int, batch: int, lr: float) -> Params:
    """Behaviour cloning: fits logits to discrete actions [N] by cross-entropy where the mask [N] is True."""
    key_init, key_batches = jax.random.split(key)
    adam = optax.adam(lr)
    params = net.init(key_init)

    def descend(at: tuple[Params, Any], key: Key) -> tuple[tuple[Params, Any], None]:
        params, opt = at
        index = jax.random.randint(key, (batch,), 0, mask.size)

        def loss(params: Params) -> Array:
            logits = jax.vmap(net.apply, (None, 0))(params, obs[index])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, actions[index])
            return jnp.mean(losses * mask[index])

        updates, opt = adam.update(jax.grad(loss)(params), opt)
        return (optax.apply_updates(params, updates), opt), None

    return jax.lax.scan(descend, (params, adam.init(params)), jax.random.split(key_batches, steps))[0][0]


def demonstrate(key: Key, random_steps: int, experts: int, players: int, epochs: int, clone_steps: int) -> Metrics:
    """The whole demonstration: mean returns, and the share of the expert's steps with the right label."""
    keys = jax.random.split(key, 5)
    env = make_env("CartPole-v1")
    model = inverses.inverse(inverses.InverseConfig(hidden=(64,)), env.spec)
    rows = collect(env, lambda key, obs: env.spec.action.sample(key), keys[0], random_steps // 16, 16)
    fit = FitConfig(members=1, elites=1, batch=128, max_epochs=epochs)
    params = fit_inverse(model, fit, keys[1], rows)

    seen = collect(env, lambda key, obs: (3.0 * obs[2] + obs[3] > 0).astype(jnp.int32), keys[2], 500, experts)
    expert, mask = first_episodes(seen)
    mask = mask & ~seen.last  # the next observation belongs to another episode there
    observed = jnp.concatenate([seen.obs, seen.next_obs[-1:]])
    labels = jax.vmap(lambda one: inverses.label(model, params, one), 1, 1)(observed)
    right = jnp.sum((labels == seen.action) & mask) / jnp.sum(mask)

    net = mlp(4, (32,), 2, "tanh")
    obs, actions, use = tree.flatten_dims((seen.obs, labels, mask), 2)
    policy = clone(net, keys[3], obs, actions, use, clone_steps, 128, 1e-2)
    played = collect(env, lambda key, obs: jnp.argmax(net.apply(policy, obs)), keys[4], 500, players)
    returns = {"random": first_episodes(rows)[0], "expert": expert, "imitator": first_episodes(played)[0]}
    return {**jax.tree.map(jnp.mean, returns), "labels_right": right}


def main() -> None:
    """Runs the demonstration and prints its numbers."""
    parser = argparse.ArgumentParser(description="Imitation from observations alone, in CartPole-v1.")
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    out = jax.jit(lambda key: demonstrate(key, 8_000, 8, 32, 30, 1_000))(jax.random.key(seed))
    for name, value in out.items():
        print(f"{name:>14}  {float(value):.4f}")


if __name__ == "__main__":
    main()
