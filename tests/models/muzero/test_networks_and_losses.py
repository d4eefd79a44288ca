"""MuZero's model against plain NumPy: the networks, what a planner sees, and the targets and losses of an unroll."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.buffers.sequence import Step
from mbrl_jax.core import Box, Discrete, Spec
from mbrl_jax.models.muzero import losses as un
from mbrl_jax.models.muzero.losses import SearchTargets, Targets, Unrolled
from mbrl_jax.models.muzero.networks import MuZeroNetConfig, bind, muzero, root, unit_range

ACTIONS, SIZE, K = 3, 4, 3
SPEC = Spec(Box((SIZE,)), Discrete(ACTIONS))
CFG = MuZeroNetConfig(latent=5, hidden=(6,), support=4, project=3)


@cache
def parts():
    """Networks and parameters with no layer left at 0."""
    nets = muzero(CFG, SPEC)
    params = jax.jit(nets.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nets, jax.tree.unflatten(tree, noisy)


def forward(params, x):
    """An MLP with one normalised hidden layer, in NumPy."""
    p = jax.tree.map(np.asarray, params["params"])
    x = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["LayerNorm_0"]["scale"] + p["LayerNorm_0"]["bias"]
    return np.maximum(x, 0) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]


def scaled(x):
    return (x - x.min()) / (x.max() - x.min())


def number(logits):
    """h⁻¹ of a softmax's mean, h inverted by bisection."""
    p = np.exp(logits - logits.max())
    wanted = (p / p.sum()) @ np.arange(-CFG.support, CFG.support + 1)
    low, high = -100.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if transformed(middle) < wanted else (low, middle)
    return low


def transformed(x):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 0.001 * x


def classes(x):
    """Two-hot weights of h(x) on the whole numbers."""
    h = np.clip(transformed(x), -CFG.support, CFG.support)
    out = np.zeros(2 * CFG.support + 1)
    low = int(np.floor(h))
    out[low + CFG.support] += 1 - (h - low)
    if h > low:
        out[low + 1 + CFG.support] += h - low
    return out


def cross(target, logits):
    logits = np.asarray(logits, np.float64)
    return -np.sum(target * (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())))


# The networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("players", [1, 2])
def test_what_a_planner_sees(players):
    nets, params = parts()
    model = bind(nets, params, players, masked=True)
    model = model._replace(step=jax.jit(model.step), value=jax.jit(model.value), prior=jax.jit(model.prior))
    obs, mask = np.array([0.3, -1.0, 2.0, 0.1], np.float32), np.array([True, False, True])
    state = root(nets, params, jnp.asarray(obs), jnp.asarray(mask))
    at = scaled(forward(params["encoder"], obs))
    np.testing.assert_allclose(state.features, at, atol=1e-5)
    np.testing.assert_array_equal(model.legal(state), mask)
    key = jax.random.key(0)
    for action in (2, 0):
        at = scaled(at + forward(params["dynamics"], np.concatenate([at, np.eye(ACTIONS)[action]])))
        state, reward, discount = model.step(key, state, jnp.int32(action))
        np.testing.assert_allclose(state.features, at, atol=1e-5)
        assert float(reward) == pytest.approx(number(forward(params["reward"], at)), abs=1e-4)
        assert float(discount) == (1 if players == 1 else -1)
        assert float(model.value(key, state)) == pytest.approx(number(forward(params["value"], at)), abs=1e-4)
        np.testing.assert_allclose(model.prior(key, state), forward(params["policy"], at), atol=1e-5)
        np.testing.assert_array_equal(model.legal(state), True)
    assert bind(nets, params).legal is None
    assert root(nets, params, jnp.asarray(obs)).legal is None


def test_a_new_model_expects_nothing_and_prefers_nothing():
    nets = muzero(CFG, SPEC)
    model = bind(nets, (params := jax.jit(nets.init)(jax.random.key(3))))
    state, reward, _ = model.step(jax.random.key(0), root(nets, params, jnp.ones(SIZE)), jnp.int32(1))
    assert float(reward) == 0
    assert float(model.value(jax.random.key(0), state)) == 0
    np.testing.assert_array_equal(model.prior(jax.random.key(0), state), np.zeros(ACTIONS))


