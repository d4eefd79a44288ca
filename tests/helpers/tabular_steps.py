"""Real steps of a small environment with numbered states, for tests of tabular agents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Discrete, Replay, Spec, Transition

S, A = 5, 3
SPEC = Spec(Discrete(S), Discrete(A))


def transition(s, a, r, d, t) -> Transition:
    """One step from state s with action a to state t, of reward r and discount d."""
    return Transition(jnp.int32(s), jnp.int32(a), jnp.float32(r), jnp.float32(d), jnp.int32(t), jnp.asarray(d == 0))


def replay_of(row: Transition) -> Replay:
    """The replay of a `latest` buffer that holds one step."""
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None, None], row)
    return Replay(lambda key, n: batch, lambda index: batch, jnp.int32(1), 1)


def stream(steps, deterministic, seed=0):
    """Real steps (s, a, r, d, t) of an environment in NumPy, with terminations."""
    rng = np.random.default_rng(seed)
    leads = rng.integers(0, S, (S, A, 1 if deterministic else 3))
    s, rows = 0, []
    for _ in range(steps):
        a = int(rng.integers(A))
        t = int(rng.choice(leads[s, a]))
        d = float(t != S - 1)
        rows.append((s, a, float(np.float32(3 * np.sin(7 * s + 3 * a + 5 * t))), d, t))  # no two alike
        s = t if d else int(rng.integers(S - 1))
    return rows
