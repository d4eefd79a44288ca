"""MuZero: one update by its parts, its feedback, exploration, and probes of known values."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.agents import muzero
from mbrl_jax.agents.search_policy import SearchConfig, temperature
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core import Box, Discrete, Env, Replay, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.games import Masked
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.models.muzero import losses as un
from mbrl_jax.models.muzero.losses import SearchTargets
from mbrl_jax.models.muzero.networks import bind, root
from mbrl_jax.models.muzero.networks import muzero as networks
from mbrl_jax.ops.transforms import signed_parabolic
from mbrl_jax.ops.two_hot import two_hot_decode
from mbrl_jax.train.loop import LoopConfig, make_loop

ACTIONS, SIZE, BATCH, K, N = 3, 4, 6, 2, 2
SPEC = Spec(Box((SIZE,)), Discrete(ACTIONS))
SMALL = {
    "net.latent": 8, "net.hidden": (8,), "net.support": 3, "search.gumbel.simulations": 4, "search.puct.simulations": 6,
    "unroll": K, "n_steps": N, "batch": BATCH, "gamma": 0.9,
}  # fmt: skip


def settings(**changes) -> muzero.MuZeroConfig:
    return replace(muzero.MuZeroConfig(), SMALL | {name.replace("__", "."): value for name, value in changes.items()})


def windows(seed: int, rows: int = K + N + 1) -> Window:
    """Windows over episodes of a few steps."""
    rng = np.random.default_rng(seed)
    last = rng.random((rows, BATCH)) < 0.25
    last[0] = [True, *[False] * (BATCH - 1)]
    discount = np.where(last & (rng.random(last.shape) < 0.7), 0.0, 1.0)
    policy = rng.dirichlet(np.ones(ACTIONS), last.shape) * ~last[..., None]
    from_search = rng.random(last.shape) < 0.8
    from_search[0, 1] = False
    steps = Step(
        rng.normal(size=(rows, BATCH, SIZE)), rng.integers(0, ACTIONS, last.shape), rng.normal(size=last.shape),
        discount, np.roll(last, 1, 0), last,
        SearchTargets(policy, rng.normal(size=last.shape) * ~last, from_search & ~last),
    )  # fmt: skip
    steps = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if x.dtype == np.float64 else jnp.asarray(x), steps)
    weight = jnp.asarray(rng.uniform(0.5, 1.0, BATCH), jnp.float32).at[2].set(0.0)
    return Window(steps, jnp.arange(BATCH, dtype=jnp.int32), weight)


def always(window: Window) -> Replay:
    """A replay that gives one batch whenever it is asked."""
    return Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)


@pytest.fixture(autouse=True)
def quick(request):
    """Most tests here compile much and run little; the folder's own fixture sets this back."""
    jax.config.update("jax_disable_most_optimizations", "probes" not in request.node.name)


@cache
def updated():
    """One update with everything switched on, on one batch; a target network of its own and no noise in the search."""
    cfg = settings(
        net__project=4, consistency_weight=1.5, value_weight=0.7, priorities=True, reanalyse=2, tau=0.25,
        search__gumbel__gumbel_scale=0.0, lr=0.02, lr_decay=0.5, lr_decay_updates=3,
    )  # fmt: skip
    agent, window, key = muzero.make(cfg, SPEC), windows(0), jax.random.key(3)
    learner = jax.jit(agent.init)(jax.random.key(0))
    # No layer of the target is at 0, so that searches differ from observation to observation.
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape), x.dtype), learner.params)
    learner = learner._replace(target=shaken, updates=jnp.int32(7))  # the rate has fallen twice
    new, metrics, feedback = jax.jit(lambda learner: agent.update(key, learner, always(window)))(learner)
    return cfg, agent, window, jax.random.split(jax.random.split(key, 3)[2], BATCH), learner, new, metrics, feedback