def test_latents_fill_the_unit_range():
    np.testing.assert_allclose(unit_range(jnp.array([[-3.0, 1.0], [5.0, 3.0]])), [[0, 0.5], [1, 0.75]])
    np.testing.assert_array_equal(unit_range(jnp.full(3, 7.0)), np.zeros(3))


def test_planes_stay_planes_where_there_are_blocks():
    cfg = MuZeroNetConfig(blocks=1, channels=2, hidden=(8,), support=2)
    nets = muzero(cfg, Spec(Box((3, 4, 2)), Discrete(ACTIONS)))
    params = jax.jit(nets.init)(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (3, 4, 2))
    latent = jax.jit(nets.represent)(params, obs)
    advance = jax.jit(nets.advance)
    assert latent.shape == (3, 4, 2)
    after = [advance(params, latent, jnp.int32(action))[0] for action in range(ACTIONS)]
    for x in (latent, *after):
        assert (float(x.min()), float(x.max())) == (0, pytest.approx(1))
    assert float(jnp.abs(after[0] - after[1]).max()) > 1e-3  # the action matters
    assert [x.shape for x in nets.predict(params, latent)] == [(ACTIONS,), (5,)]


@pytest.mark.parametrize(
    ("cfg", "spec", "message"),
    [
        ({}, Spec(Discrete(3), Discrete(2)), "observations must be a vector or planes"),
        ({}, Spec(Box((3,)), Box((1,))), "continuous actions; this needs discrete ones"),
        ({"blocks": 1}, Spec(Box((3,)), Discrete(2)), "blocks must be 0"),
        ({"support": 0}, SPEC, "support must be at least 1, got 0"),
    ],
)
def test_what_it_cannot_handle_is_refused(cfg, spec, message):
    with pytest.raises(ValueError, match=message):
        muzero(MuZeroNetConfig(**cfg), spec)


# Targets ------------------------------------------------------------------------------------------------------------


def experience(rng, rows, players):
    """A window over several episodes, some terminal and some out of time.

    There are searches at all rows but the last ones and a few whose action was random.
    """
    last = rng.random(rows) < 0.2
    terminal = last & (rng.random(rows) < 0.5)
    first = np.concatenate([[rng.random() < 0.5], last[:-1]])
    going = -1.0 if players == 2 else 1.0
    from_search = (rng.random(rows) < 0.85) & ~last
    searched = from_search | ((rng.random(rows) < 0.5) & ~last)
    return Step(
        obs=rng.normal(size=(rows, SIZE)).astype(np.float32),
        action=np.where(last, 0, rng.integers(0, ACTIONS, rows)).astype(np.int32),
        reward=np.where(first, 0, rng.normal(size=rows)).astype(np.float32),
        discount=np.where(terminal, 0.0, np.where(first, 1.0, going)).astype(np.float32),
        first=first,
        last=last,
        extras=SearchTargets(
            (rng.dirichlet(np.ones(ACTIONS), rows) * searched[:, None]).astype(np.float32),
            (rng.normal(size=rows) * searched).astype(np.float32),
            from_search,
        ),
    )


def return_by_hand(steps, t, gamma, n):
    """z_t by its words: rewards until n steps, a random action or the end; a bootstrap unless it terminated."""
    total, weight, at = 0.0, 1.0, t
    for _ in range(n):
        following = at + 1
        if not steps.extras.from_search[at]:
            return total + weight * steps.extras.value[at]
        if steps.last[following] and steps.discount[following] != 0:
            return total + weight * steps.extras.value[at]  # out of time: the last search before it
        total += weight * steps.reward[following]
        weight *= gamma * steps.discount[following]
        at = following
        if steps.last[at]:
            return total
    return total + weight * steps.extras.value[at]


