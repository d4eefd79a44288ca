"""World Models: the controller, an actor's memory, returns of dreams by hand, fits, and tasks solved in a dream."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents.world_models import agent as wm
from mbrl_jax.agents.world_models import controller as dream_control
from mbrl_jax.buffers.sequence import sequence
from mbrl_jax.core import Array, Box, Discrete, Env, Spec, Transition
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.probes import observation_action_reward
from mbrl_jax.models.world_models.mdn_rnn import DreamState, Memory, mdn_rnn
from mbrl_jax.train.loop import LoopConfig, make_loop

SIZE, H, A = 3, 4, 2
SPEC = Spec(Box((SIZE,)), Discrete(A))
SMALL = {
    "vision.latent": 0, "memory.hidden": H, "memory.components": 2, "memory.heads": (4,), "length": 3, "batch": 4,
    "memory_updates": 3, "horizon": 5, "dreams": 3, "population": 4, "generations": 2,
}  # fmt: skip
KEY = jax.random.key(1)
STATE = DreamState(
    jnp.array([1.0, -2.0, 0.5]), Memory(jnp.array([0.1, 0.2, -0.3, 0.4]), jnp.array([5.0, 6.0, 7.0, 8.0]))
)


@pytest.fixture(autouse=True)
def quick():
    """Everything here compiles much and runs little; the folder's own fixture sets this back."""
    jax.config.update("jax_disable_most_optimizations", True)


def settings(**changes) -> wm.WorldModelsConfig:
    return replace(wm.WorldModelsConfig(), SMALL | {name.replace("__", "."): value for name, value in changes.items()})


def drawn(init, scale=0.4):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    number = lambda p: jnp.asarray(scale * rng.normal(size=p.shape), p.dtype)  # noqa: E731
    return jax.tree.map(lambda p: number(p) if p.dtype == jnp.float32 else jnp.zeros(p.shape, p.dtype), shapes)


# The controller -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sees", "entries"), [("z", 3), ("zh", 7), ("zhc", 11)])
def test_the_controller_is_linear_in_its_features(sees, entries):
    seen = dream_control.features(sees, STATE)
    np.testing.assert_array_equal(seen, np.concatenate([STATE.z, STATE.memory.h, STATE.memory.c])[:entries])
    size = dream_control.controller_size(Discrete(A), latent=SIZE, hidden=H, sees=sees)
    assert size == A * (entries + 1)
    controller = np.random.default_rng(1).normal(size=size).astype(np.float32)
    rows = controller.reshape(A, entries + 1)
    out = rows @ np.append(seen, 1.0)
    assert int(dream_control.control(Discrete(A), jnp.asarray(controller), seen)) == out.argmax()
    action = dream_control.control(Box((A,), -1.0, 1.0), jnp.asarray(controller), seen)
    np.testing.assert_allclose(action, np.tanh(out), rtol=1e-5)
    assert out.argmax() == 1  # a controller that always takes the first action would fail


def test_the_first_of_equal_entries_is_taken():
    assert int(dream_control.control(Discrete(A), jnp.zeros(A * 4), STATE.z)) == 0


def test_acting_updates_the_memory_with_latent_and_action():
    cfg = settings(epsilon=0.5)
    agent, dynamics = wm.make(cfg, SPEC), mdn_rnn(cfg.memory, SIZE, SPEC)
    learner = drawn(agent.init)
    scale = learner.vision._replace(std=jnp.array([0.5, 1.0, 2.0]))
    learner = learner._replace(vision=scale)
    obs, carry = jnp.array([0.4, -0.1, 2.0]), STATE.memory
    z = (obs - scale.mean) / scale.std
    action, after, extras = agent.act(KEY, learner, carry, obs, False)
    assert int(action) == int(dream_control.control(SPEC.action, learner.controller, jnp.concatenate([z, carry.h])))
    want = dynamics.remember(learner.memory, carry, z, action)
    np.testing.assert_allclose(after.h, want.h, rtol=1e-5)
    np.testing.assert_allclose(after.c, want.c, rtol=1e-5)
    assert extras == ()
    # Exploring replaces half of the actions by random ones, and the memory is of the actions taken.
    act = jax.jit(jax.vmap(lambda key: agent.act(key, learner, carry, obs, True)))
    actions, memories, _ = act(jax.random.split(KEY, 800))
    assert np.mean(actions != action) == pytest.approx(0.25, abs=0.05)
    other = dynamics.remember(learner.memory, carry, z, 1 - action)
    np.testing.assert_allclose(memories.h, np.where((actions == action)[:, None], want.h, other.h), rtol=1e-4)


