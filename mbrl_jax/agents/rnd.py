"""Random network distillation: a bonus for observations that a network has not yet learned to predict.

Burda et al. 2018, "Exploration by Random Network Distillation" (arXiv 1810.12894). A target g with random weights that
never change, and a predictor f that learns to agree with it on what the agent learns from:

    o~  = clip((o - μ) / σ, -5, 5)                     running statistics of the observations
    b   = 1/F ‖ f(o~') - g(o~') ‖²                      `novelty` of the next observation
    r~  = r + w b / s,   s = σ of Σ_k γ^k b_{t-k}       `rewarded`; where rows are drawn singly, s = sqrt(E[b²])
    L   = mean_batch b                                 `rnd_loss`, by Adam

It stands around an agent whose `update` samples transitions, DQN or PPO, which sees r~ in place of r and is otherwise
unchanged. Evaluation episodes have the environment's rewards; the policy has learned with both.

Differs from the paper in: one value of the sum of both rewards, which ends with the episode, where the paper has two
heads, each with a discount of its own, and an intrinsic return that goes on through the end of an episode. Statistics
of observations begin with the first rows that are learned from, not with random steps before. All rows of a trajectory
train the predictor, with steps of their own, where the paper takes a quarter of them along with the policy's
minibatches. The sums of bonuses start anew with each trajectory. Replayed rows have the bonus of today's predictor, not
that of when they were stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core.config import config, setting
from mbrl_jax.core.images import is_image
from mbrl_jax.core.types import Action, Agent, Array, Box, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.returns import discounted_sums
from mbrl_jax.ops.running import Running, deviation, include, no_rows, root_mean_square, standardize

LIMIT = 5.0  # deviations from the mean to which observations are clipped


@config
class RNDConfig:
    """Settings of random network distillation."""

    weight: float = setting(default=1.0, low=0, help="weight of the normalised bonus, in units of reward")
    hidden: tuple[int, ...] = setting(
        default=(64, 64), low=1, help="widths of the target's hidden layers; the predictor has one more"
    )
    features: int = setting(default=32, low=1, help="entries of what is predicted")
    lr: float = setting(default=1e-4, above=0, help="Adam's learning rate of the predictor")
    steps: int = setting(default=1, low=1, help="gradient steps of the predictor per update")


class Networks(NamedTuple):
    """Target and predictor, over one scaled observation."""

    target: Net  # -> [F]
    predictor: Net  # -> [F]


class Distilled(NamedTuple):
    """What an agent has learned, and what makes its bonus."""

    inner: Tree
    target: Params  # never change
    predictor: Params
    opt: Any  # Adam's state
    obs: Running  # of observations
    bonus: Running  # [] of bonuses, or of their discounted sums


def networks(cfg: RNDConfig, spec: Spec) -> Networks:
    """Target and predictor for one environment.

    Args:
      cfg: their sizes.
      spec: observations a vector, planes or an image.
    Raises:
      ValueError: observations are a dict of arrays, or what `network` refuses.
    """
    if not isinstance(spec.obs, Box):
        raise ValueError(f"explorer must be none for {spec.name}, whose observations are no single array, got rnd")
    target, predictor = (
        network(spec.obs, hidden, cfg.features) for hidden in (cfg.hidden, cfg.hidden + cfg.hidden[-1:])
    )
    if not is_image(spec.obs):
        return Networks(target, predictor)
    # A network divides images by 255; scaled observations are to reach its first layer as they are.
    whole = lambda net: Net(net.init, lambda params, obs: net.apply(params, 255.0 * obs))  # noqa: E731
    return Networks(whole(target), whole(predictor))


def novelty(predictor: Params, obs: Array, *, nets: Networks, target: Params) -> Array:
    """b = 1/F ‖ f(o~) - g(o~) ‖², the error that the predictor still makes.

    Args:
      predictor: parameters of f.
      obs: one scaled observation.
      nets: from `networks`.
      target: parameters of g.
    Returns:
      [] at least 0.
    """
    wanted = jax.lax.stop_gradient(nets.target.apply(target, obs))
    return jnp.mean(jnp.square(nets.predictor.apply(predictor, obs) - wanted))


def rnd_loss(predictor: Params, obs: Array, *, nets: Networks, target: Params) -> tuple[Array, Metrics]:
    """The mean novelty of a batch (Burda et al. 2018, section 2.2).

    Args:
      predictor: parameters of f, which the loss is differentiated by.
      obs: [B, ...] scaled observations.
      nets: from `networks`.
      target: parameters of g.
    Returns:
      loss [] and the metric `rnd_loss`.
    """
    loss = jnp.mean(jax.vmap(lambda one: novelty(predictor, one, nets=nets, target=target))(obs))
    return loss, {"rnd_loss": loss}


def rewarded(
    learner: Distilled, rows: Transition, *, nets: Networks, weight: Array | float, gamma: Array | float | None = None
) -> tuple[Transition, Distilled, Array]:
    """Rows whose rewards have the bonus, r + w b / s, and the statistics with these rows.

    Args:
      learner: the networks, and statistics of what came before.
      rows: [B, ...] transitions, or a trajectory [T, N, ...] with `gamma`.
      nets: from `networks`.
      weight: w, at least 0.
      gamma: γ of the sums whose deviation is s; None for s of single bonuses.
    Returns:
      the rows; the learner with statistics of observations and bonuses that hold these rows; and the scaled next
      observations, with the axes of the rows.
    """
    shape = learner.obs.mean.shape
    of_obs = include(learner.obs, rows.next_obs.reshape(-1, *shape))
    seen = standardize(of_obs, jnp.asarray(rows.next_obs, jnp.float32), LIMIT)
    flat = seen.reshape(-1, *shape)
    raw = jax.vmap(lambda obs: novelty(learner.predictor, obs, nets=nets, target=learner.target))(flat)
    raw = raw.reshape(rows.reward.shape)
    sums = raw if gamma is None else discounted_sums(raw, rows.last, gamma)
    of_bonus = include(learner.bonus, sums.reshape(-1))
    size = root_mean_square(of_bonus) if gamma is None else deviation(of_bonus)
    rows = rows._replace(reward=rows.reward + weight * raw / size)
    return rows, learner._replace(obs=of_obs, bonus=of_bonus), seen


def distilled(agent: Agent, spec: Spec, cfg: RNDConfig, gamma: Array | float | None = None) -> Agent:
    """An agent that learns with a bonus for what is new.

    Args:
      agent: its `update` samples `Transition`s.
      spec: of the environment; observations one array.
      cfg: settings; floats may be traced.
      gamma: γ of the agent, where it samples a trajectory [T, N, ...]; None where rows [B, ...].
    Returns:
      the agent; its learner is `Distilled`, and its metrics have `rnd_loss`, the predictor's before the update's last
      step, and `bonus`, the rows' mean of w b / s.
    Raises:
      ValueError: as `networks`.
    """
    nets, adam = networks(cfg, spec), optax.adam(cfg.lr)

    def init(key: Key) -> Distilled:
        key_inner, key_target, key_predictor = jax.random.split(key, 3)
        target, predictor = nets.target.init(key_target), nets.predictor.init(key_predictor)
        return Distilled(
            agent.init(key_inner), target, predictor, adam.init(predictor), no_rows(spec.obs.shape), no_rows(())
        )

    def act(key: Key, learner: Distilled, carry: Tree, obs: Obs, explore: bool) -> tuple[Action, Tree, Tree]:
        return agent.act(key, learner.inner, carry, obs, explore)

    def follow(key: Key, learner: Distilled, carry: Tree, obs: Obs, action: Action) -> tuple[Tree, Tree]:
        assert agent.follow is not None
        return agent.follow(key, learner.inner, carry, obs, action)

    def update(key: Key, learner: Distilled, replay: Replay) -> tuple[Distilled, Metrics, Tree]:
        drawn: list[tuple[Distilled, Array, Array]] = []

        def sample(key: Key, n: int) -> Transition:
            plain: Transition = replay.sample(key, n)
            rows, after, seen = rewarded(learner, plain, nets=nets, weight=cfg.weight, gamma=gamma)
            drawn.append((after, seen, jnp.mean(rows.reward - plain.reward)))
            return rows

        inner, metrics, feedback = agent.update(key, learner.inner, replay._replace(sample=sample))
        (after, seen, bonus), *_ = drawn
        batch = seen.reshape(-1, *after.obs.mean.shape)

        def step(at: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Metrics]:
            grads, found = jax.grad(rnd_loss, has_aux=True)(at[0], batch, nets=nets, target=after.target)
            return descend(adam, grads, at[1], at[0]), found

        (predictor, opt), found = jax.lax.scan(step, (after.predictor, after.opt), length=cfg.steps)
        metrics = metrics | {name: values[-1] for name, values in found.items()} | {"bonus": bonus}
        return after._replace(inner=inner, predictor=predictor, opt=opt), metrics, feedback

    return Agent(init, agent.carry, act, update, agent.refresh, None if agent.follow is None else follow)
