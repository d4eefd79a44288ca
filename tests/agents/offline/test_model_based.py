"""The model-based offline agents: one fit, rows that wrap around, what is doubted, and the bugs of other codes."""

from __future__ import annotations

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loss_cases.model_free import SPECS, batch

from mbrl_jax.agents import sac
from mbrl_jax.agents.offline import combo, model_based, mopo, morel, rambo
from mbrl_jax.buffers.fixed import fixed
from mbrl_jax.core import Box, Spec, StepOut, Transition, tree
from mbrl_jax.core.config import replace
from mbrl_jax.models.dynamics.common import networks
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian, predict

SPEC = Spec(Box((1,)), Box((1,), -1.0, 1.0), 10)
ROWS = 200
SMALL = {
    "policy.hidden": (8,), "policy.batch": 16, "model.hidden": (16,), "fit.members": 3, "fit.elites": 2,
    "fit.batch": 32, "fit.max_epochs": 4, "imagined.rollouts": 20, "imagined.horizon": 3, "imagined.retain": 2,
}  # fmt: skip
AGENTS = {
    "mopo": (mopo, mopo.MOPOConfig), "morel": (morel, morel.MOReLConfig), "combo": (combo, combo.COMBOConfig),
    "rambo": (rambo, rambo.RAMBOConfig),
}  # fmt: skip


def data(spec=SPEC, terminal=0):
    """A point that moves by its action, and is paid by where it is."""
    key_obs, key_action = jax.random.split(jax.random.key(0))
    obs = jax.random.uniform(key_obs, (ROWS, 1), minval=-1, maxval=1)
    action = jax.random.uniform(key_action, (ROWS, 1), minval=-1, maxval=1)
    discount = jnp.where(jnp.arange(ROWS) < terminal, 0.0, 1.0)
    new = obs + 0.3 * action
    return Transition(obs, action, obs[:, 0] + 3, discount, new, discount == 0)


def make(name, **changes):
    module, cfg = AGENTS[name]
    cfg = replace(cfg(), SMALL | {name.replace("__", "."): value for name, value in changes.items()})
    return module.make(cfg, SPEC), cfg


@cache
def refreshed(name, times=1, **_):
    agent, cfg = make(name)
    replay, refresh = fixed(data()).replay(()), jax.jit(lambda key, learner: agent.refresh(key, learner, replay_of()))

    def replay_of():
        return replay

    found = [agent.init(jax.random.key(1))]
    metrics = []
    for i in range(times):
        learner, told = refresh(jax.random.key(10 + i), found[-1])
        found.append(learner)
        metrics.append(told)
    return found, metrics, cfg


def test_the_ensemble_is_fitted_once_and_says_so_in_every_refresh():
    learners, metrics, _ = refreshed("mopo", 4)
    first, rest = learners[1], learners[2:]
    assert int(metrics[0]["model/epochs"]) > 0
    assert not np.array_equal(jax.tree.leaves(learners[0].model.params)[0], jax.tree.leaves(first.model.params)[0])
    for learner, told in zip(rest, metrics[1:], strict=True):
        for x, y in zip(jax.tree.leaves(learner.model), jax.tree.leaves(first.model), strict=True):
            np.testing.assert_array_equal(x, y)
        assert told["model/holdout_error"] == metrics[0]["model/holdout_error"]


def test_the_ring_of_imagined_rows_wraps_around_and_holds_no_row_of_zeros():
    """Another code writes every batch over the last rows, and with `retain` 5 leaves 80 % of them zero for ever."""
    learners, metrics, cfg = refreshed("mopo", 4)
    size = cfg.imagined.retain * cfg.imagined.horizon * cfg.imagined.rollouts
    assert [int(told["model/rows"]) for told in metrics] == [60, 120, 120, 120]
    rows = learners[-1].imagined.rows
    assert rows.reward.shape == (size,)
    assert (np.abs(np.asarray(rows.reward)) > 0).all()
    before, after = learners[3].imagined.rows.obs, rows.obs
    same = (np.asarray(before) == np.asarray(after)).all(1)
    assert int(same.sum()) == 60  # the older half was replaced, the newer one kept


