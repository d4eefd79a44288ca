"""A run taken up again: its policy on NumPy arrays, its model in a planner, its rows; resume and fine-tuning."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import contract

import mbrl_jax as mbrl
from mbrl_jax import presets
from mbrl_jax.buffers.latest import latest
from mbrl_jax.core import Box, DictSpace, Discrete, Spec, tree
from mbrl_jax.core.rollout import unroll
from mbrl_jax.planners import CEM, cem
from mbrl_jax.presets.fine_tune import names_of
from mbrl_jax.presets.loaded import as_seen
from mbrl_jax.train import checkpoint

SMALL = {"hidden": (8,), "batch": 8}
LOOP = {"warmup": 10, "inner": 5, "cycles": 1, "eval_episodes": 2, "capacity": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of DQN with two seeds, and two checkpoints of it."""
    out = tmp_path_factory.mktemp("runs") / "dqn"
    events = []

    def look(event):
        events.append((event.chunk, event.env_steps, event.returns.shape, sorted(event.metrics)))

    mbrl.train(
        "dqn", "CartPole-v1", out=out, steps=25, seeds=2, seed=3, agent=SMALL, loop=LOOP, checkpoint_seconds=0,
        callback=look,
    )  # fmt: skip
    assert [event[:3] for event in events] == [(1, 15, (2, 2)), (2, 20, (2, 2)), (3, 25, (2, 2))]
    assert {"episodes", "loss", "return"} <= set(events[0][3])
    return out


def test_the_policy_is_the_agents_and_takes_and_gives_numpy(folder):
    run = mbrl.load(folder, seed=1)
    obs = np.array([0.1, -0.2, 0.03, 0.4])  # float64, as Gymnasium may give it
    action, carry = run.policy(obs)
    assert isinstance(action, np.ndarray)
    assert (action.shape, action.dtype) == ((), np.int32)
    expected, _, _ = run.agent.act(jax.random.key(0), run.learner, (), jnp.asarray(obs, jnp.float32), False)
    assert int(action) == int(expected)
    again, _ = run.policy(obs, carry)
    assert int(again) == int(action), "the deterministic policy draws nothing"
    drawn, carry = set(), run.policy.start(seed=5)
    for _ in range(60):
        action, carry = run.policy(obs, carry, sample=True)
        drawn.add(int(action))
    assert drawn == {0, 1}, "a sampled action explores"
    first = [run.policy(obs, run.policy.start(seed=s), sample=True)[0] for s in (7, 7)]
    assert first[0] == first[1]
    with pytest.raises(ValueError, match=r"obs must be one observation of shape \[4\], got \[3\]"):
        run.policy(np.zeros(3))


def test_seeds_checkpoints_rows_and_settings_are_there(folder):
    runs = [mbrl.load(folder, seed=i) for i in (0, 1)]
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(run.learner.q) for run in runs), strict=True))
    kept = [place.name for place in checkpoint.places(folder / "checkpoints")]
    assert len(kept) == 2
    older, newer = (mbrl.load(folder, checkpoint=name) for name in kept)
    assert (older.chunk, newer.chunk) == (2, 3)
    assert (older.env_steps, newer.env_steps) == (20, 25)
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(run.learner) for run in (older, newer)), strict=True))
    with pytest.raises(ValueError, match=r"checkpoint must be one of 2, 3, which .* holds, got '9'"):
        mbrl.load(folder, checkpoint=9)
    frame = runs[0].metrics
    assert list(frame["env_steps"]) == [15, 15, 20, 20, 25, 25]
    assert list(frame["seed"]) == [3, 4] * 3
    np.testing.assert_allclose(
        runs[0].evaluations.groupby(["env_steps", "seed"])["return"].mean().to_numpy(),
        frame["eval_return"].to_numpy(), rtol=1e-5,
    )  # fmt: skip
    assert runs[0].settings["agent"]["batch"] == 8
    assert runs[0].config.batch == 8
    assert "dqn on CartPole-v1, seed 0, after 25 steps" in repr(runs[0])
    with pytest.raises(ValueError, match="run must be of an agent with a model"):
        runs[0].model  # noqa: B018


def test_loading_compiles_nothing_of_the_training(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, *args: compiled.append(self))
    mbrl.load(folder)
    assert compiled == []