@pytest.mark.parametrize(("players", "n"), [(1, 1), (1, 4), (2, 5)])
def test_targets_are_those_of_a_loop_over_the_rows(players, n):
    rng, gamma = np.random.default_rng(n), 0.9
    make = jax.jit(lambda key, steps: un.make_targets(key, steps, steps.extras, gamma=gamma, n=n, unroll=K))
    seen = {"absorbed": 0, "unknown": 0, "cut": 0, "random": 0, "unsearched": 0, "whole": 0}
    for trial in range(150):
        steps = experience(rng, K + n + 1, players)
        got = jax.tree.map(np.asarray, make(jax.random.key(trial), jax.tree.map(jnp.asarray, steps)))
        end = int(np.argmax(steps.last)) if steps.last[: K + 1].any() else K + 1  # row that ends the first episode
        absorbs = end <= K and steps.discount[end] == 0
        for k in range(K + 1):
            if end == 0:
                wanted = (0, 0, 0, None, None)
            elif k < end:
                searched = bool(steps.extras.policy[k].any())
                wanted = (searched, searched, 1, return_by_hand(steps, k, gamma, n), steps.reward[k])
                seen["unsearched"] += not searched
                seen["cut"] += bool((steps.last & (steps.discount != 0))[k + 1 : k + n + 1].any())
                seen["random"] += not steps.extras.from_search[k : k + n].all()
                seen["whole"] += 1
            elif absorbs:
                wanted = (0, 1, 1, 0.0, steps.reward[k] if k == end else 0.0)
                seen["absorbed"] += 1
            else:
                wanted = (0, 0, k == end, None, steps.reward[k])
                seen["unknown"] += 1
            assert got.policy_mask[k] == wanted[0]
            assert got.value_mask[k] == wanted[1]
            if wanted[1]:
                assert got.value[k] == pytest.approx(wanted[3], abs=1e-5)
            if wanted[0]:
                np.testing.assert_array_equal(got.policy[k], steps.extras.policy[k])
            if k < K and k < end:
                assert got.action[k] == steps.action[k]
            if k:
                assert got.reward_mask[k - 1] == wanted[2]
                assert got.same_episode[k - 1] == (0 < k <= end and end > 0)
                if wanted[2]:
                    assert got.reward[k - 1] == wanted[4]
    assert min(seen.values()) > 20


def test_two_players_by_hand():
    """A win for the player who moves third from here on, two moves before: +1 for the first mover, -1 in between."""
    rows, own = 5, jnp.ones(5, bool)
    steps = Step(
        obs=jnp.zeros((rows, SIZE)), action=jnp.zeros(rows, jnp.int32), reward=jnp.array([0.0, 0, 0, 1, 0]),
        discount=jnp.array([-1.0, -1, -1, 0, 1]), first=jnp.arange(rows) == 4, last=jnp.arange(rows) == 3,
    )  # fmt: skip
    value = un.n_step_returns(steps.reward, steps.discount, steps.last, own, jnp.zeros(rows), gamma=1.0, n=3)
    np.testing.assert_array_equal(value, [1, -1])
    assert (
        float(un.n_step_returns(steps.reward, steps.discount, steps.last, own, jnp.zeros(rows), gamma=0.9, n=1)[2]) == 1
    )
    # Bootstrapping after one move from a position that is worth 0.5 to the opponent.
    value = un.n_step_returns(steps.reward, steps.discount, steps.last, own, jnp.full(rows, 0.5), gamma=1.0, n=1)
    np.testing.assert_array_equal(value[:3], [-0.5, -0.5, 1])
    # The second move was made at random: what it led to says nothing of the first.
    value = un.n_step_returns(
        steps.reward, steps.discount, steps.last, own.at[1].set(False), jnp.arange(5) / 10, gamma=1.0, n=3
    )
    np.testing.assert_allclose(value, [-0.1, 0.1])


