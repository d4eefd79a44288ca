"""DQN: its targets and updates against NumPy and optax, probes of known values, and a small process' exact optimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.agents import dqn
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Box, Discrete, Env, Replay, Spec, Transition
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.mdp import as_env, random_mdp, value_iteration
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.nets.net import Net
from mbrl_jax.train.loop import LoopConfig, make_loop

HIDDEN = (16, 16)


def forward(params, x):
    """A relu MLP over rows, its hidden layers normalised where the parameters say so."""
    layers = params["params"]
    last = sum(name.startswith("Dense") for name in layers) - 1
    for i in range(last + 1):
        x = x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"]
        if f"LayerNorm_{i}" in layers:
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * layers[f"LayerNorm_{i}"]["scale"] + layers[f"LayerNorm_{i}"]["bias"]
        x = jnp.maximum(x, 0) if i < last else x
    return x


def always(batch: Transition) -> Replay:
    """A replay that gives one batch whenever it is asked."""
    return Replay(lambda key, n: batch, lambda index: batch, jnp.int32(9), 9)


def batch_of(seed: int) -> Transition:
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, 6, 3)).astype(np.float32)
    action, reward = rng.integers(0, 4, 6), np.array([5, -5, 0.2, -0.1, 4, 0.3], np.float32)
    discount = np.array([1, 0, 1, 0, 0.25, 1], np.float32)  # imagined rows may have any chance to go on
    return Transition(*map(jnp.asarray, (obs, action, reward, discount, next_obs, discount == 0)))


def test_targets_and_loss_by_hand():
    """A linear network over one-hot states: action values are rows of its table."""
    net = Net(lambda key: jnp.zeros((2, 3)), lambda table, obs: obs @ table)
    q, target = jnp.array([[1.0, 2.0, 3.0], [4.0, 0.0, 1.0]]), jnp.array([[9.0, 8.0, 7.0], [5.0, 6.0, -1.0]])
    one, other = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    batch = Transition(
        jnp.stack([one, other]), jnp.array([1, 2]), jnp.array([10.0, -1.0]), jnp.array([1.0, 0.0]),
        jnp.stack([other, one]), jnp.array([False, True]),
    )  # fmt: skip
    double = dqn.td_targets(q, target, batch, net=net, gamma=0.5, double=True)
    np.testing.assert_allclose(double, [10 + 0.5 * 5, -1])  # action 0 has the larger online value in the second state
    single = dqn.td_targets(q, target, batch, net=net, gamma=0.5, double=False)
    np.testing.assert_allclose(single, [10 + 0.5 * 6, -1])
    # Q(s, a) = 2 and 1, errors -4 and 0.5: one in the linear part of Huber's loss, one in the quadratic part.
    loss, metrics = dqn.q_loss(q, batch, net=net, targets=jnp.array([6.0, 0.5]), huber=1.0)
    np.testing.assert_allclose([loss, metrics["loss"], metrics["q"]], [(3.5 + 0.125) / 2] * 2 + [1.5])
    grad = jax.grad(lambda q: dqn.q_loss(q, batch, net=net, targets=jnp.array([6.0, 0.5]), huber=1.0)[0])(q)
    np.testing.assert_allclose(grad, [[0, -0.5, 0], [0, 0, 0.25]])


@pytest.mark.parametrize(("double", "bend", "norm"), [(True, 1.0, True), (False, 1.0, True), (True, 3.0, False)])
def test_updates_are_the_equations(double, bend, norm):
    cfg = dqn.DQNConfig(
        hidden=HIDDEN, batch=6, lr=1e-2, gamma=0.9, tau=0.25, double=double, huber=bend, layer_norm=norm
    )
    agent = dqn.make(cfg, Spec(Box((3,)), Discrete(4)))
    learner = agent.init(jax.random.key(0))
    learner = learner._replace(target=agent.init(jax.random.key(9)).q)  # so that the two networks choose differently
    q, target, opt = learner.q, learner.target, optax.adam(1e-2).init(learner.q)
    update = jax.jit(lambda learner, batch: agent.update(jax.random.key(1), learner, always(batch)))
    for i in range(2):
        batch = batch_of(i)
        learner, metrics, feedback = update(learner, batch)

        online, old = (np.asarray(forward(params, batch.next_obs)) for params in (q, target))
        assert (online.argmax(1) != old.argmax(1)).any()
        following = old[np.arange(6), online.argmax(1)] if double else old.max(1)
        y = np.asarray(batch.reward + 0.9 * batch.discount * following)
        np.testing.assert_array_equal(y[[1, 3]], batch.reward[jnp.array([1, 3])])  # nothing after the end
        value = np.asarray(forward(q, batch.obs))[np.arange(6), batch.action]
        error = np.abs(value - y)
        assert 0 < (error > bend).sum() < 6  # both sides of Huber's bend
        expected = np.where(error <= bend, 0.5 * error**2, bend * (error - 0.5 * bend)).mean()
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(metrics["q"]) == pytest.approx(value.mean(), rel=1e-5)

        def loss(params, batch=batch, y=y):
            error = jnp.abs(forward(params, batch.obs)[jnp.arange(6), batch.action] - y)
            return jnp.mean(jnp.where(error <= bend, 0.5 * error**2, bend * (error - 0.5 * bend)))

        change, opt = optax.adam(1e-2).update(jax.grad(loss)(q), opt)
        q = optax.apply_updates(q, change)
        target = jax.tree.map(lambda new, old: 0.25 * new + 0.75 * old, q, target)
        for got, want in zip(*map(jax.tree.leaves, (learner, (q, target, opt, i + 1))), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
        assert feedback == ()


def test_with_tau_1_the_target_is_the_online_network():
    agent = dqn.make(dqn.DQNConfig(hidden=HIDDEN, batch=6, tau=1.0), Spec(Box((3,)), Discrete(4)))
    learner, _, _ = agent.update(jax.random.key(0), agent.init(jax.random.key(0)), always(batch_of(0)))
    for online, target in zip(*map(jax.tree.leaves, (learner.q, learner.target)), strict=True):
        np.testing.assert_array_equal(online, target)


def test_value_of_the_next_state_by_hand():
    online, target = jnp.array([1.0, 3.0, 2.0]), jnp.array([10.0, 20.0, 30.0])
    assert float(dqn.next_value(online, target, double=True)) == 20
    assert float(dqn.next_value(online, target, double=False)) == 30


def test_exploration_falls_linearly_and_is_off_in_evaluation():
    cfg = dqn.DQNConfig(hidden=HIDDEN, first_epsilon=0.8, epsilon=0.2, decay_updates=10)
    schedule = {"first_epsilon": 0.8, "epsilon": 0.2, "decay_updates": 10}
    chances = {n: float(dqn.epsilon_schedule(jnp.int32(n), **schedule)) for n in (0, 5, 10, 1000)}
    assert chances == pytest.approx({0: 0.8, 5: 0.5, 10: 0.2, 1000: 0.2})

    agent = dqn.make(cfg, Spec(Box((3,)), Discrete(4)))
    learner, obs = agent.init(jax.random.key(0)), jnp.array([0.3, -1.0, 2.0])
    best = int(np.argmax(forward(learner.q, obs)))
    keys = jax.random.split(jax.random.key(1), 4000)
    for updates, chance in chances.items():
        at = learner._replace(updates=jnp.int32(updates))
        taken = jax.vmap(lambda key: agent.act(key, at, (), obs, True)[0])(keys)  # noqa: B023
        shares = np.bincount(taken, minlength=4) / 4000
        expected = np.full(4, chance / 4) + (1 - chance) * (np.arange(4) == best)
        np.testing.assert_allclose(shares, expected, atol=0.03)
        assert (jax.vmap(lambda key: agent.act(key, at, (), obs, False)[0])(keys[:50]) == best).all()  # noqa: B023


def any_probe(which: jax.Array) -> Env:
    """One of the probes, chosen by a traced number, so that one program learns them all."""
    envs = [wrappers.time_limit(make(False), 3) for make in PROBES.values()]
    return Env(
        envs[0].spec,
        lambda key: jax.lax.switch(which, [env.reset for env in envs], key),
        lambda key, state, action: jax.lax.switch(which, [env.step for env in envs], key, state, action),
    )


def test_probes_have_their_known_values():
    cfg = dqn.DQNConfig(hidden=HIDDEN, lr=5e-3, gamma=0.9, tau=0.05, decay_updates=500, epsilon=0.3)
    loop_cfg = LoopConfig(inner=500, cycles=1, warmup=100)

    def learn(which):
        env = any_probe(which)
        loop = make_loop(dqn.make(cfg, env.spec), env, uniform(1000), loop_cfg)
        state, report = loop.chunk(loop.init(jax.random.key(0)))
        return forward(state.learner.q, jnp.array([[-1.0], [0.0], [1.0]])), report.returns

    values, returns = jax.jit(jax.vmap(learn))(jnp.arange(len(PROBES)))
    known = {  # Q [s = -1, 0, 1; a]; NaN where the observation does not occur
        "constant": [[np.nan, np.nan], [1, 1], [np.nan, np.nan]],
        "random_observation": [[-1, -1], [np.nan, np.nan], [1, 1]],
        "delayed_reward": [[np.nan, np.nan], [0.9, 0.9], [1, 1]],
        "action_reward": [[np.nan, np.nan], [1, -1], [np.nan, np.nan]],
        "observation_action_reward": [[1, -1], [np.nan, np.nan], [-1, 1]],
    }
    for q, got, name in zip(values, returns, PROBES, strict=True):
        wanted = np.array(known[name])
        np.testing.assert_allclose(np.where(np.isnan(wanted), np.nan, q), wanted, atol=0.1, err_msg=name)
        if name != "random_observation":
            np.testing.assert_array_equal(got, 1, err_msg=name)


def test_values_of_small_processes_come_near_the_exact_optimum():
    """Off-policy, from random actions alone.

    Values of one state's successors lie within 1 of each other here, so that errors meet the square part of Huber's
    loss, whose minimum is the mean; beyond it the loss pulls towards the median. The tolerance covers what a constant
    step size leaves of the processes' noise.
    """
    loop_cfg = LoopConfig(num_envs=8, inner=1500, cycles=1, warmup=100, eval_episodes=0, capacity=20_000)
    cfg = dqn.DQNConfig(hidden=(32,), lr=1e-3, gamma=0.5, tau=0.02, batch=128, epsilon=1.0)

    def learn(key):
        mdp = random_mdp(key, 6, 3, branching=2, terminals=1)
        env = wrappers.one_hot(as_env(mdp))
        loop = make_loop(dqn.make(cfg, env.spec), env, uniform(loop_cfg.capacity), loop_cfg)
        q = forward(loop.chunk(loop.init(key))[0].learner.q, jnp.eye(6))
        return q[:5], value_iteration(mdp, cfg.gamma)[1][:5]  # the last state is terminal

    q, exact = jax.jit(jax.vmap(learn))(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(q, exact, atol=0.12)
    chosen = jnp.take_along_axis(exact, q.argmax(-1, keepdims=True), -1)[..., 0]
    assert float(jnp.max(exact.max(-1) - chosen)) < 0.05


def test_images_are_told_apart():
    """Where the bright pixel is decides what an action is worth."""
    agent = dqn.make(dqn.DQNConfig(hidden=(16,), lr=1e-2), Spec(Box((4, 4, 1)), Discrete(2)))
    where, action = jnp.arange(32) % 16, jnp.arange(32) // 16
    obs = jax.nn.one_hot(where, 16).reshape(32, 4, 4, 1)
    worth = jnp.where((where < 8) == (action == 0), 1.0, -1.0)
    batch = Transition(obs, action, worth, jnp.zeros(32), obs, jnp.ones(32, bool))

    def descend(at, key):
        learner, metrics, _ = agent.update(key, at, always(batch))
        return learner, metrics["loss"]

    start = agent.init(jax.random.key(0))
    learner, loss = jax.jit(lambda keys: jax.lax.scan(descend, start, keys))(jax.random.split(jax.random.key(1), 200))
    assert float(loss[-1]) < 0.01
    best = jax.vmap(lambda image: agent.act(jax.random.key(0), learner, (), image, False)[0])(obs[:16])
    np.testing.assert_array_equal(best, np.arange(16) >= 8)


@pytest.mark.parametrize(
    ("spec", "cfg", "message"),
    [
        (Spec(Box((3,)), Box((1,))), {}, "continuous actions; this needs discrete ones"),
        (Spec(Discrete(3), Discrete(2)), {}, "observations must be a vector or an image"),
        (Spec(Box((3, 3)), Discrete(2)), {}, "observations must be a vector or an image"),
        (Spec(Box((3,)), Discrete(2)), {"lr": 0.0}, "lr must be above 0"),
        (Spec(Box((3,)), Discrete(2)), {"tau": 1.5}, "tau must be above 0 and at most 1"),
        (Spec(Box((3,)), Discrete(2)), {"epsilon": -0.1}, "epsilon must be at least 0 and at most 1"),
        (Spec(Box((3,)), Discrete(2)), {"decay_updates": 0}, "decay_updates must be at least 1"),
    ],
)
def test_bad_settings_are_refused(spec, cfg, message):
    with pytest.raises(ValueError, match=message):
        dqn.make(dqn.DQNConfig(**cfg), spec)
