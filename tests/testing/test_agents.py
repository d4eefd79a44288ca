"""`check_agent` finds each fault of an agent of one's own, and none in one that is right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.core import Box, DictSpace, Discrete, MultiDiscrete, Spec
from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Agent
from mbrl_jax.envs.check import find_faults as env_faults
from mbrl_jax.testing import check_agent, stand_in
from mbrl_jax.testing.agents import find_faults

SPEC = Spec(Box((2,)), Discrete(3), name="two")


@config
class LinearConfig:
    """Settings of linear one-step values."""

    lr: float = setting(default=0.1, above=0, help="step size")
    batch: int = setting(default=4, low=1, help="transitions per update")


def make(cfg, spec):
    """Linear one-step values, which keep the contract."""

    def init(key):
        return 0.1 * jax.random.normal(key, (spec.num_actions, *spec.obs.shape))

    def act(key, learner, carry, obs, explore):
        noise = jax.random.gumbel(key, (spec.num_actions,)) if explore else 0.0
        return jnp.argmax(learner @ obs + noise).astype(jnp.int32), carry, ()

    def loss(learner, rows):
        return jnp.mean(jnp.square(jnp.sum(learner[rows.action] * rows.obs, 1) - rows.reward))

    def update(key, learner, replay):
        value, grads = jax.value_and_grad(loss)(learner, replay.sample(key, cfg.batch))
        return learner - cfg.lr * grads, {"loss": value}, ()

    return Agent(init, lambda: (), act, update)


def test_an_agent_that_keeps_the_contract_passes_in_silence():
    assert check_agent(make, LinearConfig(), SPEC) is None


def with_act(change):
    def broken(cfg, spec):
        right = make(cfg, spec)
        return right._replace(act=lambda key, learner, carry, obs, explore: change(
            right.act(key, learner, carry, obs, explore), key))  # fmt: skip

    return broken


def with_update(change):
    def broken(cfg, spec):
        right = make(cfg, spec)
        return right._replace(update=lambda key, learner, replay: change(cfg, key, learner, replay, right))

    return broken


def uses_a_key_twice(cfg, key, learner, replay, right):
    new, metrics, feedback = right.update(key, learner, replay)
    return new + 1e-6 * jax.random.normal(key, new.shape), metrics, feedback


def branches_on_a_float(cfg, key, learner, replay, right):
    return right.update(key, learner if cfg.lr > 0.01 else 0.5 * learner, replay)


BROKEN = {
    "float action": (with_act(lambda out, key: (out[0].astype(jnp.float32), *out[1:])),
                     "an action must be int32[], got float32[]"),
    "out of bounds": (with_act(lambda out, key: (out[0] + 3, *out[1:])), "an action is outside Discrete(n=3)"),
    "carry": (with_act(lambda out, key: (out[0], (out[0],), ())), "the carry must keep the structure"),
    "always draws": (with_act(lambda out, key: (jax.random.randint(key, (), 0, 3), *out[1:])),
                     "act with explore=False: actions must not differ from key to key"),
    "dtype": (with_update(lambda cfg, key, learner, replay, right: (
        learner.astype(jnp.float16), {"loss": jnp.zeros(())}, ())), "learner: raised TypeError"),
    "metric": (with_update(lambda cfg, key, learner, replay, right: (learner, {"loss": jnp.zeros(2)}, ())),
               "metric loss must be a scalar"),
    "nan": (with_update(lambda cfg, key, learner, replay, right: (learner, {"loss": jnp.nan * learner[0, 0]}, ())),
            "metric loss is not finite: nan"),
    "learns nothing": (with_update(lambda cfg, key, learner, replay, right: (learner, {"loss": jnp.zeros(())}, ())),
                       "a chunk changes 0% of the learner's arrays"),
    "key": (with_update(uses_a_key_twice), "a key is used twice"),
    "branch": (with_update(branches_on_a_float), "settings: raised TracerBoolConversionError"),
    "one initialisation": (lambda cfg, spec: make(cfg, spec)._replace(
        init=lambda key: jax.random.normal(jax.random.key(0), (3, 2))), "two seeds"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["float action", "out of bounds", "carry", "metric", "key"])
def test_faults_are_found(name):
    broken, said = BROKEN[name]
    with pytest.raises(ValueError, match="the agent breaks its contract:") as error:
        check_agent(broken, LinearConfig(), SPEC)
    assert said in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dtype", "nan", "learns nothing", "always draws", "branch"])
def test_further_faults_are_found(name):
    broken, said = BROKEN[name]
    faults = find_faults(broken, LinearConfig(), SPEC)
    assert any(said in fault for fault in faults), faults


def test_what_make_raises_is_a_fault_with_its_line():
    def broken(cfg, spec):
        raise RuntimeError("no such network")

    (fault,) = find_faults(broken, LinearConfig(), SPEC)
    assert "make: raised RuntimeError: no such network (line" in fault
    assert "test_agents.py)" in fault


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        Spec(Discrete(5), Box((2,), -1.0, 1.0), terminates=False, name="numbered"),
        Spec(Box((2, 3), 0, 255, jnp.uint8), MultiDiscrete((2, 3)), name="bytes"),
        Spec(DictSpace({"a": Box((1,), 5.0, 9.0), "b": Discrete(2)}), Discrete(2), name="dict"),
    ],
    ids=lambda spec: spec.name,
)
def test_the_stand_in_is_an_environment_of_its_spec(spec):
    env = stand_in(spec, steps=4)
    assert env.spec == spec._replace(time_limit=4)
    assert env_faults(env) == []
    keys = jax.random.split(jax.random.key(0), 200)
    states, _ = jax.vmap(env.reset)(keys)
    actions = jax.vmap(spec.action.sample)(keys)
    _, _, reward, discount, last = jax.vmap(env.step)(jax.random.split(jax.random.key(1), 200), states, actions)
    assert len(np.unique(reward)) > 1
    assert (float(jnp.mean(discount)) < 1) == spec.terminates
    np.testing.assert_array_equal(last, discount == 0)


def test_names_are_offered():
    assert mbrl.testing.check_agent is check_agent
    assert mbrl.testing.check_env is mbrl.check_env
