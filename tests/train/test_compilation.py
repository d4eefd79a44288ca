"""Notices of long compilations, and where compiled programs are kept."""

from __future__ import annotations

import json
import time

import jax
import pytest

from mbrl_jax.train import compilation


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mbrl_jax" / "compile_seconds.json"


def compile_for(seconds, after):
    said = []
    with compilation.notice("mbpo Pendulum-v1", said.append, after) as compiled:
        time.sleep(seconds)
        compiled(seconds)
    return said


def test_a_short_compilation_is_not_spoken_of(home):
    assert compile_for(0.0, 0.2) == []
    time.sleep(0.25)
    assert not home.exists()


def test_a_long_one_is_and_the_next_time_with_how_long_it_took(home):
    assert compile_for(0.3, 0.1) == ["still compiling after 0 s"]
    assert json.loads(home.read_text()) == {"mbpo Pendulum-v1": 0.3}
    assert compile_for(0.3, 0.1) == ["still compiling after 0 s; the last time it took 0 s"]
    home.write_text(json.dumps({"mbpo Pendulum-v1": 43.2, "other": 1}))
    assert compile_for(0.3, 0.1) == ["still compiling after 0 s; the last time it took 43 s"]
    assert json.loads(home.read_text()) == {"mbpo Pendulum-v1": 0.3, "other": 1}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"mbpo Pendulum-v1": "x"}'])
def test_what_cannot_be_read_is_passed_over(home, text):
    home.parent.mkdir()
    home.write_text(text)
    assert compile_for(0.2, 0.1) == ["still compiling after 0 s"]


def test_build_load_and_train_keep_compiled_programs(monkeypatch, tmp_path):
    import mbrl_jax as mbrl
    from mbrl_jax.presets import api

    asked = []
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: asked.append("build"))
    monkeypatch.setattr(api, "enable_compilation_cache", lambda: asked.append("load"))
    loop = mbrl.preset("dqn", "CartPole-v1").loop
    mbrl.build("dqn", "CartPole-v1", mbrl.preset("dqn", "CartPole-v1").agent, loop)
    assert asked == ["build"]
    with pytest.raises(ValueError, match="no run in"):
        mbrl.load(tmp_path / "nothing")
    assert asked == ["build", "load"]


def test_a_folder_that_was_chosen_stays(monkeypatch, tmp_path):
    old = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        compilation.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
        jax.config.update("jax_compilation_cache_dir", None)
        compilation.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mbrl_jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", old)