def test_exploring_adds_noise_to_continuous_actions_within_their_bounds():
    cfg, spec = settings(noise=0.3), SPEC._replace(action=Box((1,), -1.0, 1.0))
    agent = wm.make(cfg, spec)
    learner = drawn(agent.init)._replace(controller=jnp.zeros(SIZE + H + 1))
    act = jax.jit(jax.vmap(lambda key: agent.act(key, learner, agent.carry(), STATE.z, True)[0]))
    actions = np.asarray(act(jax.random.split(KEY, 2000)))
    assert actions.std() == pytest.approx(0.3, rel=0.08)
    far = learner._replace(controller=jnp.zeros(SIZE + H + 1).at[-1].set(5.0))
    assert float(agent.act(jax.random.key(3), far, agent.carry(), STATE.z, True)[0][0]) <= 1.0


# Dreams -------------------------------------------------------------------------------------------------------------


RULES = {"space": SPEC.action, "sees": "zh", "horizon": 5}


def test_a_score_is_the_mean_over_dreams_of_rewards_weighted_by_the_chance_to_go_on():
    """Dreams at a temperature near 0 have no noise: a loop over steps gives the same."""
    cfg = settings(temperature=1e-8)
    dynamics = mdn_rnn(cfg.memory, SIZE, SPEC)
    params, rng = drawn(dynamics.init, 0.8), np.random.default_rng(0)
    starts, controllers = rng.normal(size=(3, SIZE)), rng.normal(size=(2, A * (SIZE + H + 1)))
    starts, controllers = jnp.asarray(starts, jnp.float32), jnp.asarray(controllers, jnp.float32)
    scores = dream_control.dream_returns(
        KEY, controllers, starts, memory=params, dynamics=dynamics, temperature=cfg.temperature, **RULES
    )
    step = jax.jit(lambda state, action: dynamics.step(params, KEY, state, action, 1e-8))
    for controller, score in zip(controllers, scores, strict=True):
        totals = []
        for z in starts:
            state, weight, total = DreamState(z, dynamics.start()), 1.0, 0.0
            for _ in range(cfg.horizon):
                out = step(state, dream_control.control(SPEC.action, controller, dream_control.features("zh", state)))
                total, weight, state = total + weight * float(out.reward), weight * float(out.discount), out.state
            totals.append(total)
        assert float(score) == pytest.approx(np.mean(totals), abs=1e-2)
        assert np.std(totals) > 0.05
    assert abs(float(scores[0] - scores[1])) > 0.05


@pytest.mark.parametrize(("last", "tries", "near"), [(9.0, 1, 9.0), (9.0, 3, 0.0), (1.0, 3, 1.0)])
def test_the_best_of_several_strategies_is_kept(last, tries, near):
    sizes = {"sigma": 0.01, "population": 4, "generations": 2, "tries": tries}
    score = lambda key, c: -jnp.sum(jnp.square(c - 1.5), -1)  # noqa: E731
    found = jax.jit(lambda key: dream_control.evolve_controller(key, jnp.full(2, last), score, **sizes))(KEY)
    np.testing.assert_allclose(found.mean, near, atol=0.2)
    assert found.centre.shape == (2,)
    np.testing.assert_allclose(found.centre[-1], score(KEY, jnp.full(2, near)), atol=1.0)


