"""An agent of the user's own, registered by objects or by names: it trains, resumes and loads without a table."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax import presets
from mbrl_jax.cli import train as cli
from mbrl_jax.presets.registry import import_agents, register_agent
from mbrl_jax.train import compilation

AGENT = '''
"""Linear one-step values: a whole agent in a few lines."""

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Agent


@config
class LinearConfig:
    lr: float = setting(default=0.1, above=0, help="step size")
    batch: int = setting(default=4, low=1, help="transitions per update")


def make(cfg, spec):
    def init(key):
        return 0.1 * jax.random.normal(key, (spec.num_actions, *spec.obs.shape))

    def act(key, learner, carry, obs, explore):
        noise = jax.random.gumbel(key, (spec.num_actions,)) if explore else 0.0
        return jnp.argmax(learner @ obs + noise).astype(jnp.int32), carry, ()

    def loss(learner, rows):
        values = jnp.sum(learner[rows.action] * rows.obs, 1)
        return jnp.mean(jnp.square(values - rows.reward))

    def update(key, learner, replay):
        value, grads = jax.value_and_grad(loss)(learner, replay.sample(key, cfg.batch))
        return learner - cfg.lr * grads, {"loss": value}, ()

    return Agent(init, lambda: (), act, update)
'''
REGISTER = """
from mbrl_jax.presets.registry import register_agent

register_agent("linear", LinearConfig, make, summary="linear one-step values", action_kinds=("discrete",))
"""
LOOP = {"inner": 3, "cycles": 1, "warmup": 8, "eval_episodes": 1, "capacity": 64}
WORDS = [
    "linear", "--env", "Catch", "--loop.inner", "3", "--loop.cycles", "1", "--loop.warmup", "8", "--loop.eval-episodes",
    "1", "--loop.capacity", "64", "--quiet", "--devices", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """The registry and the imported modules are put back, and compiled programs are not kept."""
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    agents, modules = dict(presets.AGENTS), set(sys.modules)
    yield
    presets.AGENTS.clear()
    presets.AGENTS.update(agents)
    for name in set(sys.modules) - modules:
        if name.startswith(("linear_agent", "my_agents")):
            del sys.modules[name]


def parts() -> dict[str, object]:
    names: dict[str, object] = {"__name__": __name__}
    exec(AGENT, names)
    return names


def by_objects(monkeypatch, tmp_path):
    found = parts()
    register_agent("linear", found["LinearConfig"], found["make"], action_kinds=("discrete",))  # pyright: ignore


def by_name(monkeypatch, tmp_path):
    (tmp_path / "linear_agent.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    register_agent("linear", "linear_agent:LinearConfig", "linear_agent:make", action_kinds=("discrete",))
    assert "linear_agent" not in sys.modules, "a name is imported when it is first needed"


@pytest.mark.parametrize("enter", [by_objects, by_name])
def test_an_agent_without_a_table_of_settings_is_built_trained_resumed_and_loaded(enter, monkeypatch, tmp_path):
    enter(monkeypatch, tmp_path)
    it = presets.preset("linear", "Catch")
    assert it.agent == presets.AGENTS["linear"].config()
    loop = presets.build("linear", "Catch", mbrl.replace(it.agent, {"lr": 0.2}), mbrl.replace(it.loop, LOOP))
    before = jax.jit(loop.init)(jax.random.key(0))
    after, report = jax.jit(loop.chunk)(before)
    assert (np.asarray(before.learner) != np.asarray(after.learner)).any()
    assert np.isfinite(report.metrics["loss"])

    if enter is by_name:  # from here on the two are the same
        return
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    once = mbrl.train("linear", "Catch", out=whole, steps=14, loop=LOOP)
    assert cli.main([*WORDS, "--steps", "11", "--out", str(halves)]) == 0
    assert cli.main([*WORDS, "--steps", "14", "--out", str(halves), "--resume"]) == 0
    loaded = mbrl.load(halves)
    assert (loaded.algo, loaded.chunk) == ("linear", 2)
    np.testing.assert_allclose(loaded.state.learner, once.state.learner[0], rtol=1e-5)
    assert json.loads((halves / "summary.json").read_text())["env_steps"] == 14
    with pytest.raises(ValueError, match="env must have discrete actions for linear"):
        presets.preset("linear", "Pendulum-v1")


def in_a_fresh_process(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_imports_the_module_of_an_agent_and_a_run_remembers_it(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_agents.py").write_text(AGENT + REGISTER)
    words = [*WORDS, "--agent-module", "my_agents.py"]
    assert cli.main([*words, "--steps", "11", "--out", "run"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["agent_module"] == str(tmp_path / "my_agents.py")
    assert cli.main(["linear", "--env", "Catch", "--agent-module=my_agents.py", "--help"]) == 0
    assert "--agent.lr FLOAT" in " ".join(capsys.readouterr().out.split())

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = f"""
        import mbrl_jax as mbrl
        from mbrl_jax.cli import main
        assert main(["report", {str(tmp_path / "run")!r}, "--out", "a.html"]) == 0  # it imports the module itself
        loaded = mbrl.load({str(tmp_path / "run")!r})
        assert main(["plot", "curves", {str(tmp_path / "run")!r}, "--out", "a.png"]) == 0
        words = {words!r}
        words[-1] = {str(tmp_path / "my_agents.py")!r}
        assert main(["train", *words, "--steps", "14", "--out", {str(tmp_path / "run")!r}, "--resume"]) == 0
        print(loaded.algo, loaded.chunk, mbrl.load({str(tmp_path / "run")!r}).chunk)
    """
    assert in_a_fresh_process(textwrap.dedent(code), elsewhere).splitlines()[-1] == "linear 1 2"
    assert (elsewhere / "a.png").stat().st_size > 10_000
    assert "linear on" in (elsewhere / "a.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--agent-module", "none.py"], "--agent-module: there is no file none.py"),
        (["--agent-module", "no.such.module"], "--agent-module: there is no module 'no.such.module'"),
        (["--agent-module", "json.py"], "must have another name, as there is a module 'json'"),
        (["--agent-module"], "--agent-module needs a Python file or a module"),
        ([], "algo must be one of"),
    ],
)
def test_modules_that_cannot_be_used_are_one_line(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("")
    assert cli.main(["linear", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_mistake_in_a_module_keeps_its_traceback(monkeypatch, tmp_path):
    (tmp_path / "my_agents_broken.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    for where in ("my_agents_broken", str(tmp_path / "my_agents_broken.py")):
        with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
            import_agents(where)
        assert "my_agents_broken" not in sys.modules


@pytest.mark.parametrize(
    ("name", "rest", "message"),
    [
        ("my agent", {}, "name must be letters"),
        ("sac", {}, "name must be new"),
        ("linear", {"replay": "windows"}, "needs buffer_part and window_part"),
    ],
)
def test_entries_that_cannot_be_are_refused(name, rest, message):
    with pytest.raises(ValueError, match=message):
        register_agent(name, "linear_agent:LinearConfig", "linear_agent:make", **rest)