def test_resume_takes_all_but_the_steps_from_the_folder(folder, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    result = mbrl.resume(out, steps=30)
    assert result.summary["env_steps"] == 30
    assert result.finished
    assert list(mbrl.load(out).metrics["env_steps"]) == [15, 15, 20, 20, 25, 25, 30, 30]
    straight = mbrl.train(
        "dqn", "CartPole-v1", out=tmp_path / "straight", steps=30, seeds=2, seed=3, agent=SMALL, loop=LOOP
    )
    for x, y in zip(jax.tree.leaves(result.state.learner), jax.tree.leaves(straight.state.learner), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="no run in"):
        mbrl.resume(tmp_path / "nothing")


def test_a_callback_stops_a_run_that_then_goes_on(tmp_path):
    out = tmp_path / "run"
    result = mbrl.train("dqn", "CartPole-v1", out=out, steps=30, agent=SMALL, loop=LOOP,
                        callback=lambda event: event.env_steps >= 20)  # fmt: skip
    assert not result.finished
    assert result.summary["env_steps"] == 20
    assert mbrl.resume(out).finished

    def fails(event):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        mbrl.train("dqn", "CartPole-v1", out=tmp_path / "other", steps=30, agent=SMALL, loop=LOOP, callback=fails)
    assert mbrl.load(tmp_path / "other").env_steps == 15, "what was learned until then is saved"


def test_a_run_starts_from_another_ones_parameters_or_a_part_of_them(folder, tmp_path):
    """With a step size of 0 what a run ends with is what it began with."""
    old = mbrl.load(folder)
    still = SMALL | {"lr": 1e-30, "tau": 1e-30}
    whole = mbrl.train("dqn", "CartPole-v1", out=tmp_path / "whole", steps=15, seeds=2, agent=still, loop=LOOP,
                       init_from=old)  # fmt: skip
    for x, y in zip(jax.tree.leaves(old.learner.q), jax.tree.leaves(whole.state.learner.q), strict=True):
        np.testing.assert_array_equal(np.stack([x, x]), y)
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())["init_from"]
    assert saved == {"folder": str(folder), "seed": 0, "checkpoint": "3"}
    assert mbrl.resume(tmp_path / "whole", steps=20).finished
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["init_from"] == saved
    shutil.rmtree(tmp_path / "whole" / "checkpoints")  # as if it had been killed before its first one
    for name in ("metrics.csv", "eval.csv"):
        (tmp_path / "whole" / name).unlink()
    again = mbrl.resume(tmp_path / "whole", steps=20)
    for x, y in zip(jax.tree.leaves(old.learner.q), jax.tree.leaves(again.state.learner.q), strict=True):
        np.testing.assert_array_equal(np.stack([x, x]), y)
    with pytest.raises(ValueError, match=r"init_from must be what the run in .* began with"):
        mbrl.train("dqn", "CartPole-v1", out=tmp_path / "whole", steps=25, seeds=2, agent=still, loop=LOOP,
                   init_from=tmp_path / "whole", resume=True)  # fmt: skip
    part = mbrl.train("dqn", "CartPole-v1", out=tmp_path / "part", steps=15, agent=still, loop=LOOP,
                      init_from=folder, init_parts=["q"])  # fmt: skip
    names = names_of(old.learner)
    for name, x, y in zip(names, jax.tree.leaves(old.learner), jax.tree.leaves(part.state.learner), strict=True):
        if name.startswith("q."):
            np.testing.assert_array_equal(x, y[0])
    whole = dict(zip(names, jax.tree.leaves(old.learner), strict=True))
    other = dict(zip(names, jax.tree.leaves(part.state.learner), strict=True))
    target = next(name for name, leaf in whole.items() if name.startswith("target") and leaf.ndim == 2)
    assert (np.asarray(whole[target]) != other[target][0]).any(), "the rest is fresh"
    with pytest.raises(ValueError, match=r"init_from: q\..* is float32\[8\] there, float32\[16\] here"):
        mbrl.train("dqn", "CartPole-v1", out=tmp_path / "no", steps=15, agent=SMALL | {"hidden": (16,)}, loop=LOOP,
                   init_from=folder)  # fmt: skip
    with pytest.raises(ValueError, match=r"init_parts must name parts of the learner \(q, "):
        mbrl.train("dqn", "CartPole-v1", out=tmp_path / "no", steps=15, init_from=folder, init_parts=["actor"])


def test_observations_come_as_the_environment_or_as_the_agent_has_them():
    box, planes = Box((6,)), Box((2, 3, 1))
    np.testing.assert_array_equal(as_seen(np.arange(6).reshape(2, 3, 1), planes, box), np.arange(6.0))
    np.testing.assert_array_equal(as_seen(2, Discrete(4), Box((4,))), [0, 0, 1, 0])
    np.testing.assert_array_equal(as_seen(np.eye(4)[2], Discrete(4), Box((4,))), [0, 0, 1, 0])
    both = as_seen({"a": 1, "b": [0.5]}, DictSpace({"a": Discrete(2), "b": Box((1,))}),
                   DictSpace({"a": Box((2,)), "b": Box((1,))}))  # fmt: skip
    np.testing.assert_array_equal(both["a"], [0, 1])
    np.testing.assert_array_equal(both["b"], [0.5])
    with pytest.raises(ValueError, match="obs must be a dict of a, got"):
        as_seen(np.zeros(3), DictSpace({"a": box}), DictSpace({"a": box}))
    with pytest.raises(ValueError, match=r"obs must be one observation of shape \[2, 3, 1\] or \[6\], got \[2\]"):
        as_seen(np.zeros(2), planes, box)


