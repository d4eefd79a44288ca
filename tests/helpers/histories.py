"""Episodes with given ends, and plain lists of the rows that a buffer must hold of each environment."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Transition

ITEM = Transition(
    jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32),
    jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32),
    jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((), jnp.bool_),
    {"h": jax.ShapeDtypeStruct((1,), jnp.float32)},
)  # fmt: skip


class Row(NamedTuple):
    obs: float
    action: int
    reward: float
    discount: float
    first: bool
    last: bool
    h: float


class History:
    """Episodes with given ends; every number is used once. Keeps all rows ever written, by environment."""

    def __init__(self, num_envs: int = 2):
        self.rows: list[list[Row]] = [[] for _ in range(num_envs)]
        self.number = 0
        self.at = [self.arrive(0.0, 1.0, True) for _ in range(num_envs)]

    def new(self) -> int:
        self.number += 1
        return self.number

    def arrive(self, reward: float, discount: float, first: bool) -> dict[str, Any]:
        return dict(obs=float(self.new()), reward=reward, discount=discount, first=first)

    def step(self, env: int, end: str) -> Transition:
        here, action, h, reward = self.at[env], self.new(), float(self.new()), float(self.new())
        self.rows[env].append(Row(**here, action=action, last=False, h=h))
        there = self.arrive(reward, 0.0 if end == "terminal" else 1.0, False)
        self.at[env] = there
        if end != "on":
            self.rows[env].append(Row(**there, action=0, last=True, h=0.0))
            self.at[env] = self.arrive(0.0, 1.0, True)
        vector = lambda x: np.array([x, -x], np.float32)  # noqa: E731
        return Transition(
            vector(here["obs"]), np.int32(action), np.float32(reward), np.float32(there["discount"]),
            vector(there["obs"]), np.bool_(end != "on"), {"h": np.array([h], np.float32)},
        )  # fmt: skip

    def trajectory(self, ends) -> Transition:
        """Transitions [T, N, ...] from the end of each step, [T][N]: "on", "terminal" or "limit"."""
        steps = [[self.step(env, end) for env, end in enumerate(now)] for now in ends]
        stack = lambda rows: jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *rows)  # noqa: E731
        return stack([stack(now) for now in steps])

    def windows(self, length: int, capacity: int) -> dict[tuple[int, int], list[Row]]:
        """All windows that can be made, by environment and age of their first row."""
        kept = [rows[-capacity:] for rows in self.rows]
        return {
            (env, len(self.rows[env]) - len(rows) + i): rows[i : i + length]
            for env, rows in enumerate(kept)
            for i in range(len(rows) - length + 1)
        }


def as_rows(steps, b: int) -> list[Row]:
    """One window of a batch [L, B, ...], as plain rows."""
    np.testing.assert_array_equal(steps.obs[:, b, 0], -np.asarray(steps.obs[:, b, 1]))
    columns = (steps.obs[:, b, 0], steps.action[:, b], steps.reward[:, b], steps.discount[:, b])
    flags = (steps.first[:, b], steps.last[:, b], steps.extras["h"][:, b, 0])
    return [Row(*(x.item() for x in row)) for row in zip(*map(np.asarray, (*columns, *flags)), strict=True)]
