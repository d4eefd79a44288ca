"""Tasks that no agent has a preset for: known ones with rewards of another size, as a user's units may be, and Craftax.

python scripts/train.py sac --env scripts/general_tasks.py:pendulum_kilo
"""

from __future__ import annotations

from mbrl_jax.core import Array, Env, Key
from mbrl_jax.core.types import Action, Obs, State
from mbrl_jax.envs import make_env, wrappers


def scaled(name: str, factor: float) -> Env:
    """An environment whose rewards are multiplied by `factor`."""
    env = make_env(name)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, obs, reward, discount, last = env.step(key, state, action)
        return state, obs, reward * factor, discount, last

    return env._replace(step=step)


def pendulum() -> Env:
    """gymnax's pendulum under a name without settings of its own."""
    return make_env("Pendulum-v1")


def pendulum_centi() -> Env:
    """Rewards from -0.16 to 0."""
    return scaled("Pendulum-v1", 0.01)


def pendulum_kilo() -> Env:
    """Rewards from -16,000 to 0."""
    return scaled("Pendulum-v1", 1_000.0)


def cartpole() -> Env:
    """gymnax's pole under a name without settings of its own."""
    return make_env("CartPole-v1")


def cartpole_centi() -> Env:
    """Rewards of 0.01."""
    return scaled("CartPole-v1", 0.01)


def cartpole_kilo() -> Env:
    """Rewards of 1,000."""
    return scaled("CartPole-v1", 1_000.0)


def craftax_classic() -> Env:
    """Craftax-Classic with initial states from a pool, as maps are dear to generate; needs the extra `craftax`."""
    return wrappers.reset_pool(make_env("craftax:Craftax-Classic-Symbolic-v1"), 1024)
