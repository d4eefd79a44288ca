"""DreamerV3: every term of its loss and every gradient by NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.dreamer_reference import (
    ACTIONS,
    BINS,
    B,
    H,
    T,
    behaviour_by_numpy,
    mean_of,
    model_by_numpy,
    net,
    rows_by_numpy,
    state_features,
    targets_by_numpy,
    updated,
    wide,
)

from mbrl_jax.models.rssm.rssm import Latent, features


def test_every_term_of_the_loss_is_that_of_numpy():
    up = updated()
    params = up.before.params
    terms = model_by_numpy(params.decoder, params.reward, params.cont)
    assert (terms["kl"] < 0.2).any() != (terms["kl"] > 0.2).all()  # free nats or not, on either side
    expected = {name: (term * [1.0, 0.5]).mean() for name, term in terms.items()}
    of_actor, of_critic, entropy = behaviour_by_numpy(params.actor, params.critic)
    returns, _, scale, _, _ = targets_by_numpy()
    expected |= {
        "policy_loss": of_actor, "value_loss": of_critic, "entropy": entropy,
        "replay_value_loss": rows_by_numpy(params.critic), "imagined_return": returns.mean(),
        "return_scale": scale,
    }  # fmt: skip
    assert set(expected) == set(up.metrics)
    for name, value in expected.items():
        assert float(up.metrics[name]) == pytest.approx(value, rel=2e-3), name
        assert abs(value) > 1e-2, name


def test_states_are_tracked_from_the_stored_latent_and_handed_back():
    up = updated()
    for ours, theirs in zip(*map(jax.tree.leaves, (up.feedback.extras, up.tracked.states)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(up.feedback.index, up.window.index)
    assert up.feedback.priority is None


def test_imagined_trajectories_start_at_the_states_and_follow_the_actions_taken():
    up = updated()
    params, D = up.before.params, 6
    feature, action = up.steps.feature, up.steps.action
    np.testing.assert_allclose(feature[0], state_features(up.tracked.states).reshape(T * B, -1), rtol=1e-5, atol=1e-6)
    latent = Latent(feature[..., :D], feature[..., D:].reshape(H, T * B, 2, 3))
    step = jax.vmap(jax.vmap(lambda at, a: up.nets.rssm.step(params.rssm, jax.random.key(0), at, a).deter))
    after = jax.jit(step)(latent, action)
    np.testing.assert_allclose(feature[1:, :, :D], after[:-1], rtol=1e-4, atol=1e-5)
    x = wide(feature)
    outputs = jax.tree.map(lambda leaf: leaf[:-1], up.outputs)
    np.testing.assert_allclose(outputs.reward, mean_of(net(params.reward, x)), rtol=1e-3)
    np.testing.assert_allclose(outputs.discount, 1 / (1 + np.exp(-net(params.cont, x)[..., 0])), rtol=1e-4)
    np.testing.assert_allclose(outputs.value, mean_of(net(params.critic, x)), rtol=1e-3)
    np.testing.assert_allclose(outputs.ema_value, mean_of(net(up.before.ema_critic, x)), rtol=1e-3)
    assert len(np.unique(action)) == ACTIONS


def gradients():
    """Of the first update, from what its optimiser keeps of them: n = 0.001 g² and the sign of its momentum."""
    up = updated()
    rms, momentum = up.after.opt[1]
    size = jax.tree.map(lambda n: np.sqrt(wide(n) / 1e-3), rms.nu)
    return jax.tree.map(lambda size, m: size * np.sign(wide(m)), size, momentum.ema)


def assert_slopes(loss, params, grads, entries=4):
    """Finite differences of a loss along a few entries of each tensor."""
    rng = np.random.default_rng(2)
    leaves, structure = jax.tree.flatten(jax.tree.map(wide, params))
    for i, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
        for _ in range(entries):
            at = tuple(rng.integers(0, n) for n in leaf.shape)
            sides = []
            for change in (1e-5, -1e-5):
                moved = leaf.copy()
                moved[at] += change
                sides.append(loss(jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])))
            slope = (sides[0] - sides[1]) / 2e-5
            assert grad[at] == pytest.approx(slope, rel=2e-2, abs=1e-4), (i, at)


def test_actor_and_critic_descend_their_losses_with_constant_targets():
    up, grads = updated(), gradients()
    params = up.before.params
    assert_slopes(lambda actor: behaviour_by_numpy(actor, params.critic)[0], params.actor, grads.actor)

    def of_critic(critic):
        return behaviour_by_numpy(params.actor, critic)[1] + 0.6 * rows_by_numpy(critic)

    assert_slopes(of_critic, params.critic, grads.critic)


@pytest.mark.parametrize(
    ("name", "place"), [("decoder_loss", "decoder"), ("reward_loss", "reward"), ("continue_loss", "cont")]
)
def test_heads_descend_their_own_loss_and_no_imagined_one(name, place):
    params, grads = updated().before.params, gradients()
    heads = {"decoder": params.decoder, "reward": params.reward, "cont": params.cont}
    scale = 2.0 if place == "decoder" else 1.0
    loss = lambda head: scale * (model_by_numpy(**(heads | {place: head}))[name] * [1.0, 0.5]).mean()  # noqa: E731
    assert_slopes(loss, heads[place], getattr(grads, place))


def test_the_model_descends_its_losses_and_the_replayed_value_and_nothing_imagined():
    up, grads = updated(), gradients()
    params, nets, steps = up.before.params, up.nets, up.window.steps
    _, _, _, g, counts = targets_by_numpy()
    ema = mean_of(net(up.before.ema_critic, state_features(up.tracked.states)[:-1]))
    stop = jax.lax.stop_gradient
    key_model = jax.random.split(jax.random.key(3), 3)[1]

    def loss(parts):
        encoder, rssm = parts
        tokens = jax.vmap(jax.vmap(lambda obs: nets.encoder.apply(encoder, obs)))(steps.obs[1:])
        start, keys = jax.tree.map(lambda leaf: leaf[0], steps.extras), jax.random.split(key_model, B)
        track = jax.vmap(nets.rssm.track, (None, 0, 0, 1, 1, 1), 1)
        out = track(rssm, keys, start, up.codes, tokens, steps.first[1:])
        q, p = out.posterior, out.prior
        kl = lambda q, p: jnp.maximum(0.2, (jnp.exp(q) * (q - p)).sum((-2, -1)))  # noqa: E731
        total = 1.5 * kl(stop(q), p) + 0.3 * kl(q, stop(p))
        x = jax.vmap(jax.vmap(features))(out.states)
        heads = lambda which, params: jax.vmap(jax.vmap(lambda x: which.apply(params, x)))(x)  # noqa: E731
        D = 6
        prediction = jax.vmap(jax.vmap(lambda x: nets.decoder.net.apply(params.decoder, x[:D], x[D:])))(x)
        obs = steps.obs[1:]
        total += 2.0 * jnp.sum((prediction - jnp.sign(obs) * jnp.log1p(jnp.abs(obs))) ** 2, -1)
        total += entropy_of(heads(nets.reward, params.reward), steps.reward[1:])
        z, y = heads(nets.cont, params.cont)[..., 0], 0.9 * steps.discount[1:]
        total += jnp.logaddexp(0, z) - y * z
        v = heads(nets.critic, params.critic)[:-1]
        of_rows = counts * (entropy_of(v, g) + 0.7 * entropy_of(v, ema))
        return jnp.mean(total * jnp.array([1.0, 0.5])) + 0.6 * jnp.mean(of_rows)

    expected = jax.jit(jax.grad(loss))((params.encoder, params.rssm))
    for got, want in zip(*map(jax.tree.leaves, ((grads.encoder, grads.rssm), expected)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=1e-4 * np.abs(want).max() + 1e-5)


def entropy_of(logits, target):
    """`cross` in a form that can be differentiated: each bin's weight is a hat function around it."""
    bins = jnp.asarray(BINS, jnp.float32)
    y = jnp.asarray(target, jnp.float32)[..., None]
    up = jnp.clip((y - bins[:-1]) / (bins[1:] - bins[:-1]), 0, 1)
    one = jnp.ones_like(y)
    share = jnp.concatenate([one, up], -1) - jnp.concatenate([up, 0 * one], -1)
    return -(share * jax.nn.log_softmax(logits)).sum(-1)


def test_the_ema_critic_follows_and_the_learning_rate_rises_from_zero():
    up = updated()
    for got, new, old in zip(
        *map(jax.tree.leaves, (up.after.ema_critic, up.after.params.critic, up.before.ema_critic)), strict=True
    ):
        np.testing.assert_allclose(got, 0.25 * new + 0.75 * old, rtol=1e-5, atol=1e-6)
    for new, old in zip(*map(jax.tree.leaves, (up.after.params, up.before.params)), strict=True):
        np.testing.assert_array_equal(new, old)  # at the first update the rate is 0