def test_an_update_descends_the_weighted_sum_of_its_terms():
    cfg, _, window, keys, learner, new, metrics, feedback = updated()
    nets, found = networks(cfg.net, SPEC), feedback.extras

    def loss(params):
        def one(key, steps, found):
            target = un.make_targets(key, steps, found, gamma=0.9, n=N, unroll=K)
            unrolled = un.unroll_model(params, steps.obs[0], target.action, nets=nets)
            later = steps.obs[1 : K + 1]
            consistent, _ = un.consistency_loss(params, unrolled.latent[1:], later, target.same_episode, nets=nets)
            return un.unroll_terms(unrolled, target, bins=nets.bins) | {"consistency": consistent}

        terms = jax.vmap(one, (0, 1, 1))(keys, window.steps, found)
        parts = {name: window.weight @ term / BATCH for name, term in terms.items()}
        return parts["policy"] + 0.7 * parts["value"] + parts["reward"] + 1.5 * parts["consistency"], parts

    grads, parts = jax.jit(jax.grad(loss, has_aux=True))(learner.params)
    for name, part in parts.items():
        assert float(metrics[f"{name}_loss"]) == pytest.approx(float(part), rel=1e-4), name
        assert abs(float(part)) > 1e-3
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, cfg.max_grad_norm / norm), grads)
    optimizer = optax.adamw(0.02 * 0.5**2, weight_decay=1e-4)
    change, _ = optimizer.update(grads, optimizer.init(learner.params), learner.params)
    expected = optax.apply_updates(learner.params, change)
    # Adam divides each first gradient by its own size: where it is nearly 0, its sign alone decides.
    for got, want, grad in zip(*map(jax.tree.leaves, (new.params, expected, grads)), strict=True):
        clear = np.abs(grad) > 1e-5
        np.testing.assert_allclose(np.where(clear, got, 0), np.where(clear, want, 0), atol=1e-5)
    assert int(new.updates) == 8


def test_priorities_are_the_errors_of_the_search():
    _, _, window, _, _, _, _, feedback = updated()
    steps, value = window.steps, feedback.extras.value
    for b in range(BATCH):
        row = (x[:, b] for x in (steps.reward, steps.discount, steps.last, steps.extras.from_search, value))
        z = un.n_step_returns(*row, gamma=0.9, n=N)[0]
        expected = 0.0 if steps.last[0, b] else abs(float(z - value[0, b]))
        assert float(feedback.priority[b]) == pytest.approx(expected, abs=1e-5)
    assert float(feedback.priority[0]) == 0
    assert float(feedback.priority[1]) == 0  # a random action: its return is what the search said
    assert float(feedback.priority[2:].max()) > 0.1
    np.testing.assert_array_equal(feedback.index, window.index)


def test_reanalyse_searches_some_windows_with_the_target_network_and_writes_that_back():
    _, agent, window, _, learner, new, _, feedback = updated()
    stored, fresh = window.steps.extras, feedback.extras
    np.testing.assert_array_equal(fresh.policy[:, 2:], stored.policy[:, 2:])
    np.testing.assert_array_equal(fresh.value[:, 2:], stored.value[:, 2:])
    np.testing.assert_array_equal(fresh.from_search, stored.from_search)
    # Without noise a search says the same whatever the key: it is the search that evaluation acts by.
    of_target = learner._replace(params=learner.target)
    act = jax.jit(jax.vmap(jax.vmap(lambda key, obs: agent.act(key, of_target, (), obs, False))))
    action, _, found = act(jax.random.split(jax.random.key(7), (K + N + 1, 2)), window.steps.obs[:, :2])
    last = np.asarray(window.steps.last[:, :2])
    np.testing.assert_allclose(fresh.policy[:, :2], found.policy * ~last[..., None], atol=1e-4)
    np.testing.assert_allclose(fresh.value[:, :2], found.value * ~last, atol=1e-4)
    np.testing.assert_array_equal(action, found.policy.argmax(-1))
    assert last.any()
    assert float(found.value.std()) > 0.02
    for got, now, then in zip(*map(jax.tree.leaves, (new.target, new.params, learner.target)), strict=True):
        np.testing.assert_allclose(got, 0.25 * now + 0.75 * then, atol=1e-6)


