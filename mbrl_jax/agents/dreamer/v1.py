"""Dreamer: an actor trained on the gradient of imagined returns through a latent dynamics model.

Hafner et al. 2020, "Dream to Control: Learning Behaviors by Latent Imagination" (arXiv 1912.01603). With L_rec, L_rew
and L_con of `models.rssm.dreamer_v1_v2`, Gaussian latents, posterior q and prior p of each step:

    L_model = L_rec + L_rew + κ L_con + β max(f, mean KL(q ‖ p))                          `model_loss`

From every state of the batch, H steps are imagined; actions are reparametrised, so that the gradient of the returns
flows through dynamics, rewards and values into the actor:

    R_t = r_{t+1} + γ c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H,     w_t = Π_{k<=t} γ c_k     (eq. 5, 6)
    L_π = -mean w_t R_t                                                                   `actor_loss`   (eq. 7)
    L_v = mean w_t ½ (v(s_t) - sg R_t)²                             `actor_critic_v1_v2.critic_loss`     (eq. 8)

`update` takes one step of Adam on each, in this order.

Differs from the paper in: the reward r_{t+1} is the one on arriving at s_{t+1}, where the authors' code takes that of
s_t, and rewards can be scaled first; the continuation is learned in every task; discrete actions are one-hot samples
with a straight-through gradient; an evaluation takes the mean of latents, and tanh of the mean, where the code samples,
and looks for the mode among samples.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer.actor_critic_v1_v2 import (
    ActorCritic,
    Imagined,
    Parts,
    actor_critic,
    imagine_trajectory,
    init_parts,
    lambda_targets,
    make_policy,
    update_parts,
    value_of,
)
from mbrl_jax.agents.dreamer.common import (
    ActorCarry,
    Policy,
    batch_model_inputs,
    carry_after,
    check_calibrated,
    initial_carry,
    observe_step,
    rssm_learned_model,
    rssm_open_loop_model,
)
from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.agents.standardized import inner_of, model_in_units, open_loop_in_units, standardized
from mbrl_jax.buffers.sequence import Feedback, Window, sequence
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import (
    Action,
    Agent,
    Array,
    Buffer,
    Discrete,
    Key,
    Metrics,
    MultiDiscrete,
    Obs,
    Params,
    Replay,
    Space,
    Spec,
    Tree,
)
from mbrl_jax.envs.spaces import check_unit_actions, need_one_array
from mbrl_jax.models.rssm.dreamer_v1_v2 import DreamerNetConfig, ModelParams, Networks, bind, model_terms, networks
from mbrl_jax.models.rssm.rssm import Latent, Rows, action_code, features
from mbrl_jax.ops.model_losses import likelihood_weight


@config
class DreamerV1Config:
    """Settings of the first Dreamer; the defaults are the paper's."""

    net: DreamerNetConfig = DreamerNetConfig()
    batch: int = setting(default=50, low=1, help="windows per update")
    length: int = setting(default=50, low=2, help="rows per window")
    imagined: int = setting(default=15, low=1, help="imagination horizon H in steps, from each row")
    context: bool = setting(default=False, help="whether windows start from stored latents, as in DreamerV3")
    gamma: float = setting(default=0.99, low=0, below=1, help="discount factor per step")
    lam: float = setting(default=0.95, low=0, high=1, help="λ of the imagined λ-returns")
    reward_scale: float = setting(
        default=1.0, above=0, help="factor on rewards before anything learns from them; the paper's are in [0, 1]"
    )
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by their running root mean square")
    kl_scale: float = setting(default=1.0, low=0, help="weight β of the KL loss")
    free: float = setting(default=3.0, low=0, help="free nats f of the batch's mean KL, below which it has no gradient")
    cont_scale: float = setting(default=10.0, low=0, help="weight κ of the continuation loss")
    calibrated: bool = setting(
        default=False, help="reconstruction weighted by the likelihood of its best variance; observations: vectors"
    )
    noise: float = setting(
        default=0.3,
        low=0,
        help="standard deviation of the exploration noise on actions; share of random actions if discrete",
    )
    first_std: float = setting(default=5.0, above=0, help="the actor's initial standard deviation, before tanh")
    mean_scale: float = setting(default=5.0, above=0, help="bound of the actor's mean, before tanh")
    model_lr: float = setting(default=6e-4, above=0, help="Adam's learning rate for the world model")
    actor_lr: float = setting(default=8e-5, above=0, help="Adam's learning rate for the actor")
    critic_lr: float = setting(default=8e-5, above=0, help="Adam's learning rate for the critic")
    clip: float = setting(default=100.0, above=0, help="largest global norm of a gradient")