def test_moments_are_the_gaussian_models_mean_and_deviation_in_their_units():
    cfg = GaussianConfig(hidden=(8,))
    member, nets = gaussian(cfg, SPEC), networks(SPEC, (8,), "silu", 2)
    params = member.calibrate(member.init(jax.random.key(0)), data(), jnp.ones(ROWS, bool))
    obs, action = jnp.array([0.3]), jnp.array([-0.5])
    out = predict(params, obs, action, nets=nets)
    scales = params.scales.targets
    y = np.asarray(out.mean) * np.asarray(scales.std) + np.asarray(scales.mean)
    mean, std = member.moments(params, obs, action)
    np.testing.assert_allclose(mean, [0.3 + y[0], y[1]], rtol=1e-5)
    np.testing.assert_allclose(std, np.exp(0.5 * np.asarray(out.log_var)) * np.asarray(scales.std), rtol=1e-5)


# MOPO -----------------------------------------------------------------------------------------------------------------


def test_the_penalty_is_the_largest_norm_of_a_members_deviations():
    stds = np.random.default_rng(0).uniform(0.1, 2, (4, 3)).astype(np.float32)
    np.testing.assert_allclose(mopo.penalty(jnp.asarray(stds)), max(np.sqrt((row**2).sum()) for row in stds), rtol=1e-6)


def test_imagined_rewards_are_the_models_less_the_weighted_penalty():
    learners, *_ = refreshed("mopo")
    fitted = learners[1].model
    member = gaussian(GaussianConfig(hidden=(16,)), SPEC)
    elites = model_based.imagined_replay.elites_of(member, fitted)
    moments = model_based.elite_moments(member, fitted)
    weight = 0.7

    def revise(obs, action, out):
        return out._replace(reward=out.reward - weight * mopo.penalty(moments(obs, action)[1]))

    key, obs, action = jax.random.key(3), jnp.array([0.2]), jnp.array([0.9])
    for i in range(2):
        plain = elites.at(i).step(key, obs, action)
        found = model_based.revised(elites, revise).at(i).step(key, obs, action)
        each = [member.moments(tree.take(fitted.params, int(e)), obs, action)[1] for e in fitted.elites]
        u = max(float(np.linalg.norm(np.asarray(std, np.float64))) for std in each)
        np.testing.assert_allclose(found.reward, plain.reward - weight * u, rtol=1e-5)
        np.testing.assert_array_equal(found.state, plain.state)


@pytest.mark.slow
def test_a_larger_penalty_lowers_the_imagined_rewards_of_the_same_fit():
    """The same keys give the same fit and the same first actions: rewards differ by the penalty alone."""
    replay = fixed(data()).replay(())
    found = []
    for weight in (0.0, 5.0):
        agent, _ = make("mopo", penalty=weight, imagined__horizon=1)
        refresh = jax.jit(lambda key, learner, agent=agent: agent.refresh(key, learner, replay))
        learner, _ = refresh(jax.random.key(2), agent.init(jax.random.key(1)))
        found.append(learner)
    rows = [learner.imagined.rows for learner in found]
    np.testing.assert_array_equal(rows[0].obs, rows[1].obs)
    member = gaussian(GaussianConfig(hidden=(16,)), SPEC)
    stds = jax.vmap(model_based.elite_moments(member, found[0].model))(rows[0].obs[:20], rows[0].action[:20])[1]
    u = np.linalg.norm(np.asarray(stds, np.float64), axis=-1).max(-1)
    np.testing.assert_allclose(np.asarray(rows[0].reward - rows[1].reward)[:20], 5 * u, rtol=1e-3)


def test_a_member_without_moments_is_refused():
    member = gaussian(GaussianConfig(hidden=(16,)), SPEC)._replace(moments=None)
    agent = mopo.make(replace(mopo.MOPOConfig(), SMALL), SPEC, member=member)
    with pytest.raises(ValueError, match=r"known\.member must be a WorldModel with moments"):
        agent.refresh(jax.random.key(0), agent.init(jax.random.key(0)), fixed(data()).replay(()))


# MOReL ----------------------------------------------------------------------------------------------------------------


def test_the_discrepancy_is_the_largest_distance_of_two_members_at_one_state():
    means = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    expected = max(np.linalg.norm(a - b) for a, b in itertools.combinations(means.astype(np.float64), 2))
    np.testing.assert_allclose(morel.discrepancy(jnp.asarray(means)), expected, rtol=1e-6)


