"""TD-MPC2's model against plain NumPy: layers, networks, sizes, what a planner sees, and the losses of a window."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.buffers.sequence import Step
from mbrl_jax.core import Box, Discrete, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.models.tdmpc2 import losses as tl
from mbrl_jax.models.tdmpc2 import sizes as tp
from mbrl_jax.models.tdmpc2.networks import (
    bind,
    decode,
    encode,
    sample_action,
    sample_pair,
    sample_squashed,
    tdmpc,
    value_logits,
)
from mbrl_jax.nets.simnorm import drop, normed_layers, simnorm
from mbrl_jax.nets.simnorm import mish as fast_mish

OBS, ACTIONS, TASKS, H, BINS, GROUP = 3, 2, 2, 3, 11, 4
CFG = tp.TDMPCNetConfig(
    size="nano", encoder=6, units=7, latent=8, layers=3, values=3, group=GROUP, bins=BINS, tasks=TASKS, task_dim=5
)
SPEC = Spec(Box((OBS + TASKS,)), Box((ACTIONS,), -1.0, 1.0))
MASKS = [[1.0, 1.0], [1.0, 0.0]]
GRID = np.linspace(-10, 10, BINS)


@cache
def parts():
    """Networks and parameters with no layer left at 0, and embeddings longer than 1."""
    nets = tdmpc(CFG, SPEC, MASKS)
    leaves, tree = jax.tree.flatten(jax.jit(nets.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    noisy = [leaf + jnp.asarray(rng.normal(size=leaf.shape) * 0.7, jnp.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, noisy)
    plain = Plain(params)
    middle = np.median([plain.end(plain.encode(obs), obs) for obs in observations(20)])
    params.world.termination["params"]["Dense_2"]["bias"] -= jnp.float32(middle)  # so that some states end, some do not
    return nets, params


# The same in NumPy ---------------------------------------------------------------------------------------------------


def mish(x):
    return x * np.tanh(np.log1p(np.exp(x)))


def normed(x, p, i):
    p = p[f"Norm_{i}"]
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def forward(params, *given, group=0):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    x, dense = np.concatenate(given), sum(name.startswith("Dense") for name in p)
    for i in range(dense):
        x = x @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"]
        x = mish(normed(x, p, i)) if i < dense - 1 else x
    if not group:
        return x
    return np.concatenate([softmax(part) for part in np.split(normed(x, p, dense - 1), len(x) // group)])


def symlog(x):
    return np.sign(x) * np.log(1 + abs(x))


def number(logits):
    mean = softmax(np.asarray(logits, np.float64)) @ GRID
    return np.sign(mean) * (np.exp(abs(mean)) - 1)


def classes(x):
    """Two-hot weights of clip(symlog x, -10, 10)."""
    place = (np.clip(symlog(x), -10, 10) + 10) / 20 * (BINS - 1)
    out, low = np.zeros(BINS), min(int(place), BINS - 2)
    out[low], out[low + 1] = low + 1 - place, place - low
    return out


def cross(x, logits):
    logits = np.asarray(logits, np.float64)
    return -classes(x) @ (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))


def member(params, i):
    return jax.tree.map(lambda leaf: leaf[i], params)


class Plain:
    """The networks by hand; an observation ends with the one-hot code of its task."""

    def __init__(self, params):
        self.world, self.policy = params

    def task(self, obs):
        row = np.asarray(self.world.task)[int(obs[-1])]
        return row / max(1.0, np.linalg.norm(row)), np.asarray(MASKS)[int(obs[-1])]

    def encode(self, obs):
        return forward(self.world.encoder, obs[:OBS], self.task(obs)[0], group=GROUP)

    def step(self, z, a, obs):
        e, mask = self.task(obs)
        return (
            forward(self.world.dynamics, z, a * mask, e, group=GROUP), forward(self.world.reward, z, a * mask, e)
        )  # fmt: skip

    def values(self, z, a, obs, networks=None):
        e, mask = self.task(obs)
        networks = self.world.values if networks is None else networks
        count = jax.tree.leaves(networks)[0].shape[0]
        return np.stack([forward(member(networks, i), z, a * mask, e) for i in range(count)])

    def end(self, z, obs):
        return forward(self.world.termination, z, self.task(obs)[0])[0]

    def draw(self, z, obs, eps):
        """Action, entropy, and scaled entropy with the ratio that the authors' code computes."""
        e, mask = self.task(obs)
        mean, raw = np.split(forward(self.policy, z, e), 2)
        mean, log_std, eps = mean * mask, mask * (-10 + 6 * (np.tanh(raw) + 1)), eps * mask
        u = mean + np.exp(log_std) * eps
        normal = (mask * (-0.5 * eps**2 - log_std - 0.5 * np.log(2 * np.pi))).sum()
        log_pi = normal - (mask * np.log(np.maximum(1 - np.tanh(u) ** 2, 0) + 1e-6)).sum()
        return np.tanh(u), -log_pi, -log_pi * (normal * mask.sum() / (log_pi + 1e-8))


