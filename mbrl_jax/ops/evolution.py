"""Evolution strategies: maximising a score by sampling candidates around a mean. The one file that knows evosax.

    x_i = m + σ B D z_i,  z_i ~ N(0, I),  C = B D² B^T          Hansen 2016, "The CMA Evolution Strategy: A Tutorial"

"cma" adapts all of C (evosax's CMA_ES), "sep" its diagonal alone (Ros & Hansen 2008; evosax's Sep_CMA_ES), which learns
it (D + 2) / 3 times as fast and takes D numbers instead of D²: for some hundred dimensions and more.

evosax decomposes C by LAPACK, whose threads can wait for one another for ever where several cores are devices of their
own. Here Jacobi's rotations do it, from the basis of the generation before, in which C is nearly diagonal. evosax is
imported when a strategy is first made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.precision import narrow
from mbrl_jax.core.types import Array, Key

SMALLEST = 1e-8  # lower bound of the eigenvalues of C, as in evosax
SWEEPS = 12  # largest number of sweeps of Jacobi's rotations; from a similar matrix's basis it takes 2 to 4


KINDS = ("cma", "sep")
"""The strategies: CMA-ES, and its separable form."""


class Evolved(NamedTuple):
    """The result of an evolution, with its history over G generations."""

    mean: Array  # [D] after the last generation
    centre: Array  # [G] score of the mean that the candidates were drawn around
    best: Array  # [G] highest score of a candidate
    average: Array  # [G] mean score of the candidates
    sigma: Array  # [G] σ after the generation


def symmetric_eigen(matrix: Array, basis: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of a symmetric matrix, by Jacobi's rotations of D/2 disjoint pairs at a time.

    The pairs go round as in a tournament, so that a sweep of D - 1 rounds meets each once (Brent & Luk 1985). Sweeps
    end when the squares off the diagonal sum to less than 1e-12 of all.

    Args:
      matrix: [D, D].
      basis: [D, D] orthogonal, where to start: the identity, or the eigenvectors of a similar matrix.
    Returns:
      values [D] in no order, and vectors [D, D] as columns.
    """
    size = matrix.shape[0]
    odd, half = size % 2, (size + 1) // 2
    places = np.arange(2 * half)
    order = places if half == 1 else np.concatenate([[0, half], places[1 : half - 1], places[half + 1 :], [half - 1]])

    def rotate(x: Array, cos: Array, sin: Array) -> Array:
        """x with each pair of columns rotated, and the columns in the order of the next round."""
        left, right = x[:, :half], x[:, half:]
        return jnp.concatenate([cos * left - sin * right, sin * left + cos * right], axis=1)[:, order]

    def rotate_pairs(_: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        a, vectors = at
        diagonal, beside = jnp.diagonal(a), jnp.diagonal(a[:half, half:])
        none = beside == 0
        tau = (diagonal[half:] - diagonal[:half]) / (2.0 * jnp.where(none, 1.0, beside))
        tan = jnp.where(tau >= 0, 1.0, -1.0) / (jnp.abs(tau) + jnp.sqrt(1.0 + tau * tau))
        tan = jnp.where(none, 0.0, tan)
        cos = jax.lax.rsqrt(1.0 + tan * tan)
        sin = tan * cos
        a = rotate(rotate(a, cos, sin).T, cos, sin).T
        return a, rotate(vectors, cos, sin)

    def sweep(at: tuple[Array, tuple[Array, Array]]) -> tuple[Array, tuple[Array, Array]]:
        return at[0] + 1, jax.lax.fori_loop(0, 2 * half - 1, rotate_pairs, at[1])

    def unfinished(at: tuple[Array, tuple[Array, Array]]) -> Array:
        count, (a, _) = at
        squares = jnp.square(a)
        beside = jnp.sum(jnp.where(jnp.eye(2 * half, dtype=bool), 0.0, squares))
        return (count < SWEEPS) & (beside > 1e-12 * jnp.sum(squares))

    near = basis.T @ (0.5 * (matrix + matrix.T)) @ basis
    start = jnp.pad(near, (0, odd)), jnp.pad(basis, (0, odd))
    a, vectors = jax.lax.while_loop(unfinished, sweep, (jnp.int32(0), start))[1]
    return jnp.diagonal(a)[:size], vectors[:size, :size]


def make_strategy(kind: str, population: int, size: int) -> Any:
    """An evosax strategy that minimises over vectors of `size` entries.

    Args:
      kind: one of `KINDS`.
      population: P, candidates per generation, at least 2.
      size: D.
    Raises:
      ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    from evosax.algorithms import CMA_ES, Sep_CMA_ES

    class JacobiCMA(CMA_ES):
        """evosax's CMA-ES, with another decomposition of C."""

        def _ask(self, key: Key, state: Any, params: Any) -> tuple[Array, Any]:
            del params
            values, basis = symmetric_eigen(state.C, state.B)
            scale = jnp.sqrt(jnp.maximum(values, SMALLEST))
            drawn = (jax.random.normal(key, (self.population_size, self.num_dims), jnp.float32) * scale) @ basis.T
            return state.mean + state.std * drawn, state.replace(B=basis, D=scale)

    return (JacobiCMA if kind == "cma" else Sep_CMA_ES)(population, np.zeros(size, np.float32))


def evolve(
    key: Key,
    mean: Array,
    score: Callable[[Key, Array], Array],
    sigma: Array | float,
    population: int,
    generations: int,
    kind: str = "cma",
) -> Evolved:
    """Maximises a score by an evolution strategy.

    Args:
      key: used once.
      mean: [D] the first mean.
      score: (key, candidates [P + 1, D]) -> [P + 1], the higher the better; each generation has a key of its own. The
        last candidate is the mean, whose score is only recorded.
      sigma: first σ, the same in all directions; may be traced.
      population: P, candidates per generation, at least 2.
      generations: G, at least 1.
      kind: one of `KINDS`.
    Returns:
      the last mean, and the scores of each generation.
    Raises:
      ValueError: a size below its minimum, or an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if population < 2 or generations < 1:
        raise ValueError(f"population must be at least 2 and generations 1, got {population} and {generations}")
    with jax.ensure_compile_time_eval():  # the strategy's constants are numbers, also when made inside a trace
        strategy = make_strategy(kind, population, mean.shape[0])
        constants = narrow(strategy.default_params)
    constants = constants.replace(std_init=jnp.asarray(sigma, jnp.float32))
    key_init, key_run = jax.random.split(key)
    start = narrow(tree.strip_weak_types(strategy.init(key_init, mean, constants)))

    def one(state: Any, i: Array) -> tuple[Any, tuple[Array, ...]]:
        key_ask, key_score, key_tell = jax.random.split(jax.random.fold_in(key_run, i), 3)
        candidates, state = strategy.ask(key_ask, state, constants)
        scores, centre = jnp.split(score(key_score, jnp.concatenate([candidates, state.mean[None]])), [population])
        state, _ = strategy.tell(key_tell, candidates, -scores, state, constants)
        state = narrow(state)
        return state, (centre[0], jnp.max(scores), jnp.mean(scores), state.std)

    end, rows = jax.lax.scan(one, start, jnp.arange(generations))
    return Evolved(strategy.get_mean(end), *rows)
