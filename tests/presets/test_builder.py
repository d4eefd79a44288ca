"""Every preset builds, and what does not fit together is refused by name."""

from __future__ import annotations

from functools import cache

import jax
import pytest

from mbrl_jax import presets
from mbrl_jax.core import Box, Discrete, replace
from mbrl_jax.core.config import flat
from mbrl_jax.envs.registry import ENVS, make_env
from mbrl_jax.presets import latent as settings_latent
from mbrl_jax.presets import settings
from mbrl_jax.train.loop import env_steps

world = cache(make_env)
CONTINUOUS = {"Pendulum-v1", "ContinuousCartPole", "CartPoleSwingUp", "MountainCarContinuous-v0"}
CONTINUOUS |= {"Pendulum-pixels", "CartPoleSwingUp-pixels", "Pendulum-pixels-64", "CartPoleSwingUp-pixels-64"}
CONTINUOUS |= {"Pendulum-sparse", "CartPoleSwingUp-sparse"}
NUMBERED = {"DynaMaze", "BlockingMaze", "ShortcutMaze", "FrozenLake", "FrozenLake-deterministic", "FourRooms"}
NUMBERED |= {"DeepSea", "Catch"}

TABLES = {"q_learning", "dyna_q", "dyna_q_plus", "sweeping"}
DISCRETE_ONLY = TABLES | {"dqn", "dyna_dqn", "uct", "alphazero", "muzero"}
FACTORED = {"ppo", "dreamer_v1", "dreamer_v2", "dreamer_v3", "world_models"}
NO_IMAGES = {"sac", "mbpo", "pets", "dyna_dqn", "bc", "iql", "mopo", "morel", "combo", "rambo"}


def refusal(algo: str, env: str) -> str | None:
    """What an agent says of an environment that it cannot learn in; None where it can."""
    if env in ("Reach", "Reach-seen"):
        if algo not in FACTORED:
            return rf"env must have (discrete|continuous|discrete or continuous) actions for {algo}, got .* with Mul"
        return r"one array as observation for world_models" if (algo, env) == ("world_models", "Reach-seen") else None
    if env in CONTINUOUS and algo in DISCRETE_ONLY:
        return rf"env must have discrete actions for {algo}, got .* with Box"
    if env not in CONTINUOUS and algo == "tdmpc2":
        return rf"env must have continuous actions for {algo}, got .* with Discrete"
    if algo in TABLES and env not in NUMBERED:
        return rf"env must have numbered states for {algo}, got "
    if "pixels" in env and algo in NO_IMAGES:
        return rf"env must have no images as observations for {algo}, got "
    return None


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("algo", presets.AGENTS)
def test_every_preset_builds_and_fits_together(algo, env):
    made, refused = presets.AGENTS[algo], refusal(algo, env)
    if refused is not None:
        with pytest.raises(ValueError, match=refused):
            presets.preset(algo, env)
        return
    it = presets.preset(algo, env)
    if algo == "alphazero" and world(env).observe is None:
        with pytest.raises(ValueError, match="must have `observe`"):
            presets.build(algo, world(env), it.agent, it.loop)
        return
    presets.build(algo, world(env), it.agent, it.loop)
    if made.window is not None:
        assert it.loop.capacity >= 50 * it.loop.num_envs * made.window(it.agent)
    elif made.replay == "transitions":
        assert it.loop.capacity >= it.steps
    else:
        assert it.loop.capacity == it.loop.num_envs * it.loop.unroll
    assert (it.steps - env_steps(it.loop, 0)) >= 5 * (env_steps(it.loop, 1) - env_steps(it.loop, 0))


OWN = [
    (algo, env)
    for algo in presets.AGENTS
    for env in settings.TABLES.get(algo, {})  # the table of the agent's own name
    if env
]
# Agents without a table of their own, and those whose table is for any environment, are traced in one that they handle.
OTHERS = [
    (algo, "FrozenLake" if made.table else "CartPole-v1" if "discrete" in made.action_kinds else "Pendulum-v1")
    for algo, made in presets.AGENTS.items()
    if algo not in {algo for algo, _ in OWN}
]


SAME_AS_MOPO = {"morel", "combo", "rambo"}  # but for a line of their losses
SLOW_TO_TRACE = {"muzero", "dreamer_v1", "dreamer_v2", "dreamer_v3", "world_models", "tdmpc2"}
FIRST = {algo: next(env for other, env in OWN + OTHERS if other == algo) for algo, _ in OWN + OTHERS}


def dear(algo: str, env: str) -> bool:
    """Whether the default run has traced an agent's like, or enough of its kind."""
    return algo in SAME_AS_MOPO or (algo in SLOW_TO_TRACE and env != FIRST[algo])


TRACED = [pytest.param(algo, env, marks=[pytest.mark.slow] * dear(algo, env)) for algo, env in OWN + OTHERS]


