"""The troubles: costs of runs whose numbers are known, distances of distributions, exact values, and small searches."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from figures import trouble_chance as chances
from figures import trouble_compounding as compounds
from figures import trouble_cost as costs
from figures import trouble_exploration as exploring
from figures import trouble_exploration_deep as seeking
from figures import trouble_hopper as hops
from figures import trouble_memory as remembering
from figures import trouble_overfitting as fits
from figures import trouble_reading as readings
from figures import trouble_stochastic as worlds
from figures import trouble_termination as ends
from figures import trouble_transfer as transfers
from figures import troubles as all_of_them
from figures.trouble_cost import Cost
from figures.troubles import difference, interval, read_seeds, share_difference, share_of_seeds, wilson, write_seeds

from mbrl_jax import presets
from mbrl_jax.analysis import flops
from mbrl_jax.core.config import replace
from mbrl_jax.envs.registry import make_env


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_for_each_case_and_seed(tmp_path):
    found = {
        ("ice", 3): {"value": np.array([0.5, 1.25])},
        ("firm", 7): {"value": np.array([2.0, 4.0]), "error": [0, 1]},
    }
    write_seeds(tmp_path / "x.csv", ("lake", "size", "seed", "value", "error"), found, first=100)
    assert (tmp_path / "x.csv").read_text().split() == [
        "lake,size,seed,value,error", "ice,3,100,0.5,", "ice,3,101,1.25,", "firm,7,100,2,0", "firm,7,101,4,1",
    ]  # fmt: skip


def test_a_trouble_whose_library_is_absent_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(compounds, "compounding", lambda out, seeds: made.append((out, seeds)))
    entry = ("figures.trouble_compounding", "compounding")
    monkeypatch.setattr(all_of_them, "TROUBLES", {"absent": entry, "present": entry})
    monkeypatch.setattr(all_of_them, "NEEDS", {"absent": ("numpy", "no_such_library"), "present": ("numpy",)})
    all_of_them.troubles_figure(tmp_path, 3)
    assert made == [(tmp_path, 3)]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "absent left out: it needs the extra no_such_library"
    assert said[1].startswith("present took ")


def test_shares_have_intervals_where_all_seeds_agree():
    """Wilson's in closed form, (p + z²/2n ± z sqrt(p q/n + z²/4n²)) / (1 + z²/n), and Newcombe's own example."""
    z, n = 1.959964, 8
    for hits in (0, 3, 8):
        p = hits / n
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        expected = [(p + z**2 / (2 * n) + side * half) / (1 + z**2 / n) for side in (-1, 1)]
        np.testing.assert_allclose(wilson(hits, n), expected, atol=1e-6)
    assert share_of_seeds(np.arange(8) < 8) == "8 of 8 [0.676, 1]"
    assert share_of_seeds(np.zeros(8)) == "0 of 8 [0, 0.324]"
    assert share_difference(np.arange(70) < 56, np.arange(80) < 48) == "0.2 [0.0524, 0.334]"


RESULTS = Path(__file__).parents[2] / "results"

# Cost ---------------------------------------------------------------------------------------------------------------


def write_run(folder, reached, wall, devices):
    folder.mkdir()
    summary = {"steps_to_threshold": reached, "wall_seconds": wall, "seeds": len(reached), "env_steps": 1000}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps({"devices": devices, "env": "Pendulum-v1"}))


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


def test_a_run_without_a_threshold_of_its_own_is_held_to_that_of_its_task():
    folder = RESULTS / "general" / "dreamer_v3-cartpole"
    returns = {}
    for row in read(folder / "eval.csv"):
        returns.setdefault((int(row["seed"]), int(row["env_steps"])), []).append(float(row["return"]))
    solved = [(seed, step) for (seed, step), own in returns.items() if np.mean(own) >= 475]
    first = [min(step for own, step in solved if own == seed) for seed in range(8)]
    np.testing.assert_array_equal(costs.read(folder).steps, first)
    assert np.median(first) == 4_900


def test_operations_of_a_recorded_step_are_those_counted_by_hand():
    """SAC: an update, where the gradient to the action is taken to the observation beside it too, and one action."""
    update = flops.sac_update(3, 1, (64, 64), 256) + 2 * flops.product(256, 64, 3)
    known = (update + flops.forward((3, 64, 64, 2), 1)) / 1e9
    assert costs.gflop_per_step(RESULTS / "pendulum-sac", 0) == pytest.approx(known, rel=1e-9)


def test_the_recorded_runs_are_read(tmp_path, capsys):
    shutil.copy(RESULTS / "troubles" / "cost_operations.csv", tmp_path)
    found = costs.cost(tmp_path)
    assert "MBPO" in capsys.readouterr().out
    rows = read(tmp_path / "cost.csv")
    assert len(rows) == sum(len(one.steps) for own in found.values() for one in own.values())
    own = [float(row["steps_to_threshold"]) for row in rows if (row["task"], row["agent"]) == ("Pendulum-v1", "MBPO")]
    assert np.median(own) == 700  # as results/README and the page on results say
    for row in rows:
        if row["gflop"]:
            rate = found[row["task"]][row["agent"]].gflop
            assert float(row["gflop"]) == pytest.approx(float(row["steps_to_threshold"]) * rate, rel=1e-4)
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
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.08 * float(spread))
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


# Chance nodes --------------------------------------------------------------------------------------------------------


def test_the_two_models_of_the_lake_are_the_same_process():
    """Means of drawn steps against the halves of the chance model, for every state and action, and leaf values by the
    Bellman equation of the random policy."""
    mdp = chances.frozen_lake_mdp()
    sampled, halves = chances.sampled_model(mdp), chances.chance_model(mdp)
    values = np.asarray(chances.random_values(mdp))
    for state, action in ((0, 1), (6, 1), (14, 2)):
        at = jnp.int32(state), jnp.int32(action)
        drawn = jax.vmap(lambda key, at=at: sampled.step(key, *at))(jax.random.split(jax.random.key(0), 6_000))
        afterstate, value, logits = halves.decide(*at)
        chance, mean = jax.nn.softmax(logits), 0.0
        for outcome in range(chances.OUTCOMES):
            out = halves.happen(afterstate, jnp.int32(outcome))
            share = float(jnp.mean(drawn.state == out.state))
            assert share == pytest.approx(float(chance[outcome]), abs=0.03)
            mean += float(chance[outcome] * (out.reward + chances.GAMMA * out.discount * values[out.state]))
        assert float(value) == pytest.approx(mean, abs=1e-5)
    onward = np.asarray(mdp.rewards) + chances.GAMMA * np.where(mdp.terminal, 0, values)
    q = np.sum(np.asarray(mdp.transitions) * onward, -1)
    np.testing.assert_allclose(values, np.where(mdp.terminal, 0, q.mean(1)), atol=1e-5)


def test_chance_nodes_find_a_better_policy_on_slippery_ice(tmp_path, monkeypatch):
    monkeypatch.setattr(chances, "WORLDS", {"slippery": chances.frozen_lake_mdp})
    found = chances.chance_nodes(tmp_path, seeds=2, simulations=(64,), first=100)
    plain, nodes = found["slippery", "PUCT", 64], found["slippery", "PUCT, chance nodes", 64]
    assert (nodes > plain + 0.1).all()
    assert nodes.max() < 0.5421  # no policy is better than the best one
    rows = read(tmp_path / "chance.csv")
    assert [float(row["value"]) for row in rows if row["planner"] == "PUCT"] == pytest.approx(plain.tolist(), rel=1e-4)
    assert (tmp_path / "chance.png").stat().st_size > 5_000


# Compounding errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", compounds.HORIZONS)
def test_the_state_of_an_observation_is_the_one_that_shows_it_and_moves_as_it_does(task):
    env = presets.suited("mbpo", make_env(task))
    state, obs = env.reset(jax.random.key(3))
    again = compounds.true_state(task, env.reset(jax.random.key(4))[0], obs)
    np.testing.assert_allclose(env.observe(again), obs, atol=1e-6)
    for a in (-0.7, 0.4):
        (state, obs, *_), (again, seen, *_) = (env.step(jax.random.key(0), s, jnp.array([a])) for s in (state, again))
        np.testing.assert_allclose(seen, obs, atol=1e-5)


def test_errors_count_the_steps_that_are_kept():
    """Two rollouts of up to three steps; the second is kept for one step."""
    kept = np.array([[[1, 1], [1, 0], [0, 0]]], bool)
    rollout = np.array([[[1.0, 4.0], [9.0, 100.0], [64.0, 64.0]]])
    own = {
        "kept": kept,
        "alive": np.ones_like(kept),
        "rollout": rollout,
        "row": rollout / 4,
        "returns": np.ones((1, 4)),
    }
    found = compounds.summarised(compounds.Setting("Pendulum-v1", 3, "cut"), own)
    assert found["rollout_error"][0] == pytest.approx(np.sqrt((1 + 4 + 9) / 3))
    assert found["row_error"][0] == pytest.approx(np.sqrt((1 + 4 + 9) / 3) / 2)
    assert found["steps"][0] == 1.5
    np.testing.assert_allclose(found["error_kept"], np.sqrt([2.5, 9, 0]))
    np.testing.assert_allclose(found["error_all"], np.sqrt([2.5, 54.5, 64]))
    np.testing.assert_allclose(found["share"], [1, 0.5, 0])
    found = [(s.horizon, s.cut) for s in compounds.all_settings({"a": (1, 5)})]
    assert found == [(1, "whole"), (5, "whole"), (5, "cut"), (5, "information")]  # a single step is never cut


@pytest.mark.slow
def test_cut_rollouts_are_shorter_and_their_rows_better(tmp_path):
    both = [compounds.Setting("Pendulum-v1", 20, cut) for cut in ("whole", "cut")]
    whole, cut = compounds.compounding(tmp_path, seeds=2, settings=both, chunks=1, first=100).values()
    np.testing.assert_allclose(whole["steps"], 20)
    assert (cut["steps"] < whole["steps"]).all()
    assert cut["rollout_error"].mean() < whole["rollout_error"].mean()
    assert len(read(tmp_path / "compounding_by_step.csv")) == 2 * 20
    assert (tmp_path / "compounding.png").stat().st_size > 5_000


# Overfitting and terminations ----------------------------------------------------------------------------------------


def test_random_rows_go_on_and_begin_anew_where_an_episode_ends():
    env = presets.suited("pets", make_env("ContinuousCartPole"))
    rows = jax.jit(lambda key: fits.random_rows(key, env, 300))(jax.random.key(0))
    rows = jax.tree.map(np.asarray, rows)
    assert rows.last[:200].sum() > 3
    for t in range(199):
        if rows.last[t]:
            assert np.abs(rows.obs[t + 1]).max() <= 0.05  # as after a reset
        else:
            np.testing.assert_array_equal(rows.obs[t + 1], rows.next_obs[t])
    np.testing.assert_array_equal(jax.vmap(ends.fell)(rows.next_obs, rows.action), rows.discount == 0)


@pytest.mark.slow
def test_more_rows_give_a_better_model(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "VARIANTS", {"one model": {"members": 1}, "ensemble": {"members": 5}})
    found = fits.overfitting(tmp_path, seeds=2, rows=(200, 2_000), steps=500, episodes=1, first=100)
    assert found[2_000, "one model"]["error_new"].mean() < found[200, "one model"]["error_new"].mean()
    assert (found[200, "one model"]["error_trained"] < found[200, "one model"]["error_new"]).all()
    assert len(read(tmp_path / "overfitting.csv")) == 2 * 2 * 2


@pytest.mark.slow
def test_a_plan_needs_to_know_where_it_ends(tmp_path):
    found = ends.termination(tmp_path, seeds=2, rows=(1_000,), chunks=0, first=100)
    assert (found["PETS", 1_000, "true"]["return"] > found["PETS", 1_000, "none"]["return"] + 50).all()
    assert len(read(tmp_path / "termination.csv")) == 3 * 2


def test_the_hoppers_end_is_the_environments_and_random_rows_are_its():
    pytest.importorskip("mujoco", reason="Hopper needs the extra gymnasium")
    env = presets.suited("pets", make_env(hops.ENV))
    rows = hops.random_rows(env, [100, 101], 150)
    assert rows.obs.shape == (2, 150, 11)
    assert (rows.discount == 0).sum() > 6
    np.testing.assert_array_equal(jax.vmap(jax.vmap(hops.unhealthy))(rows.next_obs, rows.action), rows.discount == 0)
    within = ~rows.last[:, :-1]
    np.testing.assert_array_equal(rows.obs[:, 1:][within], rows.next_obs[:, :-1][within])
    assert (rows.obs[:, 1:][~within] != rows.next_obs[:, :-1][~within]).any()
    assert (rows.action[0] != rows.action[1]).any()


# Memory --------------------------------------------------------------------------------------------------------------


def test_a_delayed_environment_shows_what_was():
    env = presets.suited("pets", make_env("Pendulum-v1"))
    late = remembering.delayed(env, 3)
    (state, obs), (queued, seen) = env.reset(jax.random.key(0)), late.reset(jax.random.key(0))
    true, shown, rewards = [obs], [seen], []
    for t in range(8):
        action = jnp.array([np.sin(t)])
        state, obs, reward, *_ = env.step(jax.random.key(t), state, action)
        queued, seen, same, *_ = late.step(jax.random.key(t), queued, action)
        true, shown, rewards = [*true, obs], [*shown, seen], [*rewards, (reward, same)]
    np.testing.assert_array_equal(np.stack(shown)[3:], np.stack(true)[:-3])
    np.testing.assert_array_equal(np.stack(shown)[:3], np.stack([true[0]] * 3))
    assert all(a == b for a, b in rewards)


def test_the_stack_holds_the_latest_observations_and_actions():
    own = remembering.memory("stacked", 2, 1)
    at = own.empty()
    for t in range(1, 6):
        at = own.update((), at, jnp.full(2, 1.0 * t), jnp.full(1, -1.0 * t))
    np.testing.assert_array_equal(own.read(at), [3, 3, -3, 4, 4, -4, 5, 5, -5])
    assert own.size == 9


@pytest.mark.slow
def test_a_cue_is_remembered_by_a_recurrent_model_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(remembering, "WORLDS", ("chain",))
    found = remembering.partial(tmp_path, seeds=2, first=100)
    assert (found["chain", "recurrent"]["return"] > 0.9).all()
    assert (np.abs(found["chain", "stacked"]["return"]) < 0.6).all()
    assert (np.abs(found["chain", "memoryless"]["return"]) < 0.6).all()


# Reading --------------------------------------------------------------------------------------------------------------


def test_the_true_change_is_the_environments_and_its_sensitivities_are_finite_differences():
    env = make_env("ContinuousCartPole")
    state, obs = env.reset(jax.random.key(0))
    action = jnp.array([0.3])
    x = jnp.concatenate([obs, action])
    np.testing.assert_allclose(readings.true_change(x), env.step(jax.random.key(0), state, action)[1] - obs, atol=1e-6)
    slopes = jax.jacobian(readings.true_change)(x)
    for j in range(5):
        step = jnp.zeros(5).at[j].set(1e-2)
        rise = (readings.true_change(x + step) - readings.true_change(x - step)) / 2e-2
        np.testing.assert_allclose(slopes[:, j], rise, atol=1e-3)


def test_explained_variance_is_that_of_least_squares_on_the_other_half():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    y = (x @ np.array([[1.0], [2.0], [0.0]]) + 0.5 + rng.normal(size=(400, 1))).astype(np.float32)
    fraction, guess = readings.explained(jnp.asarray(x), jnp.asarray(y))
    with_one = np.column_stack([x, np.ones(400)])
    found = with_one[200:] @ np.linalg.lstsq(with_one[:200], y[:200], rcond=None)[0]
    np.testing.assert_allclose(guess, found, atol=2e-3)
    assert float(fraction) == pytest.approx(1 - np.var(found - y[200:]) / np.var(y[200:]), abs=0.02)


@pytest.mark.slow
def test_memories_hold_what_is_hidden(tmp_path):
    found = readings.reading(tmp_path, seeds=2, rows=(200, 1_000), steps=500, first=100)
    assert found["recurrent"]["r2"].min() > 0.8 > found["memoryless"]["r2"].max()
    assert found["1000"]["mean"].mean() < found["200"]["mean"].mean()


# Exploration with networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", seeking.TASKS)
def test_every_agent_of_a_task_can_be_built_and_a_chunk_is_an_episode(name):
    task = seeking.TASKS[name]
    env = seeking.world(task)
    assert env.spec.time_limit == task.episode
    for algo in {seeking.AGENTS[agent][0] for agent in task.agents}:
        loop = seeking.loop_of(algo, task)
        assert loop.num_envs * loop.unroll * loop.inner * loop.cycles == task.episode
        presets.build(algo, env, replace(presets.AGENTS[algo].config(), seeking.SETTINGS[algo]), loop)


def test_what_is_found_is_the_first_episode_with_a_reward(tmp_path):
    """Of DeepSea 2 chance finds one path in four at once."""
    easy = {"arguments": {"size": 2}, "episode": 2, "episodes": 40}
    found = seeking.deep_exploration(tmp_path, 2, ("DeepSea 10",), ("DQN",), first=100, changes=easy)
    episodes = found["DeepSea 10", "DQN"]["episode_found"]
    assert ((episodes > 0) & (episodes < 20)).all()
    rows = read(tmp_path / "exploration_deep.csv")
    assert [(row["task"], row["agent"], row["seed"]) for row in rows] == [
        ("DeepSea 10", "DQN", "100"), ("DeepSea 10", "DQN", "101"),
    ]  # fmt: skip
    assert [int(row["episode_found"]) for row in rows] == list(episodes)

    table = tmp_path / "exploration_deep.csv"  # what it holds of these seeds is taken as it is
    table.write_text("task,agent,seed,episode_found,return\nDeepSea 10,DQN,100,7,0.5\nDeepSea 10,DQN,101,9,0.25\n")
    again = seeking.deep_exploration(tmp_path, 2, ("DeepSea 10",), ("DQN",), first=100, changes=easy)
    np.testing.assert_array_equal(again["DeepSea 10", "DQN"]["episode_found"], [7, 9])
    np.testing.assert_array_equal(again["DeepSea 10", "DQN"]["return"], [0.5, 0.25])
    assert read_seeds(table, seeking.HEAD, range(2)) == {}  # other seeds


@pytest.mark.slow
def test_disagreement_finds_the_upright_pendulum(tmp_path):
    found = seeking.deep_exploration(tmp_path, 4, ("pendulum",), ("PETS", "PETS, disagreement"), first=100)
    assert (found["pendulum", "PETS, disagreement"]["episode_found"] > 0).all()


@pytest.mark.slow
def test_chance_finds_no_treasure_behind_thirty_steps(tmp_path):
    hard = {"arguments": {"size": 30}, "episode": 30, "episodes": 4}
    found = seeking.deep_exploration(tmp_path, 2, ("DeepSea 10",), ("DQN",), first=100, changes=hard)
    assert (found["DeepSea 10", "DQN"]["episode_found"] == 0).all()


# Transfer -------------------------------------------------------------------------------------------------------------


def test_another_reward_is_that_of_the_next_observation():
    env = presets.suited("pets", make_env("Pendulum-v1"))
    spin = transfers.rewarded(env, transfers.REWARDS["spin"])
    state, _ = spin.reset(jax.random.key(0))
    _, obs, reward, *_ = spin.step(jax.random.key(0), state, jnp.array([0.5]))
    assert float(reward) == pytest.approx(float(obs[2]) / 8)
    down, left = jnp.array([-1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
    assert float(transfers.REWARDS["upright"](down, jnp.zeros(1))) == pytest.approx(-(np.pi**2), rel=1e-5)
    assert float(transfers.REWARDS["sideways"](left, jnp.zeros(1))) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_model_without_a_reward_serves_several(tmp_path):
    found = transfers.transfer(tmp_path, seeds=2, rows=(2_000,), new_rows=(200,), first=100)
    assert transfers.share(found["reward", "spin", 2_000]).mean() > 0.6
    further, anew = found["pole", "fitted further", 200], found["pole", "anew", 200]
    assert further["error"].mean() < anew["error"].mean()
