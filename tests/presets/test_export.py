"""A policy as StableHLO: it acts as the policy does, in a process that has jax and not this library."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.cli import main
from mbrl_jax.core import Agent, Box, DictSpace, Discrete, Spec
from mbrl_jax.core.types import no_update
from mbrl_jax.presets.export import export_onnx, export_policy
from mbrl_jax.presets.loaded import Policy

pytest.importorskip("flatbuffers", reason="the extra export is not installed")

READ = """
import sys
sys.modules["mbrl_jax"] = None  # an import of it fails
import json
import numpy as np
from jax import export

file, steps = sys.argv[1], int(sys.argv[2])
about = json.load(open(file + ".json"))
policy = export.deserialize(bytearray(open(file, "rb").read()))
carry = [np.zeros(leaf["shape"], leaf["dtype"]) for leaf in about["carry"]]
rows = json.load(sys.stdin)
out = []
for i, row in enumerate(rows[:steps]):
    like = about["obs"]
    if "shape" in like and "dtype" in like:
        obs = np.array(row, like["dtype"])
    else:
        obs = {name: np.array(row[name], like[name]["dtype"]) for name in like}
    action, carry = policy.call(obs, carry, np.bool_(i == 0), np.array([0, i], np.uint32))
    out.append(np.asarray(action).tolist())
assert not any(name.startswith("mbrl_jax.") for name in sys.modules)
print(json.dumps(out))
"""


def read(file, rows, tmp_path):
    done = subprocess.run([sys.executable, "-c", READ, str(file), str(len(rows))], capture_output=True, text=True,
                          input=json.dumps(rows), cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counting(spec):
    """An agent whose action is a fixed row of weights times the observation, plus the step of the episode."""

    def act(key, learner, carry, obs, explore):
        vector = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(obs)])
        noise = jax.random.normal(key) if explore else 0.0
        return (learner @ vector + carry["step"] + noise)[None], {"step": carry["step"] + 1.0}, ()

    return Agent(lambda key: jnp.arange(1.0, 4.0), lambda: {"step": jnp.float32(10)}, act, no_update)


@pytest.mark.parametrize(
    ("raw", "seen", "rows", "expected"),
    [
        (Box((3,)), Box((3,)), [[1, 0, 0], [0, 1, 0], [0, 0, 2]], [11, 13, 18]),
        (Discrete(3), Box((3,), 0.0, 1.0), [2, 0, 1], [13, 12, 14]),
        (DictSpace({"a": Discrete(2), "b": Box((1,))}), DictSpace({"a": Box((2,)), "b": Box((1,))}),
         [{"a": 1, "b": [0.5]}, {"a": 0, "b": [2.0]}], [13.5, 18]),
    ],
    ids=["vector", "number", "dict"],
)  # fmt: skip
def test_what_is_carried_and_seen_is_that_of_the_policy(raw, seen, rows, expected, tmp_path):
    action = Box((1,), -99.0, 99.0)
    policy = Policy(counting(seen), jnp.arange(1.0, 4.0), Spec(raw, action), Spec(seen, action), False)
    about = export_policy(policy, tmp_path / "p.stablehlo")
    assert about["carry"] == [{"shape": [], "dtype": "float32"}]
    assert about["actions"] == {"low": [-99.0], "high": [99.0]}
    found = read(tmp_path / "p.stablehlo", rows, tmp_path)
    assert [value for (value,) in found] == expected
    carry = None
    for row, value in zip(rows, expected, strict=True):
        action, carry = policy(row, carry)
        assert float(action[0]) == value


def test_the_command_writes_a_runs_policy(tmp_path, capsys):
    mbrl.train("ppo", "Pendulum-v1", out=tmp_path / "run", steps=8, seeds=2,
               agent={"hidden": (8,), "epochs": 1, "minibatches": 1},
               loop={"num_envs": 1, "unroll": 8, "inner": 1, "cycles": 1, "eval_episodes": 0})  # fmt: skip
    file = tmp_path / "policy.stablehlo"
    assert main(["export", str(tmp_path / "run"), str(file), "--seed", "1"]) == 0
    assert capsys.readouterr().out == f"policy in {file}, its arrays described in {file}.json\n"
    rows = np.random.default_rng(0).normal(size=(40, 3)).tolist()
    found = read(file, rows, tmp_path)
    policy = mbrl.load(tmp_path / "run", seed=1).policy
    np.testing.assert_allclose(found, [policy(row)[0] for row in rows], rtol=1e-5, atol=1e-6)
    assert len({round(value, 4) for (value,) in found}) > 20
    for words, message in (
        ([str(tmp_path / "p.txt")], "error: FILE must end in .stablehlo"),
        ([str(tmp_path / "no" / "p.stablehlo")], "error: FILE: there is no folder"),
        ([str(file), "--seed", "2"], "error: --seed must be from 0 to 1"),
        ([str(file), "--checkpoint", "77"], "error: --checkpoint must be one of 1,"),
        ([str(file), "--platforms", "cpu,abacus"], "error: --platforms must be of cpu, cuda, rocm, tpu, got 'abacus'"),
    ):
        assert main(["export", str(tmp_path / "run"), *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith(message), said
        assert said.count("\n") == 1


def test_a_policy_that_plans_in_the_simulator_stays_here(tmp_path):
    action = Box((1,), -1.0, 1.0)
    policy = Policy(counting(Box((3,))), jnp.arange(3.0), Spec(Box((3,)), action), Spec(Box((3,)), action), True)
    with pytest.raises(ValueError, match="a policy that plans in the simulator cannot be exported"):
        export_policy(policy, tmp_path / "p.stablehlo")


ONNX = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
rows = {one.name: np.array(row, np.float32) for one, row in zip(session.get_inputs(), json.load(sys.stdin))}
assert "jax" not in sys.modules
print(json.dumps(session.run(None, rows)[0].tolist()))
"""