def test_the_threshold_is_the_largest_discrepancy_at_any_row_and_not_between_rows():
    """Another code takes the maximum over pairs of different states: the data's diameter, which nothing exceeds."""
    learners, *_ = refreshed("morel")
    fitted, facts, rows = learners[1].model, learners[1].own, data()
    member = gaussian(GaussianConfig(hidden=(16,)), SPEC)
    of_rows = jax.vmap(member.moments, (None, 0, 0))
    means = [of_rows(tree.take(fitted.params, int(e)), rows.obs, rows.action)[0] for e in fitted.elites]
    each = np.stack(means, 1).astype(np.float64)  # [rows, elites, outputs]
    apart = np.array([max(np.linalg.norm(a - b) for a, b in itertools.combinations(row, 2)) for row in each])
    np.testing.assert_allclose(facts.discrepancy, apart.max(), rtol=1e-3)
    diameter = np.linalg.norm(each[:, None, 0] - each[None, :, 1], axis=-1).max()
    assert apart.max() < 0.7 * diameter
    np.testing.assert_allclose([facts.low, facts.high], [rows.reward.min(), rows.reward.max()])


def test_halt_is_worth_what_staying_there_for_ever_is():
    facts = morel.Facts(jnp.float32(1), jnp.float32(-3), jnp.float32(1))
    found = float(morel.halt_reward(facts, halt=0.5, gamma=0.9))
    np.testing.assert_allclose(found, sum(0.9**t * (-3 - 0.5 * 4) for t in range(1000)), rtol=1e-5)


def test_rollouts_end_in_halt_where_the_members_disagree():
    """Another code goes on through states that have terminated. With a threshold near 0 every step is unknown."""
    agent, cfg = make("morel", threshold=1e-6, halt=1.0)
    replay = fixed(data()).replay(())
    learner, told = jax.jit(lambda key: agent.refresh(key, agent.init(key), replay))(jax.random.key(0))
    size = int(learner.imagined.size)
    assert size == cfg.imagined.rollouts  # one row of each, not three
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[:size], learner.imagined.rows)
    low, high = float(data().reward.min()), float(data().reward.max())
    np.testing.assert_allclose(rows.reward, (low - (high - low)) / (1 - 0.99), rtol=1e-4)
    assert (rows.discount == 0).all()
    assert rows.last.all()
    assert float(told["model/ended"]) == 1
    with pytest.raises(ValueError, match=r"policy\.gamma must be below 1"):
        make("morel", policy__gamma=1.0)


@pytest.mark.slow
def test_known_steps_are_the_models_own():
    agent, cfg = make("morel", threshold=1e9)
    replay = fixed(data()).replay(())
    learner, _ = jax.jit(lambda key: agent.refresh(key, agent.init(key), replay))(jax.random.key(0))
    plain, _ = make("mopo", penalty=0.0)
    same, _ = jax.jit(lambda key: plain.refresh(key, plain.init(key), replay))(jax.random.key(0))
    assert int(learner.imagined.size) == cfg.imagined.rollouts * cfg.imagined.horizon
    np.testing.assert_allclose(learner.imagined.rows.reward, same.imagined.rows.reward, rtol=1e-5)


# COMBO ----------------------------------------------------------------------------------------------------------------


def of_combo(kind):
    spec = SPECS[kind]
    cfg = sac.SACConfig(hidden=(8,), target_entropy=0.5)
    return spec, sac.networks(cfg, spec), jax.jit(sac.make(cfg, spec).init)(jax.random.key(0)), batch(spec)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_conservative_loss_follows_its_equation(kind):
    spec, nets, learner, rows = of_combo(kind)
    real, key, many = jnp.arange(4) < 3, jax.random.key(5), 3
    loss, metrics = combo.conservative_loss(
        learner.critic, key, rows, learner.policy, nets=nets, action=spec.action, actions=many, real=real
    )
    q = lambda obs, a: np.asarray(nets.q(learner.critic, obs, a), np.float64)  # noqa: E731
    soft, taken = [], []
    for i, key_row in enumerate(jax.random.split(key, 4)):
        row = jax.tree.map(lambda leaf: leaf[i], rows)  # noqa: B023
        if kind == "discrete":
            terms = np.stack([q(row.obs, a) for a in range(4)])
            soft.append(np.log(np.exp(terms).sum(0)))
        else:
            actions, density = combo.proposals(
                key_row, row, nets=nets, policy=learner.policy, actions=many, space=spec.action
            )
            assert actions.shape == (9, 2)
            np.testing.assert_allclose(density[:3], np.log(0.25), rtol=1e-6)  # uniform on a square of side 2
            weights = [np.exp(q(row.obs, a)) / np.exp(float(d)) for a, d in zip(actions, density, strict=True)]
            soft.append(np.log(np.mean(weights, 0)))
        taken.append(q(row.obs, row.action))
    expected = np.mean(soft, 0) - np.mean(taken[:3], 0)
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["gap"], expected.mean(), rtol=1e-4)


