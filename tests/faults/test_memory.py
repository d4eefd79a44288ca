"""A run's memory is reckoned from shapes, and one too large is refused by the setting that makes it so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from mbrl_jax import presets
from mbrl_jax.core import replace
from mbrl_jax.presets.checks import checked
from mbrl_jax.train import memory
from mbrl_jax.train.loop import Actors, LoopState
from mbrl_jax.train.run import Job

FEW = {"inner": 2, "cycles": 1, "warmup": 8, "eval_episodes": 1}


def job_of(algo: str, env: str, agent: dict | None = None, loop: dict | None = None, **rest) -> Job:
    """A job of a preset with changes."""
    known = presets.preset(algo, env)
    agent_cfg, loop_cfg = replace(known.agent, agent or {}), replace(known.loop, FEW | (loop or {}))
    return Job(algo, env, agent_cfg, loop_cfg, 100, **rest)


def test_bytes_are_those_of_the_state():
    job = job_of("sac", "Pendulum-v1", {"hidden": (8,), "batch": 4}, {"capacity": 1000, "warmup": 0}, seeds=3)
    loop = presets.build(job.algo, job.env, job.agent, job.loop)
    traced, told = checked(loop, job)
    state = jax.jit(loop.init)(jax.random.key(0))
    program = jax.make_jaxpr(loop.chunk)(state)
    need = memory.reckon(state, [program], 3, 2)

    def nbytes(tree) -> int:
        keys = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
        assert not keys
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    assert need.parts["replay"] == 3 * nbytes(state.buffer)
    assert need.parts["learner"] == 3 * nbytes(state.learner)
    assert 1000 * 4 * 9 <= need.parts["replay"] / 3 <= 1000 * 4 * 12
    assert told.startswith("memory: ")
    assert "replay" in told
    assert jax.eval_shape(traced.init, jax.random.key(0)).buffer.rows.reward.shape == (1000,)


def test_the_trace_is_kept_for_the_compilation():
    job, count = job_of("dqn", "CartPole-v1"), []
    loop = presets.build(job.algo, job.env, job.agent, job.loop)

    def advance(*work):
        count.append(1)
        return loop.pieces.advance(*work)

    traced, _ = checked(loop._replace(pieces=loop.pieces._replace(advance=advance)), job)
    states = jax.eval_shape(jax.vmap(traced.init), jax.random.split(jax.random.key(0), 2))
    gathered = jax.eval_shape(jax.vmap(traced.pieces.gather), states)
    bound = jax.ShapeDtypeStruct((), jnp.int32)
    jax.jit(jax.vmap(traced.pieces.advance, in_axes=(0, 0, None, None))).lower(states, gathered, bound, bound)
    assert len(count) == 1


def test_the_largest_array_of_a_loop_within_a_loop_counts_for_all_seeds_at_once():
    def chunk(x):
        def inner(x, _):
            return x + jnp.sum(jnp.exp(jnp.zeros((7, 11, 13)) + x)), None

        return jax.lax.scan(lambda x, _: (jax.lax.scan(inner, x, length=2)[0], None), x, length=3)

    number = jnp.zeros(())
    state = LoopState(jax.random.key(0), number, number, Actors((), (), (), number))
    need = memory.reckon(state, [jax.make_jaxpr(chunk)(number)], 8, 4)
    assert need.parts == {"replay": 32, "learner": 32, "environments": 32, "computation": 4 * 4 * 7 * 11 * 13}
    assert need.shapes["computation"] == (7, 11, 13)


def test_keys_are_counted_in_bytes():
    key = jax.random.key(0)
    assert memory.reckon_parts({"keys": jax.random.split(key, 5)}).total == jax.random.key_data(key).nbytes * 5


def test_what_a_loop_carries_counts_with_what_its_body_makes():
    def chunk(x):
        def go_on(at):
            i, many, more, times = at
            return i + 1, many + 1, more * jnp.sum(jnp.outer(jnp.ones(50), jnp.ones(70)) * x), ~times

        start = jnp.int32(0), jnp.zeros((30, 100)), jnp.zeros(2000), jnp.zeros(10, bool)
        return jax.lax.while_loop(lambda at: at[0] < 3, go_on, start)[1].sum()

    number = jnp.zeros(())
    state = LoopState(jax.random.key(0), number, number, Actors((), (), (), number))
    need = memory.reckon(state, [jax.make_jaxpr(chunk)(number)], 1, 1)
    assert need.parts["computation"] == 4 * (3000 + 2000 + 50 * 70) + 10 + 4  # the counter too
    assert need.shapes["computation"] == (50, 70)


@pytest.mark.parametrize(
    ("algo", "env", "agent", "loop", "rest", "field"),
    [
        ("sac", "Pendulum-v1", {}, {"capacity": 2_000_000_000}, {}, "loop.capacity"),
        ("sac", "Pendulum-v1", {"batch": 999_999_999}, {"capacity": 1_000_000_000}, {}, "loop.capacity"),  # the first
        ("sac", "Pendulum-v1", {"batch": 90_000_000}, {"capacity": 90_000_000}, {}, "agent.batch"),
        ("sac", "Pendulum-v1", {"hidden": (100_000, 100_000)}, {}, {}, "agent.hidden"),
        ("sac", "Pendulum-v1", {}, {"num_envs": 100_000_000, "capacity": 100_000_000}, {}, "loop.num_envs"),
        ("sac", "Pendulum-v1", {}, {"eval_episodes": 2_000_000_000}, {}, "loop.eval_episodes"),
        ("sac", "Pendulum-v1", {}, {"capacity": 10_000_000}, {"seeds": 100}, "seeds"),
        ("q_learning", "FrozenLake", {}, {"eval_episodes": 1_000_000_000}, {}, "loop.eval_episodes"),
        ("dyna_q", "FrozenLake", {}, {"eval_episodes": 1_000_000_000}, {}, "loop.eval_episodes"),
        ("q_learning", "FrozenLake", {}, {"warmup": 2_100_000_000}, {}, "loop.warmup"),
        ("q_learning", "FrozenLake", {}, {"inner": 2_000_000_000}, {}, "loop.inner"),
        ("ppo", "CartPole-v1", {}, {"unroll": 100_000_000, "capacity": 1_000_000_000}, {}, "loop.unroll"),
    ],
)
def test_the_setting_that_is_too_large_is_named(algo, env, agent, loop, rest, field, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda devices=1: 16 * 10**9)
    job = job_of(algo, env, agent, loop, **rest)._replace(steps=10)
    with pytest.raises(ValueError, match=rf"^{field} must be lower than .*: (a run needs|a seed would)"):
        checked(presets.build(algo, env, job.agent, job.loop), job)


@pytest.mark.parametrize(
    ("loop", "steps", "field"),
    [
        ({}, 2**31 + 1, "steps"),
        ({"inner": 2**31 - 1, "cycles": 2}, 10, "loop.inner"),
        ({"cycles": 100_000, "inner": 50_000}, 10, "loop.cycles"),
        ({"warmup": 2**31 - 1}, 10, "loop.warmup"),
        ({"updates": 2**31 - 1}, 10, "loop.updates"),
    ],
)
def test_counts_that_int32_cannot_hold_are_refused(loop, steps, field):
    job = job_of("dqn", "CartPole-v1", loop=loop)._replace(steps=steps)
    with pytest.raises(ValueError, match=rf"^{field} must be lower than .* can be counted"):
        checked(presets.build(job.algo, job.env, job.agent, job.loop), job)


def test_the_machines_memory_and_a_containers_limit(tmp_path, monkeypatch):
    whole = memory.available()
    assert whole is not None
    assert 10**8 < whole < 10**14
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMITS", (str(tmp_path / "none"), str(limit)))
    for text, value in (("max\n", None), ("123456789\n", 123456789)):
        limit.write_text(text)
        assert memory.available() == value or value is None


def test_memory_in_words():
    need = memory.Need({"replay": 1_000_000_000, "learner": 200_000_000, "environments": 5}, {}, 1)
    assert memory.describe(need, 24_000_000_000) == "memory: 1.2 GB of 24 GB: replay 1.0 GB, learner 200 MB"
    assert memory.describe(need, None) == "memory: 1.2 GB: replay 1.0 GB, learner 200 MB"
    assert [memory.size(count) for count in (0, 999, 12_345, 999_400_000, 3e15)] == [
        "0.0 kB", "1.0 kB", "12 kB", "999 MB", "3,000 TB",
    ]  # fmt: skip
    assert memory.behind((3, 128, 7), {"a": 64, "b": 128, "c": (5, 7), "d": True, "e": 256}) == "b"
    assert memory.behind((3,), {"a": 64}) is None
