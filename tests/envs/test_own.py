"""A reader's own environment by name: found from any folder, checked, and one line on whatever is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.cli import train as cli
from mbrl_jax.envs import own
from mbrl_jax.envs.registry import is_own, make_env, settle
from mbrl_jax.envs.user_code import import_user_module
from mbrl_jax.train import compilation

WALK = '''
import jax
import jax.numpy as jnp

import mbrl_jax as mbrl
from mbrl_jax.envs import wrappers


def make_walk(size=5):
    """A walk on a line from the middle: 1 at the right end, 0 at the left."""
    spec = mbrl.Spec(mbrl.Discrete(size), mbrl.Discrete(2), terminates=True)

    def reset(key):
        place = jnp.full((), size // 2, jnp.int32)
        return place, place

    def step(key, state, action):
        place = jnp.clip(state + 2 * action - 1, 0, size - 1).astype(jnp.int32)
        ends = (place == 0) | (place == size - 1)
        return place, place, (place == size - 1) * jnp.ones(()), 1.0 - ends, ends

    return wrappers.time_limit(mbrl.Env(spec, reset, step), 20)


def push():
    """Actions in [-2, 2]; the position is the sum of the actions."""

    def step(key, state, action):
        place = state + action
        return place, place, place[0], jnp.ones(()), jnp.zeros((), bool)

    spec = mbrl.Spec(mbrl.Box((1,)), mbrl.Box((1,), -2.0, 2.0), terminates=False, name="push")
    return wrappers.time_limit(mbrl.Env(spec, lambda key: (jnp.zeros(1), jnp.zeros(1)), step), 10)


walk = make_walk()


def nothing():
    return None


def needs(size):
    return make_walk(size)


def fails():
    return make_walk(1 // 0)


def leaky():
    env = make_walk()
    return env._replace(step=lambda *args: (*env.step(*args)[:3], 0.9 * env.step(*args)[3], env.step(*args)[4]))


class Robot:
    observation_space = action_space = None

    def reset(self, seed=None): ...

    def step(self, action): ...
'''


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """A folder with the reader's file in it, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_walk.py").write_text(WALK)
    (tmp_path / "broken_walk.py").write_text("import mbrl_jax\n\n1 + '1'\n")
    (tmp_path / "half_walk.py").write_text("def make(:\n")
    (tmp_path / "json.py").write_text("")
    yield
    for name in ("my_walk", "broken_walk", "half_walk", "beside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name", ["my_walk.py:make_walk", "./my_walk.py:make_walk", "my_walk:make_walk", "my_walk.py:walk"]
)
def test_a_name_leads_to_the_environment_and_becomes_one_for_any_folder(name, tmp_path, monkeypatch):
    env = make_env(name)
    assert (env.spec.obs, env.spec.time_limit) == (mbrl.Discrete(5), 20)
    settled = settle(name)
    assert settled == f"{tmp_path}/my_walk.py:{name.rpartition(':')[2]}"
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    state, _ = make_env(settled).reset(jax.random.key(0))
    assert int(state.inner) == 2


def test_an_installed_module_keeps_its_name(monkeypatch, tmp_path):
    home = tmp_path / "site"
    home.mkdir()
    (tmp_path / "my_walk.py").rename(home / "my_walk.py")
    monkeypatch.syspath_prepend(home)
    assert settle("my_walk:make_walk-x2") == "my_walk:make_walk-x2"