def test_candidates_of_a_generation_meet_the_same_dreams():
    cfg = settings(temperature=1.5)
    dynamics = mdn_rnn(cfg.memory, SIZE, SPEC)
    params = drawn(dynamics.init)
    other, same = np.random.default_rng(3).normal(size=(2, A * (SIZE + H + 1)))
    three = jnp.asarray(np.stack([same, other, same]), jnp.float32)
    scores = jax.jit(
        lambda key: dream_control.dream_returns(
            key, three, jnp.zeros((3, SIZE)), memory=params, dynamics=dynamics, temperature=1.5, **RULES
        )
    )
    one, two = scores(KEY), scores(jax.random.key(2))
    assert float(one[0]) == float(one[2])
    assert float(one[0]) != float(one[1])
    assert float(one[0]) != float(two[0])
    assert float(two[0]) == float(two[2])


def test_dreams_start_from_first_observations_of_episodes():
    """Two environments, episodes of 3 steps; first observations are numbered from 100 on."""
    made = sequence(64, 4, 2)
    count = jnp.arange(10)
    start = count % 3 == 0
    obs = jnp.where(start, 100.0 + count, -1.0)[:, None] + jnp.array([0.0, 50.0])
    zero = jnp.zeros((10, 2))
    last = jnp.broadcast_to((count % 3 == 2)[:, None], (10, 2))
    data = made.init(
        Transition(jnp.zeros(1), jnp.int32(0), jnp.float32(0), jnp.float32(0), jnp.zeros(1), jnp.zeros((), bool))
    )
    trajectory = Transition(obs[..., None], zero.astype(jnp.int32), zero, 1 + zero, obs[..., None] - 7, last)
    empty, full = made.replay(data), made.replay(made.add(data, trajectory))
    found = np.asarray(jax.jit(lambda key: dream_control.sample_initial_obs(key, full, 4000))(KEY))[:, 0]
    names, counts = np.unique(found, return_counts=True)
    np.testing.assert_array_equal(names, [100, 103, 106, 109, 150, 153, 156, 159])
    np.testing.assert_allclose(counts, 500, rtol=0.2)
    assert dream_control.sample_initial_obs(KEY, empty, 5).shape == (5, 1)  # an empty buffer gives zeros
    no_first = full._replace(take=lambda index: full.take(index)._replace(first=jnp.zeros(index.shape, bool)))
    assert len(np.unique(dream_control.sample_initial_obs(KEY, no_first, 200))) > 8


# Tasks solved in a dream --------------------------------------------------------------------------------------------


def recall(delay: Array | int) -> Env:
    """An observation of 1 or -1, then zeros; the action `delay` steps later is right if it names the first observation.

    Without a delay it is the probe `observation_action_reward`.
    """

    def view(state):
        return jnp.where(state[1:] == 0, state[:1], 0.0)

    def reset(key):
        state = jnp.concatenate([jax.random.rademacher(key, (1,), jnp.float32), jnp.zeros(1)])
        return state, view(state)

    def step(key, state, action):
        ends = state[1] == delay
        right = jnp.where((action == 1) == (state[0] > 0), 1.0, -1.0)
        state = state.at[1].add(1.0)
        return state, view(state), jnp.where(ends, right, 0.0), 1.0 - ends, ends

    return Env(Spec(Box((1,), -1.0, 1.0), Discrete(2), 3, name="recall"), reset, step)


