"""The recurrent dynamics against NumPy: cell, mixtures, temperature, and a window with an episode's end in it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, Spec, imagine
from mbrl_jax.models.world_models import mdn_rnn as mr
from mbrl_jax.models.world_models.mdn_rnn import (
    DreamState,
    MDNRNNConfig,
    Memory,
    Mixture,
    Rows,
    bind,
    log_prob,
    mdn_rnn,
    mdn_rnn_loss,
    tempered,
    window_loss,
)

Z, H, K, A, L = 2, 5, 3, 2, 9
CFG = MDNRNNConfig(hidden=H, components=K, heads=(4,), least_std=0.05, end_weight=4.0, burn_in=2)
SPEC = Spec(Box((Z,)), Discrete(A))
RNG = np.random.default_rng(0)
KEY = jax.random.key(5)
MIXTURE = Mixture(*(jnp.asarray(RNG.normal(size=(Z, K)), jnp.float32) for _ in range(3)))


def drawn(init):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape) + 0.1, jnp.float32), shapes)


MODEL = mdn_rnn(CFG, Z, SPEC)
PARAMS = drawn(MODEL.init)
PARAMS = PARAMS._replace(
    rewards=PARAMS.rewards._replace(mean=jnp.array([-0.5]), std=jnp.array([2.0])), bounds=jnp.array([-99.0, 99.0])
)


# In NumPy -----------------------------------------------------------------------------------------------------------

sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def cell(h, c, x):
    weights = wide(PARAMS.cell)
    i, f, g, o = np.split(np.concatenate([x, h]) @ weights.kernel + weights.bias, 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def mixture(h, z):
    layer = wide(PARAMS.mixture)["params"]["Dense_0"]
    logits, change, raw = (h @ layer["kernel"] + layer["bias"]).reshape(3, Z, K)
    least = np.log(0.05)
    return logits, z[:, None] + change, least + softplus(raw - least)


def density(logits, mean, log_std, x):
    """log p of each entry, as the logarithm of a plain sum."""
    pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    std = np.exp(log_std)
    return np.log((pi * np.exp(-0.5 * ((x[:, None] - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))).sum(1))


def outcome(h, x, after):
    net = wide(PARAMS.outcome)["params"]
    after = after.clip(-10, 10)
    y = np.concatenate([h, x, after, after**2]) @ net["Dense_0"]["kernel"] + net["Dense_0"]["bias"]
    return (y * sigmoid(y)) @ net["Dense_1"]["kernel"] + net["Dense_1"]["bias"]


# The cell and the mixtures ------------------------------------------------------------------------------------------


def test_the_cell_is_an_lstm_with_one_added_to_the_forget_gate():
    h, c, z = RNG.normal(size=H), RNG.normal(size=H), RNG.normal(size=Z)
    memory = MODEL.remember(PARAMS, Memory(*map(jnp.asarray, (h, c))), jnp.asarray(z), jnp.int32(1))
    for got, want in zip(memory, cell(h, c, np.concatenate([z, [0.0, 1.0]])), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_densities_at_a_temperature(temperature):
    logits, mean, log_std = wide(MIXTURE)
    x = np.array([0.3, -1.2])
    want = density(logits / temperature, mean, np.log(np.exp(log_std) * np.sqrt(temperature)), x)
    np.testing.assert_allclose(log_prob(tempered(MIXTURE, temperature), jnp.asarray(x)), want, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_draws_have_the_exact_moments_at_a_temperature(temperature):
    logits, mean, log_std = wide(MIXTURE)
    pi = np.exp(logits / temperature)
    pi /= pi.sum(1, keepdims=True)
    middle = (pi * mean).sum(1)
    spread = (pi * (temperature * np.exp(2 * log_std) + mean**2)).sum(1) - middle**2
    one = jax.jit(jax.vmap(lambda key: mr.sample(key, tempered(MIXTURE, temperature))))
    draws = np.asarray(one(jax.random.split(KEY, 40_000)))
    np.testing.assert_allclose(draws.mean(0), middle, atol=4 * np.sqrt(spread.max() / 40_000))
    np.testing.assert_allclose(draws.var(0), spread, rtol=0.04)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.02  # the entries are drawn apart


def test_noise_grows_with_the_root_of_the_temperature_and_low_ones_take_the_likeliest():
    single = jax.tree.map(lambda leaf: leaf[:, :1], MIXTURE)
    noise = {t: np.asarray(mr.sample(KEY, tempered(single, t)) - single.mean[:, 0]) for t in (1.0, 4.0)}
    np.testing.assert_allclose(noise[4.0], 2 * noise[1.0], rtol=1e-5)
    cold = mr.sample(KEY, tempered(MIXTURE, 1e-6))
    likeliest = np.argmax(MIXTURE.logits, 1)
    np.testing.assert_allclose(cold, np.asarray(MIXTURE.mean)[np.arange(Z), likeliest], atol=0.02)


# A window -----------------------------------------------------------------------------------------------------------


def window():
    """Rows of an episode that began before and ends at row 4, and the start of the next one."""
    last, first = np.arange(L) == 4, np.arange(L) == 5
    z, reward = np.random.default_rng(2).normal(size=(L, Z)), np.random.default_rng(3).normal(size=L)
    action = np.array([0, 1, 1, 0, 0, 1, 0, 1, 1])
    return z, action, reward, 1.0 - last, first, last


def rows(*parts):
    return Rows(*(jnp.asarray(p, jnp.float32) if p.dtype == np.float64 else jnp.asarray(p) for p in parts))


def by_hand(z, action, reward, discount, first, last):
    """Sums over the steps that count, divided by all steps."""
    h, c = np.zeros(H), np.zeros(H)
    total = {"latent": 0.0, "reward": 0.0, "end": 0.0}
    for t in range(L - 1):
        if first[t]:
            h, c = np.zeros(H), np.zeros(H)
        x = np.concatenate([z[t], np.eye(A)[action[t]]])
        h, c = cell(h, c, x)
        if last[t] or (t < 2 and not first[: t + 1].any()):
            continue
        predicted = outcome(h, x, z[t + 1])
        chance, end = sigmoid(predicted[1]), 1 - discount[t + 1]
        total["latent"] -= density(*mixture(h, z[t]), z[t + 1]).mean()
        total["reward"] += (predicted[0] - (reward[t + 1] + 0.5) / 2.0) ** 2
        total["end"] -= 4.0 * end * np.log(chance) + (1 - end) * np.log(1 - chance)
    return {name: value / (L - 1) for name, value in total.items()}


LOSS = jax.jit(jax.value_and_grad(lambda z, rows: window_loss(PARAMS, rows._replace(z=z), model=MODEL), has_aux=True))


def test_the_loss_of_a_window_leaves_out_ends_and_unknown_memories():
    parts = window()
    (total, terms), by_latent = LOSS(rows(*parts).z, rows(*parts))
    want = by_hand(*parts)
    for name, value in want.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name
        assert abs(value) > 0.05
    assert float(total) == pytest.approx(sum(want.values()), rel=1e-4)
    assert float(terms["counted"]) == pytest.approx(5 / 8)  # of 8 steps, without 0, 1 and the one after the end
    # Rows after the end belong to another episode: neither part influences the other.
    before = rows(*parts)
    changed = before._replace(z=before.z.at[5:].add(1.0), action=before.action.at[4].set(1))
    until_end = lambda rows: rows._replace(last=rows.last.at[4:].set(True))  # noqa: E731
    assert float(LOSS(changed.z, until_end(changed))[0][0]) == float(LOSS(before.z, until_end(before))[0][0])
    after = lambda rows: rows._replace(last=rows.last.at[:5].set(True))  # noqa: E731
    shifted = before._replace(z=before.z.at[:5].add(1.0))
    assert float(LOSS(shifted.z, after(shifted))[0][0]) == float(LOSS(before.z, after(before))[0][0])
    assert np.all(np.abs(np.asarray(by_latent)).max(1) > 1e-4)  # rows of the burn-in still drive the memory


def test_the_loss_of_a_batch_weights_its_windows_by_importance():
    other = window()
    other = (other[0] + 0.3, *other[1:])
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), rows(*window()), rows(*other))
    loss, metrics = jax.jit(lambda rows, weight: mdn_rnn_loss(PARAMS, rows, weight, model=MODEL))(
        batch, jnp.array([0.5, 2.0])
    )
    one, two = by_hand(*window()), by_hand(*other)
    assert float(loss) == pytest.approx((0.5 * sum(one.values()) + 2.0 * sum(two.values())) / 2, rel=1e-4)
    for name in one:
        assert float(metrics[name]) == pytest.approx((one[name] + two[name]) / 2, rel=1e-4)
    assert float(metrics["counted"]) == pytest.approx(5 / 8)


def test_a_window_that_starts_an_episode_is_learned_from_at_once():
    z, action, reward, discount, first, last = window()
    first = first | (np.arange(L) == 0)
    (_, terms), _ = LOSS(rows(z, *window()[1:]).z, rows(z, action, reward, discount, first, last))
    assert float(terms["counted"]) == pytest.approx(7 / 8)
    assert float(terms["latent"]) == pytest.approx(
        by_hand(z, action, reward, discount, first, last)["latent"], rel=1e-4
    )


# Dreams -------------------------------------------------------------------------------------------------------------


def test_reward_and_discount_of_a_step_depend_on_the_next_latent():
    h, c, z = RNG.normal(size=H), RNG.normal(size=H), RNG.normal(size=Z)
    state = DreamState(jnp.asarray(z, jnp.float32), Memory(*(jnp.asarray(v, jnp.float32) for v in (h, c))))
    out = bind(MODEL, PARAMS, 1e-8).step(KEY, state, jnp.int32(0))
    x = np.concatenate([z, [1.0, 0.0]])
    h, c = cell(h, c, x)
    logits, mean, _ = mixture(h, z)
    after = mean[np.arange(Z), logits.argmax(1)]
    np.testing.assert_allclose(out.state.z, after, atol=1e-3)
    np.testing.assert_allclose(out.state.memory.h, h, rtol=1e-4)
    predicted = outcome(h, x, after)
    assert float(out.reward) == pytest.approx(2.0 * predicted[0] - 0.5, abs=2e-3)
    odds = np.exp(predicted[1]) / 4.0  # terminal steps were weighted four times in the loss
    assert float(out.discount) == pytest.approx(1 / (1 + odds), abs=2e-3)


def test_without_termination_all_discounts_are_1_and_actions_may_be_continuous():
    model = mdn_rnn(CFG, Z, SPEC._replace(action=Box((1,), -1.0, 1.0), terminates=False))
    params = drawn(model.init)
    start = DreamState(jnp.zeros(Z), model.start())
    policy = lambda key, state: jnp.tanh(state.z[:1])  # noqa: E731
    _, rollout = jax.jit(lambda: imagine(bind(model, params).step, policy, KEY, start, 6))()
    np.testing.assert_array_equal(rollout.discounts, 1.0)
    assert len(np.unique(rollout.states.z[:, 0])) == 6
    parts = rows(*window())._replace(action=jnp.zeros((L, 1)))
    assert float(window_loss(params, parts, model=model)[1]["end"]) == 0.0


def test_rewards_are_scaled_by_the_unmasked_rows():
    params = MODEL.calibrate(PARAMS, jnp.array([1.0, 5.0, 99.0]), jnp.array([True, True, False]))
    assert (float(params.rewards.mean[0]), float(params.rewards.std[0])) == (3.0, 2.0)
    np.testing.assert_array_equal(params.bounds, [1.0, 5.0])
    # Imagined rewards are clipped to the range.
    wild = params._replace(rewards=params.rewards._replace(mean=jnp.array([50.0])))
    out = MODEL.step(wild, KEY, DreamState(jnp.zeros(Z), MODEL.start()), jnp.int32(0), 1.0)
    assert float(out.reward) == 5.0
    nothing = MODEL.calibrate(PARAMS, jnp.ones(3), jnp.zeros(3, bool))
    np.testing.assert_array_equal(nothing.bounds, [-np.inf, np.inf])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"heads": (4, 0)}, "heads must be at least 1, got 0"),
        ({"least_std": 0.0}, "least_std must be above 0, got 0.0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mdn_rnn(MDNRNNConfig(**changes), Z, SPEC)