def test_actions_past_the_end_are_drawn_uniformly():
    rows = K + 2
    steps = Step(
        obs=jnp.zeros((rows, SIZE)), action=jnp.zeros(rows, jnp.int32), reward=jnp.zeros(rows),
        discount=(jnp.arange(rows) != 1).astype(jnp.float32), first=jnp.arange(rows) == 2, last=jnp.arange(rows) == 1,
    )  # fmt: skip
    found = SearchTargets(jnp.zeros((rows, ACTIONS)), jnp.zeros(rows), jnp.ones(rows, bool))
    make = jax.vmap(lambda key: un.make_targets(key, steps, found, gamma=1.0, n=1, unroll=K).action)
    action = np.asarray(make(jax.random.split(jax.random.key(0), 3000)))
    np.testing.assert_array_equal(action[:, 0], 0)  # taken in the episode
    for k in (1, 2):
        np.testing.assert_allclose(np.bincount(action[:, k], minlength=ACTIONS) / 3000, 1 / ACTIONS, atol=0.03)


# Losses -------------------------------------------------------------------------------------------------------------


def random_unroll(seed):
    rng = np.random.default_rng(seed)
    bins = 2 * CFG.support + 1
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    mask = lambda n: (rng.random(n) < 0.6).astype(np.float32)  # noqa: E731
    # Up to 60: h(60) is about 6.9, past the largest class.
    value, reward = 20 * draw(K + 1), np.array([60.0, 0.0, -1.0], np.float32)
    policy = rng.dirichlet(np.ones(ACTIONS), K + 1).astype(np.float32)
    targets = Targets(
        np.zeros(K, np.int32), policy, value, reward, mask(K + 1), mask(K + 1), np.ones(K, np.float32), mask(K)
    )
    return Unrolled(draw(K + 1, 5), draw(K + 1, ACTIONS), draw(K + 1, bins), draw(K, bins)), targets


@pytest.mark.parametrize("seed", range(3))
def test_losses_in_numpy(seed):
    unrolled, targets = random_unroll(seed)
    bins = jnp.arange(-CFG.support, CFG.support + 1.0)
    got = un.unroll_terms(*jax.tree.map(jnp.asarray, (unrolled, targets)), bins=bins)
    wanted = {"policy": 0.0, "value": 0.0, "reward": 0.0}
    for k in range(K + 1):
        weight = 1.0 if k == 0 else 1 / K
        wanted["policy"] += weight * targets.policy_mask[k] * cross(targets.policy[k], unrolled.policy[k])
        wanted["value"] += weight * targets.value_mask[k] * cross(classes(targets.value[k]), unrolled.value[k])
        if k:
            wanted["reward"] += weight * cross(classes(targets.reward[k - 1]), unrolled.reward[k - 1])
    assert {name: float(term) for name, term in got.items()} == pytest.approx(wanted, rel=1e-4)
    assert min(wanted.values()) > 0


def test_the_unroll_is_the_model_step_by_step():
    nets, params = parts()
    obs, actions = np.array([1.0, 0.0, -0.5, 0.2], np.float32), (2, 1, 0)
    got = jax.jit(lambda obs, actions: un.unroll_model(params, obs, actions, nets=nets))(obs, jnp.array(actions))
    at = scaled(forward(params["encoder"], obs))
    for k in range(K + 1):
        if k:
            at = scaled(at + forward(params["dynamics"], np.concatenate([at, np.eye(ACTIONS)[actions[k - 1]]])))
            np.testing.assert_allclose(got.reward[k - 1], forward(params["reward"], at), atol=1e-4)
        np.testing.assert_allclose(got.latent[k], at, atol=1e-5)
        np.testing.assert_allclose(got.policy[k], forward(params["policy"], at), atol=1e-4)
        np.testing.assert_allclose(got.value[k], forward(params["value"], at), atol=1e-4)


def test_each_step_of_the_dynamics_halves_the_gradient():
    """Compared with central differences in double precision, which know of no scaling."""
    nets, params = parts()  # made before 64 bits are enabled, since they are cached for the tests after this one
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        obs, actions = jnp.array([1.0, 0.0, -0.5, 0.2]), jnp.array([2, 1, 0])
        along = jnp.linspace(-1, 2, 5)
        direction = jnp.array([0.5, -1.0, 2.0, 0.3, 0.8])

        @jax.jit
        def along_path(shift):
            """One direction of each latent state, the first of them moved by `shift` before it is rescaled."""
            inner = params["encoder"]["params"]
            bias = inner["Dense_1"]["bias"] + shift * direction
            inner = {**inner, "Dense_1": {**inner["Dense_1"], "bias": bias}}
            moved = {**params, "encoder": {"params": inner}}
            return un.unroll_model(moved, obs, actions, nets=nets).latent @ along

        exact = (along_path(1e-6) - along_path(-1e-6)) / 2e-6
        scaled_ = jax.jacrev(along_path)(0.0)
        assert float(jnp.abs(exact).min()) > 1e-4
        np.testing.assert_allclose(scaled_ / exact, 0.5 ** np.arange(K + 1), rtol=1e-5)