def test_tasks_that_need_the_observation_and_that_need_the_memory_are_solved_in_a_dream():
    """One fit to random steps. Without the memory half of the delayed actions would be wrong."""
    cfg = settings(
        length=8, batch=32, memory_updates=600, lr=1e-2, memory__hidden=16, memory__heads=(16,), horizon=4, dreams=16,
        population=16, generations=20, sigma=0.5, temperature=1.0,
    )  # fmt: skip
    clocks = LoopConfig(num_envs=8, inner=1, cycles=1, warmup=100, capacity=2000, eval_episodes=64)

    def learn(delay):
        env = recall(delay)
        loop = make_loop(wm.make(cfg, env.spec), env, wm.buffer(cfg, 2000, 8), clocks)
        report = loop.chunk(loop.init(jax.random.key(0)))[1]
        return report.metrics, report.returns

    metrics, returns = jax.jit(jax.vmap(learn))(jnp.array([0, 2]))
    np.testing.assert_array_equal(returns, 1.0)
    np.testing.assert_allclose(metrics["dream/return"], 1.0, atol=0.15)


# Fits and checks -------------------------------------------------------------------------------------------------


def test_a_fit_changes_all_parameters_and_no_structure():
    planes = Spec(Box((3, 3, 1), 0.0, 1.0), Box((1,), -1.0, 1.0), terminates=False)
    cfg = settings(vision__latent=2, vision__coder__units=4, vision__coder__layers=1, vision__coder__depth=0,
                   vision_updates=2)  # fmt: skip
    agent, made = wm.make(cfg, planes), wm.buffer(cfg, 64, 1)
    rng = np.random.default_rng(0)
    row = Transition(
        jnp.zeros((3, 3, 1)), jnp.zeros(1), jnp.float32(0), jnp.float32(0), jnp.zeros((3, 3, 1)), jnp.zeros((), bool)
    )
    fill = lambda leaf: jnp.asarray(rng.uniform(0, 1, (20, 1, *leaf.shape)) > 0.5, leaf.dtype)  # noqa: E731
    replay = made.replay(made.add(made.init(row), jax.tree.map(fill, row)._replace(discount=jnp.ones((20, 1)))))
    before = jax.jit(agent.init)(jax.random.key(0))
    after, metrics = jax.jit(lambda learner: agent.refresh(KEY, learner, replay))(before)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for part in ("vision", "memory"):
        moved = [
            np.abs(a - b).max() > 0
            for a, b in zip(*map(jax.tree.leaves, (getattr(before, part), getattr(after, part))), strict=True)
        ]
        assert all(moved), part
    assert float(jnp.abs(after.controller).max()) > 0
    assert {name.split("/")[0] for name in metrics} == {"vision", "model", "dream"}
    assert all(np.isfinite(value) for value in metrics.values())
    unchanged, nothing, feedback = agent.update(KEY, after, replay)
    assert (unchanged, nothing, feedback) == (after, {}, ())


def test_no_key_is_used_twice():
    env = wrappers.time_limit(observation_action_reward(), 3)
    cfg = settings()
    clocks = LoopConfig(num_envs=2, inner=1, cycles=1, warmup=10, capacity=64, eval_episodes=2)
    loop = make_loop(wm.make(cfg, env.spec), env, wm.buffer(cfg, 64, 2), clocks)
    with jax.debug_key_reuse(True):
        jax.eval_shape(jax.jit(lambda key: loop.chunk(loop.init(key))), jax.random.key(0))


def test_bad_settings_and_windows_are_refused():
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0\.0"):
        wm.make(settings(temperature=0.0), SPEC)
    with pytest.raises(ValueError, match="sees must be one of z, zh, zhc, got 'h'"):
        wm.make(settings(sees="h"), SPEC)
    with pytest.raises(ValueError, match=r"actions must be a vector in \[-1, 1\]"):
        wm.make(settings(), SPEC._replace(action=Box((1,), -2.0, 2.0)))
    agent, made = wm.make(settings(), SPEC), sequence(64, 3, 1)
    row = Transition(
        jnp.zeros(SIZE), jnp.int32(0), jnp.float32(0), jnp.float32(0), jnp.zeros(SIZE), jnp.zeros((), bool)
    )
    short = made.replay(made.init(row))
    with pytest.raises(ValueError, match=r"windows must have length \+ 1 = 4 rows, got 3"):
        jax.eval_shape(lambda key: agent.refresh(key, agent.init(key), short), KEY)
