"""Hand-written Gymnasium environments, which other processes can import, and a JAX environment as a host one."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Env, HostEnv, HostEnvs, HostStep


class Scripted(gymnasium.Env):
    """Episodes of 3, 4, 5, 3, ... steps, whose ends are terminated, truncated or both, as asked for.

    The observation holds a random number of the episode's, the number of the episode, the step and the last action. The
    array is the environment's own and changes with every step.

    Args:
      terminated, truncated: what the last step of an episode says; an episode without either goes on.
      fresh: give copies of the array, as vector environments in SAME_STEP need.
    """

    def __init__(self, terminated: bool = True, truncated: bool = False, fresh: bool = False):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gymnasium.spaces.Box(np.float32([-2.0]), np.float32([6.0]))
        self.ends, self.obs, self.episode, self.fresh = (terminated, truncated), np.zeros(4), -1, fresh

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode += 1
        self.obs[:] = (self.np_random.integers(1000), self.episode, 0, 0)
        return self.obs.copy() if self.fresh else self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.obs[2:] = self.obs[2] + 1, action[0]
        end = self.obs[2] == 3 + self.episode % 3
        obs = self.obs.copy() if self.fresh else self.obs
        return obs, float(self.obs[2] + 0.5 * action[0]), end and self.ends[0], end and self.ends[1], {}


class Hostile(gymnasium.Env):
    """Breaks the contract at a step, counted over all episodes of 50 steps.

    Args:
      how: "nan", "shape", "raise", "die", "reward" or "none".
      at: the step.
    """

    def __init__(self, how: str = "none", at: int = 300):
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (3,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.how, self.at, self.count = how, at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        self.count += 1
        obs, reward = self.np_random.normal(size=3).astype(np.float32), 1.0
        if self.count == self.at:
            if self.how == "nan":
                obs[1] = np.nan
            elif self.how == "shape":
                obs = np.zeros(4, np.float32)
            elif self.how == "raise":
                raise ZeroDivisionError("the motor stalled")
            elif self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "reward":
                reward = np.nan
        return obs, reward, False, self.count % 50 == 0, {}


class Clock(gymnasium.Env):
    """Episodes of 4 steps, the reward of each its number; the picture's first pixel is the step, its second the seed.

    Args:
      render_mode: "rgb_array", or nothing.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.observation_space = gymnasium.spaces.Box(0.0, 300.0, (2,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.render_mode, self.time, self.seed = render_mode, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time, self.seed = 0, int(self.np_random.integers(256))
        return np.float32([self.time, self.seed]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        return np.float32([self.time, self.seed]), float(self.time), False, self.time == 4, {}

    def render(self) -> np.ndarray:
        picture = np.zeros((4, 6, 3), np.uint8)
        picture[0, 0], picture[0, 1] = self.time, self.seed
        return picture


spaces = gymnasium.spaces
SPACES: dict[str, gymnasium.Space] = {
    "vector": spaces.Box(-3.0, 3.0, (2,), np.float64),
    "scalar": spaces.Box(-3.0, 3.0, ()),
    "matrix": spaces.Box(-3.0, 3.0, (2, 3)),
    "integers": spaces.Box(-5, 5, (3,), np.int64),
    "image": spaces.Box(0, 255, (32, 32, 3), np.uint8),
    "number": spaces.Discrete(4, start=-1),
    "numbers": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 5], [-1, 0]]),
    "bits": spaces.MultiBinary(3),
}
SPACES["dict"] = spaces.Dict({"image": SPACES["image"], "pose": SPACES["vector"], "gear": SPACES["number"]})
SPACES["tuple"] = spaces.Tuple((SPACES["matrix"], SPACES["numbers"]))
SPACES["nested"] = spaces.Dict({"robot": spaces.Dict({"arm": SPACES["vector"], "hand": SPACES["bits"]}),
                                "far": spaces.Tuple((SPACES["scalar"], SPACES["integers"]))})  # fmt: skip


class Parts(gymnasium.Env):
    """Observations and actions of any space; everything follows from the actions, and nothing from a seed.

    An episode has 3 steps and is truncated.

    Args:
      obs, action: names in `SPACES`.
    """

    def __init__(self, obs: str = "dict", action: str = "numbers"):
        self.observation_space, self.action_space = copy.deepcopy(SPACES[obs]), copy.deepcopy(SPACES[action])
        self.time, self.sum = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self.time, self.sum = 0, 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        flat = np.ravel(action).astype(np.float64)
        reward = float(flat @ (1 + np.arange(flat.size)))
        self.time, self.sum = self.time + 1, self.sum + round(8 * reward)
        return self.seen(), reward, False, self.time == 3, {}

    def seen(self) -> Any:
        self.observation_space.seed(1000 * self.time + self.sum % 1000)
        return self.observation_space.sample()


gymnasium.register("Parts-v0", Parts, max_episode_steps=3)
gymnasium.register("Clock-v0", Clock, max_episode_steps=4)
gymnasium.register("Scripted-v0", Scripted)
gymnasium.register("Hostile-v0", Hostile)


def host_of(env: Env) -> HostEnv:
    """A JAX environment as a host environment; it gives its steps one and the same key."""
    reset, step, key = jax.jit(env.reset), jax.jit(env.step), jax.random.key(0)

    def make(count: int, workers: int = 0, drawn: bool = False) -> HostEnvs:
        states: list[Any] = [None] * count

        def start(i: int, seed: Any) -> Any:
            states[i], obs = reset(jax.random.wrap_key_data(jnp.asarray(seed, jnp.uint32)))
            return np.asarray(obs)

        def move(actions: Any, seeds: Any, active: Any = None) -> HostStep:
            rows = []
            for i in range(count):
                states[i], *row = step(key, states[i], actions[i])
                rows.append([np.asarray(part) for part in row])
            next_obs, reward, discount, last = map(np.stack, zip(*rows, strict=True))
            obs = next_obs.copy()
            for i in np.flatnonzero(last) if seeds is not None else ():
                obs[i] = start(i, seeds[i])
            return HostStep(obs, reward, discount, last, next_obs)

        return HostEnvs(lambda seeds: np.stack([start(i, seed) for i, seed in enumerate(seeds)]), move, lambda: None)

    return HostEnv(env.spec, make)
