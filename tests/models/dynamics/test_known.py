"""Known rewards, terminations and members: by argument and by name, from Python and from the command line."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.agents import dyna_dqn, mbpo, pets
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.cli import train as cli
from mbrl_jax.core import Box, Discrete, Spec, Transition
from mbrl_jax.core.config import replace
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic
from mbrl_jax.models.dynamics.known import KnownConfig, chosen, settled, with_known
from mbrl_jax.train import compilation

SPEC = Spec(Box((2,)), Box((1,), -1.0, 1.0), time_limit=5, name="two")
MEMBER = deterministic(DeterministicConfig(hidden=(4,)), SPEC)
FIT = {"fit.members": 2, "fit.elites": 2, "fit.batch": 4, "fit.max_epochs": 1, "model.hidden": (4,)}
PARTS = """
import jax.numpy as jnp
from mbrl_jax.models import DeterministicConfig, deterministic

def reward(obs, action):
    return 7.0 + 0.0 * obs[0]

def termination(obs, action):
    return obs[1] > 0.0

def member(spec):
    return deterministic(DeterministicConfig(hidden=(3,)), spec)

def vector(obs, action):
    return obs

nothing = 3
"""


def reward(obs, action):
    return 10.0 * obs[0] + jnp.sum(action)


def termination(obs, action):
    return obs[1] > 0.5


def replay_of(spec: Spec):
    """Twelve rows of random numbers."""
    keys = jax.random.split(jax.random.key(0), 4)
    obs, after = (jax.random.normal(key, (12, 1, *spec.obs.shape)) for key in keys[:2])
    action = jax.vmap(lambda key: spec.action.sample(key))(jax.random.split(keys[2], 12))[:, None]
    scalar = jnp.ones((12, 1))
    rows = Transition(obs, action, scalar, scalar, after, jnp.zeros((12, 1), bool))
    buffer = uniform(12)
    return buffer.replay(buffer.add(buffer.init(jax.tree.map(lambda leaf: leaf[0, 0], rows)), rows))


def test_the_step_has_the_known_reward_and_termination_of_the_predicted_observation():
    model, params = with_known(MEMBER, reward, termination), MEMBER.init(jax.random.key(0))
    for seed in range(8):
        key, obs = jax.random.key(seed), 3.0 * jax.random.normal(jax.random.key(100 + seed), (2,))
        plain, out = MEMBER.step(params, key, obs, jnp.array([0.25])), model.step(params, key, obs, jnp.array([0.25]))
        np.testing.assert_array_equal(out.state, plain.state)
        assert float(out.reward) == pytest.approx(10 * float(plain.state[0]) + 0.25, rel=1e-5)
        assert float(out.discount) == float(plain.state[1] <= 0.5)
    assert with_known(MEMBER) is MEMBER
    with pytest.raises(ValueError, match=r"reward must return a scalar .* got float32\(2,\)"):
        with_known(MEMBER, lambda obs, action: obs).step(params, jax.random.key(0), jnp.zeros(2), jnp.zeros(1))


IMAGINING = {
    "mbpo": (mbpo, mbpo.MBPOConfig(), {"rollouts": 4, "last_horizon": 3, "policy.hidden": (4,)}, SPEC.action),
    "dyna_dqn": (dyna_dqn, dyna_dqn.DynaDQNConfig(), {"rollouts": 4, "horizon": 3, "policy.hidden": (4,)}, Discrete(2)),
}


@pytest.mark.parametrize("name", [pytest.param("mbpo", marks=pytest.mark.slow), "dyna_dqn"])
def test_imagined_rows_hold_what_is_known(name):
    module, cfg, small, action = IMAGINING[name]
    spec = SPEC._replace(action=action)
    agent = module.make(replace(cfg, small | FIT), spec, reward=reward, termination=termination)
    learner, _ = agent.refresh(jax.random.key(1), agent.init(jax.random.key(0)), replay_of(spec))
    size = int(learner.imagined.size)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[:size]), learner.imagined.rows)
    assert size >= 4
    total = rows.action.reshape(size, -1).sum(1)
    np.testing.assert_allclose(rows.reward, 10 * rows.next_obs[:, 0] + total, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rows.discount, (rows.next_obs[:, 1] <= 0.5).astype(np.float32))


def test_pets_plans_for_the_known_reward():
    """A reward of the action alone: whatever the model says, the best action is known."""
    changes = FIT | {"planner.cem.horizon": 1, "planner.cem.population": 50, "planner.cem.elites": 5,
                     "planner.cem.iterations": 4, "planner.cem.particles": 2}  # fmt: skip
    cfg = replace(pets.PETSConfig(), changes)
    for target in (-0.6, 0.4):
        agent = pets.make(cfg, SPEC, reward=lambda obs, action, target=target: -jnp.square(action[0] - target),
                          termination=lambda obs, action: obs[0] > 1e6)  # fmt: skip
        learner = agent.init(jax.random.key(0))
        action, _, _ = jax.jit(agent.act, static_argnums=4)(
            jax.random.key(1), learner, agent.carry(), jnp.zeros(2), False
        )
        assert float(action[0]) == pytest.approx(target, abs=0.1)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    (tmp_path / "known_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("known_parts", None)


def test_names_lead_to_functions_from_any_folder(parts, monkeypatch):
    cfg = replace(mbpo.MBPOConfig(), {"known.reward": "known_parts.py:reward", "known.member": "known_parts.py:member"})
    cfg = settled(cfg)
    assert cfg.known.reward == f"{parts / 'known_parts.py'}:reward"
    assert cfg.known.termination == ""
    monkeypatch.chdir("/")
    sys.modules.pop("known_parts")
    made, known, ends = chosen(cfg.known, None, None, None, SPEC)
    assert known is not None
    assert float(known(jnp.zeros(2), jnp.zeros(1))) == 7.0
    assert ends is None
    assert made is not None
    assert sorted(leaf.shape for leaf in jax.tree.leaves(made.init(jax.random.key(0))) if leaf.ndim == 2)[0] == (3, 3)
    assert settled(mbpo.MBPOConfig()) == mbpo.MBPOConfig()


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        (
            "reward",
            "known_parts.py:rewards",
            r"agent.known.reward: there is no rewards in .* \(did you mean reward\?\)",
        ),
        ("reward", "known_parts.py", r"agent.known.reward: must be module:function"),
        ("termination", "none.py:f", r"agent.known.termination: there is no file none.py"),
        ("termination", "known_parts.py:nothing", r"agent.known.termination: .* must be a function, got int"),
    ],
)
def test_names_that_lead_nowhere_are_one_line(parts, field, name, message):
    with pytest.raises(ValueError, match=message):
        settled(replace(pets.PETSConfig(), {f"known.{field}": name}))


def test_a_part_is_given_once_and_a_member_is_a_model(parts):
    with pytest.raises(ValueError, match=r"agent.known.reward must be empty where one is given"):
        mbpo.make(replace(mbpo.MBPOConfig(), {"known.reward": "known_parts.py:reward"}), SPEC, reward=reward)
    with pytest.raises(ValueError, match="must return a WorldModel, got"):
        chosen(KnownConfig(member="builtins:repr"), None, None, None, SPEC)


def test_a_run_keeps_the_names_and_is_loaded_from_another_folder(parts, monkeypatch, capsys):
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    small = [
        "--agent.rollouts", "4", "--agent.policy.hidden", "4", "--agent.policy.batch", "4", "--agent.model.hidden", "4",
        "--agent.fit.members", "2", "--agent.fit.elites", "2", "--agent.fit.batch", "4", "--agent.fit.max-epochs", "1",
        "--agent.planning", "1", "--agent.horizon", "1", "--loop.warmup", "8", "--loop.inner", "2", "--loop.cycles",
        "1", "--loop.eval-episodes", "0",
    ]  # fmt: skip
    words = ["dyna_dqn", "--env", "Catch", *small, "--steps", "10", "--out", "run", "--quiet", "--devices", "1"]
    assert cli.main([*words, "--agent.known.reward", "known_parts.py:vector"]) == 2
    assert "reward must return a scalar" in capsys.readouterr().err
    assert cli.main([*words, "--agent.known.reward", "known_parts.py:reward"]) == 0
    saved = json.loads((parts / "run" / "config.json").read_text())["agent"]["known.reward"]
    assert saved == f"{parts / 'known_parts.py'}:reward"
    monkeypatch.chdir("/")
    rows = mbrl.load(parts / "run").state.learner.imagined
    np.testing.assert_array_equal(rows.rows.reward[: int(rows.size)], 7.0)
