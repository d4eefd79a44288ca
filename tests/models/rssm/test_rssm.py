"""The model against loops in NumPy over windows with an episode's end in them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, tree
from mbrl_jax.models.rssm.rssm import (
    GRUConfig,
    Latent,
    RSSMConfig,
    action_code,
    block_rssm,
    categorical_rssm,
    features,
    gaussian_rssm,
    previous,
)
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.observations import CoderConfig, decoder, encoder

T, TOKEN = 6, 5
SPACES = {"discrete": Discrete(3), "box": Box((2,), -1.0, 1.0)}
SMALL = RSSMConfig(deter=12, hidden=4, stoch=3, classes=2, blocks=3, unimix=0.05)
GRU = GRUConfig(deter=7, hidden=4, stoch=3, classes=2)
MODELS = {
    "v3": lambda space: block_rssm(SMALL, space, TOKEN),
    "v2": lambda space: categorical_rssm(GRU, space, TOKEN),
    "v1": lambda space: gaussian_rssm(GRU, space, TOKEN),
}
CASES = [("v3", "discrete"), ("v3", "box"), ("v2", "discrete"), ("v1", "box")]
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.normal(size=(T, TOKEN)), jnp.float32)
ACTIONS = {"discrete": jnp.array([2, 0, 1, 1, 0, 2]), "box": jnp.asarray(RNG.uniform(-2, 2, (T, 2)), jnp.float32)}
FIRST = jnp.array([False, False, True, False, False, False])  # observation 2 starts an episode
KEY = jax.random.key(7)


def drawn(init):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape) + 0.1, jnp.float32), shapes)


def made(name, kind):
    model = MODELS[name](SPACES[kind])
    params = drawn(model.init)
    state = Latent(*(jnp.asarray(RNG.normal(size=x.shape), jnp.float32) for x in model.start()))
    return model, params, state


# In NumPy -----------------------------------------------------------------------------------------------------------

silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
elu = lambda x: np.where(x > 0, x, np.exp(x) - 1)  # noqa: E731
sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731


def rms(x, p):
    return x / np.sqrt((x**2).mean() + 1e-4) * p["scale"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def gates(h, r, c, u):
    keep = sigmoid(u - 1)
    return keep * np.tanh(sigmoid(r) * c) + (1 - keep) * h


def memory(name, p, h, z, a):
    if name != "v3":
        parts = dense(p["gates"], np.concatenate([elu(dense(p["inputs"], np.concatenate([z, a]))), h]))
        if name == "v2":
            parts = (parts - parts.mean()) / np.sqrt(parts.var() + 1e-3)
            parts = parts * p["gates_norm"]["scale"] + p["gates_norm"]["bias"]
        return gates(h, *np.split(parts, 3))
    shared = [
        silu(rms(dense(p[part]["Dense_0"], x), p[part]["RMSNorm_0"]))
        for part, x in zip(("of_h", "of_z", "of_a"), (h, z, a), strict=True)
    ]
    size = len(h) // SMALL.blocks
    blocks = [np.concatenate([h[g * size :][:size], *shared]) @ p["mix"][g] for g in range(SMALL.blocks)]
    mixed = silu(rms(np.concatenate(blocks) + p["mix_bias"], p["mix_norm"]))
    new = [
        gates(
            h[g * size :][:size],
            *np.split(mixed[g * size :][:size] @ p["gates"][g] + p["gates_bias"][3 * g * size :][: 3 * size], 3),
        )
        for g in range(SMALL.blocks)
    ]
    return np.concatenate(new)


def posterior(name, p, h, token):
    x = np.concatenate([h, token]) @ p["kernel"] + p["bias"]
    x = silu(rms(x, p["first_norm"])) if name == "v3" else elu(x)
    return dense(p["rest"]["Dense_0"], x)


def prior(name, p, h):
    for i in range(2 if name == "v3" else 1):
        h = dense(p[f"Dense_{i}"], h)
        h = silu(rms(h, p[f"RMSNorm_{i}"])) if name == "v3" else elu(h)
    return dense(p["Dense_2" if name == "v3" else "Dense_1"], h)


def dist(name, raw):
    if name == "v1":
        mean, std = np.split(raw, 2)
        return mean, np.log1p(np.exp(std)) + 0.1
    logits = raw.reshape(3, 2)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.log(0.95 * probs + 0.05 / 2) if name == "v3" else np.log(probs)


def draw(name, dist, noise):
    if name == "v1":
        return dist[0] + dist[1] * noise
    chosen = (noise[:, None] >= np.cumsum(np.exp(dist), -1)[:, :-1]).sum(-1)
    return np.eye(2)[chosen]


def noise_of(name, key, steps):
    return np.asarray((jax.random.normal if name == "v1" else jax.random.uniform)(key, (steps, 3)))


def codes(kind, actions):
    a = np.asarray(actions, np.float64)
    return np.eye(3)[np.asarray(actions)] if kind == "discrete" else a / np.maximum(1, np.abs(a))


def plain(params):
    as64 = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    return [part["params"] for part in as64]


def track_by_numpy(name, kind, params, state, actions, first):
    """Observation by observation: state and action before the first of an episode are zeros."""
    cell, of_prior, of_posterior = plain(params)
    h, z = np.asarray(state.deter, np.float64), np.asarray(state.stoch, np.float64)
    noise, states, posteriors, priors = noise_of(name, KEY, T), [], [], []
    for t, a in enumerate(codes(kind, actions)):
        if first[t]:
            h, z, a = 0 * h, 0 * z, 0 * a
        h = memory(name, cell, h, z.reshape(-1), a)
        q = dist(name, posterior(name, of_posterior, h, np.asarray(TOKENS[t], np.float64)))
        z = draw(name, q, noise[t])
        states.append((h, z))
        posteriors.append(q)
        priors.append(dist(name, prior(name, of_prior, h)))
    return states, posteriors, priors


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), (np.stack(x) for x in theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_window_is_tracked_as_by_numpy(name, kind):
    """Memory, latent, posterior and prior of every step, with an episode's start in the middle."""
    model, params, state = made(name, kind)
    track = jax.jit(model.track)
    out = track(params, KEY, state, ACTIONS[kind], TOKENS, FIRST)
    states, posteriors, priors = track_by_numpy(name, kind, params, state, ACTIONS[kind], FIRST)
    assert_close(out.states, zip(*states, strict=True))
    split = (lambda x: zip(*x, strict=True)) if name == "v1" else lambda x: [x]
    assert_close(out.posterior, split(posteriors))
    assert_close(out.prior, split(priors))
    # An observation alone is a sequence of one.
    at = (ACTIONS[kind][2], TOKENS[2], FIRST[2])
    one = jax.jit(model.observe)(params, KEY, state, *at)
    whole = track(params, KEY, state, *(x[None] for x in at)).states
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-5), one, whole)
    if name == "v3":  # the action before a first observation is ignored, that before any other is not
        for t, same in ((2, True), (4, False)):
            changed = jax.tree.map(lambda x: x.at[t].set(1 - x[t]), ACTIONS[kind])  # noqa: B023
            other = track(params, KEY, state, changed, TOKENS, FIRST).states.deter
            np.testing.assert_array_equal(other[:t], out.states.deter[:t])
            assert bool((other[t] == out.states.deter[t]).all()) == same