@pytest.mark.parametrize(("algo", "env"), TRACED)
def test_every_agent_is_traced_in_every_environment_of_its_own_table(algo, env):
    it = presets.preset(algo, env)
    loop = presets.build(algo, world(env), it.agent, it.loop)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    after, report = jax.eval_shape(loop.chunk, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    assert report.returns.shape == (it.loop.eval_episodes,)
    assert all(value.shape == () for value in report.metrics.values())


@pytest.mark.parametrize(("algo", "env"), OWN)
def test_settings_of_an_agent_for_an_environment_reach_it(algo, env):
    agent = flat(presets.preset(algo, env).agent)
    for name, value in settings.TABLES[algo][env].items():
        assert agent[name] == value, name


def test_an_environment_without_settings_of_its_own_gets_the_agents_general_ones():
    assert presets.preset("tdmpc2", "Pendulum-v1").agent.net.size == "nano"
    other = flat(presets.preset("tdmpc2", "MountainCarContinuous-v0").agent)
    assert all(other[name] == value for name, value in settings_latent.NANO_TDMPC.items())
    assert presets.preset("dreamer_v3", "Acrobot-v1").agent.batch == 16
    assert presets.preset("dreamer_v2", "Catch-bsuite").agent.net.deter == 128


@pytest.mark.parametrize("task", ["Pendulum-v1", "CartPole-v1-x2"])
@pytest.mark.parametrize("algo", ["ppo", "dreamer_v3"])
def test_tasks_that_gymnasium_has_too_have_the_same_settings_there(algo, task):
    pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
    assert presets.preset(algo, f"gymnasium:{task}") == presets.preset(algo, task)
    other = presets.preset(algo, "gymnasium:MountainCar-v0" if "Cart" in task else "gymnasium:Pendulum-v1-x2")
    assert other != presets.preset(algo, task)


def test_environments_come_in_the_form_an_agent_takes():
    assert presets.suited("q_learning", world("Catch")).spec.obs == Discrete(250)
    assert presets.suited("sac", world("Catch")).spec.obs.shape == (250,)
    assert presets.suited("sac", world("Breakout-MinAtar")).spec.obs.shape == (400,)
    assert presets.suited("ppo", world("Breakout-MinAtar")).spec.obs.shape == (10, 10, 4)
    _, obs = presets.suited("dqn", world("DynaMaze")).reset(jax.random.key(0))
    assert obs.argmax() == 18  # row 2, column 0
    assert obs.sum() == 1


def test_tables_learn_from_one_step_at_a_time():
    it = presets.preset("dyna_q", "DynaMaze")
    with pytest.raises(
        ValueError, match=r"loop\.num_envs, loop\.unroll and loop\.updates must be 1 for dyna_q, got 2, 1 and 1"
    ):
        presets.build("dyna_q", "DynaMaze", it.agent, replace(it.loop, {"num_envs": 2}))


def test_other_environments_of_gymnax_get_general_settings():
    acrobot = presets.preset("mbpo", "Acrobot-v1")
    assert 0 < acrobot.agent.policy.target_entropy < 1.0986
    spec = make_env("MountainCarContinuous-v0").spec
    assert isinstance(spec.action, Box)
    assert (spec.action.low, spec.action.high) == (-1, 1)
    presets.build("sac", "Acrobot-v1", presets.preset("sac", "Acrobot-v1").agent, acrobot.loop)


@pytest.mark.parametrize(
    ("agent", "loop", "message"),
    [
        ({"policy.lr": -1.0}, {}, r"agent\.policy\.lr must be above 0, got -1"),
        ({"policy.batch": 4000}, {}, r"agent\.policy\.batch must be at most loop\.capacity = 3000, got 4000"),
        ({"rollouts": 511}, {}, r"agent\.rollouts must be a multiple of agent\.fit\.elites \(4\), got 511"),
        ({}, {"warmup": 0}, r"loop\.warmup must be at least 1 for mbpo"),
        (
            {},
            {"capacity": 6, "num_envs": 7},
            r"loop\.capacity must be at least loop\.num_envs x loop\.unroll = 7, got 6",
        ),
        ({}, {"inner": 0}, r"loop\.inner must be at least 1, got 0"),
    ],
)
def test_settings_at_odds_name_their_field(agent, loop, message):
    it = presets.preset("mbpo", "Pendulum-v1")
    with pytest.raises(ValueError, match=message):
        presets.build("mbpo", "Pendulum-v1", replace(it.agent, agent), replace(it.loop, loop))


def test_waves_follow_the_widest_layer():
    wide = presets.preset("mbpo", "Pendulum-v1").agent
    assert presets.default_wave(wide) == 1
    narrow = replace(wide, {"model.hidden": (64, 64)})
    assert presets.default_wave(narrow) == 4
    assert [presets.default_wave(narrow, each) for each in (1, 2, 8)] == [1, 4, 4]
