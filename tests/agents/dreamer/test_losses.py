"""The Dreamers' public losses called alone, on batches small enough to compute by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.dreamer_reference import (
    SPEC,
    B,
    H,
    T,
    behaviour_by_numpy,
    model_by_numpy,
    rows_by_numpy,
    targets_by_numpy,
    updated,
)

from mbrl_jax.agents.dreamer import actor_critic_v1_v2, v1, v2, v3
from mbrl_jax.agents.dreamer import actor_critic_v3 as heads_v3
from mbrl_jax.agents.dreamer.common import batch_model_inputs
from mbrl_jax.core.types import Box, Discrete, Key, Spec
from mbrl_jax.models.rssm import dreamer_v1_v2
from mbrl_jax.models.rssm import dreamer_v3 as model
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.model_losses import likelihood_weight

KEY = jax.random.key(0)
LINEAR = Net(lambda key: jnp.zeros(1), lambda w, x: w * x)  # v(s) = w s, of features [1]


def test_the_first_two_critics_by_hand():
    feature = jnp.array([[[1.0], [2.0], [9.0]]])  # the last state has no target
    trajectory = actor_critic_v1_v2.Trajectory(feature, jnp.zeros((1, 2, 1)), jnp.zeros((1, 3)), jnp.zeros((1, 3)))
    imagined = actor_critic_v1_v2.Imagined(trajectory, jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 0.5]]))
    loss, metrics = actor_critic_v1_v2.critic_loss(jnp.array([3.0]), imagined, net=LINEAR)
    assert float(loss) == float(metrics["value_loss"]) == pytest.approx((0.5 * 2**2 + 0.5 * 0.5 * 5**2) / 2)


class Line:
    """A world on a line: s' = s + a, reward s on arriving, never terminal; the actor's output is its action."""

    policy = actor_critic_v1_v2.Policy(
        lambda key, out: out, lambda out: out, lambda out, action: -jnp.sum(out), lambda out: 2 * jnp.sum(out),
        lambda action: action, 1,
    )  # fmt: skip
    heads = actor_critic_v1_v2.ActorCritic(Net(lambda key: jnp.zeros(1), lambda w, x: w), LINEAR, policy)

    @staticmethod
    def nets():
        def step(params, key: Key, state, action):
            del params, key
            return state._replace(deter=state.deter + action)

        rssm = dreamer_v1_v2.networks(dreamer_v1_v2.DreamerNetConfig(deter=1), SPEC, True).rssm._replace(step=step)
        constant = Net(lambda key: (), lambda params, x: jnp.full(1, 1e3))
        return dreamer_v1_v2.Networks(constant, rssm, None, Net(lambda key: (), lambda params, x: x), constant)  # pyright: ignore


def line_loss(loss, w: float, **rest):
    start = model.Latent(jnp.array([[2.0]]), jnp.zeros((1, 0)))
    params = dreamer_v1_v2.ModelParams(*[()] * 5)
    imagining = {"model": params, "critic": jnp.array([10.0]), "nets": Line.nets(), "heads": Line.heads}
    imagining |= {"horizon": 2, "gamma": 0.5, "lam": 0.5} | rest
    return jax.value_and_grad(lambda w: loss(w, KEY, start, **imagining), has_aux=True)(jnp.array([w]))


def by_hand(w: float):
    """s = 2, 2 + w, 2 + 2 w; v = 10 s; all discounts 1/2."""
    last = (2 + 2 * w) + 0.5 * 10 * (2 + 2 * w)
    return np.array([(2 + w) + 0.5 * (0.5 * 10 * (2 + w) + 0.5 * last), last]), np.array([0.5, 0.25])


def test_the_first_actor_by_hand():
    (loss, metrics), slope = line_loss(v1.actor_loss, 1.0)
    returns, weights = by_hand(1.0)
    assert float(loss) == pytest.approx(-(weights * returns).mean(), rel=1e-5)
    assert float(metrics["imagined_return"]) == pytest.approx(returns.mean(), rel=1e-5)
    ahead, behind = ((by_hand(1.0 + d)[0] * weights).mean() for d in (0.5, -0.5))  # returns are linear in w
    assert float(slope[0]) == pytest.approx(behind - ahead, rel=1e-5)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_second_actor_by_hand(rho):
    (loss, metrics), _ = line_loss(v2.actor_loss, 1.0, reinforce=rho, entropy=0.1)
    returns, weights = by_hand(1.0)
    advantage = returns - np.array([20.0, 30.0])
    objective = rho * -1.0 * advantage + (1 - rho) * returns + 0.1 * 2.0
    assert float(loss) == pytest.approx(-(weights * objective).mean(), rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(2.0)


def test_the_third_model_loss_is_the_weighted_sum_of_its_terms():
    up = updated()
    key = jax.random.split(jax.random.key(3), 3)[1]
    start, rows = batch_model_inputs(up.window.steps, rssm=up.nets.rssm, space=SPEC.action, context=True)
    scales = {"gamma": 0.9, "free": 0.2, "dyn_scale": 1.5, "rep_scale": 0.3, "decoder_scale": 2.0}
    weights, params = up.window.weight, up.before.params
    loss, metrics = model.model_loss(params, key, start, rows, nets=up.nets, weights=weights, **scales)
    terms = model_by_numpy(params.decoder, params.reward, params.cont)
    wanted = {name: (term * [1.0, 0.5]).mean() for name, term in terms.items()}
    assert set(metrics) == set(wanted)
    total = wanted["kl_loss"] + 2.0 * wanted["decoder_loss"] + wanted["reward_loss"] + wanted["continue_loss"]
    assert float(loss) == pytest.approx(total, rel=2e-3)
    loss, metrics = model.model_loss(params, key, start, rows, nets=up.nets, weights=weights, **scales, calibrated=True)
    entries = rows.obs.shape[-1]
    total += 2.0 * (0.5 * entries / wanted["decoder_loss"] - 1.0) * wanted["decoder_loss"]
    assert float(loss) == pytest.approx(total, rel=2e-3)
    assert float(metrics["decoder_loss"]) == pytest.approx(wanted["decoder_loss"], rel=2e-3)


def test_a_calibrated_reconstruction_descends_the_likelihood_of_its_best_variance():
    """The gradient of -log N(o; prediction, σ² I) with σ² the mean squared error, by automatic differentiation."""
    error = jnp.array([[0.3, -0.2, 0.5], [0.1, 0.4, -0.6]])

    def squares(error):
        return jnp.mean(jnp.sum(jnp.square(error), -1))

    def best(error):
        var = squares(error) / 3
        normal = 0.5 * jnp.sum(jnp.square(error) / var + jnp.log(2 * jnp.pi * var), -1)
        return jnp.mean(normal)

    weighted = jax.grad(lambda error: likelihood_weight(squares(error), 3) * squares(error))(error)
    np.testing.assert_allclose(weighted, jax.grad(best)(error), rtol=1e-5)
    assert float(likelihood_weight(jnp.float32(1e-9), 3)) == 100.0
    assert float(likelihood_weight(jnp.float32(12.0), 3)) == 0.125


def test_only_vectors_are_calibrated():
    spec = Spec(Box((5, 5, 3), 0, 1), Discrete(2))
    for module, config in ((v1, v1.DreamerV1Config), (v2, v2.DreamerV2Config), (v3, v3.DreamerV3Config)):
        with pytest.raises(ValueError, match="calibrated must be false where observations are not vectors"):
            module.make(config(calibrated=True), spec._replace(action=Box((1,), -1.0, 1.0)))


def test_the_third_actor_and_critics_by_numpy():
    up = updated()
    params = up.before.params
    returns, weights, scale, targets, replay_weights = targets_by_numpy()
    flat = lambda x: jnp.asarray(np.reshape(x, (H * T * B, *np.shape(x)[2:])), jnp.float32)  # noqa: E731
    step = heads_v3.ImaginedStep(flat(up.steps.feature), flat(up.steps.action).astype(jnp.int32))
    advantage = (returns - np.asarray(up.outputs.value[:-1])) / scale
    batch = heads_v3.ActorCriticBatch(step, *map(flat, (advantage, returns, up.outputs.ema_value[:-1], weights)))
    policy = {"policy": heads_v3.make_policy(SPEC.action, 0.1), "entropy": 0.3}
    loss, metrics = heads_v3.actor_critic_loss(
        (params.actor, params.critic), batch, nets=up.nets, ema_weight=0.7, **policy
    )
    of_actor, of_critic, entropy = behaviour_by_numpy(params.actor, params.critic)
    assert float(loss) == pytest.approx(of_actor + of_critic, rel=2e-3)
    for name, value in {"policy_loss": of_actor, "value_loss": of_critic, "entropy": entropy}.items():
        assert float(metrics[name]) == pytest.approx(value, rel=2e-3), name
    assert float(heads_v3.policy_loss(params.actor, batch, nets=up.nets, **policy)[0]) == pytest.approx(
        of_actor, rel=2e-3
    )
    ema = jnp.asarray(up.outputs.ema_value[0].reshape(T, B)[:-1])
    loss, _ = heads_v3.replay_critic_loss(
        params.critic, up.tracked.states, jnp.asarray(targets, jnp.float32), nets=up.nets, ema_values=ema,
        weights=jnp.asarray(replay_weights, jnp.float32), ema_weight=0.7,
    )  # fmt: skip
    assert float(loss) == pytest.approx(rows_by_numpy(params.critic), rel=2e-3)