def test_the_action_at_each_step_leads_to_the_next():
    np.testing.assert_array_equal(previous(jnp.array([3, 1, 2])), [0, 3, 1])
    np.testing.assert_array_equal(previous(jnp.array([[3.0, 4.0], [1.0, 2.0]])), [[0, 0], [3, 4]])


@pytest.mark.parametrize(("name", "kind"), [("v3", "discrete"), ("v1", "box")])
def test_imagination_is_the_prior_step_by_step(name, kind):
    """A policy that reads the state; states from the given one on, each by the action taken in the one before."""
    model, params, state = made(name, kind)
    choose = lambda x: jnp.argmax(x[:3]) if kind == "discrete" else jnp.tanh(x[:2])  # noqa: E731
    policy = lambda key, state: choose(state.deter)  # noqa: E731
    states, actions = jax.jit(model.imagine, static_argnums=(3, 4))(params, KEY, state, policy, 4)
    noise = noise_of(name, jax.random.split(KEY)[0], 4)
    cell, of_prior, _ = plain(params)
    h, z = np.asarray(state.deter, np.float64), np.asarray(state.stoch, np.float64)
    for t in range(4):
        np.testing.assert_allclose(states.deter[t], h, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(states.stoch[t], z, rtol=1e-3, atol=1e-4)
        a = np.asarray(choose(jnp.asarray(h, jnp.float32)))
        np.testing.assert_allclose(actions[t], a, rtol=1e-3, atol=1e-4)
        h = memory(name, cell, h, z.reshape(-1), codes(kind, a[None])[0])
        z = draw(name, dist(name, prior(name, of_prior, h)), noise[t])
    np.testing.assert_allclose(states.deter[4], h, rtol=1e-3, atol=1e-4)
    assert features(tree.take(states, 0)).shape == (model.size,)


def test_gradients_reach_every_parameter_and_imagined_ones_the_action():
    model, params, state = made("v3", "discrete")

    def loss(params):
        out = model.track(params, KEY, state, ACTIONS["discrete"], TOKENS, FIRST)
        kl = jnp.mean(jax.vmap(model.kl)(out.posterior, out.prior))
        return kl + jnp.mean(jax.vmap(features)(out.states) ** 2)

    grads = jax.jit(jax.grad(loss))(params)
    assert all(float(jnp.abs(leaf).max()) > 1e-7 for leaf in jax.tree.leaves(grads))
    through = lambda action: jnp.sum(model.step(params, KEY, state, action).deter)  # noqa: E731
    assert float(jnp.abs(jax.jit(jax.grad(through))(jnp.array([0.0, 1.0, 0.0]))).max()) > 1e-4


def test_actions_as_vectors():
    np.testing.assert_array_equal(action_code(Discrete(3), jnp.array(2)), [0, 0, 1])
    np.testing.assert_array_equal(action_code(Discrete(2), jnp.array([0.2, 0.8])), jnp.array([0.2, 0.8]))
    np.testing.assert_allclose(action_code(Box((3,)), jnp.array([0.5, -2.0, 7.0])), [0.5, -1, 1])
    slope = jax.jacobian(lambda a: action_code(Box((1,)), a))(jnp.array([-4.0]))
    assert float(slope[0, 0]) == pytest.approx(0.25)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_half_precision_parameters_give_half_precision_states(name, kind):
    """Parameters and tokens decide; distributions stay in float32."""
    model, params, state = made(name, kind)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    out = jax.eval_shape(model.track, narrow, KEY, state, ACTIONS[kind], TOKENS.astype(jnp.bfloat16), FIRST)
    assert {leaf.dtype for leaf in jax.tree.leaves(out.states)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((out.posterior, out.prior))} == {jnp.dtype(jnp.float32)}
    start = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state)
    later = jax.eval_shape(model.step, narrow, KEY, start, ACTIONS[kind][0])
    assert {leaf.dtype for leaf in jax.tree.leaves(later)} == {jnp.dtype(jnp.bfloat16)}


