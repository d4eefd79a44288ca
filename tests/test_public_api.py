"""The front door: what `import mbrl_jax` offers, and how little it loads."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from functools import cache

import jax
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.train import compilation

ROOMS = (
    "agents", "analysis", "buffers", "core", "envs", "models", "nets", "ops", "planners", "presets", "testing", "train",
)  # fmt: skip
HEAVY = (
    "gymnax", "gymnasium", "matplotlib", "orbax", "tyro", "rich", "evosax", "PIL", "seaborn", "pgx", "mctx", "torch",
    "brax", "mujoco", "pandas",
)  # fmt: skip


@cache
def loaded_by(*codes: str) -> list[set[str]]:
    """The libraries that a fresh process has loaded after running each of some pieces of code."""
    ask = "import sys\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"{code}\n{ask}" for code in codes)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_importing_loads_no_jax_and_is_quick():
    (found,) = loaded_by("import mbrl_jax")
    assert {"jax", "numpy", "flax", "optax", *HEAVY} & found == set()

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    own = min(seconds("import mbrl_jax") for _ in range(3)) - min(seconds("pass") for _ in range(3))
    assert own < 1.0  # 0.02 on an idle machine, and tests may run beside others


def test_help_loads_no_more_than_it_needs():
    """0.05 s of a core for the overview and 2 s for an agent's settings, of which jax takes 0.5."""
    top, agents = loaded_by(
        "import contextlib, io\nfrom mbrl_jax.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert main(['--help']) == 0",
        "with contextlib.redirect_stdout(io.StringIO()): assert main(['train', '--help']) == 0",
    )
    assert {"jax", "numpy", "flax", "tyro", *HEAVY} & (top | agents) == set()
    (settings,) = loaded_by(
        "import contextlib, io\nfrom mbrl_jax.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert main(['train', 'mbpo', '--help']) == 0"
    )
    assert {"jax", "tyro", "gymnax"} <= settings
    absent = {"seaborn", "pandas", "matplotlib", "orbax", "evosax", "mctx", "pgx", "torch", "distrax"}
    assert {*absent, "tensorflow_probability"} & settings == set()


@pytest.mark.parametrize("room", [*ROOMS, "envs.adapters", "models.dynamics", "models.muzero", "models.rssm",
                                  "models.tdmpc2", "models.world_models", "planners.mpc", "planners.mcts",
                                  "agents.dreamer", "agents.offline", "agents.world_models", "cli"])  # fmt: skip
def test_every_name_that_a_package_offers_is_there(room):
    module = importlib.import_module(f"mbrl_jax.{room}")
    if room.count(".") == 0:
        assert module.__all__
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert [name for name in names if getattr(module, name, None) is None] == []
    assert set(names) <= set(dir(module))


def test_every_name_of_the_package_is_there():
    assert len(mbrl.__all__) == len(set(mbrl.__all__))
    assert [name for name in mbrl.__all__ if getattr(mbrl, name, None) is None] == []
    assert {"make_env", "preset", "build", "train", "load", "imagine", "unroll", "replace", "axes", "Agent", "Model",
            "WorldModel", "Transition", "Planner", "Buffer", "Env", "register_agent", "register_env"} <= set(
        mbrl.__all__
    )  # fmt: skip
    assert set(ROOMS) - {"train"} <= set(mbrl.__all__)
    assert mbrl.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no_such_name"):
        mbrl.no_such_name  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("room", ["ops", "nets", "models", "planners"])
def test_rooms_of_equations_load_no_environments_pictures_or_command_lines(room):
    code = (
        "import importlib, pkgutil\n"
        "for name in room.__all__: getattr(room, name)\n"
        "for found in pkgutil.walk_packages(room.__path__, room.__name__ + '.'): importlib.import_module(found.name)"
    )
    allowed = {"evosax"} if room == "ops" else set()  # `ops.evolution` is its one home, and imports it when it is used
    (theirs,) = loaded_by("import jax, flax.linen, optax, chex, distrax")  # flax brings rich
    assert {"gymnax", "matplotlib", "orbax", "tyro"} & theirs == set()
    allowed |= theirs
    plain, found = loaded_by(f"import mbrl_jax.{room} as room", code)
    assert set(HEAVY) & found <= allowed
    assert "jax" in found
    assert set(HEAVY) & plain <= theirs


def test_train_is_a_package_and_a_function(monkeypatch, tmp_path):
    import mbrl_jax.train.loop

    assert callable(mbrl.train)
    assert mbrl.train.loop is mbrl_jax.train.loop
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    small = {"inner": 2, "cycles": 1, "eval_episodes": 0}
    result = mbrl.train("q_learning", "FrozenLake", out=tmp_path / "run", steps=4, seeds=2, seed=7,
                        agent={"lr": 0.5}, loop=small)  # fmt: skip
    assert result.finished
    assert result.summary["env_steps"] == 4
    loaded = mbrl.load(tmp_path / "run", seed=1)
    assert (loaded.algo, loaded.name, loaded.config.lr) == ("q_learning", "FrozenLake", 0.5)
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    same = jax.tree.map(lambda x: x[1], result.state)
    np.testing.assert_array_equal(loaded.state.learner.q, same.learner.q)
    with pytest.raises(ValueError, match="holds another run"):
        mbrl.train("q_learning", "FrozenLake", out=tmp_path / "run", steps=4, loop=small)
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        mbrl.train("q_learning", "FrozenLake", out=tmp_path / "other", seeds=0)
    longer = mbrl.train("q_learning", "FrozenLake", out=tmp_path / "run", steps=6, seeds=2, seed=7,
                        agent={"lr": 0.5}, loop=small, resume=True)  # fmt: skip
    assert longer.summary["env_steps"] == 6
