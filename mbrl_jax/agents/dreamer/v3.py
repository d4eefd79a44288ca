"""DreamerV3: an actor and a critic that learn in the imagination of a recurrent state-space model.

Hafner et al. 2023, "Mastering Diverse Domains through World Models" (arXiv 2301.04104), and the authors' newest code.
From every state of the batch, H steps are imagined with the actor; with rewards r, continuations c (which contain γ)
and values v of the critic,

    R_t  = r_{t+1} + c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H,      w_t = Π_{k<=t} c_k
    L_π  = mean w_t [ -log π(a_t|s_t) sg((R_t - v_t) / S) - η H(π(s_t)) ],      S = max(1, Per(R, 95) - Per(R, 5))
    L_v  = mean w_t [ CE(v(s_t), R_t) + CE(v(s_t), v'(s_t)) ],                  v' <- τ v + (1 - τ) v'
    G_t  = r_{t+1} + γ d_{t+1} [ (1 - λ_{t+1}) b_{t+1} + λ_{t+1} G_{t+1} ],     b_t the R_0 imagined from row t
    L_rv = mean (1 - last_t) [ CE(v(s_t), G_t) + CE(v(s_t), v'(s_t)) ],         λ_t = λ (1 - last_t)
    L    = L_model + L_π + L_v + β L_rv

Where they are:

    L_model                     `models.rssm.dreamer_v3.model_loss`, on replayed windows
    R, w, L_π, L_v, G, L_rv     `agents.dreamer.actor_critic_v3`
    L and its gradient          `total_grads` below, and `update`, one step along it

G is over the replayed rows, and of L_π, L_v and L_rv only L_rv has a gradient into the model. All parameters have one
optimiser: LaProp behind clipping by tensor. The latents that `act` saw are stored as the context from which windows
start, and replaced by fresher ones after every update.

Differs from the paper in: evaluation takes the latents' probabilities and the most likely action where the code samples
both; actions beyond [-1, 1] are clipped where they are taken, as the model sees them; the policy's uniform share is the
paper's, which the newest code leaves out; planes of zeros and ones have a Bernoulli decoder; with `calibrated` the
reconstruction's weight follows its error (`ops.model_losses.likelihood_weight`); convolutions over images have a
stride, as in the paper's first version, where the newest code pools (`net.images`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer import plan2explore
from mbrl_jax.agents.dreamer.actor_critic_v3 import (
    ActorCriticGrads,
    IntrinsicReward,
    actor_critic_grads,
    actor_outputs,
    make_policy,
    replay_critic_loss,
    replay_targets,
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
from mbrl_jax.agents.dreamer.plan2explore import Explorer, Plan2ExploreConfig
from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.agents.standardized import inner_of, model_in_units, open_loop_in_units, standardized
from mbrl_jax.buffers.sequence import Feedback, Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import over_data
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Key, Metrics, Obs, Params, Replay, Spec, Tree
from mbrl_jax.envs.spaces import check_unit_actions, need_one_array
from mbrl_jax.models.rssm.dreamer_v3 import (
    DreamerParams,
    DreamerV3NetConfig,
    Networks,
    bind,
    dreamer_v3,
    model_loss_and_states,
    widths,
)
from mbrl_jax.models.rssm.rssm import Latent, Rows, action_code, code_size, features
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import return_scale
from mbrl_jax.ops.optim import descend, laprop
from mbrl_jax.ops.return_scale import ReturnRange


@config
class DreamerV3Config:
    """Settings of DreamerV3; the defaults are the authors', except size, learning rate and precision."""

    net: DreamerV3NetConfig = DreamerV3NetConfig()
    batch: int = setting(default=16, low=1, help="windows per update")
    length: int = setting(default=64, low=2, help="rows per window that the model learns from")
    imagined: int = setting(default=15, low=1, help="imagination horizon H in steps, from each row")
    gamma: float = setting(default=1 - 1 / 333, low=0, below=1, help="discount factor per step")
    lam: float = setting(default=0.95, low=0, high=1, help="λ of imagined and replayed λ-returns")
    entropy: float = setting(default=3e-4, low=0, help="weight η of the policy's entropy, per nat")
    actor_unimix: float = setting(
        default=0.01, low=0, below=1, help="share of the uniform distribution in the policy over discrete actions"
    )
    free: float = setting(default=1.0, low=0, help="free nats of each KL per step, below which it has no gradient")
    dyn_scale: float = setting(default=1.0, low=0, help="weight of the KL that trains the prior")
    rep_scale: float = setting(default=0.1, low=0, help="weight of the KL that trains the posterior")
    decoder_scale: float = setting(
        default=1.0, low=0, help="weight α of the reconstruction; above 1 where small details of observations matter"
    )
    calibrated: bool = setting(
        default=False, help="reconstruction weighted by the likelihood of its best variance; observations: vectors"
    )
    replay_value: float = setting(default=0.3, low=0, help="weight β of the critic's loss on replayed rows")
    slow_share: float = setting(
        default=0.02, above=0, high=1, help="share τ of the critic that moves into its EMA (target) copy per update"
    )
    slow_weight: float = setting(
        default=1.0, low=0, help="weight of the critic's loss towards the values of its EMA (target) copy"
    )
    range_rate: float = setting(
        default=0.01, low=0, high=1, help="share of the batch in the running percentiles of returns per update"
    )
    lr: float = setting(default=3e-4, above=0, help="LaProp's learning rate after warm-up; the authors' is 4e-5")
    lr_warmup: int = setting(default=1_000, low=1, help="updates over which the learning rate rises linearly from 0")
    clip: float = setting(default=0.3, above=0, help="largest ratio of a tensor's gradient norm to its weight norm")
    context: bool = setting(default=True, help="whether windows start from stored latents, refreshed by every update")
    online: bool = setting(default=True, help="whether a batch takes the newest windows that no batch has had first")
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    bfloat16: bool = setting(default=False, help="whether to compute in bfloat16, for accelerators")
    explorer: str = setting(
        default="none", choices=("none", "plan2explore"), help="actor for training episodes in place of the task's"
    )
    plan2explore: Plan2ExploreConfig = Plan2ExploreConfig()


