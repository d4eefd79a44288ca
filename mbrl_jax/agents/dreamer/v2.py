"""DreamerV2: discrete world models, and an actor trained by REINFORCE or by the gradient of the dynamics.

Hafner et al. 2021, "Mastering Atari with Discrete World Models" (arXiv 2010.02193). With L_rec, L_rew and L_con of
`models.rssm.dreamer_v1_v2`, posterior q and prior p of each step:

    L_model = L_rec + L_rew + κ L_con + β [ α max(f, mean KL(sg q ‖ p)) + (1 - α) max(f, mean KL(q ‖ sg p)) ]

From every state of the batch, H steps are imagined. With v' the target critic, a copy of the critic made every so many
updates,

    R_t  = r_{t+1} + γ c_{t+1} [ (1 - λ) v'_{t+1} + λ R_{t+1} ],   R_H = v'_H,     w_t = Π_{k<=t} γ c_k
    L_π  = -mean w_t [ ρ log π(a_t|s_t) sg(R_t - v'_t) + (1 - ρ) R_t + η H(π(s_t)) ]
    L_v  = mean w_t ½ (v(s_t) - sg R_t)²

They are `model_loss`, `actor_loss` and `actor_critic_v1_v2.critic_loss`; `update` takes one step on each in this order,
by Adam behind clipping of the global norm, with weight decay.

Differs from the paper in: the reward r_{t+1} is the one on arriving at s_{t+1}, where the authors' code takes that of
s_t, and rewards can be scaled first; the first weight is the start's own continuation; continuous actions are normal
and clipped, where the paper truncates the distribution itself at ±1. With `context` windows start from the latents that
`act` saw, refreshed by every update, instead of from zeros. An evaluation takes the latents' probabilities, where the
authors' code draws latents, and the most likely action.
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
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Key, Metrics, Obs, Params, Replay, Spec, Tree
from mbrl_jax.envs.spaces import check_unit_actions, need_one_array
from mbrl_jax.models.rssm.dreamer_v1_v2 import DreamerNetConfig, ModelParams, Networks, bind, model_terms, networks
from mbrl_jax.models.rssm.rssm import Latent, Rows, action_code, features
from mbrl_jax.ops import dists
from mbrl_jax.ops.kl import balanced, two_way
from mbrl_jax.ops.model_losses import likelihood_weight


@config
class DreamerV2Config:
    """Settings of DreamerV2; the defaults are the paper's for continuous control, those for Atari in brackets."""

    net: DreamerNetConfig = DreamerNetConfig()
    batch: int = setting(default=50, low=1, help="windows per update")
    length: int = setting(default=50, low=2, help="rows per window")
    imagined: int = setting(default=15, low=1, help="imagination horizon H in steps, from each row")
    context: bool = setting(default=False, help="whether windows start from stored latents, as in DreamerV3")
    gamma: float = setting(default=0.99, low=0, below=1, help="discount factor per step (0.999)")
    lam: float = setting(default=0.95, low=0, high=1, help="λ of the imagined λ-returns")
    reward_scale: float = setting(default=1.0, above=0, help="factor on rewards before anything learns from them")
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by their running root mean square")
    kl_scale: float = setting(default=1.0, low=0, help="weight β of the KL loss (0.1)")
    balance: float = setting(default=0.8, low=0, high=1, help="KL balance α: the prior's share of the KL's gradient")
    free: float = setting(default=1.0, low=0, help="free nats f of the batch's mean KL, below it no gradient (0)")
    cont_scale: float = setting(default=1.0, low=0, help="weight κ of the continuation loss (5)")
    calibrated: bool = setting(
        default=False, help="reconstruction weighted by the likelihood of its best variance; observations: vectors"
    )
    reinforce: float = setting(
        default=0.0, low=0, high=1, help="REINFORCE's share ρ of the actor's gradient: 1 for discrete actions"
    )
    entropy: float = setting(default=1e-4, low=0, help="weight η of the policy's entropy, per nat (0.001)")
    model_lr: float = setting(default=3e-4, above=0, help="Adam's learning rate for the world model (2e-4)")
    actor_lr: float = setting(default=8e-5, above=0, help="Adam's learning rate for the actor (4e-5)")
    critic_lr: float = setting(default=8e-5, above=0, help="Adam's learning rate for the critic (1e-4)")
    adam_eps: float = setting(default=1e-5, above=0, help="Adam's epsilon")
    clip: float = setting(default=100.0, above=0, help="largest global norm of a gradient")
    weight_decay: float = setting(default=1e-6, low=0, help="weight decay per update, times the learning rate")
    copy_every: int = setting(default=100, low=1, help="updates between copies of the critic into the target critic")


