"""The troubles: costs of runs whose numbers are known, distances of distributions, and small searches."""

from __future__ import annotations

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from figures import trouble_cost as costs
from figures import trouble_exploration as exploring
from figures import trouble_stochastic as worlds
from figures.trouble_cost import Cost
from figures.troubles import difference, interval


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


# Cost ---------------------------------------------------------------------------------------------------------------


def write_run(folder, reached, wall, devices):
    folder.mkdir()
    summary = {"steps_to_threshold": reached, "wall_seconds": wall, "seeds": len(reached), "env_steps": 1000}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps({"devices": devices}))


def test_a_seeds_computing_is_its_share_of_all_cores_until_the_threshold(tmp_path):
    write_run(tmp_path / "a", [100, 500, None], 60.0, 2)
    one = costs.read(tmp_path / "a")
    # 60 s on 2 cores for 3 seeds of 1,000 steps: 0.04 core-seconds a step.
    assert one.rate == pytest.approx(0.04)
    np.testing.assert_allclose(one.seconds[:2], [4.0, 20.0])
    assert np.isinf(one.seconds[2])


def test_break_even_is_where_both_cost_the_same():
    model, free = Cost(np.full(4, 100.0), 0.5), Cost(np.full(4, 600.0), 0.01)
    # 50 s of computing and 100 steps against 6 s and 600: (50 - 6) / 500 seconds a step.
    assert costs.break_even(model, free) == "above 0.088"
    assert costs.break_even(Cost(np.full(4, 100.0), 0.01), free) == "always"
    assert costs.break_even(Cost(np.full(4, 1_100.0), 0.001), free) == "below 0.0098"
    assert costs.break_even(Cost(np.full(4, 1_100.0), 1.0), free) == "never"
    assert costs.break_even(Cost(np.full(4, np.inf), 1.0), free) == "never"
    assert costs.break_even(model, Cost(np.full(4, np.inf), 1.0)) == "solved at all"


def test_the_ratio_of_steps_has_an_interval_that_holds_it_and_seeds_that_never_arrive_count_as_infinite():
    assert costs.steps_ratio(np.full(4, 50.0), np.full(4, 200.0)) == (4.0, 4.0, 4.0)
    rng = np.random.default_rng(0)
    middle, low, high = costs.steps_ratio(rng.uniform(50, 150, 8), rng.uniform(200, 600, 8))
    assert low < middle < high
    assert costs.steps_ratio(np.full(4, 50.0), np.full(4, np.inf))[0] == np.inf
    assert costs.steps_ratio(np.full(4, np.inf), np.full(4, 50.0))[0] == 0.0


def test_the_recorded_runs_are_read(tmp_path, capsys):
    found = costs.cost(tmp_path)
    assert "MBPO" in capsys.readouterr().out
    rows = read(tmp_path / "cost.csv")
    assert len(rows) == sum(len(one.steps) for own in found.values() for one in own.values())
    own = [float(row["steps_to_threshold"]) for row in rows if (row["task"], row["agent"]) == ("Pendulum-v1", "MBPO")]
    assert np.median(own) == 700  # as results/README and the page on results say
    assert (tmp_path / "cost.png").stat().st_size > 5_000


# Stochastic worlds --------------------------------------------------------------------------------------------------


def test_energy_distance_is_zero_for_one_distribution_and_known_for_points():
    """Of two points at a and b it is 2 |a - b|; of N(0, 1) and N(m, 1) it grows with m."""
    assert float(worlds.energy_distance(jnp.zeros(9), jnp.full(9, 3.0))) == pytest.approx(6.0)
    rng = np.random.default_rng(0)
    draw = lambda mean: jnp.asarray(rng.normal(mean, 1, 1500))  # noqa: E731
    same = float(worlds.energy_distance(draw(0), draw(0)))
    # 2 E|N(m, 2)| - 2 E|N(0, 2)|, with m = 1: E|N(m, s²)| = s √(2/π) e^{-m²/2s²} + m (1 - 2 Φ(-m/s)).
    from scipy.stats import norm

    s = np.sqrt(2)
    off = 2 * (s * np.sqrt(2 / np.pi) * np.exp(-1 / (2 * s**2)) + 1 - 2 * norm.cdf(-1 / s)) - 2 * s * np.sqrt(2 / np.pi)
    assert abs(same) < 0.02
    assert float(worlds.energy_distance(draw(1), draw(0))) == pytest.approx(off, abs=0.08)


@pytest.mark.parametrize("world", worlds.WORLDS)
def test_the_true_density_is_that_of_the_samples(world):
    grid = jnp.linspace(-3, 3, 6001)
    density = np.exp(jax.vmap(lambda y: worlds.true_log_density(world, jnp.float32(0.5), y))(grid))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    drawn = jax.vmap(lambda key: worlds.change(world, key, jnp.float32(0.5)))(jax.random.split(jax.random.key(0), 4000))
    second = np.trapezoid(density * np.square(grid), grid)
    assert float(jnp.mean(jnp.square(drawn))) == pytest.approx(second, rel=0.05)


@pytest.mark.parametrize("kind", ["Gaussian", "mixture", "latents, balanced"])
def test_a_models_density_is_that_of_its_samples(kind):
    model = worlds.density(kind)
    params, x = model.init(jax.random.key(1)), jnp.float32(0.5)
    assert model.log_density is not None
    grid = jnp.linspace(-12, 12, 4001)
    density = np.exp(jax.vmap(lambda y: model.log_density(params, x, y))(grid))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    drawn = jax.vmap(lambda key: model.draw(params, key, x))(jax.random.split(jax.random.key(2), 4000))
    mean = np.trapezoid(density * grid, grid)
    spread = np.sqrt(np.trapezoid(density * np.square(grid - mean), grid))
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.08 * spread)
    assert float(drawn.std()) == pytest.approx(spread, rel=0.06)


@pytest.mark.slow
def test_a_mixture_learns_two_modes_and_a_gaussian_does_not(tmp_path):
    found = worlds.stochastic(tmp_path, seeds=2, steps=1_500, first=100)
    assert (found["bimodal", "mixture"]["excess_nll"] < 0.5 * found["bimodal", "Gaussian"]["excess_nll"]).all()
    assert (found["bimodal", "mixture"]["energy_1_step"] < found["bimodal", "deterministic"]["energy_1_step"]).all()
    assert len(read(tmp_path / "stochastic.csv")) == 2 * len(worlds.WORLDS) * len(worlds.MODELS)
    assert (tmp_path / "stochastic.png").stat().st_size > 5_000


# Exploration --------------------------------------------------------------------------------------------------------


def test_a_bonus_finds_the_treasure_of_a_small_sea(tmp_path):
    found = exploring.exploration(tmp_path, seeds=2, sizes=(4,), episodes=60, first=100)
    plus = found[4, "Dyna-Q+"]
    assert (plus > 0).all()
    assert plus.max() <= 2**4 + 8  # there are 16 paths
    rows = read(tmp_path / "exploration.csv")
    assert {row["agent"] for row in rows} == set(exploring.AGENTS)
    assert [int(row["episode_found"]) for row in rows if row["agent"] == "Dyna-Q+"] == plus.tolist()
    assert (tmp_path / "exploration.png").stat().st_size > 5_000


def test_differences_are_of_the_same_seeds():
    assert difference([3.0, 5.0, 7.0], [1.0, 3.0, 5.0]) == "2 [2, 2]"
    assert interval([1.0, 1.0]) == "1 [1, 1]"