class Learner(NamedTuple):
    """What Dreamer has learned so far."""

    model: ModelParams
    actor: Params
    critic: Params
    opts: Parts  # states of the optimisers


def window(cfg: DreamerV1Config) -> int:
    """Rows per window of the buffer: one more than the model learns from where the first is context."""
    return cfg.length + cfg.context


def buffer(cfg: DreamerV1Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that Dreamer learns from: `capacity` rows in all, `num_envs` environments side by side."""
    return sequence(capacity, window(cfg), num_envs)


def tanh_normal(size: int, first_std: Array | float, mean_scale: Array | float) -> Policy:
    """tanh(u), u ~ N(k tanh(m / k), softplus(s + s_0)²), with reparametrised samples (Hafner et al. 2020, appendix A).

    Args:
      size: A, entries of an action.
      first_std: standard deviation of u for s = 0, above 0; it determines s_0.
      mean_scale: k, bound of the mean of u.
    """
    raw_first = jnp.log(jnp.expm1(first_std))

    def parts(out: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(out, 2)
        return mean_scale * jnp.tanh(mean / mean_scale), jax.nn.softplus(raw + raw_first) + 1e-4

    def sample(key: Key, out: Array) -> Array:
        mean, std = parts(out)
        return jnp.tanh(mean + std * jax.random.normal(key, mean.shape, jnp.float32))

    def unused(*_: Any) -> Array:
        raise NotImplementedError("the first Dreamer's loss uses neither log-probabilities nor entropies")

    return Policy(
        sample=sample,
        mode=lambda out: jnp.tanh(parts(out)[0]),
        log_prob=unused,
        entropy=unused,
        to_env=lambda action: action,
        outputs=2 * size,
    )


def exploration_action(key: Key, action: Action, *, space: Space, noise: Array | float) -> Action:
    """The action taken in training: with Gaussian noise and clipped to [-1, 1], or, if discrete, sometimes random.

    Args:
      key: for the noise.
      action: the policy's, [A] in [-1, 1], or [] integer of a discrete space.
      space: action space.
      noise: standard deviation, at least 0; if discrete, probability of a uniformly random action, in [0, 1].
    Returns:
      the action for the environment, of the same shape.
    """
    key_which, key_what = jax.random.split(key)
    if isinstance(space, Discrete | MultiDiscrete):
        random = jax.random.bernoulli(key_which, jnp.asarray(noise, jnp.float32))
        return jnp.where(random, space.sample(key_what), action)
    return jnp.clip(action + noise * jax.random.normal(key_what, action.shape, jnp.float32), -1.0, 1.0)


def model_loss(
    params: ModelParams,
    key: Key,
    start: Latent,
    rows: Rows,
    *,
    nets: Networks,
    kl_scale: Array | float,
    free: Array | float,
    cont_scale: Array | float,
    calibrated: bool = False,
) -> tuple[Array, Metrics]:
    """The world model's loss on a batch of windows (Hafner et al. 2020, eq. 10).

        L_model = L_rec + L_rew + κ L_con + β max(f, mean KL(q ‖ p))

    Args:
      params: the world model's.
      key: for sampling latents.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows.
      nets: the networks, with Gaussian latents.
      kl_scale: β.
      free: f, nats.
      cont_scale: κ.
      calibrated: whether L_rec is multiplied by `ops.model_losses.likelihood_weight`; observations are vectors.
    Returns:
      L_model [] and the means "decoder_loss", "reward_loss", "continue_loss" and "kl" in nats.
    """
    loss, (_, metrics) = model_loss_and_states(
        params, key, start, rows, nets=nets, kl_scale=kl_scale, free=free, cont_scale=cont_scale,
        calibrated=calibrated,
    )  # fmt: skip
    return loss, metrics


def model_loss_and_states(
    params: ModelParams,
    key: Key,
    start: Latent,
    rows: Rows,
    *,
    nets: Networks,
    kl_scale: Array | float,
    free: Array | float,
    cont_scale: Array | float,
    calibrated: bool = False,
) -> tuple[Array, tuple[Latent, Metrics]]:
    """`model_loss` together with the rows' states, from which imagination starts.

    Args:
      params, key, start, rows, nets, kl_scale, free, cont_scale, calibrated: as in `model_loss`.
    Returns:
      L_model [], and beside it the states [T, B, ...] and the metrics of `model_loss`.
    """
    tracked, means = model_terms(params, key, start, rows, nets=nets)
    means["kl"] = jnp.mean(jax.vmap(jax.vmap(nets.rssm.kl))(tracked.posterior, tracked.prior))
    precision = likelihood_weight(means["decoder_loss"], rows.obs.shape[-1]) if calibrated else 1.0
    loss = (
        precision * means["decoder_loss"]
        + means["reward_loss"]
        + cont_scale * means["continue_loss"]
        + kl_scale * jnp.maximum(free, means["kl"])
    )
    return loss, (tracked.states, means)


def actor_loss(
    actor: Params,
    key: Key,
    starts: Latent,
    *,
    model: ModelParams,
    critic: Params,
    nets: Networks,
    heads: ActorCritic,
    horizon: int,
    gamma: Array | float,
    lam: Array | float,
) -> tuple[Array, Metrics]:
    """The actor's loss over trajectories imagined from N states (Hafner et al. 2020, eq. 7).

        L_π = -mean w_t R_t

    Args:
      actor: parameters; the gradient flows through the imagined dynamics.
      key: for imagination.
      starts: [N, ...] states.
      model, critic: parameters of the world model and of the critic, constants here.
      nets: the world model's networks.
      heads: actor, critic and policy.
      horizon: H, at least 1.
      gamma: γ in [0, 1), discount per step.
      lam: λ in [0, 1].
    Returns:
      L_π [] and "imagined_return", the mean of R.
    """
    loss, (_, metrics) = actor_loss_and_trajectories(
        actor, key, starts, model=model, critic=critic, nets=nets, heads=heads, horizon=horizon, gamma=gamma, lam=lam
    )
    return loss, metrics


def actor_loss_and_trajectories(
    actor: Params,
    key: Key,
    starts: Latent,
    *,
    model: ModelParams,
    critic: Params,
    nets: Networks,
    heads: ActorCritic,
    horizon: int,
    gamma: Array | float,
    lam: Array | float,
) -> tuple[Array, tuple[Imagined, Metrics]]:
    """`actor_loss` together with the trajectories and targets, from which the critic learns.

    Args:
      actor, key, starts, model, critic, nets, heads, horizon, gamma, lam: as in `actor_loss`.
    Returns:
      L_π [], and beside it N trajectories of H steps with their targets and the metrics of `actor_loss`.
    """

    def one(actor: Params, key: Key, start: Latent) -> tuple[Array, Imagined]:
        trajectory = imagine_trajectory(key, model, actor, start, nets=nets, heads=heads, horizon=horizon, gamma=gamma)
        values = jax.vmap(lambda x: value_of(heads.critic, critic, x))(trajectory.feature)
        returns, weights = lambda_targets(trajectory, values, lam)
        return -jnp.mean(weights * returns), Imagined(trajectory, returns, weights)

    losses, imagined = vmap_shares(one, actor, (jax.random.split(key, starts.deter.shape[0]), starts), (0, 0))
    return jnp.mean(losses), (imagined, {"imagined_return": jnp.mean(imagined.returns)})


def make_optimizers(cfg: DreamerV1Config) -> Parts:
    """Adam behind clipping of the global norm, for each part."""

    def adam(lr: Array | float) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(cfg.clip), optax.adam(lr))  # pyright: ignore[reportArgumentType]

    return Parts(adam(cfg.model_lr), adam(cfg.actor_lr), adam(cfg.critic_lr))


def update(
    key_model: Key,
    key_imagine: Key,
    learner: Learner,
    start: Latent,
    rows: Rows,
    *,
    cfg: DreamerV1Config,
    nets: Networks,
    heads: ActorCritic,
    optimizers: Parts,
) -> tuple[Learner, Latent, Metrics]:
    """One step each of world model, actor and critic.

    Args:
      key_model: for the model's loss.
      key_imagine: for imagination.
      learner: parameters and optimiser states.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows, rewards in the environment's units.
      cfg: settings.
      nets, heads, optimizers: as built from it.
    Returns:
      the learner after the step; the rows' states [T, B, ...]; the metrics of the three losses, and "model_loss".
    """
    of_model = partial(
        model_loss_and_states, nets=nets, kl_scale=cfg.kl_scale, free=cfg.free, cont_scale=cfg.cont_scale,
        calibrated=cfg.calibrated,
    )  # fmt: skip
    of_actor = partial(
        actor_loss_and_trajectories, critic=learner.critic, nets=nets, heads=heads, horizon=cfg.imagined,
        gamma=cfg.gamma, lam=cfg.lam,
    )  # fmt: skip
    params, opts, states, metrics = update_parts(
        key_model, key_imagine, Parts(*learner[:3]), learner.opts, start,
        rows._replace(reward=cfg.reward_scale * rows.reward), model_loss_and_states=of_model,
        actor_loss_and_trajectories=of_actor, critic=heads.critic, optimizers=optimizers,
    )  # fmt: skip
    return Learner(*params, opts), states, metrics


def make(cfg: DreamerV1Config, spec: Spec) -> Agent:
    """The first Dreamer for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    check_unit_actions(spec)
    check_calibrated(cfg.calibrated, spec)
    nets = networks(cfg.net, spec, gaussian=True)
    policy = make_policy(spec.action, lambda size: tanh_normal(size, cfg.first_std, cfg.mean_scale))
    heads = actor_critic(cfg.net, nets.rssm.size, policy)
    optimizers = make_optimizers(cfg)

    def init(key: Key) -> Learner:
        params, opts = init_parts(key, nets=nets, heads=heads, optimizers=optimizers)
        return Learner(*params, opts)

    def act(key: Key, learner: Learner, carry: ActorCarry, obs: Obs, explore: bool) -> tuple[Action, ActorCarry, Tree]:
        key_latent, key_action, key_noise = jax.random.split(key, 3)
        token = nets.encoder.apply(learner.model.encoder, obs)
        at = observe_step(key_latent, learner.model.rssm, carry, token, rssm=nets.rssm)
        latent: Latent = at.states if explore else at.states._replace(stoch=at.posterior.mean)
        out = heads.actor.apply(learner.actor, features(latent))
        action = policy.to_env(policy.sample(key_action, out) if explore else policy.mode(out))
        if explore:
            action = exploration_action(key_noise, action, space=spec.action, noise=cfg.noise)
        return action, ActorCarry(latent, action_code(spec.action, action)), latent if cfg.context else ()

    def follow(key: Key, learner: Learner, carry: ActorCarry, obs: Obs, action: Action) -> tuple[ActorCarry, Tree]:
        key_latent, _, _ = jax.random.split(key, 3)
        token = nets.encoder.apply(learner.model.encoder, obs)
        after = carry_after(key_latent, learner.model.rssm, carry, token, action, rssm=nets.rssm, space=spec.action)
        return after, after.latent if cfg.context else ()

    def update_from_replay(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_model, key_imagine = jax.random.split(key, 3)
        sampled: Window = replay.sample(key_sample, cfg.batch)
        start, rows = batch_model_inputs(sampled.steps, rssm=nets.rssm, space=spec.action, context=cfg.context)
        parts = {"cfg": cfg, "nets": nets, "heads": heads, "optimizers": optimizers}
        learner, states, metrics = update(key_model, key_imagine, learner, start, rows, **parts)
        return learner, metrics, Feedback(sampled.index, extras=states if cfg.context else None)

    agent = Agent(init, lambda: initial_carry(nets.rssm, spec.action), act, update_from_replay, follow=follow)
    return standardized(agent, spec, obs=cfg.normalize_obs, rewards=cfg.scale_rewards)


def open_loop_model(cfg: DreamerV1Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """The learned world model with its parameters, for looking at its imagination.

    Raises:
      ValueError: observations are a dict of arrays.
    """
    need_one_array(spec, "an open-loop model")
    nets, params = networks(cfg.net, spec, gaussian=True), inner_of(learner).model
    model = rssm_open_loop_model(spec.action, nets.encoder, nets.rssm, nets.decoder, params)
    return open_loop_in_units(model, learner)


def learned_model(cfg: DreamerV1Config, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over latent states.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets, params = networks(cfg.net, spec, gaussian=True), inner_of(learner).model
    learned = rssm_learned_model(bind(nets, params), spec.action, nets.encoder, nets.rssm, params)
    return model_in_units(learned, learner, cfg.reward_scale)