@pytest.mark.parametrize("mean", [0.0, 0.5, 3.0, 7.0, -8.0, 40.0])
def test_the_entropy_of_a_saturated_action_is_exact(mean):
    """In float64, where 1 - a² is no difference of neighbouring floats; 3 % of 1e-6 would change it by 0.03."""
    raw, key = np.float32(-2.0), jax.random.key(2)
    drawn = sample_squashed(key, jnp.full(1, mean), jnp.full(1, raw), jnp.ones(1))
    eps = float(jax.random.normal(key, (1,))[0])
    log_std = -10 + 6 * (np.tanh(float(raw)) + 1)
    u = mean + np.exp(log_std) * eps
    log_pi = -0.5 * eps**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 / np.cosh(u) ** 2 + 1e-6)
    assert float(drawn.entropy) == pytest.approx(-log_pi, abs=3e-5)


def observations(count, seed=0):
    rng = np.random.default_rng(seed)
    one_hot = np.eye(TASKS)[np.arange(count) % TASKS]
    return np.concatenate([rng.normal(size=(count, OBS)), one_hot], -1).astype(np.float32)


# Layers --------------------------------------------------------------------------------------------------------------


def test_mish_and_simnorm_equal_numpy():
    x = np.array([-40.0, -3.0, -0.5, 0.0, 0.5, 3.0, 19.0, 25.0, 90.0])
    np.testing.assert_allclose(fast_mish(jnp.asarray(x)), mish(x), rtol=1e-5, atol=1e-7)
    slope = (mish(x + 1e-6) - mish(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.vmap(jax.grad(fast_mish))(jnp.asarray(x)), slope, rtol=1e-4, atol=1e-6)
    x = np.random.default_rng(0).normal(size=12) * 5
    got = np.asarray(simnorm(jnp.asarray(x, jnp.float32), 4)).reshape(3, 4)
    np.testing.assert_allclose(got, [softmax(row) for row in x.reshape(3, 4)], rtol=1e-5)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-6)