def test_returns_can_end_with_the_target_networks_values():
    cfg, _, window, _, learner, *_ = updated()
    agent, nets = muzero.make(settings(net__project=4, bootstrap="network"), SPEC), networks(cfg.net, SPEC)
    replay, params = always(window), learner.target
    mean = jax.jit(lambda learner: agent.update(jax.random.key(0), learner, replay)[1]["value"])(learner)

    def value(obs):
        return two_hot_decode(nets.predict(params, nets.represent(params, obs))[1], nets.bins, signed_parabolic)

    steps, found = window.steps, window.steps.extras
    values = jax.jit(jax.vmap(jax.vmap(value)))(steps.obs)
    values = jnp.where(found.from_search, values, found.value)  # at random actions what was found there
    z = [
        un.n_step_returns(
            *(x[:, b] for x in (steps.reward, steps.discount, steps.last, found.from_search, values)), gamma=0.9, n=N
        )[0]
        for b in range(1, BATCH)  # the first window starts at the end of an episode
    ]
    assert float(mean) == pytest.approx(sum(map(float, z)) / BATCH, abs=1e-4)
    assert float(values.std()) > 0.1


def test_without_priorities_and_reanalyse_there_is_no_feedback():
    agent = muzero.make(settings(), SPEC)
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    feedback = jax.eval_shape(lambda at: agent.update(jax.random.key(0), at, always(windows(0))), learner)[2]
    assert (feedback.priority, feedback.extras) == (None, None)


