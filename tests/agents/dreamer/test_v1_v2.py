"""The first two Dreamers: their losses by NumPy, gradients by finite differences, policies and targets by hand."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents.dreamer import v1 as dreamer_v1
from mbrl_jax.agents.dreamer import v2 as dreamer_v2
from mbrl_jax.agents.dreamer.actor_critic_v1_v2 import (
    Trajectory,
    actor_critic,
    imagine_trajectory,
    lambda_targets,
    one_hot_policy,
    value_of,
)
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core import Box, Discrete, Replay, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.models.rssm import dreamer_v1_v2 as model
from mbrl_jax.models.rssm.rssm import features

OBS, T, B, H = 3, 4, 2, 3
CHOICE, PUSH = Spec(Box((OBS,)), Discrete(2)), Spec(Box((OBS,)), Box((1,), -1.0, 1.0))
NET = {"net.deter": 5, "net.units": 4, "net.layers": 1, "net.stoch": 2, "net.classes": 3}
SMALL = NET | {
    "batch": B, "length": T, "imagined": H, "gamma": 0.9, "lam": 0.8, "kl_scale": 0.7, "free": 0.1, "cont_scale": 1.5,
    "clip": 1e9,
}  # fmt: skip


def windows(spec: Spec) -> Window:
    """Two windows, one with a terminal step in it."""
    rng = np.random.default_rng(0)
    last = np.zeros((T, B), bool)
    last[1, 0] = True
    first = np.roll(last, 1, 0)
    discount = 1.0 - last
    action = rng.integers(0, 2, (T, B)) if isinstance(spec.action, Discrete) else rng.uniform(-1, 1, (T, B, 1))
    steps = Step(rng.normal(size=(T, B, OBS)), action, rng.normal(size=(T, B)) * ~first, discount, first, last)
    steps = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if x.dtype == np.float64 else jnp.asarray(x), steps)
    return Window(steps, jnp.array([0, 1], jnp.int32), jnp.ones(B))


class Update(NamedTuple):
    cfg: Any
    nets: model.Networks
    before: Any
    window: Window
    after: Any
    metrics: Any
    tracked: Any  # [T, B, ...]


VERSIONS = {1: (dreamer_v1, dreamer_v1.DreamerV1Config()), 2: (dreamer_v2, dreamer_v2.DreamerV2Config())}


@cache
def updated(version: int) -> Update:
    """An update of v1 with a continuous action or of v2 with a discrete one, and its states by the same keys."""
    (module, config), spec = VERSIONS[version], {1: PUSH, 2: CHOICE}[version]
    extra = {} if version == 1 else {"reinforce": 1.0, "entropy": 0.3, "balance": 0.7, "weight_decay": 0.0}
    cfg = replace(config, SMALL | extra)
    window, key = windows(spec), jax.random.key(3)
    agent, nets = module.make(cfg, spec), model.networks(cfg.net, spec, gaussian=version == 1)
    rng = np.random.default_rng(1)
    before = agent.init(jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), before[:3])
    before = before._replace(model=moved[0], actor=moved[1], critic=moved[2])
    if version == 2:
        before = before._replace(target=jax.tree.map(lambda leaf: leaf + 0.1, before.critic))
    replay = Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)
    after, metrics, _ = jax.jit(lambda learner: agent.update(key, learner, replay))(before)
    _, key_model, _ = jax.random.split(key, 3)

    action, first = np.asarray(window.steps.action), np.asarray(window.steps.first)
    codes = np.zeros((T, B, 2 if version == 2 else 1), np.float32)
    for t in range(1, T):
        for b in range(B):
            if not first[t, b]:
                codes[t, b] = np.eye(2)[action[t - 1, b]] if version == 2 else action[t - 1, b]

    @jax.jit
    def again(params):
        tokens = jax.vmap(jax.vmap(lambda obs: nets.encoder.apply(params.encoder, obs)))(window.steps.obs)
        starts = jax.vmap(lambda _: nets.rssm.start())(jnp.arange(B))
        track = jax.vmap(nets.rssm.track, (None, 0, 0, 1, 1, 1), 1)
        marks = window.steps.first.at[0].set(True)
        return track(params.rssm, jax.random.split(key_model, B), starts, jnp.asarray(codes), tokens, marks)

    return Update(cfg, nets, before, window, after, metrics, again(before.model))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def net(params, x):
    """A hidden layer with ELU and a linear one."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    layers = layers.get("inner", layers)
    x = elu(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    return x @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]