class Learner(NamedTuple):
    """What DreamerV3 has learned so far."""

    params: DreamerParams
    ema_critic: Params  # exponential moving average of the critic
    range: ReturnRange  # running percentiles of imagined returns
    opt: Any
    explorer: Any = ()  # `plan2explore.Explorer`, or nothing


def window(cfg: DreamerV3Config) -> int:
    """Rows per window of the buffer: one more than the model learns from where the first is context."""
    return cfg.length + cfg.context


def buffer(cfg: DreamerV3Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that DreamerV3 learns from: windows of `window(cfg)` rows.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: environments side by side.
    """
    return sequence(capacity, window(cfg), num_envs, cfg.batch if cfg.online else 0)


def cast(params: Any, *, bfloat16: bool) -> Any:
    """Parameters in the type to compute in: as they are, or in bfloat16."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params) if bfloat16 else params


def imagined_grads(
    key: Key,
    params: DreamerParams,
    states: Latent,
    *,
    weights: Array,
    ema_critic: Params,
    return_range: ReturnRange,
    cfg: DreamerV3Config,
    nets: Networks,
    policy: Policy,
    intrinsic_reward: IntrinsicReward | None = None,
) -> ActorCriticGrads:
    """`actor_critic_grads` from every state of a batch of windows, with DreamerV3's settings.

    Args:
      key: for imagination.
      params: of all networks.
      states: [T, B, ...] of the rows, constants.
      weights: [B] importance weight of each window.
      ema_critic: parameters of the EMA critic.
      return_range: running percentiles of returns.
      cfg: settings.
      nets, policy: as built from it.
      intrinsic_reward: (step, reward []) -> reward []; replaces the model's rewards where given.
    """
    return actor_critic_grads(
        key, params, over_data(tree.flatten_dims(states, 2)), ema_critic=ema_critic, nets=nets, policy=policy,
        weights=jnp.tile(weights, cfg.length), return_range=return_range, horizon=cfg.imagined, lam=cfg.lam,
        entropy=cfg.entropy, ema_weight=cfg.slow_weight, range_rate=cfg.range_rate,
        cast=partial(cast, bfloat16=cfg.bfloat16), intrinsic_reward=intrinsic_reward,
    )  # fmt: skip


def total_grads(
    params: DreamerParams,
    key_model: Key,
    key_imagine: Key,
    start: Latent,
    rows: Rows,
    *,
    weights: Array,
    ema_critic: Params,
    return_range: ReturnRange,
    cfg: DreamerV3Config,
    nets: Networks,
    policy: Policy,
) -> tuple[DreamerParams, Latent, ReturnRange, Metrics]:
    """The gradient of L = L_model + L_π + L_v + β L_rv.

    Args:
      params: of all networks.
      key_model: for the model's loss.
      key_imagine: for imagination.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows.
      weights: [B] importance weight of each window.
      ema_critic: parameters of the EMA critic.
      return_range: running percentiles of returns.
      cfg: settings.
      nets, policy: as built from it.
    Returns:
      the gradient; the states [T, B, ...] of the rows; the percentiles with this batch; the metrics of all losses.
    """
    low = partial(cast, bfloat16=cfg.bfloat16)

    def model_forward(params: DreamerParams) -> tuple[tuple[Array, Latent], Metrics]:
        return model_loss_and_states(
            low(params), key_model, start, rows, nets=nets, weights=weights, gamma=cfg.gamma, free=cfg.free,
            dyn_scale=cfg.dyn_scale, rep_scale=cfg.rep_scale, decoder_scale=cfg.decoder_scale,
            calibrated=cfg.calibrated,
        )  # fmt: skip

    (model_loss, states), model_backward, metrics = jax.vjp(model_forward, params, has_aux=True)

    # Nothing imagined from these states has a gradient into the model.
    parts = {"cfg": cfg, "nets": nets, "policy": policy}
    before = {"ema_critic": ema_critic, "return_range": return_range}
    imagined = imagined_grads(key_imagine, params, states, weights=weights, **before, **parts)
    actor_grads, critic_grads = imagined.grads

    # The critic's loss on the rows themselves has.
    shape = rows.reward.shape
    bootstrap, ema_values = (x[0].reshape(shape) for x in (imagined.returns, imagined.ema_value))
    targets, mask = jax.vmap(partial(replay_targets, gamma=cfg.gamma, lam=cfg.lam), (1, 1), 1)(rows, bootstrap)

    def replayed(critic: Params, states: Latent) -> tuple[Array, Metrics]:
        loss, metrics = replay_critic_loss(
            low(critic), states, targets, nets=nets, ema_values=ema_values[:-1], weights=mask * weights,
            ema_weight=cfg.slow_weight,
        )  # fmt: skip
        return cfg.replay_value * loss, metrics

    (more_critic_grads, state_grads), replay_metrics = jax.grad(replayed, (0, 1), has_aux=True)(params.critic, states)
    (grads,) = model_backward((jnp.ones_like(model_loss), state_grads))
    grads = grads._replace(actor=actor_grads, critic=jax.tree.map(jnp.add, critic_grads, more_critic_grads))
    return grads, states, imagined.range, metrics | imagined.metrics | replay_metrics


def update(
    key_model: Key,
    key_imagine: Key,
    learner: Learner,
    start: Latent,
    rows: Rows,
    *,
    weights: Array,
    cfg: DreamerV3Config,
    nets: Networks,
    policy: Policy,
    optimizer: optax.GradientTransformation,
) -> tuple[Learner, Latent, Metrics]:
    """One optimiser step on L, and the EMA critic's step after it; the explorer stays as it is.

    Args:
      key_model, key_imagine, start, rows, weights, cfg, nets, policy: as in `total_grads`.
      learner: what has been learned so far.
      optimizer: of all parameters.
    Returns:
      the learner after; the states [T, B, ...] of the rows, to start later windows from; the metrics of all losses.
    """
    grads, states, return_range, metrics = total_grads(
        learner.params, key_model, key_imagine, start, rows, weights=weights, ema_critic=learner.ema_critic,
        return_range=learner.range, cfg=cfg, nets=nets, policy=policy,
    )  # fmt: skip
    params, opt = descend(optimizer, grads, learner.opt, learner.params)
    ema_critic = optax.incremental_update(params.critic, learner.ema_critic, cfg.slow_share)
    return Learner(params, ema_critic, return_range, opt, learner.explorer), states, metrics


def update_explorer(
    key: Key,
    explorer: Explorer,
    params: DreamerParams,
    states: Latent,
    rows: Rows,
    *,
    weights: Array,
    cfg: DreamerV3Config,
    spec: Spec,
    nets: Networks,
    policy: Policy,
    optimizer: optax.GradientTransformation,
) -> tuple[Explorer, Metrics]:
    """One step of Plan2Explore's ensemble, actor and critic, in the imagination of the model with `params`.

    Args:
      key: for imagination.
      explorer: so far.
      params: of all networks; the explorer's own actor and critic take the place of the task's.
      states, rows: [T, B, ...].
      weights: [B] importance weight of each window.
      cfg, spec: settings and environment.
      nets, policy, optimizer: as built from them.
    """

    def imagine(explorer: Explorer, reward: IntrinsicReward) -> ActorCriticGrads:
        acting = params._replace(actor=explorer.actor, critic=explorer.critic)
        return imagined_grads(
            key, acting, states, weights=weights, ema_critic=explorer.ema_critic, return_range=explorer.range, cfg=cfg,
            nets=nets, policy=policy, intrinsic_reward=reward,
        )  # fmt: skip

    return plan2explore.update(
        explorer, states, rows, cfg=cfg.plan2explore, net=explorer_member(cfg, spec, nets), space=spec.action,
        optimizer=optimizer, ema_rate=cfg.slow_share, imagine=imagine,
    )  # fmt: skip


def explorer_member(cfg: DreamerV3Config, spec: Spec, nets: Networks) -> Net:
    """One member of Plan2Explore's ensemble, of the sizes that fit the model."""
    size = widths(cfg.net)
    return plan2explore.predictor(cfg.plan2explore, nets.rssm.size, code_size(spec.action), size.stoch * size.classes)


def make(cfg: DreamerV3Config, spec: Spec) -> Agent:
    """DreamerV3 for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    check_unit_actions(spec)
    check_calibrated(cfg.calibrated, spec)
    nets = dreamer_v3(cfg.net, spec)
    policy = make_policy(spec.action, cfg.actor_unimix)
    optimizer = laprop(cfg.lr, cfg.lr_warmup, cfg.clip)
    explores = cfg.explorer == "plan2explore"
    built = {"cfg": cfg, "nets": nets, "policy": policy, "optimizer": optimizer}

    def init(key: Key) -> Learner:
        key_params, key_explorer = jax.random.split(key) if explores else (key, None)
        params = nets.init(key_params)
        learner = Learner(params, jax.tree.map(jnp.copy, params.critic), return_scale.init(), optimizer.init(params))
        if key_explorer is None:
            return learner
        own = jax.tree.map(jnp.copy, (params.actor, params.critic))
        sizes = {"net": explorer_member(cfg, spec, nets), "members": cfg.plan2explore.members}
        return learner._replace(explorer=plan2explore.init_explorer(key_explorer, *own, **sizes, optimizer=optimizer))

    def act(key: Key, learner: Learner, carry: ActorCarry, obs: Obs, explore: bool) -> tuple[Action, ActorCarry, Tree]:
        key_latent, key_action = jax.random.split(key)
        params = learner.params
        token = nets.encoder.apply(params.encoder, obs)
        at = observe_step(key_latent, params.rssm, carry, token, rssm=nets.rssm)
        if explore:
            latent: Latent = at.states
            actor = learner.explorer.actor if explores else params.actor
            action = policy.to_env(policy.sample(key_action, actor_outputs(nets, actor, features(latent))))
        else:  # probabilities in place of samples: nothing is drawn
            latent = at.states._replace(stoch=jnp.exp(at.posterior))
            action = policy.mode(actor_outputs(nets, params.actor, features(latent)))
        return action, ActorCarry(latent, action_code(spec.action, action)), latent if cfg.context else ()

    def follow(key: Key, learner: Learner, carry: ActorCarry, obs: Obs, action: Action) -> tuple[ActorCarry, Tree]:
        key_latent, _ = jax.random.split(key)
        token = nets.encoder.apply(learner.params.encoder, obs)
        after = carry_after(key_latent, learner.params.rssm, carry, token, action, rssm=nets.rssm, space=spec.action)
        return after, after.latent if cfg.context else ()

    def update_from_replay(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_explorer = key
        if explores:
            key, key_explorer = jax.random.split(key)
        key_sample, key_model, key_imagine = jax.random.split(key, 3)
        sampled: Window = replay.sample(key_sample, cfg.batch)
        if (got := len(sampled.steps.reward)) != window(cfg):
            raise ValueError(f"windows must have length + context = {window(cfg)} rows, got {got}")
        start, rows = batch_model_inputs(sampled.steps, rssm=nets.rssm, space=spec.action, context=cfg.context)
        params, weights = learner.params, sampled.weight
        learner, states, metrics = update(key_model, key_imagine, learner, start, rows, weights=weights, **built)
        if explores:
            explorer, more = update_explorer(
                key_explorer, learner.explorer, params, states, rows, weights=weights, spec=spec, **built
            )
            learner, metrics = learner._replace(explorer=explorer), metrics | more
        return learner, metrics, Feedback(sampled.index, extras=states if cfg.context else None)

    agent = Agent(init, lambda: initial_carry(nets.rssm, spec.action), act, update_from_replay, follow=follow)
    return standardized(agent, spec, obs=cfg.normalize_obs, rewards=False)


def open_loop_model(cfg: DreamerV3Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """The learned world model with its parameters, for looking at its imagination.

    Raises:
      ValueError: the model has no decoder, or observations are a dict of arrays.
    """
    need_one_array(spec, "an open-loop model")
    nets = dreamer_v3(cfg.net, spec)
    if nets.decoder is None:
        raise ValueError("imagined observations need a decoder: set net.decoder to true")
    params = inner_of(learner).params
    model = rssm_open_loop_model(spec.action, nets.encoder, nets.rssm, nets.decoder, params)
    return open_loop_in_units(model, learner)


def learned_model(cfg: DreamerV3Config, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over latent states.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets, params = dreamer_v3(cfg.net, spec), inner_of(learner).params
    learned = rssm_learned_model(bind(nets, params), spec.action, nets.encoder, nets.rssm, params)
    return model_in_units(learned, learner)
