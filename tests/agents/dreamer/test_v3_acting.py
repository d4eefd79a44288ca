"""DreamerV3: its targets and policies by hand, what acting keeps, and probes of known values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.dreamer_reference import OBS, SPEC, WIDTH, T, always, net, settings, updated, windows

from mbrl_jax.agents.dreamer import v3 as dreamer_v3
from mbrl_jax.agents.dreamer.actor_critic_v3 import HeadOutputs, imagined_targets, make_policy, replay_targets
from mbrl_jax.agents.dreamer.common import ActorCarry, model_inputs
from mbrl_jax.core import Box, Discrete, Env, Spec, tree
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.models.rssm import dreamer_v3 as model
from mbrl_jax.models.rssm.rssm import Rows
from mbrl_jax.train.loop import LoopConfig, make_loop


def test_targets_by_hand():
    outputs = HeadOutputs(*map(jnp.array, ([9.0, 1.0, 2.0], [0.5, 0.8, 0.0], [7.0, 10.0, 20.0], [0.0, 0.0, 0.0])))
    returns, weight = imagined_targets(outputs, 0.5)
    np.testing.assert_allclose(returns, [1 + 0.8 * (5 + 1), 2.0])  # nothing after the end; rewards on arrival
    np.testing.assert_allclose(weight, [0.5, 0.4])
    yes, no = True, False
    rows = Rows(
        jnp.zeros(4), jnp.zeros(4), jnp.array([9.0, 1.0, 2.0, 0.0]), jnp.ones(4), jnp.array([no, no, no, yes]),
        jnp.array([no, no, yes, no]),
    )  # fmt: skip
    target, counts = replay_targets(rows, jnp.array([1.0, 10.0, 20.0, 30.0]), gamma=0.5, lam=0.5)
    np.testing.assert_allclose(target[:2], [1 + 0.5 * (5 + 6), 2 + 0.5 * 20])  # out of time: bootstraps, and stops
    np.testing.assert_array_equal(counts, [1, 1, 0])


@jax.jit
def evaluate(out, action, keys):
    """Everything three policies compute: one choice of three with and without a floor, and two numbers."""
    answers = []
    for space, floor in ((Discrete(3), 0.06), (Discrete(3), 0.0), (Box((2,), -1.0, 1.0), 0.0)):
        policy, x, a = make_policy(space, floor), out[len(answers) // 2], action[len(answers) // 2]
        drawn = jax.vmap(lambda key: policy.sample(key, x))(keys)  # noqa: B023
        answers.append((policy.log_prob(x, a), policy.entropy(x), policy.mode(x), drawn, jax.grad(policy.entropy)(x)))
    return answers


def test_policies():
    outs = jnp.array([5.0, 0.0, -200.0]), jnp.array([0.3, -2.0, -1.0, 4.0])
    actions = jnp.array(2), jnp.array([1.7, -0.2])
    floored, plain, normal = evaluate(outs, actions, jax.random.split(jax.random.key(0), 4000))

    probs = 0.94 * np.exp(outs[0]) / np.exp(outs[0]).sum() + 0.02
    log_prob, entropy, mode, drawn, _ = floored
    assert float(log_prob) == pytest.approx(np.log(0.02), abs=1e-5)
    assert float(entropy) == pytest.approx(-(probs * np.log(probs)).sum(), abs=1e-5)
    assert int(mode) == 0
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, probs, atol=0.01)
    assert float(plain[0]) == pytest.approx(-205.0067, rel=1e-5)
    assert np.isfinite(plain[4]).all()

    mean, std = np.tanh([0.3, -2.0]), 0.1 + 0.9 / (1 + np.exp(-np.array([1.0, 6.0])))
    log_prob, entropy, mode, drawn, _ = normal
    wanted = (-0.5 * ((np.array([1.7, -0.2]) - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum()
    assert float(log_prob) == pytest.approx(wanted, abs=1e-4)
    assert float(entropy) == pytest.approx((np.log(std) + 0.5 * np.log(2 * np.pi * np.e)).sum(), abs=1e-4)
    np.testing.assert_allclose(mode, mean, rtol=1e-5)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(drawn.std(0), std, atol=0.04)


def test_a_window_as_the_input_of_a_model():
    steps = jax.tree.map(lambda leaf: leaf[:, 0], windows().steps)
    nets = updated().nets
    start, rows = model_inputs(steps, rssm=nets.rssm, space=SPEC.action, context=True)
    assert_same(start, tree.take(steps.extras, 0))
    np.testing.assert_array_equal(rows.action.argmax(-1)[:2], steps.action[:2])
    assert_same(
        (rows.obs, rows.reward, rows.first, rows.last),
        [x[1:] for x in (steps.obs, steps.reward, steps.first, steps.last)],
    )
    start, rows = model_inputs(steps, rssm=nets.rssm, space=SPEC.action, context=False)
    assert_same(start, nets.rssm.start())
    assert bool(rows.first[0])
    np.testing.assert_array_equal(rows.action[1:].argmax(-1)[:2], steps.action[:2])
    assert_same((rows.obs, rows.reward, rows.discount), (steps.obs, steps.reward, steps.discount))


def assert_same(a, b):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_acting_keeps_what_the_model_would_have_tracked():
    """With latents that leave nothing to chance, step by step and over a window come to the same."""
    up = updated()
    agent = dreamer_v3.make(up.cfg, SPEC)
    params = up.before.params
    rest = params.rssm.posterior["params"]["rest"]["Dense_0"]
    sharp = {**rest, "kernel": 1e3 * rest["kernel"]}
    posterior = {"params": {**params.rssm.posterior["params"], "rest": {"Dense_0": sharp}}}
    params = params._replace(rssm=params.rssm._replace(posterior=posterior))
    learner = up.before._replace(params=params)
    cfg = replace(up.cfg, {"net.unimix": 1e-6})
    agent, nets = dreamer_v3.make(cfg, SPEC), model.dreamer_v3(cfg.net, SPEC)
    obs, key = up.window.steps.obs[:, 0], jax.random.key(5)

    @jax.jit
    def both(learner):
        carry, kept, explored = agent.carry(), [], []
        for t in range(3):
            _, _, latent = agent.act(jax.random.fold_in(key, 10 + t), learner, carry, obs[t], True)
            action, carry, extras = agent.act(jax.random.fold_in(key, t), learner, carry, obs[t], False)
            kept.append((action, extras))
            explored.append(latent)
        codes = jnp.stack([jnp.zeros(2), *(jax.nn.one_hot(action, 2) for action, _ in kept[:-1])])
        tokens = jax.vmap(lambda obs: nets.encoder.apply(learner.params.encoder, obs))(obs[:3])
        tracked = nets.rssm.track(learner.params.rssm, key, nets.rssm.start(), codes, tokens, jnp.arange(3) == 0)
        return tree.stack([extras for _, extras in kept]), tree.stack(explored), tracked.states, carry

    kept, explored, states, carry = both(learner)
    for got in (kept, explored):
        np.testing.assert_allclose(got.deter, states.deter, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.stoch, states.stoch, atol=1e-4)
    assert isinstance(carry, ActorCarry)
    assert len(np.unique(np.asarray(kept.deter[:, 0]))) == 3


def any_probe(which: jax.Array, continuous: bool) -> Env:
    """One of the probes, chosen by a traced number, so that one program learns them all."""
    envs = [wrappers.time_limit(make(continuous), 3) for make in PROBES.values()]
    return Env(
        envs[0].spec,
        lambda key: jax.lax.switch(which, [env.reset for env in envs], key),
        lambda key, state, action: jax.lax.switch(which, [env.step for env in envs], key, state, action),
    )


@pytest.mark.slow
def test_probes_have_their_known_values():
    jax.config.update("jax_disable_most_optimizations", False)
    cfg = replace(
        dreamer_v3.DreamerV3Config(),
        {"net.deter": 16, "net.units": 16, "net.stoch": 4, "net.classes": 4, "net.blocks": 2, "net.bins": 41,
         "batch": 8, "length": 8, "imagined": 4, "gamma": 0.9, "lr": 3e-3, "lr_warmup": 50},
    )  # fmt: skip
    loop_cfg = LoopConfig(num_envs=4, inner=1500, cycles=1, warmup=20, capacity=8000)
    nets = model.dreamer_v3(cfg.net, any_probe(jnp.int32(0), False).spec)

    def learn(which):
        env = any_probe(which, False)
        buffer = dreamer_v3.buffer(cfg, loop_cfg.capacity, loop_cfg.num_envs)
        agent = dreamer_v3.make(cfg, env.spec)
        loop = make_loop(agent, env, buffer, loop_cfg)
        state, report = loop.chunk(loop.init(jax.random.key(0)))
        bound, key = model.bind(nets, state.learner.params), jax.random.key(0)

        def predictions(obs):
            _, carry, _ = agent.act(key, state.learner, agent.carry(), obs, False)
            after = lambda action: bound.step(key, carry.latent, action)  # noqa: E731
            return bound.value(key, carry.latent), jax.vmap(after)(jnp.arange(2)).reward

        return *jax.vmap(predictions)(jnp.array([[-1.0], [0.0], [1.0]])), report.returns

    values, rewards, returns = jax.jit(jax.vmap(learn))(jnp.arange(len(PROBES)))
    no = np.nan  # the observation does not occur
    known = {  # V [s = -1, 0, 1] and the rewards of both actions there
        "constant": ([no, 1, no], [[no, no], [1, 1], [no, no]]),
        "random_observation": ([-1, no, 1], [[-1, -1], [no, no], [1, 1]]),
        "delayed_reward": ([no, 0.9, no], [[no, no], [0, 0], [no, no]]),
        "action_reward": ([no, 1, no], [[no, no], [1, -1], [no, no]]),
        "observation_action_reward": ([1, no, 1], [[1, -1], [no, no], [-1, 1]]),
    }
    for value, reward, got, name in zip(values, rewards, returns, PROBES, strict=True):
        for found, wanted in zip((value, reward), map(np.array, known[name]), strict=True):
            np.testing.assert_allclose(np.where(np.isnan(wanted), np.nan, found), wanted, atol=0.15, err_msg=name)
        if name != "random_observation":
            np.testing.assert_array_equal(got, 1, err_msg=name)


def test_size_1m_has_the_official_number_of_parameters_and_widths_override_it():
    cfg = replace(dreamer_v3.DreamerV3Config(), {"net.size": "1m"})
    shapes = jax.eval_shape(dreamer_v3.make(cfg, Spec(Box((4,)), Discrete(2))).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == 637_381
    assert model.widths(model.DreamerV3NetConfig(size="12m", units=8)) == model.Widths(2048, 8, 32, 16, 16, 8)
    big = {name: model.SIZES[name] for name in ("1m", "12m", "25m", "50m", "100m", "200m", "400m")}
    assert all(w.deter == 8 * w.units and w.classes == w.depth == w.units // 16 for w in big.values())


def test_at_first_values_and_rewards_are_zero():
    nets = updated().nets
    reward, critic = jax.jit(lambda key: (nets.reward.init(key), nets.critic.init(key)))(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(5, WIDTH))
    for head in (reward, critic):
        np.testing.assert_array_equal(net(head, x), 0)
        assert head["params"]["Dense_0"]["kernel"].std() > 0.1
    nought = jnp.zeros(11)
    assert float(jax.jit(lambda: model.expectation(nought, nets.bins))()) == 0


@pytest.mark.parametrize(("space", "half"), [(Discrete(2), False), (Box((2,), -1.0, 1.0), True)])
def test_an_update_keeps_shapes_and_types_and_uses_no_key_twice(space, half):
    cfg, spec = settings(context=not half, bfloat16=half), Spec(Box((OBS,)), space)
    agent = dreamer_v3.make(cfg, spec)
    window = windows(T + (not half))
    action = jax.ShapeDtypeStruct((*window.steps.reward.shape, *space.shape), space.dtype)
    shapes = jax.eval_shape(lambda: window)
    shapes = shapes._replace(steps=shapes.steps._replace(action=action))
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    with jax.debug_key_reuse(True):
        after, metrics, feedback = jax.eval_shape(
            jax.jit(lambda learner, window: agent.update(jax.random.key(0), learner, always(window))), learner, shapes
        )
    assert (jax.tree.structure(after), feedback.extras is None) == (jax.tree.structure(learner), half)
    for x, y in zip(*map(jax.tree.leaves, (after, learner)), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype(jnp.float32)}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"net.size must be one of nano, 1m"):
        dreamer_v3.make(settings(net__size="2m"), SPEC)
    with pytest.raises(ValueError, match="lr must be above 0"):
        dreamer_v3.make(settings(lr=0.0), SPEC)
    with pytest.raises(ValueError, match=r"wide: actions must be a vector in \[-1, 1\]"):
        dreamer_v3.make(settings(), Spec(Box((OBS,)), Box((1,), -2.0, 2.0), name="wide"))
    agent = dreamer_v3.make(settings(), SPEC)
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"windows must have length \+ context = 5 rows, got 4"):
        jax.eval_shape(lambda learner: agent.update(jax.random.key(0), learner, always(windows(T))), learner)