def test_consistency_in_numpy_and_no_gradient_through_observed_latents():
    nets, params = parts()
    rng = np.random.default_rng(0)
    latent, obs = rng.random((K, 5)).astype(np.float32), rng.normal(size=(K, SIZE)).astype(np.float32)
    seen = np.array([1.0, 1.0, 0.0], np.float32)
    total = 0.0
    for k in range(2):
        predicted = forward(params["latent_predictor"], forward(params["projector"], latent[k]))
        observed = forward(params["projector"], scaled(forward(params["encoder"], obs[k])))
        total -= predicted @ observed / np.linalg.norm(predicted) / np.linalg.norm(observed) / K
    loss = lambda params: un.consistency_loss(params, *map(jnp.asarray, (latent, obs, seen)), nets=nets)  # noqa: E731
    (got, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(metrics["consistency_loss"]) == float(got)
    assert float(got) == pytest.approx(total, rel=1e-4)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["encoder"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(grads["latent_predictor"]))
    without = muzero(MuZeroNetConfig(latent=5, hidden=(6,)), SPEC)
    with pytest.raises(ValueError, match="project must be above 0"):
        un.consistency_loss(params, jnp.asarray(latent), jnp.asarray(obs), jnp.asarray(seen), nets=without)


def test_the_loss_of_a_batch_in_numpy():
    """Two windows, weighted; every term from the networks' outputs in NumPy."""
    nets, params = parts()
    rng = np.random.default_rng(4)
    obs = rng.normal(size=(K + 1, 2, SIZE)).astype(np.float32)
    targets = jax.tree.map(lambda *leaves: np.stack(leaves), random_unroll(0)[1], random_unroll(1)[1])
    targets = targets._replace(action=np.array([[0, 2, 1], [1, 1, 0]], np.int32))
    weight, terms = np.array([1.0, 0.25]), np.zeros((4, 2))
    for b in range(2):
        at, t = scaled(forward(params["encoder"], obs[0, b])), jax.tree.map(lambda leaf: leaf[b], targets)  # noqa: B023
        for k in range(K + 1):
            w = 1.0 if k == 0 else 1 / K
            if k:
                at = scaled(at + forward(params["dynamics"], np.concatenate([at, np.eye(ACTIONS)[t.action[k - 1]]])))
                reward = cross(classes(t.reward[k - 1]), forward(params["reward"], at))
                terms[2, b] += w * t.reward_mask[k - 1] * reward
                p = forward(params["latent_predictor"], forward(params["projector"], at))
                q = forward(params["projector"], scaled(forward(params["encoder"], obs[k, b])))
                terms[3, b] -= t.same_episode[k - 1] * p @ q / np.linalg.norm(p) / np.linalg.norm(q) / K
            terms[0, b] += w * t.policy_mask[k] * cross(t.policy[k], forward(params["policy"], at))
            terms[1, b] += w * t.value_mask[k] * cross(classes(t.value[k]), forward(params["value"], at))
    means = terms @ weight / 2
    loss, metrics = jax.jit(
        lambda obs, targets, weight: un.muzero_loss(
            params, obs, targets, nets=nets, weight=weight, value_weight=0.7, consistency_weight=1.5
        )
    )(obs, targets, jnp.asarray(weight, jnp.float32))
    names = ("policy_loss", "value_loss", "reward_loss", "consistency_loss")
    assert [float(metrics[name]) for name in names] == pytest.approx(means.tolist(), rel=1e-3)
    assert float(loss) == pytest.approx(means @ [1.0, 0.7, 1.0, 1.5], rel=1e-3)