def test_the_name_and_the_actions_are_settled_and_x2_repeats():
    assert make_env("my_walk.py:make_walk").spec.name == "make_walk"
    env, twice = make_env("my_walk.py:push"), make_env("my_walk.py:push-x2")
    assert env.spec.action == mbrl.Box((1,), -1.0, 1.0)
    assert (env.spec.name, twice.spec.name, twice.spec.time_limit) == ("push", "push-x2", 5)
    state, _ = twice.reset(jax.random.key(0))
    _, obs, reward, *_ = twice.step(jax.random.key(1), state, np.ones(1, np.float32) * 0.5)
    np.testing.assert_allclose(obs, [2.0])  # half of the bound, twice
    np.testing.assert_allclose(reward, 1.0 + 2.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:make", "--env: there is no file none.py"),
        ("no_such_module:make", "--env: there is no module 'no_such_module'"),
        ("no.such.module:make", "--env: there is no module 'no.such.module'"),
        ("my_walk.py:make_wolk", "--env: there is no make_wolk in my_walk.py (did you mean make_walk?)"),
        ("my_walk.py:", "--env: must be module:function or path/to/file.py:function, got 'my_walk.py:'"),
        ("my_walk.py:a-b", "--env: must be module:function"),
        (":make", "--env: must be module:function"),
        ("my_walk.py:nothing", "my_walk.py:nothing must return an Env or a Gymnasium environment, got None"),
        ("my_walk.py:needs", "my_walk.py:needs must be a function without arguments, it needs size"),
        ("my_walk.py:__name__", "my_walk.py:__name__ must be a function or an Env, got an object of type str"),
        ("my_walk.py:fails", "my_walk.py:fails raised ZeroDivisionError: "),
        ("my_walk.py:fails", "(line 48 of my_walk.py)"),
        ("my_walk.py:leaky", "--env: leaky has 1 fault: 1. discount must be 0, 1 or -1, got 0.9"),
        ("my_walk.py:Robot", "env must have Box, Discrete, MultiDiscrete or MultiBinary actions, "),
        ("broken_walk.py:make", "--env: importing broken_walk.py raised TypeError: "),
        ("broken_walk.py:make", "(line 3 of broken_walk.py)"),
        ("half_walk.py:make", "--env: importing half_walk.py raised SyntaxError: "),
        ("json.py:make", "--env: json.py must have another name, as there is a module 'json'"),
        ("my_walk.py:make_walk-x50", "env must repeat an action at most 20 times, an episode of my_walk.py:make_walk"),
        (f"{'a' * 5000}.py:make", "--env: must be a name of at most 4096 characters, got one of 5008"),
    ],
)
def test_what_cannot_be_used_is_one_line(name, message, tmp_path, capsys):
    assert cli.main(["q_learning", "--env", name]) == 2
    said = capsys.readouterr().err
    assert message in said.replace(f"{tmp_path}/", "")
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_file_finds_the_modules_beside_it(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("from my_walk import make_walk as make\n")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert make_env("../beside.py:make").spec.time_limit == 20


def test_names_with_colons_that_are_not_a_readers():
    assert not is_own("Pendulum-v1")
    assert not is_own("brax:ant-x2")
    mbrl.register_env("mine:a", "my_walk:make_walk")
    try:
        assert not is_own("mine:a")
        assert not is_own("mine:a-x2")
        assert settle("mine:a") == "mine:a"
    finally:
        del mbrl.envs.registry.ENVS["mine:a"]


@pytest.mark.parametrize(
    ("name", "folder", "title"),
    [
        ("/a/b/file.py:make", "file-make", "file.py:make"),
        ("/a/b c/file.py:make-x2", "file-make-x2", "file.py:make-x2"),
        ("package.module:make", "package.module-make", "package.module:make"),
        ("Pendulum-v1-x2", "Pendulum-v1-x2", "Pendulum-v1-x2"),
        ("gymnasium:ALE/Pong-v5", "gymnasium-ALE-Pong-v5", "gymnasium:ALE/Pong-v5"),
        ("brax:ant", "brax-ant", "brax:ant"),
    ],
)
def test_names_of_folders_and_in_titles(name, folder, title):
    assert own.folder_name(name) == folder
    assert own.title(name) == title


def test_python_takes_an_environment_or_what_makes_one():
    env = make_env("CartPole-v1")
    assert make_env(env) is env
    assert make_env(lambda: env) is env
    with pytest.raises(ValueError, match="env must be a name, an Env or a function that returns one, got a int"):
        make_env(lambda: 3)  # pyright: ignore[reportArgumentType]


def test_a_module_is_imported_once():
    first, name = import_user_module("my_walk.py", "env")
    assert import_user_module("my_walk", "env") == (first, name)
    assert import_user_module(name, "env") == (first, name)


def test_a_run_is_resumed_loaded_and_drawn_from_another_folder_in_a_fresh_process(tmp_path):
    words = ["q_learning", "--env", "my_walk:make_walk", "--loop.inner", "20", "--loop.cycles", "1", "--quiet"]
    assert cli.main([*words, "--steps", "60"]) == 0
    run = tmp_path / "runs" / "q_learning-my_walk-make_walk-0"
    assert json.loads((run / "config.json").read_text())["env"] == f"{tmp_path}/my_walk.py:make_walk"
    (tmp_path / "else").mkdir()
    words[2] = f"{tmp_path}/my_walk.py:make_walk"
    code = f"""
        import mbrl_jax as mbrl
        from mbrl_jax.cli import main
        assert main(["train", *{words!r}, "--steps", "100", "--out", {str(run)!r}, "--resume"]) == 0
        assert main(["plot", "curves", {str(run)!r}, "--out", "a.png"]) == 0
        loaded = mbrl.load({str(run)!r})
        print(loaded.env.spec.obs.n, loaded.state.learner.q.shape if hasattr(loaded.state.learner, "q") else "")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path / "else"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[0] == "5"
    assert json.loads((run / "summary.json").read_text())["env_steps"] >= 100