def state_features(states) -> np.ndarray:
    flat = np.asarray(states.stoch, np.float64).reshape(*states.deter.shape[:-1], -1)
    return np.concatenate([np.asarray(states.deter, np.float64), flat], -1)


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_models_loss_is_that_of_numpy(version):
    up = updated(version)
    params, steps = up.before.model, up.window.steps
    x = state_features(up.tracked.states)
    rec = 0.5 * ((net(params.decoder, x) - np.asarray(steps.obs)) ** 2).sum(-1).mean()
    rew = 0.5 * ((net(params.reward, x)[..., 0] - np.asarray(steps.reward)) ** 2).mean()
    odds = net(params.cont, x)[..., 0]
    goes_on = np.asarray(steps.discount)
    con = (np.log1p(np.exp(-odds)) * goes_on + np.log1p(np.exp(odds)) * (1 - goes_on)).mean()
    q, p = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), d) for d in up.tracked[1:])
    if version == 1:
        kl = np.log(p.std / q.std) + (q.std**2 + (q.mean - p.mean) ** 2) / (2 * p.std**2) - 0.5
        kl = kl.sum(-1).mean()
        shared = max(0.1, kl)
    else:
        kl = (np.exp(q) * (q - p)).sum((-1, -2)).mean()
        shared = 0.7 * max(0.1, kl) + 0.3 * max(0.1, kl)
        assert float(up.metrics["kl_loss"]) == pytest.approx(shared, rel=1e-4)
    assert kl > 0.1  # so that free nats do not hide it
    for name, value in {"decoder_loss": rec, "reward_loss": rew, "continue_loss": con, "kl": kl}.items():
        assert float(up.metrics[name]) == pytest.approx(value, rel=1e-4), name
    assert float(up.metrics["model_loss"]) == pytest.approx(rec + rew + 1.5 * con + 0.7 * shared, rel=1e-4)


@cache
def imagined_objective(version: int):
    """-L_π of one trajectory as a function of a shift of the actor's last bias, from the agents' own parts."""
    up = updated(version)
    spec = PUSH if version == 1 else CHOICE
    policy = dreamer_v1.tanh_normal(1, 5.0, 5.0) if version == 1 else one_hot_policy(spec.action.n)
    heads = actor_critic(up.cfg.net, up.nets.rssm.size, policy)
    start = jax.tree.map(lambda leaf: leaf[0, 0], up.tracked.states)

    def returns(shift):
        actor = jax.tree.map(lambda leaf: leaf, up.before.actor)
        actor["params"]["Dense_1"]["bias"] = actor["params"]["Dense_1"]["bias"] + shift
        parts = {"nets": up.nets, "heads": heads, "horizon": H, "gamma": 0.9}
        trajectory = imagine_trajectory(jax.random.key(5), up.before.model, actor, start, **parts)
        values = jax.vmap(lambda x: value_of(heads.critic, up.before.critic, x))(trajectory.feature)
        got, weight = lambda_targets(trajectory, values, 0.8)
        return jnp.sum(weight * got), trajectory, values, got, weight

    return returns, policy.outputs


def test_the_gradient_of_returns_runs_through_the_dynamics():
    returns, outputs = imagined_objective(1)
    (slope,) = jax.jit(lambda shift: jax.tree.leaves(jax.grad(lambda s: returns(s)[0])(shift)))(jnp.zeros(outputs))
    total = jax.jit(lambda shift: returns(shift)[0])
    assert np.abs(slope).min() > 1e-6
    for i in range(outputs):
        # The weights are constants of the gradient: take them at the middle on both sides.
        middle = np.asarray(returns(jnp.zeros(outputs))[4])
        up, down = (np.sum(middle * np.asarray(returns(side * 1e-2 * jnp.eye(outputs)[i])[3])) for side in (1, -1))
        assert float(slope[i]) == pytest.approx((up - down) / 2e-2, rel=0.1, abs=2e-5)
    assert np.isfinite(float(total(jnp.zeros(outputs))))


def test_targets_by_hand():
    trajectory = Trajectory(
        jnp.zeros((3, 1)), jnp.zeros((2, 1)), jnp.array([9.0, 1.0, 2.0]), jnp.array([0.5, 0.8, 0.0])
    )
    got, weight = lambda_targets(trajectory, jnp.array([7.0, 10.0, 20.0]), 0.5)
    np.testing.assert_allclose(got, [1 + 0.8 * (5 + 1), 2.0])  # rewards on arrival, nothing after the end
    np.testing.assert_allclose(weight, [0.5, 0.4])


