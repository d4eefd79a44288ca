"""32 bits throughout, also where a user's script sets `jax_enable_x64`.

All of this package computes in float32 and int32. Numbers from outside, such as those of a user's environment or model,
may have 64 bits under that setting (`jnp.zeros(4)` has), and are rounded to 32 where they enter. Without the setting
there are none, and nothing here does anything.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Env, Key, Model, Obs, Planner, State, StepOut, Tree

NARROW = {"float64": jnp.float32, "int64": jnp.int32, "uint64": jnp.uint32}


def narrow(tree: Tree) -> Tree:
    """A tree with its leaves of 64 bits in 32; all others, Python's numbers too, stay as they are.

    Args:
      tree: of arrays.
    """

    def one(leaf: Any) -> Any:
        to = NARROW.get(str(getattr(leaf, "dtype", "")))
        return leaf if to is None else jnp.asarray(leaf).astype(to)

    return jax.tree.map(one, tree)


def narrow_env(env: Env) -> Env:
    """An environment whose states, observations, rewards and discounts have 32 bits.

    Args:
      env: any environment.
    """

    def reset(key: Key) -> tuple[State, Obs]:
        return narrow(env.reset(key))

    def step(key: Key, state: State, action: Action) -> tuple:
        return narrow(env.step(key, state, action))

    observe = env.observe
    return Env(env.spec, reset, step, None if observe is None else lambda state: narrow(observe(state)), env.render)


def narrow_model(model: Model) -> Model:
    """A model whose states, rewards, discounts, values and priors have 32 bits.

    Args:
      model: any model.
    """
    value, prior, at = model.value, model.prior, model.at

    def step(key: Key, state: State, action: Action) -> StepOut:
        return narrow(model.step(key, state, action))

    return model._replace(
        step=step,
        value=None if value is None else lambda key, state: narrow(value(key, state)),
        prior=None if prior is None else lambda key, state: narrow(prior(key, state)),
        at=None if at is None else lambda i: narrow_model(at(i)),
    )


def narrow_planner(planner: Planner) -> Planner:
    """A planner that takes models and states of 64 bits too, and plans with them in 32.

    Args:
      planner: any planner that computes in 32 bits.
    """

    def plan(key: Key, model: Model, state: State, warm: Tree) -> tuple[Action, Tree, Tree]:
        return planner.plan(key, narrow_model(model), narrow(state), narrow(warm))

    return Planner(lambda: narrow(planner.init()), plan)