def test_no_key_is_used_twice():
    model, params, state = made("v3", "discrete")
    policy = lambda key, state: jax.random.categorical(key, state.deter[:3])  # noqa: E731
    track = lambda key: model.track(params, key, state, ACTIONS["discrete"], TOKENS, FIRST)  # noqa: E731
    with jax.debug_key_reuse(True):
        for run in (lambda key: model.imagine(params, key, state, policy, 2), track):
            jax.eval_shape(jax.jit(jax.vmap(run)), jax.random.split(jax.random.key(0), 2))


def test_size_1m_has_the_official_number_of_parameters():
    """Four observed numbers and two actions, with DreamerV3's heads: 637,381 in all."""
    obs, action = Box((4,)), Discrete(2)
    encode = encoder(obs, CoderConfig())
    model = block_rssm(RSSMConfig(), action, encode.size)
    nets = {
        "dyn": model, "enc": encode.net, "dec": decoder(obs, 512, 128, CoderConfig()).net,
        "rew": layers(model.size, (64,), 255), "con": layers(model.size, (64,), 1),
        "pol": layers(model.size, (64,) * 3, 2), "val": layers(model.size, (64,) * 3, 255),
    }  # fmt: skip
    shapes = {name: jax.eval_shape(net.init, jax.random.key(0)) for name, net in nets.items()}
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(shape)) for name, shape in shapes.items()}
    assert counts == {
        "dyn": 364_160, "enc": 8_832, "dec": 49_796, "rew": 57_663, "con": 41_153, "pol": 49_666, "val": 66_111,
    }  # fmt: skip
    assert sum(counts.values()) == 637_381


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="unimix must be above 0 and below 1"):
        block_rssm(RSSMConfig(unimix=0.0), Discrete(2), 4)
    with pytest.raises(ValueError, match=r"multiple of blocks \(8\), got 20"):
        block_rssm(RSSMConfig(deter=20), Discrete(2), 4)
    with pytest.raises(ValueError, match="stoch must be at least 1"):
        gaussian_rssm(GRUConfig(stoch=0), Discrete(2), 4)