def test_the_actor_sees_states_without_their_gradient():
    """With the gradient through actions cut, no gradient of the return reaches the actor."""
    up = updated(2)
    policy = one_hot_policy(2)
    blind = policy._replace(sample=lambda key, out: jax.lax.stop_gradient(policy.sample(key, out)))
    heads = actor_critic(up.cfg.net, up.nets.rssm.size, blind)
    start = jax.tree.map(lambda leaf: leaf[0, 0], up.tracked.states)

    def total(actor):
        parts = {"nets": up.nets, "heads": heads, "horizon": H, "gamma": 0.9}
        return jnp.sum(imagine_trajectory(jax.random.key(5), up.before.model, actor, start, **parts).reward)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(up.before.actor)):
        np.testing.assert_array_equal(leaf, 0)


def test_one_hot_samples_carry_the_gradient_of_their_probabilities():
    policy, out = one_hot_policy(3), jnp.array([0.5, -1.0, 2.0])
    chances = np.exp(out) / np.exp(out).sum()
    drawn = jax.vmap(partial(policy.sample, out=out))(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(drawn.mean(0), chances, atol=0.03)
    assert set(np.unique(np.round(drawn, 5))) == {0.0, 1.0}
    slope = jax.jacobian(lambda out: policy.sample(jax.random.key(0), out))(out)
    np.testing.assert_allclose(slope, np.diag(chances) - np.outer(chances, chances), atol=1e-6)
    assert float(policy.entropy(out)) == pytest.approx(-(chances * np.log(chances)).sum(), abs=1e-6)
    assert float(policy.log_prob(out, jnp.array([0.0, 1.0, 0.0]))) == pytest.approx(np.log(chances[1]), abs=1e-6)


def test_continuous_policies():
    tanh = dreamer_v1.tanh_normal(1, 5.0, 5.0)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = np.arctanh(np.clip(jax.vmap(lambda k: tanh.sample(k, jnp.array([2.0, -6.0])))(keys), -0.9999999, 0.9999999))
    std = np.log1p(np.exp(-6.0 + np.log(np.expm1(5.0)))) + 1e-4
    assert drawn.mean() == pytest.approx(5 * np.tanh(0.4), abs=0.05)
    assert drawn.std() == pytest.approx(std, rel=0.05)
    first = jax.vmap(lambda k: tanh.sample(k, jnp.zeros(2)))(keys)
    assert np.mean(np.abs(first) > 0.9) == pytest.approx(0.77, abs=0.05)  # P(|5 x| > 1.47) of a normal x

    clipped, out = dreamer_v2.clipped_normal(1), jnp.array([3.0, 1.0])
    std = 2 / (1 + np.exp(-0.5)) + 0.1
    drawn = jax.vmap(lambda k: clipped.sample(k, out))(keys)
    assert float(jnp.max(jnp.abs(drawn))) == 1.0
    slope = jax.vmap(jax.grad(lambda out, k: clipped.sample(k, out)[0]), (None, 0))(out, keys)[:, 0]
    np.testing.assert_allclose(slope, 1 - np.tanh(3.0) ** 2, rtol=1e-4)  # of clipped samples too
    wanted = -0.5 * ((0.2 - np.tanh(3.0)) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    assert float(clipped.log_prob(out, jnp.array([0.2]))) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_every_part_learns_and_only_from_what_it_should(version):
    up = updated(version)
    for name in ("model", "actor", "critic"):
        changed = [
            float(jnp.max(jnp.abs(new - old)))
            for new, old in zip(*map(jax.tree.leaves, (getattr(up.after, name), getattr(up.before, name))), strict=True)
        ]
        assert max(changed) > 1e-5, name
        rate = {"model": up.cfg.model_lr, "actor": up.cfg.actor_lr, "critic": up.cfg.critic_lr}[name]
        assert max(changed) < 1.05 * rate, name  # Adam's first step
    if version == 2:
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), up.after.target, up.before.target))


def test_the_target_is_copied_after_so_many_updates():
    cfg = replace(dreamer_v2.DreamerV2Config(), SMALL | {"copy_every": 2, "critic_lr": 1e-2})
    window = windows(CHOICE)
    agent = dreamer_v2.make(cfg, CHOICE)
    replay = Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)
    update = jax.jit(lambda key, learner: agent.update(key, learner, replay)[0])
    first = update(jax.random.key(1), agent.init(jax.random.key(0)))
    second = update(jax.random.key(2), first)

    def same(a, b):
        return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b))

    assert not same(first.target, first.critic)
    assert same(second.target, second.critic)
    assert int(second.updates) == 2