def test_dropout_is_of_the_first_layer_and_only_with_a_key():
    x = jnp.full(20_000, 3.0)
    kept = np.asarray(drop(jax.random.key(0), x, 0.25))
    assert abs((kept == 0).mean() - 0.25) < 0.01
    np.testing.assert_allclose(kept[kept != 0], 4.0, rtol=1e-6)
    np.testing.assert_array_equal(drop(jax.random.key(0), x, 0.0), 3.0)
    # With one layer before the last, dropping all but one entry in expectation leaves traces in that layer alone.
    net = normed_layers((3,), (5, 4), 2)
    params, given, key = net.init(jax.random.key(1)), jnp.array([0.3, -1.0, 2.0]), jax.random.key(2)
    params["params"]["Dense_0"]["bias"] = jnp.arange(5.0)
    first = params["params"]["Dense_0"]
    dropped = drop(key, given @ first["kernel"] + first["bias"], 0.5)
    assert 0 < (dropped == 0).sum() < 5
    p = jax.tree.map(np.asarray, params["params"])
    x = mish(normed(np.asarray(dropped), p, 0))
    x = mish(normed(x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"], p, 1))
    expected = x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"]
    np.testing.assert_allclose(net.apply(params, given, key=key, rate=0.5), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.apply(params, given), forward(params, given), rtol=1e-4, atol=1e-6)
    assert np.abs(net.apply(params, given) - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("x", "bins"),
    [
        (0.0, {5: 1.0}),  # 11 bins, 2 apart
        (np.e**2 - 1, {6: 1.0}),  # symlog 2
        (1 - np.e**3, {3: 0.5, 4: 0.5}),  # symlog -3
        (np.e - 1, {5: 0.5, 6: 0.5}),
        (1e9, {10: 1.0}),  # symlog 20.7, beyond the last bin
        (-1e9, {0: 1.0}),
    ],
)
def test_numbers_are_two_hot_in_symlog_space(x, bins):
    weights = np.zeros(BINS)
    weights[list(bins)] = list(bins.values())
    grid = jnp.asarray(GRID, jnp.float32)
    nets = parts()[0]
    # The gradient of the cross-entropy at equal logits is softmax less weights.
    got = 1 / BINS - jax.grad(lambda logits: tl.cross_entropy(nets, logits, jnp.float32(x)))(jnp.zeros(BINS))
    np.testing.assert_allclose(nets.bins, grid, atol=1e-6)
    np.testing.assert_allclose(got, weights, atol=1e-5)
    back = decode(nets, jnp.log(got.clip(0) + 1e-12))
    assert float(back) == pytest.approx(np.clip(x, 1 - np.exp(10), np.exp(10) - 1), rel=1e-3, abs=1e-4)


# Networks ------------------------------------------------------------------------------------------------------------


def layer_numbers(inputs, hidden, out, last_normed=False):
    """Weights, biases, and two numbers per normalised entry."""
    total, k = 0, inputs
    for n in hidden:
        total, k = total + k * n + 3 * n, n
    return total + k * out + out + 2 * out * last_normed


@pytest.mark.parametrize(
    ("size", "encoder", "hidden", "latent", "layers", "values", "millions"),
    [
        ("1m", 256, 384, 128, 2, 2, 1.4),
        ("5m", 256, 512, 512, 2, 5, 5.4),
        ("19m", 1024, 1024, 768, 3, 5, 19.0),
        ("48m", 1792, 1792, 768, 4, 5, 48.8),
        ("317m", 4096, 4096, 1376, 5, 8, 317.4),
    ],
)
def test_official_sizes_have_their_numbers_of_parameters(size, encoder, hidden, latent, layers, values, millions):
    """With 80 tasks in one network (39 observed numbers, 6 actions, embeddings of 96) they come to their names."""
    obs, actions, e = 39, 6, 96
    nets = tdmpc(
        tp.TDMPCNetConfig(size=size, tasks=80), Spec(Box((obs + 80,)), Box((actions,), -1.0, 1.0), None, False)
    )
    shapes = jax.eval_shape(nets.init, jax.random.key(0))
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.world._asdict().items()}
    moved, two = latent + actions + e, [hidden] * 2
    assert counts == {
        "encoder": layer_numbers(obs + e, [encoder] * (layers - 1), latent, True),
        "dynamics": layer_numbers(moved, two, latent, True),
        "reward": layer_numbers(moved, two, 101),
        "values": values * layer_numbers(moved, two, 101),
        "termination": 0,
        "task": 80 * e,
    }
    policy = sum(leaf.size for leaf in jax.tree.leaves(shapes.policy))
    assert policy == layer_numbers(latent + e, two, 2 * actions)
    assert (sum(counts.values()) + policy) / 1e6 == pytest.approx(millions, abs=0.05)


def test_first_parameters():
    nets = tdmpc(replace(CFG, {"tasks": 0, "units": 64}), Spec(Box((OBS,)), SPEC.action))
    params = jax.jit(nets.init)(jax.random.key(0))
    for made in (params.world.dynamics, params.policy, params.world.values):
        kernel = np.asarray(made["params"]["Dense_1"]["kernel"])
        assert kernel.std() == pytest.approx(0.02, rel=0.05)
        assert abs(kernel.mean()) < 0.002
    zeros = [params.world.reward["params"]["Dense_2"], params.world.values["params"]["Dense_2"]]
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(zeros))
    first = np.asarray(params.world.values["params"]["Dense_1"]["kernel"])
    assert not np.array_equal(first[0], first[1])


@cache
def seen_by_a_planner():
    nets, params = parts()

    def one(key, obs, action):
        model, state = bind(nets, params, jax.random.key(9)), encode(nets, params.world, obs)
        drawn = sample_action(nets, params.policy, key, state)
        return state, model.step(key, state, action), model.value(key, state), drawn

    return jax.jit(jax.vmap(one))