def test_proposals_have_the_densities_that_they_were_drawn_with():
    spec, nets, learner, rows = of_combo("continuous")
    row = jax.tree.map(lambda leaf: leaf[0], rows)
    actions, density = combo.proposals(
        jax.random.key(0), row, nets=nets, policy=learner.policy, actions=2, space=spec.action
    )
    for a, d, obs in zip(actions[2:], density[2:], [row.obs, row.obs, row.next_obs, row.next_obs], strict=True):
        mean, log_std = np.split(np.asarray(nets.policy.apply(learner.policy, obs), np.float64), 2)
        u = np.arctanh(np.asarray(a, np.float64))
        normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(d, np.sum(normal - np.log(1 - np.asarray(a, np.float64) ** 2)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_conservative_loss_pushes_other_actions_down_and_the_datas_up(kind):
    """In another code the first term stands under stop_gradient, and nothing pushes the critics down."""
    spec, nets, learner, rows = of_combo(kind)
    rows = rows._replace(obs=jnp.tile(rows.obs[:1], (4, 1)), action=jnp.stack([rows.action[0]] * 4))

    def loss(critic):
        return combo.conservative_loss(
            critic, jax.random.key(1), rows, learner.policy, nets=nets, action=spec.action, actions=4,
            real=jnp.ones(4, bool),
        )[0]  # fmt: skip

    stepped = jax.tree.map(lambda x, g: x - 0.02 * g, learner.critic, jax.jit(jax.grad(loss))(learner.critic))
    obs, taken = rows.obs[0], rows.action[0]
    other = (taken + 1) % 4 if kind == "discrete" else -taken
    change = lambda a: float(jnp.mean(nets.q(stepped, obs, a) - nets.q(learner.critic, obs, a)))  # noqa: E731
    others = [(taken + i) % 4 for i in (1, 2, 3)] if kind == "discrete" else [other]
    assert change(taken) > 0
    assert np.mean([change(a) for a in others]) < 0


@pytest.mark.slow
def test_combo_adds_its_loss_to_the_critics_alone():
    """With a weight of 0 its update is SAC's, to the bit."""
    replay = fixed(data()).replay(())
    agents = {name: make(name, **changes)[0] for name, changes in
              {"combo": {"beta": 0.0, "imagined__real_ratio": 0.5},
               "mopo": {"penalty": 0.0, "imagined__real_ratio": 0.5}}.items()}  # fmt: skip
    found = []
    for agent in agents.values():

        def step(key, agent=agent):
            learner, _ = agent.refresh(key, agent.init(key), replay)
            return agent.update(jax.random.key(7), learner, replay)[0].policy

        found.append(jax.jit(step)(jax.random.key(0)))
    for x, y in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_a_step_that_is_believed_is_left_alone():
    out = StepOut(jnp.zeros(1), jnp.float32(1), jnp.float32(1))
    model = model_based.imagined_replay.elites_of(
        gaussian(GaussianConfig(hidden=(16,)), SPEC), refreshed("mopo")[0][1].model
    )
    found = model_based.revised(model, lambda obs, action, step: out).step(
        jax.random.key(0), jnp.zeros(1), jnp.zeros(1)
    )
    assert found is out


# RAMBO ----------------------------------------------------------------------------------------------------------------


def of_rambo():
    cfg = sac.SACConfig(hidden=(8,))
    nets, learner = sac.networks(cfg, SPEC), jax.jit(sac.make(cfg, SPEC).init)(jax.random.key(0))
    member = gaussian(GaussianConfig(hidden=(8,)), SPEC)
    elites = jax.vmap(member.init)(jax.random.split(jax.random.key(1), 3))
    return nets, learner, member, elites


def test_the_density_is_that_of_an_even_mixture_of_joint_normals():
    *_, member, elites = of_rambo()
    obs, action, outcome = jnp.array([0.3]), jnp.array([-0.2]), jnp.array([0.5, 1.0])
    each = []
    for i in range(3):
        mean, std = (np.asarray(x, np.float64) for x in member.moments(tree.take(elites, i), obs, action))
        each.append(np.prod(np.exp(-0.5 * ((outcome - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))))
    found = rambo.log_density(elites, obs, action, outcome, member=member)
    np.testing.assert_allclose(found, np.log(np.mean(each)), rtol=1e-5)


def test_advantages_are_of_what_the_model_imagined_and_scaled():
    nets, learner, member, elites = of_rambo()
    obs = jnp.linspace(-1, 1, 8)[:, None]
    how = {"member": member, "nets": nets, "policy": learner.policy, "critic": learner.critic, "gamma": 0.9}
    steps = rambo.advantages(elites, jax.random.key(2), obs, **how)
    raw = []
    for i, key in enumerate(jax.random.split(jax.random.key(2), 8)):
        key_action, key_next, key_elite, key_step = jax.random.split(key, 4)
        action, _ = nets.draw(learner.policy, key_action, obs[i])
        np.testing.assert_allclose(steps.action[i], action, rtol=1e-5)
        chosen = tree.take(elites, int(jax.random.randint(key_elite, (), 0, 3)))
        out = member.step(chosen, key_step, obs[i], action)
        np.testing.assert_allclose(steps.outcome[i], np.append(out.state, out.reward), rtol=1e-4, atol=1e-5)
        following, _ = nets.draw(learner.policy, key_next, out.state)
        value = np.min(nets.q(learner.critic, out.state, following))
        raw.append(out.reward + 0.9 * out.discount * value - np.min(nets.q(learner.critic, obs[i], action)))
    raw = np.array(raw, np.float64)
    np.testing.assert_allclose(steps.advantage, (raw - raw.mean()) / raw.std(), rtol=1e-3, atol=1e-3)


def test_the_adversarial_loss_makes_good_outcomes_less_likely():
    *_, member, elites = of_rambo()
    obs, action = jnp.zeros((2, 1)), jnp.zeros((2, 1))
    outcome, advantage = jnp.array([[0.3, 1.0], [-0.3, -1.0]]), jnp.array([1.0, -1.0])
    steps = rambo.Steps(obs, action, outcome, advantage)

    def density(params):
        return [float(rambo.log_density(params, obs[i], action[i], outcome[i], member=member)) for i in (0, 1)]

    loss, _ = rambo.adversarial_loss(elites, steps, member=member)
    before = density(elites)
    np.testing.assert_allclose(loss, (before[0] - before[1]) / 2, rtol=1e-4, atol=1e-5)
    grads = jax.grad(lambda params: rambo.adversarial_loss(params, steps, member=member)[0])(elites)
    after = density(jax.tree.map(lambda x, g: x - 0.01 * g, elites, grads))
    assert after[0] - after[1] < before[0] - before[1]


def test_rambo_trains_its_model_on_after_every_refresh():
    agent, _ = make("rambo", adversary_steps=3)
    replay = fixed(data()).replay(())
    refresh = jax.jit(lambda key, learner: agent.refresh(key, learner, replay))
    first, _ = refresh(jax.random.key(0), agent.init(jax.random.key(1)))
    second, told = refresh(jax.random.key(2), first)
    before, after = (jax.tree.leaves(learner.model.params.net) for learner in (first, second))
    assert all(not np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    np.testing.assert_array_equal(first.model.params.scales.targets.std, second.model.params.scales.targets.std)
    assert np.isfinite([float(value) for value in told.values()]).all()
    counts = [leaf for leaf in jax.tree.leaves(second.own) if leaf.dtype == jnp.int32]
    assert [int(count) for count in counts] == [6]  # its optimizer goes on
