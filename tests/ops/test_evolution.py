"""Evolution strategies against Hansen's tutorial in NumPy, and on quadratics of known optima."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops.evolution import KINDS, evolve, make_strategy, symmetric_eigen


@pytest.fixture(autouse=True)
def quick():
    """Everything here compiles much and runs little; the folder's own fixture sets this back."""
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_eigenvectors_rebuild_the_matrix(size):
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, size))
    matrix = root @ root.T
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values, vectors = jax.jit(symmetric_eigen)(jnp.asarray(matrix, jnp.float32), jnp.asarray(basis, jnp.float32))
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(matrix), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(size), atol=2e-6)
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, atol=1e-5 * np.abs(matrix).max())


class Tutorial:
    """CMA-ES with negative weights as in Hansen 2016, figure 6 and table 1, in float64; it minimises."""

    def __init__(self, size: int, population: int, sigma: float):
        n, half = size, population // 2
        raw = np.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
        mu = raw[:half].sum() ** 2 / (raw[:half] ** 2).sum()
        mu_minus = raw[half:].sum() ** 2 / (raw[half:] ** 2).sum()
        self.cc = (4 + mu / n) / (n + 4 + 2 * mu / n)
        self.c1 = 2 / ((n + 1.3) ** 2 + mu)
        self.cmu = min(1 - self.c1, 2 * (mu + 1 / mu - 2) / ((n + 2) ** 2 + mu))
        alpha = min(1 + self.c1 / self.cmu, 1 + 2 * mu_minus / (mu + 2), (1 - self.c1 - self.cmu) / (n * self.cmu))
        self.weights = np.where(raw >= 0, raw / raw[raw > 0].sum(), alpha * raw / -raw[raw < 0].sum())
        self.cs = (mu + 2) / (n + mu + 5)
        self.ds = 1 + 2 * max(0, np.sqrt((mu - 1) / (n + 1)) - 1) + self.cs
        self.chi, self.mu, self.n = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n)), mu, n
        self.mean, self.sigma, self.C = np.zeros(n), sigma, np.eye(n)
        self.ps, self.pc, self.generation = np.zeros(n), np.zeros(n), 0

    def tell(self, candidates: np.ndarray, cost: np.ndarray) -> None:
        values, basis = np.linalg.eigh(self.C)
        whiten = (basis / np.sqrt(values)) @ basis.T
        y = ((candidates - self.mean) / self.sigma)[np.argsort(cost)]
        step = self.weights.clip(0) @ y
        self.mean = self.mean + self.sigma * step
        self.ps = (1 - self.cs) * self.ps + np.sqrt(self.cs * (2 - self.cs) * self.mu) * whiten @ step
        self.generation += 1
        length = np.linalg.norm(self.ps)
        usual = length / np.sqrt(1 - (1 - self.cs) ** (2 * (self.generation + 1))) < (1.4 + 2 / (self.n + 1)) * self.chi
        self.pc = (1 - self.cc) * self.pc + usual * np.sqrt(self.cc * (2 - self.cc) * self.mu) * step
        damped = np.where(self.weights >= 0, 1, self.n / np.square(y @ whiten).sum(1)) * self.weights
        kept = 1 + self.c1 * (1 - usual) * self.cc * (2 - self.cc) - self.c1 - self.cmu * self.weights.sum()
        outer = np.einsum("i,ij,ik->jk", damped, y, y)
        self.C = kept * self.C + self.c1 * np.outer(self.pc, self.pc) + self.cmu * outer
        self.sigma *= np.exp(self.cs / self.ds * (length / self.chi - 1))


def test_generations_follow_the_tutorial():
    size, population = 5, 8
    strategy = make_strategy("cma", population, size)
    constants = strategy.default_params.replace(std_init=jnp.float32(0.5))
    state, oracle = strategy.init(jax.random.key(0), jnp.zeros(size), constants), Tutorial(size, population, 0.5)
    aim = np.linspace(-1, 2, size)
    for i in range(6):
        candidates, state = strategy.ask(jax.random.key(i), state, constants)
        cost = np.square((np.asarray(candidates, np.float64) - aim) * np.arange(1, size + 1)).sum(1)
        oracle.tell(np.asarray(candidates, np.float64), cost)
        state, _ = strategy.tell(jax.random.key(0), candidates, jnp.asarray(cost, jnp.float32), state, constants)
        np.testing.assert_allclose(state.mean, oracle.mean, atol=2e-5)
        np.testing.assert_allclose(state.C, oracle.C, atol=2e-4)
        assert float(state.std) == pytest.approx(oracle.sigma, rel=1e-4)
    assert np.abs(oracle.C - np.eye(size)).max() > 0.2


def test_candidates_are_drawn_from_the_covariance():
    size, population = 3, 4096
    rng = np.random.default_rng(0)
    root = rng.normal(size=(size, size))
    strategy = make_strategy("cma", population, size)
    constants = strategy.default_params
    state = strategy.init(jax.random.key(0), jnp.ones(size), constants)
    state = state.replace(C=jnp.asarray(root @ root.T, jnp.float32), std=jnp.float32(0.5))
    candidates, _ = strategy.ask(jax.random.key(1), state, constants)
    np.testing.assert_allclose(np.mean(candidates, 0), 1.0, atol=0.05)
    np.testing.assert_allclose(np.cov(candidates.T), 0.25 * root @ root.T, atol=0.05 * np.abs(root @ root.T).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_of_a_quadratic_is_found(kind):
    aim, curve = jnp.array([1.0, -2.0, 0.5, 3.0]), 10.0 ** jnp.linspace(0, 3, 4)

    def score(key, candidates):
        return 7.0 - jnp.sum(curve * jnp.square(candidates - aim), 1)

    found = jax.jit(lambda key, sigma: evolve(key, jnp.zeros(4), score, sigma, 12, 120, kind))(jax.random.key(0), 0.3)
    np.testing.assert_allclose(found.mean, aim, atol=1e-3)
    assert float(found.best[-1]) == pytest.approx(7.0, abs=1e-3)
    assert float(found.centre[0]) == pytest.approx(7.0 - float(jnp.sum(curve * aim**2)), rel=1e-5)  # of the start
    assert float(found.centre[-1]) == pytest.approx(7.0, abs=1e-3)
    assert found.best.shape == found.average.shape == found.sigma.shape == (120,)
    assert bool(jnp.all(found.average <= found.best))
    assert float(found.sigma[-1]) < 1e-3


def test_each_generation_scores_with_a_key_of_its_own():
    """The score is a function of the key alone: it differs from generation to generation."""
    of_key = lambda key, x: jnp.full(5, jax.random.uniform(key))  # noqa: E731
    found = jax.jit(lambda key: evolve(key, jnp.zeros(2), of_key, 0.1, 4, 5, "sep"))(jax.random.key(0))
    assert len(np.unique(found.best)) == 5
    np.testing.assert_allclose(found.best, found.average, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ga"}, "kind must be one of cma, sep, got 'ga'"),
        ({"population": 1}, "population must be at least 2 and generations 1, got 1 and 3"),
        ({"generations": 0}, "population must be at least 2 and generations 1, got 4 and 0"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        evolve(
            jax.random.key(0), jnp.zeros(2), lambda key, x: x[:, 0], 0.1,
            **{"population": 4, "generations": 3, **changes},
        )  # fmt: skip


def test_evosax_is_imported_on_first_use_only():
    script = "import sys, mbrl_jax.ops.evolution; print('evosax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"