def test_what_a_planner_sees_equals_numpy():
    _, params = parts()
    plain, count = Plain(params), 12
    obs, keys = observations(count), jax.random.split(jax.random.key(3), count)
    action = np.random.default_rng(1).uniform(-1, 1, (count, ACTIONS)).astype(np.float32)
    states, out, values, drawn = seen_by_a_planner()(keys, obs, action)
    pair = np.asarray(jax.random.permutation(jax.random.key(9), 3)[:2])
    ends = []
    for i in range(count):
        z = plain.encode(obs[i])
        np.testing.assert_allclose(states.z[i], z, rtol=1e-3, atol=1e-5)
        after, reward = plain.step(z, action[i], obs[i])
        np.testing.assert_allclose(out.state.z[i], after, rtol=1e-3, atol=1e-5)
        assert float(out.reward[i]) == pytest.approx(number(reward), rel=2e-3, abs=1e-4)
        ends.append(plain.end(after, obs[i]) > 0)
        assert float(out.discount[i]) == 1 - ends[-1]
        eps = np.asarray(jax.random.normal(keys[i], (ACTIONS,)))
        a, entropy, scaled = plain.draw(z, obs[i], eps)
        np.testing.assert_allclose(drawn.action[i], a, rtol=1e-3, atol=1e-4)
        assert float(drawn.entropy[i]) == pytest.approx(entropy, rel=1e-3, abs=1e-3)
        assert float(drawn.scaled_entropy[i]) == pytest.approx(scaled, rel=1e-3, abs=1e-3)
        each = [number(logits) for logits in plain.values(z, a, obs[i])]
        assert float(values[i]) == pytest.approx(np.mean(np.take(each, pair)), rel=5e-3, abs=1e-3)
    assert 0 < sum(ends) < count
    assert np.linalg.norm(np.asarray(params.world.task), axis=1).max() > 1.1
    np.testing.assert_array_equal(drawn.action[1::2, 1], 0)  # the second task has one action


def test_pairs_of_value_networks_are_drawn_without_replacement():
    values = {"w": jnp.arange(5.0)[:, None]}
    pairs = jax.jit(jax.vmap(lambda key: sample_pair(key, values)["w"][:, 0]))(jax.random.split(jax.random.key(0), 500))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    np.testing.assert_allclose(np.bincount(np.asarray(pairs, int).reshape(-1)) / 500, 0.4, atol=0.07)


# Losses of a window ---------------------------------------------------------------------------------------------------


def window(last, discount, seed=0):
    rng = np.random.default_rng(seed)
    obs = observations(H + 1, seed)
    obs[:, OBS:] = obs[0, OBS:]
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    last = np.array(last)
    return Step(
        jnp.asarray(obs), jnp.tanh(draw(H + 1, ACTIONS)), 5 * draw(H + 1), jnp.array(discount), np.roll(last, 1), last
    )


