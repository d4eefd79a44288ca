"""Plan2Explore: the ensemble by NumPy, and an explorer that leaves the task's learning unchanged."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.dreamer_reference import OBS, SPEC, B, T, always, settings, windows

from mbrl_jax.agents.dreamer import plan2explore
from mbrl_jax.agents.dreamer import v3 as dreamer_v3
from mbrl_jax.models.rssm.rssm import Latent, Rows

MEMBERS, F, A, Z = 3, 4, 2, 6


@cache
def ensemble():
    cfg = plan2explore.Plan2ExploreConfig(members=MEMBERS, hidden=(5,))
    net = plan2explore.predictor(cfg, F + Z, A, Z)
    return net, plan2explore.init_ensemble(jax.random.key(0), net, MEMBERS)


def predictions(params, x):
    """[K, N, Z] of the members, by NumPy."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    out = []
    for k in range(MEMBERS):
        h = x @ layers["Dense_0"]["kernel"][k] + layers["Dense_0"]["bias"][k]
        h = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-4) * layers["RMSNorm_0"]["scale"][k]
        h = h / (1 + np.exp(-h))
        out.append(h @ layers["Dense_1"]["kernel"][k] + layers["Dense_1"]["bias"][k])
    return np.stack(out)


def test_disagreement_is_the_mean_deviation_among_members():
    net, params = ensemble()
    rng = np.random.default_rng(0)
    feature, code = rng.normal(size=F + Z), np.array([0.0, 1.0])
    wanted = predictions(params, np.concatenate([feature, code])[None])[:, 0].std(0).mean()
    got = plan2explore.disagreement(params, jnp.asarray(feature), jnp.asarray(code), net=net)
    assert float(got) == pytest.approx(wanted, rel=1e-4)
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), params)
    assert float(plan2explore.disagreement(same, jnp.asarray(feature), jnp.asarray(code), net=net)) < 1e-6


def test_members_predict_the_next_latent_but_not_across_the_start_of_an_episode():
    net, params = ensemble()
    rng = np.random.default_rng(1)
    steps = 5
    first = np.array([True, False, False, True, False])
    states = Latent(rng.normal(size=(steps, F)), rng.normal(size=(steps, 2, 3)))
    codes = np.eye(A)[rng.integers(0, A, steps)] * ~first[:, None]
    none = np.zeros(steps)
    rows = Rows(none, codes, none, none, first, none)
    x = np.concatenate([states.deter, states.stoch.reshape(steps, -1)], -1)[:-1]
    errors = predictions(params, np.concatenate([x, codes[1:]], -1)) - states.stoch.reshape(steps, -1)[1:]
    wanted = (0.5 * (errors**2).sum(-1) * ~first[1:]).mean()
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], (states, rows))
    loss, metrics = plan2explore.ensemble_loss(params, *batch, net=net)
    assert float(loss) == float(metrics["ensemble_loss"]) == pytest.approx(wanted, rel=1e-4)


@cache
def updates():
    """One update with an explorer and one without, by the key that the explorer leaves."""
    plain, curious = settings(), settings(explorer="plan2explore", plan2explore__members=MEMBERS)
    key, window = jax.random.key(3), windows()
    with_, without = dreamer_v3.make(curious, SPEC), dreamer_v3.make(plain, SPEC)
    start = with_.init(jax.random.key(0))
    bare, key_left = start._replace(explorer=()), jax.random.split(key)[0]

    update = jax.jit(lambda key, learner: with_.update(key, learner, always(window)))
    explored = update(key, start)
    again = update(jax.random.key(4), explored[0])
    return start, with_, explored, again, jax.jit(lambda key: without.update(key, bare, always(window)))(key_left)


@pytest.mark.slow
def test_the_task_learns_what_it_would_without():
    _, _, (curious, metrics, _), _, (plain, plain_metrics, _) = updates()
    for a, b in zip(*map(jax.tree.leaves, (curious._replace(explorer=()), plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert set(metrics) == set(plain_metrics) | {"ensemble_loss", "curiosity"}
    assert float(metrics["ensemble_loss"]) > 0.1


def test_the_explorer_learns_its_own_policy_and_acts_in_training_only():
    start, agent, _, (after, _, _), _ = updates()  # the first update has rate 0
    for name in ("ensemble", "actor", "critic", "ema_critic"):
        old, new = getattr(start.explorer, name), getattr(after.explorer, name)
        moved = [float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True)]
        assert max(moved) > 1e-6, name
    task_moved = zip(*map(jax.tree.leaves, (after.params.actor, after.explorer.actor)), strict=True)
    assert any(float(jnp.abs(a - b).max()) > 1e-6 for a, b in task_moved)
    # An explorer that is sure of one action takes it in training, and the task's actor, sure of the other, elsewhere.
    sure = lambda actor, n: jax.tree.map(jnp.zeros_like, actor) | {  # noqa: E731
        "params": {**jax.tree.map(jnp.zeros_like, actor)["params"], "Dense_3": {
            "kernel": jnp.zeros_like(actor["params"]["Dense_3"]["kernel"]), "bias": 50.0 * jnp.eye(2)[n],
        }},
    }  # fmt: skip
    learner = after._replace(
        explorer=after.explorer._replace(actor=sure(after.explorer.actor, 1)),
        params=after.params._replace(actor=sure(after.params.actor, 0)),
    )
    act = jax.jit(agent.act, static_argnums=4)
    keys = jax.random.split(jax.random.key(0), 20)
    taken = {
        explore: [int(act(k, learner, agent.carry(), jnp.ones(OBS), explore)[0]) for k in keys]
        for explore in (True, False)
    }
    assert np.mean(taken[True]) > 0.8  # but for the share of uniform chances
    assert set(taken[False]) == {0}
    assert T * B > 0
