"""With `jax_enable_x64` or `jax_debug_nans` set by a user's script, all keeps 32 bits and no NaN is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import contract

from mbrl_jax import presets
from mbrl_jax.agents.tdmpc2 import masked_percentiles
from mbrl_jax.core import Box, Discrete, Env, Model, Planner, Spec, StepOut
from mbrl_jax.core.precision import narrow
from mbrl_jax.core.types import Tree
from mbrl_jax.envs import mdp
from mbrl_jax.envs.registry import ENVS, make_env
from mbrl_jax.planners import mcts, mpc, policy_iteration
from mbrl_jax.train.sweep import over_seeds_until

DEAR = ("muzero", "alphazero", "tdmpc2", "dreamer_v1", "dreamer_v2")  # seconds to trace


def dtypes(tree: Tree) -> dict[str, str]:
    return {jax.tree_util.keystr(at): str(leaf.dtype) for at, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def wide(tree: Tree) -> dict[str, str]:
    """The leaves of 64 bits."""
    return {at: dtype for at, dtype in dtypes(tree).items() if dtype.endswith("64")}


# 64 bits ------------------------------------------------------------------------------------------------------------


CHEAP = [first and algo not in DEAR for first, (algo, _) in zip(contract.FIRST, contract.CASES, strict=True)]


@pytest.mark.parametrize(("algo", "kind"), contract.params(CHEAP))
def test_an_agents_state_is_the_same_under_x64(algo: str, kind: type):
    contract.world.cache_clear()
    plain = jax.eval_shape(contract.build(algo, kind).init, jax.random.key(0))
    contract.world.cache_clear()
    with jax.enable_x64(True):
        loop = contract.build(algo, kind)
        before = jax.eval_shape(loop.init, jax.random.key(0))
        after, report = jax.eval_shape(loop.chunk, before)
    contract.world.cache_clear()
    assert dtypes(before) == dtypes(after) == dtypes(plain)
    assert not wide(report)


@pytest.mark.parametrize("name", sorted(ENVS))
def test_an_environment_has_32_bits_under_x64(name: str):
    with jax.enable_x64(True):
        env = make_env(name)
        state, obs = jax.eval_shape(env.reset, jax.random.key(0))
        action = jax.ShapeDtypeStruct(env.spec.action.shape, env.spec.action.dtype)
        stepped = jax.eval_shape(env.step, jax.random.key(0), state, action)
        assert dtypes(stepped[:2]) == dtypes((state, obs))
        assert not wide(stepped)
        assert not isinstance(env.spec.obs, Box) or env.spec.obs.dtype != jnp.float64


def counting(space: Box | Discrete) -> Env:
    """As a user writes it, without a dtype: 64 bits under x64."""

    def step(key: Any, state: Any, action: Any) -> tuple:
        del key
        state = state + jnp.ones(2)
        return state, state, jnp.sum(state) * jnp.mean(action * jnp.ones(1)), jnp.ones(()), state[0] > 3

    spec = Spec(Box((2,)), space, time_limit=5, name="counting")
    return Env(spec, lambda key: (jnp.zeros(2), jnp.zeros(2)), step, observe=lambda state: state)


@pytest.mark.parametrize("algo", ["sac", "mpc"])
def test_a_users_environment_of_64_bits_is_learned_in_32(algo: str):
    with jax.enable_x64(True):
        env = counting(Box((1,), -1.0, 1.0))
        loop = presets.build(algo, env, contract.settings(algo), contract.loop_settings(algo))
        before = jax.eval_shape(loop.init, jax.random.key(0))
        after, report = jax.eval_shape(loop.chunk, before)
    assert dtypes(before) == dtypes(after)
    assert not wide((before, report))


def planners(space: Box | Discrete) -> dict[str, Planner]:
    spec = Spec(Box((2,)), space)
    few = {"horizon": 3, "population": 8}
    continuous = isinstance(space, Box)
    every: dict[str, Any] = {
        "shooting": lambda: mpc.shooting(mpc.Shooting(**few), spec),
        "cem": lambda: mpc.cem(mpc.CEM(**few, elites=2), spec),
        "mppi": lambda: mpc.mppi(mpc.MPPI(**few), spec),
    }
    if continuous:
        every |= {
            "icem": lambda: mpc.icem(mpc.ICEM(**few, elites=4), spec),
            "mppi_elites": lambda: mpc.mppi_elites(mpc.MPPIElites(**few, elites=2, proposals=2), spec),
            "gradient": lambda: mpc.gradient(mpc.Gradient(horizon=3), spec),
        }
    else:
        every |= {
            "uct": lambda: mcts.uct(mcts.UCT(simulations=3, rollout_depth=2), spec),
            "puct": lambda: mcts.puct(mcts.PUCT(simulations=3), spec),
            "gumbel": lambda: mcts.gumbel(mcts.Gumbel(simulations=3), spec),
            "reuse": lambda: mcts.puct(mcts.PUCT(simulations=3, reuse=True), spec, state=jnp.zeros(2)),
        }
    return {name: make() for name, make in every.items()}


@pytest.mark.parametrize("space", [Box((1,), -1.0, 1.0), Discrete(3)], ids=["box", "discrete"])
def test_planners_take_a_users_model_of_64_bits(space: Box | Discrete):
    def step(key: Any, state: Any, action: Any) -> StepOut:
        state = state + jnp.mean(action * jnp.ones(1))
        return StepOut(state, jnp.sum(state), jnp.ones(()))

    with jax.enable_x64(True):
        model = Model(step, value=lambda key, state: jnp.sum(state))
        for name, planner in planners(space).items():
            warm = jax.eval_shape(planner.init)
            plan = lambda warm, planner=planner: planner.plan(jax.random.key(0), model, jnp.zeros(2), warm)  # noqa: E731
            action, after, info = jax.eval_shape(plan, warm)
            assert action.dtype == space.dtype, name
            assert dtypes(after) == dtypes(warm), name
            assert not wide((after, info)), name


def test_tables_and_slots_keep_32_bits_under_x64():
    with jax.enable_x64(True):
        tables = mdp.random_mdp(jax.random.key(0), 4, 2, terminals=1)
        assert not wide((tables, mdp.value_iteration(tables, 0.9), policy_iteration(tables, 0.9)))
        run = over_seeds_until(lambda seed: seed, lambda n: n + 1, lambda n: n >= 5, lambda n: n, slots=2)
        assert run(jnp.arange(3, dtype=jnp.int32)).dtype == jnp.int32


def test_narrow_leaves_all_else_as_it_is():
    tree = {"key": jax.random.key(0), "small": jnp.zeros(2, jnp.uint8), "number": 1.5}
    assert all(a is b for a, b in zip(jax.tree.leaves(narrow(tree)), jax.tree.leaves(tree), strict=True))
    assert narrow(np.arange(3)).dtype == jnp.int32
    assert narrow(np.zeros(3)).dtype == jnp.float32


# NaN ----------------------------------------------------------------------------------------------------------------

DEBUGGED = """
import sys
import jax
from helpers import contract
from mbrl_jax import presets