WITH_MODEL = [algo for algo, entry in presets.AGENTS.items() if entry.model_part is not None]


@pytest.mark.parametrize(
    "algo",
    [pytest.param(algo, marks=pytest.mark.slow if algo in contract.LARGE - {"muzero"} else ()) for algo in WITH_MODEL],
)
def test_every_learned_model_steps_from_an_observation(algo):
    """Its state keeps its form, rewards are scalars and discounts probabilities: planners can use it."""
    entry = presets.AGENTS[algo]
    kind = entry.actions[0]
    it = contract.case(algo, kind)
    raw = contract.world(kind, entry.table)
    learner = jax.jit(it.agent.init)(jax.random.key(0))
    assert entry.learned_model is not None

    def imagined(key, learner):
        state, obs = raw.reset(key)
        seen = state if entry.simulator else obs
        learned = entry.learned_model(it.cfg, raw if entry.simulator else raw.spec, learner)
        start = learned.encode(key, seen)
        actions = jax.vmap(raw.spec.action.sample)(jax.random.split(key, 3))
        end, rollout = unroll(learned.model.step, key, start, actions)
        return start, end, rollout

    start, end, rollout = jax.jit(imagined)(jax.random.key(1), learner)
    form = lambda at: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), at)  # noqa: E731
    assert form(tree.strip_weak_types(start)) == form(tree.strip_weak_types(end))
    assert rollout.rewards.shape == rollout.discounts.shape == (3,)
    assert np.isfinite(rollout.rewards).all()
    assert ((np.asarray(rollout.discounts) >= 0) & (np.asarray(rollout.discounts) <= 1)).all()


@pytest.mark.parametrize("algo", ["dyna_q", "sweeping"])
def test_a_table_that_has_seen_all_is_the_environment(algo):
    """A ring of five states: action a leads a + 1 states on, and from state 4 the episode ends."""
    spec = Spec(Discrete(5), Discrete(2), name="ring")
    entry = presets.AGENTS[algo]
    cfg = entry.config()
    agent, buffer = entry.make(cfg, spec), latest(1, 1)
    s, a = (x.reshape(-1) for x in jnp.meshgrid(jnp.arange(5), jnp.arange(2), indexing="ij"))
    after, reward, discount = (s + a + 1) % 5, (10.0 * s + a), jnp.where(s == 4, 0.0, 1.0)
    rows = mbrl.Transition(s, a, reward, discount, after, discount == 0)

    def learn(learner, row):
        data = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None, None], row)
        return agent.update(jax.random.key(0), learner, buffer.replay(data))[0], ()

    learner, _ = jax.jit(lambda: jax.lax.scan(learn, agent.init(jax.random.key(1)), rows))()
    assert entry.learned_model is not None
    learned = entry.learned_model(cfg, spec, learner)
    out = jax.vmap(learned.model.step)(jax.random.split(jax.random.key(2), 10), s, a)
    going = np.asarray(s) < 4
    np.testing.assert_array_equal(np.asarray(out.state)[going], np.asarray(after)[going])
    np.testing.assert_allclose(out.reward, reward)
    np.testing.assert_array_equal(out.discount, discount)
    assert int(learned.encode(jax.random.key(0), 3)) == 3


def test_ten_lines_plan_in_a_learned_ensemble(tmp_path):
    changes = {"policy.hidden": (4,), "policy.batch": 4, "model.hidden": (4,), "fit.members": 2, "fit.elites": 2,
               "fit.batch": 4, "fit.max_epochs": 1, "rollouts": 4, "first_horizon": 1, "last_horizon": 1}  # fmt: skip
    loop = {"warmup": 10, "inner": 2, "cycles": 1, "updates": 1, "eval_episodes": 0}
    mbrl.train("mbpo", "Pendulum-v1", out=tmp_path / "run", steps=12, agent=changes, loop=loop)
    run = mbrl.load(tmp_path / "run")
    planner = cem(CEM(horizon=3, population=16, elites=4, iterations=2, particles=2), run.env.spec)
    start = run.encode(np.array([1.0, 0.0, 0.5]))
    action, _, _ = jax.jit(lambda key, at: planner.plan(key, run.model, at, planner.init()))(jax.random.key(0), start)
    assert action.shape == (1,)
    own, *_ = run.model.at(0).step(jax.random.key(1), start, action)
    member = presets.AGENTS["mbpo"].learned_model(run.config, run.env.spec, run.learner).model.at(0)
    np.testing.assert_array_equal(own, member.step(jax.random.key(1), start, action).state)
    assert run.model.members == 2
