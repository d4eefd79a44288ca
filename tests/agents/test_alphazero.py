"""AlphaZero: its loss and targets by hand, one update by its parts, and probes of known values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.agents import alphazero
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core import Box, Discrete, Env, Replay, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.models.muzero.losses import SearchTargets
from mbrl_jax.train.loop import LoopConfig, make_loop

SMALL = {
    "hidden": (8,), "search.gumbel.simulations": 4, "n_steps": 2, "batch": 8, "gamma": 0.9, "support": 3,
}  # fmt: skip


@pytest.fixture
def quick():
    """For tests that compile much and run little; the folder's own fixture sets this back."""
    jax.config.update("jax_disable_most_optimizations", True)


def any_probe(which: jax.Array) -> Env:
    """One of the probes, chosen by a traced number, so that one program learns them all."""
    envs = [wrappers.time_limit(make(False), 3) for make in PROBES.values()]
    return Env(
        envs[0].spec,
        lambda key: jax.lax.switch(which, [env.reset for env in envs], key),
        lambda key, state, action: jax.lax.switch(which, [env.step for env in envs], key, state, action),
        envs[0].observe,
    )


@pytest.mark.optimized
@pytest.mark.slow
def test_alphazero_learns_the_probes():
    cfg = replace(alphazero.AlphaZeroConfig(), SMALL | {"batch": 32, "lr": 1e-2})
    loop_cfg = LoopConfig(num_envs=4, inner=250, cycles=1, warmup=20, capacity=1000, eval_episodes=0)

    def learn(which):
        env = any_probe(which)
        buffer = alphazero.buffer(cfg, loop_cfg.capacity, loop_cfg.num_envs)
        loop = make_loop(alphazero.make(cfg, env), wrappers.reveal_state(env), buffer, loop_cfg)
        state, _ = loop.chunk(loop.init(jax.random.key(0)))
        guide = alphazero.guided_model(state.learner.params, nets=alphazero.heads(cfg, env.spec), env=env)
        states = jax.vmap(lambda obs: wrappers.Timed(obs, jnp.int32(0)))(jnp.array([[-1.0], [0.0], [1.0]]))
        key = jax.random.key(0)
        return jax.vmap(lambda state: (guide.value(key, state), guide.prior(key, state)))(states)

    values, priors = jax.jit(jax.vmap(learn))(jnp.arange(len(PROBES)))
    no = np.nan
    known = [[no, 1, no], [-1, no, 1], [no, 0.9, 1], [no, 1, no], [1, no, 1]]
    for value, wanted, name in zip(values, known, PROBES, strict=True):
        np.testing.assert_allclose(np.where(np.isnan(wanted), no, value), wanted, atol=0.15, err_msg=name)
    for probe, state, action in ((3, 1, 0), (4, 0, 0), (4, 2, 1)):
        assert float(priors[probe, state, action] - priors[probe, state, 1 - action]) > 2  # logits


def test_an_update_descends_both_cross_entropies(quick):
    env = wrappers.time_limit(PROBES["observation_action_reward"](False), 3)
    cfg = replace(alphazero.AlphaZeroConfig(), SMALL | {"value_weight": 0.3, "batch": 4})
    agent = alphazero.make(cfg, env)
    rng = np.random.default_rng(0)
    shape = (3, 4)
    last = np.zeros(shape, bool)
    last[0, 1] = last[1, 2] = True
    states = wrappers.Timed(jnp.asarray(rng.normal(size=(*shape, 1)), jnp.float32), jnp.zeros(shape, jnp.int32))
    found = SearchTargets(
        jnp.asarray(rng.dirichlet([1, 1], shape), jnp.float32),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.ones(shape, bool).at[1, 0].set(False),  # at random: the return of that window ends there
    )
    reward = jnp.asarray(rng.normal(size=shape), jnp.float32)
    steps = Step(
        states, jnp.zeros(shape, jnp.int32), reward, jnp.asarray(~last, jnp.float32), last, jnp.asarray(last), found
    )
    found = found._replace(policy=found.policy.at[0, 3].set(0))  # without a search: nothing to learn from
    steps = steps._replace(extras=found)
    window = Window(steps, jnp.arange(4), jnp.array([1.0, 1.0, 0.5, 2.0]))
    replay = Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)
    learner = jax.jit(agent.init)(jax.random.key(0))
    # Twice: at first all outputs are 0, whatever the observation.
    for _ in range(2):
        before = learner
        learner, metrics, feedback = jax.jit(lambda learner: agent.update(jax.random.key(1), learner, replay))(before)
    nets = alphazero.heads(cfg, env.spec)
    total = {"policy": 0.0, "value": 0.0}
    apply = jax.jit(lambda net, obs: (nets.policy.apply(net["policy"], obs), nets.value.apply(net["value"], obs)))
    for b in (0, 2):
        logits, value_logits = apply(before.params, states.inner[0, b])
        v, r = found.value[:, b], reward[:, b]
        z = r[1] + 0.9 * v[1] if b == 0 else r[1]
        h = np.sign(z) * (np.sqrt(abs(z) + 1) - 1) + 1e-3 * z
        classes = np.maximum(0, 1 - np.abs(np.arange(-3, 4) - h))
        weight = float(window.weight[b]) / 4
        total["policy"] += weight * float(optax.softmax_cross_entropy(logits, found.policy[0, b]))
        total["value"] += weight * float(optax.softmax_cross_entropy(value_logits, jnp.asarray(classes)))
    assert float(metrics["policy_loss"]) == pytest.approx(total["policy"], rel=1e-4)
    assert float(metrics["value_loss"]) == pytest.approx(total["value"], rel=1e-4)
    assert feedback == ()
    assert int(learner.updates) == 2


