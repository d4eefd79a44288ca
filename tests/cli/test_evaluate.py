"""`mbrl-jax evaluate`: the episodes are those of the policy, and the film shows them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import mbrl_jax as mbrl
from mbrl_jax.cli import evaluate as cli
from mbrl_jax.cli import main, train
from mbrl_jax.envs import drawings
from mbrl_jax.train import compilation

CORRIDOR = '''
import jax.numpy as jnp

import mbrl_jax as mbrl
from mbrl_jax.envs import drawings, wrappers
from mbrl_jax.envs.maze import layout

GRID = layout("S...G")


def make():
    """Action 1 goes right, 0 stays; the reward is the action."""

    def step(key, state, action):
        place = jnp.minimum(state + action, 4)
        return place, place, 1.0 * action, 1.0 - (place == 4), place == 4

    spec = mbrl.Spec(mbrl.Discrete(5), mbrl.Discrete(2), name="corridor")
    first = jnp.zeros((), jnp.int32)
    env = mbrl.Env(spec, lambda key: (first, first), step, render=lambda state: drawings.grid(GRID, state))
    return wrappers.time_limit(env, 9)


def blind():
    return make()._replace(render=None)
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs of a corridor, one with pictures and one without, long enough to go straight to its end."""
    folder = tmp_path_factory.mktemp("corridor")
    (folder / "corridor_env.py").write_text(CORRIDOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(compilation, "enable_compilation_cache", lambda: None)
        patch.setattr(sys, "path", list(sys.path))
        words = ["--env", "corridor_env.py:make", "--loop.inner", "300", "--loop.cycles", "1", "--quiet"]
        assert train.main(["q_learning", *words, "--steps", "300", "--out", "make"]) == 0
        words = ["--env", "corridor_env.py:make", "--loop.inner", "5", "--loop.cycles", "1", "--quiet", "--seeds", "3"]
        words += ["--checkpoint-seconds", "0", "--agent.epsilon", "1.0"]
        assert train.main(["q_learning", *words, "--steps", "10", "--devices", "1", "--out", "seeds"]) == 0
        shutil.copytree("make", "blind")
        config = Path("blind", "config.json")
        config.write_text(config.read_text().replace("corridor_env.py:make", "corridor_env.py:blind"))
    yield folder
    sys.modules.pop("corridor_env", None)


def test_returns_are_printed(run, capsys):
    assert cli.main([str(run / "make"), "--episodes", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"q_learning on {run}/corridor_env.py:make after 300 steps (checkpoint 1)"
    assert said[1] == "2 episodes with deterministic actions of each seed, of random key 0"
    heads = ["seed", "mean", "return", "std", "error", "least", "25%", "median", "75%", "most", "steps"]
    assert said[2].split() == heads
    assert said[3].split() == ["0", "4", "0", "4", "4", "4", "4", "4", "4"]
    assert len(said) == 4


def played(capsys, *words: str) -> dict:
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_seeds_checkpoints_and_sampled_actions(run, capsys):
    """Every exploring action is uniform: an episode is 4 steps to the right, with a coin's throws between them."""
    folder = str(run / "seeds")
    every = played(capsys, folder, "--episodes", "6", "--sampled", "--key", "3")
    assert [one["seed"] for one in every["seeds"]] == [0, 1, 2]
    for one in every["seeds"]:
        returns, lengths = np.array(one["returns"]), np.array(one["lengths"])
        assert len(returns) == 6
        assert len(set(lengths.tolist())) > 1
        assert (returns <= 4).all()
        assert (returns[lengths < 9] == 4).all()
        assert one["mean"] == pytest.approx(returns.mean())
        assert one["standard_error"] == pytest.approx(np.sqrt(np.sum((returns - returns.mean()) ** 2) / 5 / 6))
        assert one["quantiles"]["25%"] == np.sort(returns)[1] * 0.75 + np.sort(returns)[2] * 0.25
        assert (one["quantiles"]["least"], one["quantiles"]["most"]) == (returns.min(), returns.max())
    means = np.array([one["mean"] for one in every["seeds"]])
    assert (every["mean"], every["standard_error"]) == (
        pytest.approx(means.mean()), pytest.approx(means.std(ddof=1) / np.sqrt(3)),
    )  # fmt: skip
    alone = played(capsys, folder, "--episodes", "6", "--sampled", "--key", "3", "--seed", "1")
    assert alone["seeds"] == [every["seeds"][1]], "a seed plays the same episodes alone"
    assert (every["checkpoint"], every["env_steps"]) == ("2", 10)
    older = played(capsys, folder, "--episodes", "1", "--checkpoint", "1")
    assert (older["checkpoint"], older["env_steps"]) == ("1", 5)
    assert older["seeds"][0]["standard_error"] is None
    assert cli.main([folder, "--episodes", "6"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[3:7]] == ["0", "1", "2", "all"]


def test_the_film_shows_every_state(run, capsys, tmp_path):
    film = tmp_path / "out.gif"
    words = ["--episodes", "3", "--film-episodes", "2", "--video", str(film), "--json", "--fps", "10"]
    assert cli.main([str(run / "make"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["seeds"]
    assert (found["mean"], one["returns"], one["lengths"]) == (4.0, [4.0] * 3, [4] * 3)
    assert (found["algo"], one["seed"], found["env_steps"]) == ("q_learning", 0, 300)
    with Image.open(film) as frames:
        assert frames.n_frames == 2 * 5  # the first state and 4 steps, twice
        for t in range(10):
            frames.seek(t)
            picture = np.asarray(frames.convert("RGB"))
            assert picture.shape == (drawings.CELL, 5 * drawings.CELL, 3)
            middle = t % 5 * drawings.CELL + drawings.CELL // 2
            assert tuple(picture[drawings.CELL // 2, middle].tolist()) == drawings.BLUE


def test_a_film_can_be_cut(run, tmp_path):
    film = tmp_path / "out.gif"
    assert cli.main([str(run / "make"), "--episodes", "1", "--film-steps", "2", "--video", str(film)]) == 0
    with Image.open(film) as frames:
        assert frames.n_frames == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none", "no run in "),
        ("make --episodes 0", "--episodes must be from 1 to 100000, got 0"),
        ("make --episodes x", "argument --episodes: invalid int value: 'x'"),
        ("make --seed 1", "--seed must be from 0 to 0"),
        ("make --checkpoint 9", "--checkpoint must be one of 1, which "),
        ("make --key -1", "--key must be at least 0"),
        ("make --video a.png", "--video must end in .gif or .mp4, got a.png"),
        ("make --video none/a.gif", "--video: there is no folder none"),
        ("make --video a.gif --fps 0", "--fps must be above 0 and at most 50, got 0"),
        ("make --video a.gif --episodes 1 --film-episodes 2", "--film-episodes must be at most --episodes = 1, got 2"),
        ("blind --video a.gif", "corridor_env.py:blind cannot be drawn, as its Env has no render"),
        ("", "the following arguments are required: RUN"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first, *rest = words.split() or [""]
    assert cli.main([*([str(run / first)] if first else []), *rest]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "a.gif").exists()


SMALL = "--steps 35 --loop.num-envs 1 --loop.inner 5 --loop.cycles 1 --loop.warmup 30 --loop.eval-episodes 1 --quiet"
RSSM = (
    "--agent.net.deter 8 --agent.net.units 8 --agent.net.layers 1 --agent.batch 2 --agent.length 4 --agent.imagined 2"
)


def trained(folder, monkeypatch, words: str) -> int:
    """Trains in a folder, which is the current one from then on."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    return train.main([*words.split(), *SMALL.split(), "--out", "run"])


def test_a_run_with_python_steps_is_played_filmed_and_loaded(tmp_path, capsys, monkeypatch):
    assert trained(tmp_path, monkeypatch, "sac --env gymnasium:helpers.host_envs:Clock-v0 --agent.hidden 8") == 0
    words = ["--episodes", "2", "--film-episodes", "2", "--video", "out.gif", "--json"]
    assert main(["evaluate", "run", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["seeds"]
    assert (one["returns"], one["lengths"]) == ([10.0, 10.0], [4, 4])  # rewards 1, 2, 3 and 4
    with Image.open("out.gif") as frames:
        assert frames.n_frames == 10  # the first state and 4 steps, twice
        assert frames.size == (6, 4)
    assert main(["evaluate", "run", "--episodes", "2", "--sampled"]) == 0
    assert "2 episodes with sampled actions" in capsys.readouterr().out
    loaded = mbrl.load("run")
    assert isinstance(loaded.env, mbrl.HostEnv)
    assert loaded.state.obs.shape == (1, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.state.learner))


@pytest.mark.slow
def test_a_run_with_python_steps_is_imagined(tmp_path, monkeypatch):
    assert trained(tmp_path, monkeypatch, f"dreamer_v2 --env gymnasium:helpers.host_envs:Clock-v0 {RSSM}") == 0
    assert main(["plot", "imagine", "run", "--context", "2", "--horizon", "3", "--out", "a.png", "--gif", "b.gif"]) == 0
    with Image.open("a.png") as picture, Image.open("b.gif") as moving:
        assert picture.size[0] > 300
        assert getattr(moving, "n_frames", 1) == 5


def test_an_environment_that_fails_in_an_evaluation_is_one_line(tmp_path, capsys, monkeypatch):
    env = "gymnasium:helpers.host_envs:Hostile-v0 --env-arg max_episode_steps=50"
    assert (
        trained(tmp_path, monkeypatch, f"sac --env {env} --agent.hidden 8 --agent.batch 16"),
        capsys.readouterr().err,
    ) == (0, "")
    assert main(["evaluate", "run", "--episodes", "1", "--video", "a.gif"]) == 2
    said = "Hostile-v0 cannot be drawn: one of Gymnasium needs the render mode rgb_array\n"
    assert capsys.readouterr().err.endswith(said)
    config = Path("run", "config.json")
    kept = json.loads(config.read_text())
    kept["env_args"] |= {"how": "nan", "at": 7}
    config.write_text(json.dumps(kept))
    assert main(["evaluate", "run", "--episodes", "1"]) == 1
    line = "error: environment gymnasium:helpers.host_envs:Hostile-v0, copy 0, step 7: the observation is NaN"
    assert capsys.readouterr().err.startswith(line)