def test_the_rate_falls_in_steps():
    rate = partial(muzero.learning_rate, lr=0.1, decay_updates=20)
    rates = [float(rate(jnp.int32(n), decay=0.1)) for n in (0, 19, 20, 39, 40)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert float(rate(jnp.int32(50_000), decay=1.0)) == pytest.approx(0.1)


def test_the_temperature_falls_linearly():
    cfg = SearchConfig(first_temperature=1.0, temperature=0.2, decay_updates=100)
    falls = {n: float(temperature(cfg, jnp.int32(n))) for n in (0, 50, 100, 10_000)}
    assert falls == pytest.approx({0: 1.0, 50: 0.6, 100: 0.2, 10_000: 0.2})


@pytest.mark.parametrize(("kind", "explore"), [("gumbel", True), ("puct", False)])
def test_it_explores_legal_actions_and_evaluates_without_noise(kind, explore):
    agent = muzero.make(settings(search__kind=kind), SPEC)
    learner = jax.jit(agent.init)(jax.random.key(0))
    obs = Masked(jnp.array([0.1, -0.4, 1.0, 0.0]), jnp.array([True, False, True]))
    act = jax.jit(jax.vmap(lambda key: agent.act(key, learner, (), obs, explore)))
    action, carry, found = act(jax.random.split(jax.random.key(1), 64))
    # Nothing is learned yet, so that both actions are as good: evaluation takes the first of them.
    assert set(np.asarray(action).tolist()) == ({0, 2} if explore else {0})
    assert carry == ()
    np.testing.assert_allclose(found.policy, jnp.broadcast_to(jnp.array([0.5, 0, 0.5]), (64, 3)), atol=0.2)
    np.testing.assert_array_equal(found.policy[:, 1], 0)
    np.testing.assert_array_equal(found.value, 0)


@pytest.mark.parametrize("kind", [pytest.param("gumbel", marks=pytest.mark.slow), "puct"])
def test_a_share_of_the_actions_is_random(kind):
    """And marked as such; the search and its actions stay the same."""
    obs = Masked(jnp.array([0.1, -0.4, 1.0, 0.0]), jnp.array([True, False, True]))
    keys = jax.random.split(jax.random.key(1), 2_000)

    @partial(jax.jit, static_argnums=1)
    def act(share, explore):
        agent = muzero.make(settings(search__kind=kind, search__random=share), SPEC)
        learner = agent.init(jax.random.key(0))
        learner.params["policy"]["params"]["Dense_1"]["bias"] = jnp.array([0.0, 90.0, 9.0])  # the last is the best
        action, _, found = jax.vmap(lambda key: agent.act(key, learner, (), obs, explore))(keys)
        return action, found

    plain, found = act(0.0, True)
    assert np.all(found.from_search)
    action, mixed = jax.tree.map(np.asarray, act(0.3, True))
    np.testing.assert_allclose(mixed.policy, found.policy, atol=1e-5)
    np.testing.assert_array_equal(action[mixed.from_search], plain[mixed.from_search])
    assert np.mean(mixed.from_search) == pytest.approx(0.7, abs=0.03)
    drawn = np.bincount(action[~mixed.from_search], minlength=3) / np.sum(~mixed.from_search)
    np.testing.assert_allclose(drawn, [0.5, 0, 0.5], atol=0.06)
    greedy, quiet = act(0.3, False)
    assert set(np.asarray(greedy).tolist()) == {2}
    assert np.all(quiet.from_search)


def any_probe(which: jax.Array) -> Env:
    """One of the probes, chosen by a traced number, so that one program learns them all."""
    envs = [wrappers.time_limit(make(False), 3) for make in PROBES.values()]
    return Env(
        envs[0].spec,
        lambda key: jax.lax.switch(which, [env.reset for env in envs], key),
        lambda key, state, action: jax.lax.switch(which, [env.step for env in envs], key, state, action),
    )


@pytest.mark.slow
def test_probes_have_their_known_values():
    cfg = settings(batch=32, lr=1e-2, priorities=True)
    loop_cfg = LoopConfig(num_envs=4, inner=400, cycles=1, warmup=20, capacity=2000, eval_episodes=0)
    nets = networks(cfg.net, any_probe(jnp.int32(0)).spec)

    def learn(which):
        env = any_probe(which)
        buffer = muzero.buffer(cfg, loop_cfg.capacity, loop_cfg.num_envs)
        loop = make_loop(muzero.make(cfg, env.spec), env, buffer, loop_cfg)
        state, _ = loop.chunk(loop.init(jax.random.key(0)))
        params = state.learner.params
        model, key = bind(nets, params), jax.random.key(0)

        def predictions(obs):
            at = root(nets, params, obs)
            rewards = jax.vmap(lambda action: model.step(key, at, action).reward)(jnp.arange(2))
            return model.value(key, at), rewards, model.prior(key, at)

        return jax.vmap(predictions)(jnp.array([[-1.0], [0.0], [1.0]]))

    values, rewards, prior = jax.jit(jax.vmap(learn))(jnp.arange(len(PROBES)))
    no = np.nan  # the observation does not occur
    known = {  # V [s = -1, 0, 1] and the rewards of both actions there; the worse one is hardly taken any more
        "constant": ([no, 1, no], [[no, no], [1, 1], [no, no]]),
        "random_observation": ([-1, no, 1], [[-1, -1], [no, no], [1, 1]]),
        "delayed_reward": ([no, 0.9, 1], [[no, no], [0, 0], [1, 1]]),
        "action_reward": ([no, 1, no], [[no, no], [1, no], [no, no]]),
        "observation_action_reward": ([1, no, 1], [[1, no], [no, no], [no, 1]]),
    }
    for value, reward, name in zip(values, rewards, PROBES, strict=True):
        for found, wanted in zip((value, reward), map(np.array, known[name]), strict=True):
            np.testing.assert_allclose(np.where(np.isnan(wanted), np.nan, found), wanted, atol=0.15, err_msg=name)
    at, action = np.array([[3, 1], [4, 0], [4, 2]]).T, np.array([0, 0, 1])
    assert float(jnp.max(rewards[*at, 1 - action])) < 0
    assert float(jnp.min(prior[*at, action] - prior[*at, 1 - action])) > 2  # logits


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"reanalyse must be at most batch \(6\), got 7"):
        muzero.make(settings(reanalyse=7), SPEC)
    with pytest.raises(ValueError, match="lr must be above 0"):
        muzero.make(settings(lr=0.0), SPEC)
    agent = muzero.make(settings(), SPEC)
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    short = jax.eval_shape(lambda: windows(0, rows=K + N))
    with pytest.raises(ValueError, match=r"windows must have unroll \+ n_steps \+ 1 = 5 rows, got 4"):
        jax.eval_shape(lambda learner, w: agent.update(jax.random.key(0), learner, always(w)), learner, short)