def test_the_loss_of_a_batch_in_numpy(quick):
    """Linear networks, so that their logits are matrix products."""
    spec = Spec(Box((2,)), Discrete(3))
    nets = alphazero.heads(replace(alphazero.AlphaZeroConfig(), {"support": 2, "hidden": ()}), spec)
    rng = np.random.default_rng(0)
    layer = lambda out: {"params": {"Dense_0": {"kernel": rng.normal(size=(2, out)), "bias": rng.normal(size=out)}}}  # noqa: E731
    params = {"policy": layer(3), "value": layer(5)}
    obs, policy = rng.normal(size=(4, 2)), rng.dirichlet([1.0, 1.0, 1.0], 4)
    value, weight = np.array([0.0, 1.0, -3.0, 50.0]), np.array([1.0, 0.5, 1.0, 0.0])

    def log_softmax(name):
        dense = params[name]["params"]["Dense_0"]
        logits = obs @ dense["kernel"] + dense["bias"]
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    h = np.sign(value) * (np.sqrt(np.abs(value) + 1) - 1) + 1e-3 * value
    classes = np.maximum(0, 1 - np.abs(np.arange(-2, 3) - np.clip(h, -2, 2)[:, None]))
    of_policy = np.mean(weight * -(policy * log_softmax("policy")).sum(-1))
    of_value = np.mean(weight * -(classes * log_softmax("value")).sum(-1))
    as32 = lambda x: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x)  # noqa: E731
    loss, metrics = alphazero.alphazero_loss(
        *as32((params, obs, policy, value)), nets=nets, weight=as32(weight), value_weight=0.3
    )
    assert float(metrics["policy_loss"]) == pytest.approx(of_policy, rel=1e-4)
    assert float(metrics["value_loss"]) == pytest.approx(of_value, rel=1e-4)
    assert float(loss) == pytest.approx(of_policy + 0.3 * of_value, rel=1e-4)


def test_value_targets_by_hand(quick):
    """Two windows of three rows: one runs through, one ends at its second row."""
    reward = jnp.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]])  # received on arriving at a row
    last = jnp.array([[False, False], [False, True], [False, False]])
    found = SearchTargets(jnp.zeros((3, 2, 2)), jnp.array([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]), ~last)
    discount = jnp.where(last, 0.0, jnp.array([[1.0], [-1.0], [1.0]]))
    steps = Step((), jnp.zeros((3, 2), jnp.int32), reward, discount, last, last, found)
    z = alphazero.value_targets(steps, gamma=0.5, n=2)
    np.testing.assert_allclose(z, [1.0 - 0.5 * 3.0 - 0.25 * 7.0, 2.0])


def test_what_does_not_fit_is_refused():
    blind = Env(Spec(Box((2,)), Discrete(2), name="blind"), lambda key: ((), ()), lambda key, state, action: ())
    with pytest.raises(ValueError, match="blind must have `observe`"):
        alphazero.make(alphazero.AlphaZeroConfig(), blind)