class Learner(NamedTuple):
    """What DreamerV2 has learned so far."""

    model: ModelParams
    actor: Params
    critic: Params
    target: Params  # target critic
    opts: Parts  # states of the optimisers
    updates: Array  # [] int32


def window(cfg: DreamerV2Config) -> int:
    """Rows per window of the buffer: one more than the model learns from where the first is context."""
    return cfg.length + cfg.context


def buffer(cfg: DreamerV2Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that DreamerV2 learns from: `capacity` rows in all, `num_envs` environments side by side."""
    return sequence(capacity, window(cfg), num_envs)


def clipped_normal(size: int) -> Policy:
    """N(tanh m, σ²), σ = 2 sigmoid(s / 2) + 0.1, with samples clipped to [-1, 1]; gradients pass through the clip.

    Args:
      size: A, entries of an action.
    """

    def dist(out: Array) -> Any:
        mean, raw = jnp.split(out, 2)
        return dists.normal(jnp.tanh(mean), jnp.log(2.0 * jax.nn.sigmoid(raw / 2.0) + 0.1))

    def sample(key: Key, out: Array) -> Array:
        action = dist(out).sample(seed=key)
        return action + jax.lax.stop_gradient(jnp.clip(action, -1.0, 1.0) - action)

    return Policy(
        sample=sample,
        mode=lambda out: jnp.tanh(jnp.split(out, 2)[0]),
        log_prob=lambda out, action: dist(out).log_prob(jax.lax.stop_gradient(action)),
        entropy=lambda out: dist(out).entropy().astype(jnp.float32),
        to_env=lambda action: action,
        outputs=2 * size,
    )


def model_loss(
    params: ModelParams,
    key: Key,
    start: Latent,
    rows: Rows,
    *,
    nets: Networks,
    kl_scale: Array | float,
    balance: Array | float,
    free: Array | float,
    cont_scale: Array | float,
    calibrated: bool = False,
) -> tuple[Array, Metrics]:
    """The world model's loss on a batch of windows (Hafner et al. 2021, eq. 2 and algorithm 2).

        L_model = L_rec + L_rew + κ L_con + β [ α max(f, mean KL(sg q ‖ p)) + (1 - α) max(f, mean KL(q ‖ sg p)) ]

    Args:
      params: the world model's.
      key: for sampling latents.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows.
      nets: the networks, with categorical latents.
      kl_scale: β.
      balance: α in [0, 1].
      free: f, nats.
      cont_scale: κ.
      calibrated: whether L_rec is multiplied by `ops.model_losses.likelihood_weight`; observations are vectors.
    Returns:
      L_model [] and the means "decoder_loss", "reward_loss", "continue_loss", "kl_loss" (the bracket) and "kl" in nats.
    """
    loss, (_, metrics) = model_loss_and_states(
        params, key, start, rows, nets=nets, kl_scale=kl_scale, balance=balance, free=free, cont_scale=cont_scale,
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
    balance: Array | float,
    free: Array | float,
    cont_scale: Array | float,
    calibrated: bool = False,
) -> tuple[Array, tuple[Latent, Metrics]]:
    """`model_loss` together with the rows' states, from which imagination starts.

    Args:
      params, key, start, rows, nets, kl_scale, balance, free, cont_scale, calibrated: as in `model_loss`.
    Returns:
      L_model [], and beside it the states [T, B, ...] and the metrics of `model_loss`.
    """
    tracked, means = model_terms(params, key, start, rows, nets=nets)
    dyn, rep = two_way(jax.vmap(jax.vmap(nets.rssm.kl)), tracked.posterior, tracked.prior)
    means["kl_loss"] = balanced(dyn, rep, balance, free)
    precision = likelihood_weight(means["decoder_loss"], rows.obs.shape[-1]) if calibrated else 1.0
    loss = precision * means["decoder_loss"] + means["reward_loss"]
    loss += cont_scale * means["continue_loss"] + kl_scale * means["kl_loss"]
    return loss, (tracked.states, means | {"kl": jnp.mean(dyn)})


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
    reinforce: Array | float,
    entropy: Array | float,
) -> tuple[Array, Metrics]:
    """The actor's loss over trajectories imagined from N states (Hafner et al. 2021, eq. 6).

        L_π = -mean w_t [ ρ log π(a_t|s_t) sg(R_t - v'_t) + (1 - ρ) R_t + η H(π(s_t)) ]

    Args:
      actor: parameters; the gradient of R flows through the imagined dynamics.
      key: for imagination.
      starts: [N, ...] states.
      model, critic: parameters of the world model and of the target critic v', constants here.
      nets: the world model's networks.
      heads: actor, critic and policy.
      horizon: H, at least 1.
      gamma: γ in [0, 1), discount per step.
      lam: λ in [0, 1].
      reinforce: ρ in [0, 1].
      entropy: η, at least 0.
    Returns:
      L_π [], "entropy" in nats and "imagined_return", the mean of R.
    """
    loss, (_, metrics) = actor_loss_and_trajectories(
        actor, key, starts, model=model, critic=critic, nets=nets, heads=heads, horizon=horizon, gamma=gamma, lam=lam,
        reinforce=reinforce, entropy=entropy,
    )  # fmt: skip
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
    reinforce: Array | float,
    entropy: Array | float,
) -> tuple[Array, tuple[Imagined, Metrics]]:
    """`actor_loss` together with the trajectories and targets, from which the critic learns.

    Args:
      actor, key, starts, model, critic, nets, heads, horizon, gamma, lam, reinforce, entropy: as in `actor_loss`.
    Returns:
      L_π [], and beside it N trajectories of H steps with their targets and the metrics of `actor_loss`.
    """
    policy = heads.policy

    def one(actor: Params, key: Key, start: Latent) -> tuple[Array, Imagined, Array]:
        trajectory = imagine_trajectory(key, model, actor, start, nets=nets, heads=heads, horizon=horizon, gamma=gamma)
        values = jax.vmap(lambda x: value_of(heads.critic, critic, x))(trajectory.feature)
        returns, weights = lambda_targets(trajectory, values, lam)
        out = jax.vmap(heads.actor.apply, (None, 0))(actor, jax.lax.stop_gradient(trajectory.feature[:-1]))
        advantage = jax.lax.stop_gradient(returns - values[:-1])
        nats = jax.vmap(policy.entropy)(out)
        score = reinforce * jax.vmap(policy.log_prob)(out, trajectory.action) * advantage
        objective = score + (1.0 - reinforce) * returns + entropy * nats
        return -jnp.mean(weights * objective), Imagined(trajectory, returns, weights), jnp.mean(nats)

    losses, imagined, nats = vmap_shares(one, actor, (jax.random.split(key, starts.deter.shape[0]), starts), (0, 0))
    metrics = {"entropy": jnp.mean(nats), "imagined_return": jnp.mean(imagined.returns)}
    return jnp.mean(losses), (imagined, metrics)


def make_optimizers(cfg: DreamerV2Config) -> Parts:
    """Adam with weight decay behind clipping of the global norm, for each part."""

    def adam(lr: Array | float) -> optax.GradientTransformation:
        decayed = optax.adamw(lr, eps=cfg.adam_eps, weight_decay=cfg.weight_decay)
        return optax.chain(optax.clip_by_global_norm(cfg.clip), decayed)  # pyright: ignore[reportArgumentType]

    return Parts(adam(cfg.model_lr), adam(cfg.actor_lr), adam(cfg.critic_lr))


def update(
    key_model: Key,
    key_imagine: Key,
    learner: Learner,
    start: Latent,
    rows: Rows,
    *,
    cfg: DreamerV2Config,
    nets: Networks,
    heads: ActorCritic,
    optimizers: Parts,
) -> tuple[Learner, Latent, Metrics]:
    """One step each of world model, actor and critic; every `cfg.copy_every` updates the target critic is copied.

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
        model_loss_and_states, nets=nets, kl_scale=cfg.kl_scale, balance=cfg.balance, free=cfg.free,
        cont_scale=cfg.cont_scale,
        calibrated=cfg.calibrated,
    )  # fmt: skip
    of_actor = partial(
        actor_loss_and_trajectories, critic=learner.target, nets=nets, heads=heads, horizon=cfg.imagined,
        gamma=cfg.gamma, lam=cfg.lam, reinforce=cfg.reinforce, entropy=cfg.entropy,
    )  # fmt: skip
    params, opts, states, metrics = update_parts(
        key_model, key_imagine, Parts(*learner[:3]), learner.opts, start,
        rows._replace(reward=cfg.reward_scale * rows.reward), model_loss_and_states=of_model,
        actor_loss_and_trajectories=of_actor, critic=heads.critic, optimizers=optimizers,
    )  # fmt: skip
    updates = learner.updates + 1
    target = tree.where(updates % cfg.copy_every == 0, params.critic, learner.target)
    return Learner(*params, target, opts, updates), states, metrics


def make(cfg: DreamerV2Config, spec: Spec) -> Agent:
    """DreamerV2 for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    check_unit_actions(spec)
    check_calibrated(cfg.calibrated, spec)
    nets = networks(cfg.net, spec, gaussian=False)
    policy = make_policy(spec.action, clipped_normal)
    heads = actor_critic(cfg.net, nets.rssm.size, policy)
    optimizers = make_optimizers(cfg)

    def init(key: Key) -> Learner:
        params, opts = init_parts(key, nets=nets, heads=heads, optimizers=optimizers)
        return Learner(*params, jax.tree.map(jnp.copy, params.critic), opts, jnp.int32(0))

    def act(key: Key, learner: Learner, carry: ActorCarry, obs: Obs, explore: bool) -> tuple[Action, ActorCarry, Tree]:
        key_latent, key_action = jax.random.split(key)
        token = nets.encoder.apply(learner.model.encoder, obs)
        at = observe_step(key_latent, learner.model.rssm, carry, token, rssm=nets.rssm)
        latent: Latent = at.states
        if not explore:  # probabilities in place of samples: nothing is drawn
            latent = latent._replace(stoch=jax.nn.softmax(at.posterior))
        out = heads.actor.apply(learner.actor, features(latent))
        action = policy.to_env(policy.sample(key_action, out) if explore else policy.mode(out))
        return action, ActorCarry(latent, action_code(spec.action, action)), latent if cfg.context else ()

    def follow(key: Key, learner: Learner, carry: ActorCarry, obs: Obs, action: Action) -> tuple[ActorCarry, Tree]:
        key_latent, _ = jax.random.split(key)
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


def open_loop_model(cfg: DreamerV2Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """The learned world model with its parameters, for looking at its imagination.

    Raises:
      ValueError: observations are a dict of arrays.
    """
    need_one_array(spec, "an open-loop model")
    nets, params = networks(cfg.net, spec, gaussian=False), inner_of(learner).model
    model = rssm_open_loop_model(spec.action, nets.encoder, nets.rssm, nets.decoder, params)
    return open_loop_in_units(model, learner)


def learned_model(cfg: DreamerV2Config, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over latent states.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets, params = networks(cfg.net, spec, gaussian=False), inner_of(learner).model
    learned = rssm_learned_model(bind(nets, params), spec.action, nets.encoder, nets.rssm, params)
    return model_in_units(learned, learner, cfg.reward_scale)