for algo in sys.argv[1:]:
    init, chunk = contract.compiled(algo, presets.AGENTS[algo].actions[0])
    state, report = chunk(init(jax.random.key(0)))
    jax.block_until_ready(report)
    print("done", algo, flush=True)
"""


def debugged(*algos: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    env = {**os.environ, "PYTHONPATH": path, "JAX_DEBUG_NANS": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", DEBUGGED, *algos]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [word for algo in algos for word in ("done", algo)], done.stderr[-2000:]


def test_cheap_agents_run_under_debug_nans():
    debugged("q_learning", "sac")


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(set(presets.AGENTS) - {"q_learning", "sac"}))
def test_every_agent_runs_under_debug_nans(algo: str):
    debugged(algo)


def test_masked_percentiles_are_those_of_numpy_and_never_nan():
    rng = np.random.default_rng(0)
    values, percents = rng.normal(size=20).astype(np.float32), jnp.array([0.0, 5.0, 50.0, 95.0, 100.0])
    for count in (1, 2, 7, 20):
        mask = rng.permutation(20) < count
        expected = np.percentile(values[mask], percents)
        np.testing.assert_allclose(masked_percentiles(jnp.asarray(values), jnp.asarray(mask), percents), expected, 1e-5)
    assert np.all(np.isfinite(masked_percentiles(jnp.asarray(values), jnp.zeros(20, bool), percents)))
    gap = values.copy()
    gap[3] = np.nan
    with jax.debug_nans(False):
        found = masked_percentiles(jnp.asarray(gap), jnp.ones(20, bool), percents)
    np.testing.assert_allclose(found, np.nanpercentile(gap, percents), 1e-5)