def test_acting_explores_and_carries_the_state():
    up = updated(1)
    agent = dreamer_v1.make(up.cfg, PUSH)

    @partial(jax.jit, static_argnums=1)
    def act(key, explore):
        return agent.act(key, up.before, agent.carry(), jnp.ones(OBS), explore)

    keys = jax.random.split(jax.random.key(0), 300)
    free = np.array(jax.vmap(lambda k: act(k, True)[0])(keys))
    assert free.std() > 0.3
    assert np.abs(free).max() <= 1
    action, memory, _ = act(keys[0], False)
    x = features(memory.latent)
    head = model.head(up.cfg.net, up.nets.rssm.size, 2)
    mean = np.tanh(5 * np.tanh(np.asarray(head.apply(up.before.actor, x))[0] / 5))
    np.testing.assert_allclose(action, [mean], rtol=1e-4)
    np.testing.assert_allclose(memory.action, action)


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_rewards_are_scaled_before_all_else(version: int):
    window, key = windows(PUSH), jax.random.key(3)
    module, config = VERSIONS[version]
    halved = window._replace(steps=window.steps._replace(reward=0.5 * window.steps.reward))

    def after(scale: float, window: Window) -> Any:
        agent = module.make(replace(config, SMALL | {"reward_scale": scale}), PUSH)
        replay = Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)
        return jax.jit(lambda learner: agent.update(key, learner, replay))(agent.init(jax.random.key(0)))

    scaled, by_hand, other = after(0.5, window), after(1.0, halved), after(1.0, window)
    for one, two in zip(*map(jax.tree.leaves, (scaled, by_hand)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    assert abs(float(scaled[1]["reward_loss"]) - float(other[1]["reward_loss"])) > 0.01


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_with_context_windows_start_from_stored_latents_and_hand_back_fresh_ones(version: int):
    (module, config), spec = VERSIONS[version], {1: PUSH, 2: CHOICE}[version]
    cfg = replace(config, SMALL | {"context": True, "length": T - 1})
    agent, nets, key = module.make(cfg, spec), model.networks(cfg.net, spec, gaussian=version == 1), jax.random.key(3)
    assert module.window(cfg) == T == module.window(replace(cfg, {"context": False})) + 1
    rng, plain, learner = np.random.default_rng(2), windows(spec), agent.init(jax.random.key(0))
    blank = jax.tree.map(lambda x: jnp.zeros((T, B, *x.shape)), nets.rssm.start())
    stored = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), blank)
    window = plain._replace(steps=plain.steps._replace(extras=stored))
    replay = Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)
    _, _, feedback = jax.jit(lambda learner: agent.update(key, learner, replay))(learner)

    def track(params, key, start, steps):
        codes = jax.nn.one_hot(steps.action, 2) if version == 2 else steps.action
        tokens = jax.vmap(lambda obs: nets.encoder.apply(params.encoder, obs))(steps.obs[1:])
        return nets.rssm.track(params.rssm, key, start, codes[:-1], tokens, steps.first[1:]).states

    starts, keys = jax.tree.map(lambda x: x[0], stored), jax.random.split(jax.random.split(key, 3)[1], B)
    states = jax.jit(jax.vmap(track, (None, 0, 0, 1), 1))(learner.model, keys, starts, plain.steps)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), feedback.extras, states)
    np.testing.assert_array_equal(feedback.index, window.index)

    _, carry, extras = agent.act(key, learner, agent.carry(), jnp.ones(OBS), True)
    jax.tree.map(np.testing.assert_array_equal, extras, carry.latent)
    assert (
        module.make(replace(cfg, {"context": False}), spec).act(key, learner, agent.carry(), jnp.ones(OBS), True)[2]
        == ()
    )


def test_an_evaluation_of_v2_takes_the_latents_probabilities_and_the_likeliest_action():
    up = updated(2)
    agent = dreamer_v2.make(up.cfg, CHOICE)

    @partial(jax.jit, static_argnums=1)
    def act(keys, explore):
        return jax.vmap(lambda k: agent.act(k, up.before, agent.carry(), jnp.ones(OBS), explore)[:2])(keys)

    keys = jax.random.split(jax.random.key(0), 4000)
    actions, carries = act(keys[:2], False)
    mean = np.asarray(carries.latent.stoch)
    np.testing.assert_array_equal(mean[0], mean[1])
    drawn = np.asarray(act(keys, True)[1].latent.stoch)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(mean[0], drawn.mean(0), atol=0.03)
    head = model.head(up.cfg.net, up.nets.rssm.size, 2)
    out = head.apply(up.before.actor, features(jax.tree.map(lambda x: x[0], carries.latent)))
    np.testing.assert_array_equal(actions, [np.argmax(out)] * 2)