@pytest.mark.parametrize(
    ("last", "mask"),
    [([0, 0, 0, 0], [1, 1, 1]), ([0, 0, 0, 1], [1, 1, 1]), ([0, 1, 0, 0], [1, 0, 0]), ([1, 0, 0, 0], [0, 0, 0])],
)
def test_steps_after_the_end_of_an_episode_are_masked(last, mask):
    steps = window(np.array(last, bool), [1.0, 0.25, 0.5, 0.75])
    rows = tl.to_transitions(steps)
    np.testing.assert_array_equal(rows.mask, mask)
    np.testing.assert_array_equal(rows.discount, [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(rows.reward, steps.reward[1:])
    np.testing.assert_array_equal(rows.action, steps.action[:-1])


@cache
def losses():
    nets, params = parts()
    target = jax.tree.map(lambda leaf: leaf[:2] * 0.9, params.world.values)

    def run(params, target, steps):
        rows = tl.to_transitions(steps)
        targets = tl.window_targets(params, jax.random.key(1), rows, nets=nets, pair=target, gamma=0.9)
        states, lost = tl.window_terms(params.world, jax.random.key(2), rows, targets, nets=nets, dropout=0.0)
        return targets, states, lost

    def target_sum(params, target, steps):
        targets = run(params, target, steps)[0]
        return jnp.sum(targets.value) + jnp.sum(targets.latent.z)

    return params, target, jax.jit(run), jax.jit(jax.grad(target_sum, (0, 1)))


@pytest.mark.parametrize("end", [3, 2])
def test_losses_of_a_window_equal_numpy(end):
    params, target, run, _ = losses()
    last, discount = np.zeros(H + 1, bool), np.ones(H + 1, np.float32)
    last[end], discount[end] = True, 0.0
    steps = window(last, discount)
    targets, states, lost = run(params, target, steps)
    plain, obs = Plain(params), np.asarray(steps.obs)
    z = plain.encode(obs[0])
    keys = jax.random.split(jax.random.key(1), H)
    for t in range(H):
        np.testing.assert_allclose(states.z[t], z, rtol=2e-3, atol=1e-5)
        a, r = np.asarray(steps.action[t]), float(steps.reward[t + 1])
        later = plain.encode(obs[t + 1])
        np.testing.assert_allclose(targets.latent.z[t], later, rtol=2e-3, atol=1e-5)
        next_action = plain.draw(later, obs[t + 1], np.asarray(jax.random.normal(keys[t], (ACTIONS,))))[0]
        worst = min(number(logits) for logits in plain.values(later, next_action, obs[0], target))
        y = r + 0.9 * discount[t + 1] * worst
        assert float(targets.value[t]) == pytest.approx(y, rel=5e-3, abs=1e-3)
        after, reward = plain.step(z, a, obs[0])
        mask, end_logit = float(t < end), plain.end(after, obs[0])
        expected = {
            "consistency": np.mean((after - later) ** 2),
            "reward": cross(r, reward),
            "value": np.mean([cross(y, logits) for logits in plain.values(z, a, obs[0])]),
            "termination": np.log1p(np.exp(end_logit)) - (1 - discount[t + 1]) * end_logit,
        }
        assert set(lost) == set(expected)
        for name, value in expected.items():
            assert float(lost[name][t]) == pytest.approx(mask * value, rel=5e-3, abs=1e-4), name
        z = after
    assert discount[end] == 0


def test_no_gradient_flows_into_targets():
    params, target, _, grads = losses()
    steps = window(np.zeros(H + 1, bool), np.ones(H + 1, np.float32))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads(params, target, steps)))


def test_policy_value_is_the_mean_of_two_values_and_its_gradient_that_of_finite_differences():
    nets, params = parts()
    pair, key = jax.tree.map(lambda leaf: leaf[1:], params.world.values), jax.random.key(5)
    obs = observations(1)[0]
    key_draw = jax.random.split(key)[0]

    @jax.jit
    def run(policy):
        state = encode(nets, params.world, obs)
        drawn = sample_action(nets, policy, key_draw, state)
        each = jax.vmap(lambda logits: decode(nets, logits))(value_logits(nets, pair, state, drawn.action))
        return tl.policy_value(policy, key, state, nets=nets, pair=pair, dropout=0.0), jnp.mean(each), drawn

    (value, scaled, entropy), mean, drawn = run(params.policy)
    assert float(value) == pytest.approx(float(mean), rel=1e-5)
    assert float(scaled) == float(drawn.scaled_entropy)
    assert float(entropy) == float(drawn.entropy)

    def at(shift):
        policy = jax.tree.map(lambda leaf: leaf, params.policy)
        policy["params"]["Dense_2"]["bias"] = policy["params"]["Dense_2"]["bias"] + shift
        return run(policy)[0][0]

    slope = jax.grad(at)(jnp.zeros(2 * ACTIONS))
    for i in range(ACTIONS):
        step = 1e-2 * jnp.eye(2 * ACTIONS)[i]
        assert float(slope[i]) == pytest.approx(float(at(step) - at(-step)) / 0.02, rel=0.05, abs=1e-2)
    assert np.abs(slope).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        ({"size": "2m"}, SPEC, "size must be one of nano, 1m"),
        ({"values": 1}, SPEC, "values must be at least 2, got 1"),
        ({"latent": 10}, SPEC, r"latent must be a multiple of group \(4\), got 10"),
        ({"tasks": 5}, SPEC, "tasks must be below the observation's 5 entries, got 5"),
        ({}, SPEC._replace(obs=Box((8, 8, 3))), "observations must be a vector"),
        ({}, SPEC._replace(action=Discrete(3)), r"actions must be a vector in \[-1, 1\]"),
        ({}, SPEC._replace(action=Box((1,), -2.0, 2.0)), r"actions must be a vector in \[-1, 1\]"),
    ],
)
def test_bad_settings_are_refused(changes, spec, message):
    with pytest.raises(ValueError, match=message):
        tdmpc(replace(CFG, changes), spec)