@pytest.mark.parametrize(("algo", "env"), [("dqn", "CartPole-v1"), ("sac", "Pendulum-v1"), ("ppo", "Reach")])
def test_onnx_acts_as_the_policy_does(algo, env, tmp_path):
    pytest.importorskip("jax2onnx", reason="the extra onnx is not installed")
    small = {"hidden": (8,), **({} if algo == "ppo" else {"batch": 8})}
    loop = {"warmup": 0 if algo == "ppo" else 10, "inner": 2, "cycles": 1, "eval_episodes": 0}
    mbrl.train(algo, env, out=tmp_path / "run", steps=12, agent=small, loop=loop)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "a.onnx"), "--batch", "3"]) == 0
    about = json.loads((tmp_path / "a.onnx.json").read_text())
    policy = mbrl.load(tmp_path / "run").policy
    obs = np.random.default_rng(0).normal(size=(3, *about["obs"]["shape"])).astype(np.float32)
    done = subprocess.run([sys.executable, "-c", ONNX, str(tmp_path / "a.onnx")], capture_output=True, text=True,
                          input=json.dumps([obs.tolist()]))  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), [policy(row)[0] for row in obs], atol=1e-4)


def test_what_onnx_cannot_hold_is_one_line(tmp_path, capsys, monkeypatch):
    loop = {"warmup": 0, "inner": 2, "cycles": 1, "eval_episodes": 0}
    mbrl.train("q_learning", "FrozenLake", out=tmp_path / "run", steps=4, loop=loop)
    run = str(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)  # as if it were not installed
    for words, said in (
        (["a.onnx", "--sampled"], "--sampled is for .stablehlo alone, got a.onnx"),
        (["a.onnx", "--platforms", "cpu"], "--platforms is for .stablehlo alone, got a.onnx"),
        (["a.stablehlo", "--batch", "2"], "--batch is for .onnx alone, got a.stablehlo"),
        (["a.onnx", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["a.txt"], "FILE must end in .stablehlo or .onnx, got a.txt"),
        (["a.onnx"], "FILE: an .onnx needs jax2onnx: pip install 'mbrl_jax[onnx]'"),
    ):
        assert main(["export", run, *words]) == 2
        assert capsys.readouterr().err == f"error: {said}\n"
    spec = Spec(Box((3,)), Box((1,)))
    remembers = Policy(counting(spec), jnp.ones(3), spec, spec, False)
    with pytest.raises(ValueError, match="without memory or plan"):
        export_onnx(remembers, tmp_path / "a.onnx")
