"""TD-MPC2: planning with a learned latent model, value and policy.

Hansen et al. 2024, "TD-MPC2: Scalable, Robust World Models for Continuous Control" (arXiv 2310.16828), and the authors'
code. Networks are those of `models.tdmpc2.networks`, the loss terms of one window those of `models.tdmpc2.losses`. With
means over the windows of a batch whose step t belongs to the episode of their first row,

    L_world = Σ_t ρ^t / H [ c_z consistency_t + c_r reward_t + c_q value_t ] + c_d / H Σ_t termination_t
    L_π     = mean_{t<=H} ρ^t [ -( Q(z_t, a) / S + η scaled_entropy_t ) ],   a ~ π(sg z_t),  Q the mean of two of N
    S      <- S + κ ( max(1, P95 - P5 of Q(z_0, a)) - S )
    Q̄      <- τ Q + (1 - τ) Q̄
    γ       = clip( (L/5 - 1) / (L/5), low, high )                           L the time limit in steps

The encoder has a learning rate of its own. Acting is `planners.mppi_elites` in the model: it starts from the last plan
shifted by a step, and some of its candidates follow π; evaluation leaves the noise out.

Differs from the paper in: coefficients are those of the code (20, 0.1, 0.1; the paper prints others); windows are drawn
from all rows and masked after the end of an episode, where the code draws from whole episodes; the random steps are not
followed by as many updates at once; the two value networks that score a plan are drawn once per plan instead of once
per iteration; a candidate without a finite score is dropped instead of counted as 0; observations are vectors.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.agents.standardized import inner_of, model_in_units, open_loop_in_units, standardized
from mbrl_jax.buffers.sequence import Window, sequence
from mbrl_jax.core.config import check, config, replace, setting
from mbrl_jax.core.images import is_image, random_shift
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import (
    Action,
    Agent,
    Array,
    Buffer,
    Key,
    Metrics,
    Obs,
    Params,
    Planner,
    Replay,
    Spec,
    Tree,
    plan_anew,
)
from mbrl_jax.envs.multitask import Tasks
from mbrl_jax.models.tdmpc2.losses import (
    Targets,
    Transitions,
    policy_value,
    to_transitions,
    window_targets,
    window_terms,
)
from mbrl_jax.models.tdmpc2.networks import (
    Latent,
    Networks,
    TDMPCParams,
    WorldParams,
    bind,
    decode_values,
    encode,
    next_latent,
    sample_action,
    sample_pair,
    tdmpc,
    value_logits,
)
from mbrl_jax.models.tdmpc2.sizes import TDMPCNetConfig
from mbrl_jax.ops.optim import descend
from mbrl_jax.planners.mpc.mppi import MPPIElites, mppi_elites

WIDE_ACTION = 20  # entries of an action from which a plan takes two iterations more
LATENTS = 5  # entries of the latent that `open_loop_model` shows


@config
class TDMPC2Config:
    """Settings of TD-MPC2. The planner's horizon is also H of the losses; its gamma comes from the time limit."""

    net: TDMPCNetConfig = TDMPCNetConfig()
    planner: MPPIElites = MPPIElites()
    batch: int = setting(default=256, low=1, help="windows per update")
    lr: float = setting(default=3e-4, above=0, help="Adam's learning rate")
    encoder_scale: float = setting(default=0.3, low=0, help="ratio of the encoder's learning rate to lr")
    max_grad_norm: float = setting(default=20.0, above=0, help="largest gradient norm, of world and policy each")
    rho: float = setting(default=0.5, above=0, high=1, help="weight of each unrolled step relative to the one before")
    consistency_weight: float = setting(default=20.0, low=0, help="weight of the latent consistency loss")
    reward_weight: float = setting(default=0.1, low=0, help="weight of the reward loss")
    value_weight: float = setting(default=0.1, low=0, help="weight of the value loss")
    termination_weight: float = setting(default=1.0, low=0, help="weight of the termination loss")
    entropy_weight: float = setting(default=1e-4, low=0, help="weight of the policy's scaled entropy")
    scale_rate: float = setting(default=0.01, above=0, high=1, help="step size of the running scale of values")
    tau: float = setting(default=0.01, above=0, high=1, help="step size of the target values towards the values")
    gamma_low: float = setting(default=0.95, low=0, high=1, help="smallest discount per step; gamma_high fixes it")
    gamma_high: float = setting(default=0.995, low=0, high=1, help="largest discount per step, used without time limit")
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by their running root mean square")


class Learner(NamedTuple):
    """What TD-MPC2 has learned so far."""

    params: TDMPCParams
    target: Params  # of the value networks, [N, ...]
    scale: Array  # [] S
    opt: tuple[Any, Any]  # optimizer states of world and policy


def window(cfg: TDMPC2Config) -> int:
    """Rows of the windows that TD-MPC2's buffer must give."""
    return cfg.planner.horizon + 1


def buffer(cfg: TDMPC2Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that TD-MPC2 learns from: windows of `window(cfg)` rows.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: environments side by side.
    """
    return sequence(capacity, window(cfg), num_envs)


# Targets and losses --------------------------------------------------------------------------------------------------


def discount_from_time_limit(limit: int | None, low: Array | float, high: Array | float) -> Array:
    """TD-MPC2's rule for the discount: γ = clip((L/5 - 1) / (L/5), low, high).

    Args:
      limit: L, steps after which an episode is cut off; None for no limit, which gives `high`.
      low, high: bounds of the discount.
    Returns:
      [] discount per step.
    """
    return jnp.asarray(high if limit is None else jnp.clip((limit / 5 - 1) / (limit / 5), low, high), jnp.float32)


def batch_transitions(batch: Window) -> Transitions:
    """The windows of a batch as transitions, each [B, H, ...]; steps after the end of an episode are masked."""
    return jax.vmap(to_transitions, in_axes=1)(batch.steps)


def masked_mean(values: Array, mask: Array) -> Array:
    """The weighted mean over the windows for each step: [B, T], [B, T] -> [T]; 0 where all weights are 0."""
    return jnp.sum(values * mask, axis=0) / jnp.maximum(jnp.sum(mask, axis=0), 1e-6)


def step_weights(rho: Array | float, steps: int) -> Array:
    """The weights ρ^t of the steps of an unroll, [steps]."""
    return (rho ** jnp.arange(steps, dtype=jnp.int32)).astype(jnp.float32)


def shift_images(key: Key, batch: Window, *, pad: int) -> Window:
    """A batch whose images are shifted by up to `pad` pixels, each on its own (`core.images.random_shift`).

    Args:
      key: used once.
      batch: windows of H + 1 rows, [H + 1, B, ...], observed as images.
      pad: largest shift, at least 0.
    """
    images = batch.steps.obs
    keys = jax.random.split(key, images.shape[:2])
    shifted = jax.vmap(jax.vmap(lambda key, image: random_shift(key, image, pad)))(keys, images)
    return batch._replace(steps=batch.steps._replace(obs=shifted))


def td_targets(
    params: TDMPCParams, key: Key, batch: Window, *, nets: Networks, target_values: Params, gamma: Array | float
) -> Targets:
    """Latent and TD targets of a batch, without gradients.

        z̄_{t+1} = h(o_{t+1}),   y_t = r_t + γ d_t min_i Q̄_i(z̄_{t+1}, a'),  a' ~ π(z̄_{t+1})

    Args:
      params: of encoder and policy.
      key: draws the policy's actions.
      batch: windows of H + 1 rows, [H + 1, B, ...].
      nets: the networks.
      target_values: Q̄_i, two of the target value networks (`sample_pair`), [2, ...].
      gamma: discount per step, [] or one for each window [B].
    Returns:
      latents and values [B, H, ...].
    """
    windows = batch_transitions(batch)
    count = windows.reward.shape[0]
    one = lambda key, window, gamma: window_targets(params, key, window, nets=nets, pair=target_values, gamma=gamma)  # noqa: E731
    return jax.vmap(one)(jax.random.split(key, count), windows, jnp.broadcast_to(gamma, (count,)))


def weigh_terms(
    terms: dict[str, Array],
    *,
    rho: Array | float,
    consistency_weight: Array | float = 20.0,
    reward_weight: Array | float = 0.1,
    value_weight: Array | float = 0.1,
    termination_weight: Array | float = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """L_world from the mean loss of each step.

    Args:
      terms: [H] each: "consistency", "reward", "value", and "termination" where it is learned.
      rho: ρ; termination has the same weight in all steps.
      consistency_weight, reward_weight, value_weight, termination_weight: c_z, c_r, c_q and c_d.
    Returns:
      the total [], and each term [] averaged over the steps, before its weight.
    """
    means = {
        name: jnp.mean(term if name == "termination" else step_weights(rho, term.shape[0]) * term)
        for name, term in terms.items()
    }
    total = consistency_weight * means["consistency"] + reward_weight * means["reward"]
    total = total + value_weight * means["value"]
    return total + termination_weight * means.get("termination", jnp.zeros((), jnp.float32)), means


def world_loss_and_latents(
    world: WorldParams, key: Key, batch: Window, *, nets: Networks, targets: Targets, dropout: Array | float,
    rho: Array | float, consistency_weight: Array | float, reward_weight: Array | float, value_weight: Array | float,
    termination_weight: Array | float,
) -> tuple[Array, tuple[Latent, Metrics]]:  # fmt: skip
    """`world_loss` together with the latents that it unrolled, from which the policy learns.

    Args:
      world, key, batch: see `world_loss`.
      nets, targets, dropout, rho, consistency_weight, reward_weight, value_weight, termination_weight: likewise.
    Returns:
      the loss []; the latents [B, H + 1, ...] and the metrics.
    """
    windows = batch_transitions(batch)
    mask = windows.mask * batch.weight[:, None]
    one = partial(window_terms, nets=nets, dropout=dropout)
    given = (jax.random.split(key, mask.shape[0]), windows, targets)
    latents, terms = vmap_shares(one, world, given, (0, 0, 0))
    total, means = weigh_terms(
        {name: masked_mean(term, mask) for name, term in terms.items()}, rho=rho,
        consistency_weight=consistency_weight, reward_weight=reward_weight, value_weight=value_weight,
        termination_weight=termination_weight,
    )  # fmt: skip
    return total, (latents, {f"{name}_loss": mean for name, mean in means.items()})


def world_loss(
    world: WorldParams,
    key: Key,
    batch: Window,
    *,
    nets: Networks,
    targets: Targets,
    dropout: Array | float = 0.01,
    rho: Array | float = 0.5,
    consistency_weight: Array | float = 20.0,
    reward_weight: Array | float = 0.1,
    value_weight: Array | float = 0.1,
    termination_weight: Array | float = 1.0,
) -> tuple[Array, Metrics]:
    """The joint loss of encoder, dynamics, reward, values and termination (Hansen et al. 2024, eq. 3).

        L_world = Σ_t ρ^t / H [ c_z consistency_t + c_r reward_t + c_q value_t ] + c_d / H Σ_t termination_t

    Args:
      world: parameters that are learned.
      key: of dropout.
      batch: windows of H + 1 rows, [H + 1, B, ...]; their importance weights count.
      nets: the networks.
      targets: of the batch, from `td_targets`.
      dropout: rate in the first layer of the value networks, in [0, 1).
      rho: ρ, in (0, 1].
      consistency_weight, reward_weight, value_weight, termination_weight: c_z, c_r, c_q and c_d.
    Returns:
      the loss []; metrics "consistency_loss", "reward_loss", "value_loss", and "termination_loss" where the environment
      terminates, each before its weight.
    """
    loss, (_, metrics) = world_loss_and_latents(
        world, key, batch, nets=nets, targets=targets, dropout=dropout, rho=rho, consistency_weight=consistency_weight,
        reward_weight=reward_weight, value_weight=value_weight, termination_weight=termination_weight,
    )  # fmt: skip
    return loss, metrics


def masked_percentiles(values: Array, mask: Array, percents: Array) -> Array:
    """Percentiles of the values where the mask holds, linear between neighbours, [Q]; arbitrary where it holds nowhere.

    A NaN among the values counts as missing, as in `jnp.nanpercentile`; none is made.

    Args:
      values: [B].
      mask: [B] bool.
      percents: [Q] in [0, 100].
    """
    mask = mask & ~jnp.isnan(values)
    ordered = jnp.sort(jnp.where(mask, values, jnp.finfo(values.dtype).max))
    most = jnp.sum(mask, dtype=percents.dtype) - 1.0
    place = percents / 100.0 * most
    low, high = jnp.floor(place), jnp.ceil(place)
    below, above = (ordered[jnp.maximum(0.0, jnp.minimum(x, most)).astype(jnp.int32)] for x in (low, high))
    return below * (1.0 - (place - low)) + above * (place - low)


def update_scale(scale: Array, values: Array, mask: Array, rate: Array | float) -> Array:
    """The running scale of values, [] without a gradient.

        S <- S + κ ( max(1, P95 - P5) - S )

    Args:
      scale: [] S.
      values: [B] of the first states.
      mask: [B] 0 for values that do not count; S stays where none counts.
      rate: κ.
    """
    counted = mask > 0.0
    low, high = masked_percentiles(jax.lax.stop_gradient(values), counted, jnp.array([5.0, 95.0], jnp.float32))
    return jnp.where(jnp.any(counted), scale + rate * (jnp.maximum(1.0, high - low) - scale), scale)


def policy_loss(
    policy: Params,
    key: Key,
    latents: Latent,
    mask: Array,
    *,
    nets: Networks,
    values: Params,
    scale: Array | float,
    scale_rate: Array | float = 0.01,
    rho: Array | float = 0.5,
    entropy_weight: Array | float = 1e-4,
    dropout: Array | float = 0.01,
) -> tuple[Array, Metrics]:
    """The policy's loss on the latents of an unroll (Hansen et al. 2024, eq. 4).

        L_π = mean_{t<=H} ρ^t [ -( Q(z_t, a) / S + η scaled_entropy_t ) ],   a ~ π(z_t),  Q the mean of two of N

    Args:
      policy: parameters that are learned.
      key: draws two value networks, the actions, and dropout.
      latents: z_t, [B, H + 1, ...]; no gradient should flow into them.
      mask: [B, H + 1] weight of each latent, 0 after the end of an episode.
      nets: the networks.
      values: parameters of the N value networks, [N, ...].
      scale: [] S before this batch.
      scale_rate: κ, of S.
      rho: ρ, in (0, 1].
      entropy_weight: η.
      dropout: rate in the first layer of the value networks, in [0, 1).
    Returns:
      the loss []; metrics "value" and "entropy" of the first latents, and "scale", S after this batch.
    """
    key_pair, key_value = jax.random.split(key)
    pair = sample_pair(key_pair, values)
    one = lambda key, state: policy_value(policy, key, state, nets=nets, pair=pair, dropout=dropout)  # noqa: E731
    value, scaled_entropy, entropy = jax.vmap(jax.vmap(one))(jax.random.split(key_value, mask.shape), latents)
    scale = update_scale(jnp.asarray(scale, jnp.float32), value[:, 0], mask[:, 0], scale_rate)
    gain = masked_mean(value / scale + entropy_weight * scaled_entropy, mask)
    metrics = {"value": masked_mean(value, mask)[0], "entropy": masked_mean(entropy, mask)[0], "scale": scale}
    return -jnp.mean(step_weights(rho, gain.shape[0]) * gain), metrics


# Updates -------------------------------------------------------------------------------------------------------------


def world_optimizer(cfg: TDMPC2Config) -> optax.GradientTransformation:
    """Clipping by the global norm, then Adam's scaling; `update_world` applies the learning rates."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),  # pyright: ignore[reportArgumentType]
        optax.scale_by_adam(),
    )


def policy_optimizer(cfg: TDMPC2Config) -> optax.GradientTransformation:
    """Clipping by the global norm, then Adam."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),  # pyright: ignore[reportArgumentType]
        optax.adam(cfg.lr, eps=1e-5),
    )


def apply_world_updates(
    world: WorldParams, updates: Any, lr: Array | float, encoder_scale: Array | float
) -> WorldParams:
    """The parameters after a step against Adam's scaled gradients, w - lr u.

    Args:
      world: w.
      updates: u, of the same structure.
      lr: learning rate.
      encoder_scale: ratio of the encoder's learning rate to lr.
    """

    def one(name: str) -> Any:
        rate = lr * encoder_scale if name == "encoder" else lr
        return jax.tree.map(lambda w, u: w - rate * u, getattr(world, name), getattr(updates, name))

    return WorldParams(*(one(name) for name in WorldParams._fields))


def update_world(
    learner: Learner, key: Key, batch: Window, *, cfg: TDMPC2Config, nets: Networks, gamma: Array | float
) -> tuple[Learner, Latent, Metrics]:
    """One gradient step on `world_loss`, with targets of the parameters before it.

    Args:
      learner: what was learned so far.
      key: used once.
      batch: windows of H + 1 rows, [H + 1, B, ...].
      cfg: settings.
      nets: the networks.
      gamma: discount per step, [] or one for each window [B].
    Returns:
      the learner; the unrolled latents [B, H + 1, ...], without gradients; metrics of `world_loss`, with "world_grad",
      the gradient's norm, and "target", the mean TD target of the first steps.
    """
    key_pair, key_next, key_drop = jax.random.split(key, 3)
    windows = batch_transitions(batch)
    mask = windows.mask * batch.weight[:, None]
    pair = sample_pair(key_pair, learner.target)
    targets = td_targets(learner.params, key_next, batch, nets=nets, target_values=pair, gamma=gamma)
    grads, (latents, metrics) = jax.grad(world_loss_and_latents, has_aux=True)(
        learner.params.world, key_drop, batch, nets=nets, targets=targets, dropout=cfg.net.dropout, rho=cfg.rho,
        consistency_weight=cfg.consistency_weight, reward_weight=cfg.reward_weight, value_weight=cfg.value_weight,
        termination_weight=cfg.termination_weight,
    )  # fmt: skip
    updates, opt = world_optimizer(cfg).update(grads, learner.opt[0])
    world = apply_world_updates(learner.params.world, updates, cfg.lr, cfg.encoder_scale)
    metrics |= {"world_grad": optax.tree.norm(grads), "target": masked_mean(targets.value, mask)[0]}
    learner = learner._replace(params=learner.params._replace(world=world), opt=(opt, learner.opt[1]))
    return learner, jax.lax.stop_gradient(latents), metrics


def update_policy(
    learner: Learner, key: Key, batch: Window, latents: Latent, *, cfg: TDMPC2Config, nets: Networks
) -> tuple[Learner, Metrics]:
    """One gradient step on `policy_loss`, with the value networks as they are.

    Args:
      learner: what was learned so far; its scale S moves too.
      key: used once.
      batch: the windows [H + 1, B, ...] that the latents were unrolled along, for their masks.
      latents: [B, H + 1, ...], from `update_world`.
      cfg: settings.
      nets: the networks.
    Returns:
      the learner; metrics of `policy_loss`, with "policy_loss".
    """
    mask = batch_transitions(batch).mask * batch.weight[:, None]
    mask = jnp.concatenate([mask[:, :1], mask], axis=1)  # a latent counts if the step that leads to it does
    (loss, metrics), grads = jax.value_and_grad(policy_loss, has_aux=True)(
        learner.params.policy, key, latents, mask, nets=nets, values=learner.params.world.values, scale=learner.scale,
        scale_rate=cfg.scale_rate, rho=cfg.rho, entropy_weight=cfg.entropy_weight, dropout=cfg.net.dropout,
    )  # fmt: skip
    policy, opt = descend(policy_optimizer(cfg), grads, learner.opt[1], learner.params.policy)
    params, scale = learner.params._replace(policy=policy), metrics["scale"]
    return learner._replace(params=params, scale=scale, opt=(learner.opt[0], opt)), metrics | {"policy_loss": loss}


# The agent -----------------------------------------------------------------------------------------------------------


def make(cfg: TDMPC2Config, spec: Spec, tasks: Tasks | None = None) -> Agent:
    """TD-MPC2 for one environment; it learns from `buffer(cfg, ...)`. An actor's memory is its plan [H, A].

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or an image, actions a vector in [-1, 1].
      tasks: those of `envs.multitask`, as many as `net.tasks`; None for a single task.
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    if cfg.net.tasks != (0 if tasks is None else len(tasks.limits)):
        raise ValueError(f"net.tasks must be the number of tasks given, {tasks and len(tasks.limits)}")
    nets = tdmpc(cfg.net, spec, None if tasks is None else tasks.masks)
    limits = (spec.time_limit,) if tasks is None else tasks.limits
    gammas = [discount_from_time_limit(limit, cfg.gamma_low, cfg.gamma_high) for limit in limits]
    shifts = is_image(spec.obs) and cfg.net.shift > 0
    more = 2 * (nets.num_actions >= WIDE_ACTION)
    planning = replace(cfg.planner, {"iterations": cfg.planner.iterations + more})

    def gamma_of(obs: Obs) -> Array:
        return gammas[0] if tasks is None else obs[-len(limits) :] @ jnp.stack(gammas)

    def planner(gamma: Array | float, explore: bool) -> Planner:
        noise = planning.explore if explore else 0.0
        return mppi_elites(replace(planning, {"gamma": gamma, "explore": noise}), spec)

    def init(key: Key) -> Learner:
        params = nets.init(key)
        opt = (world_optimizer(cfg).init(params.world), policy_optimizer(cfg).init(params.policy))
        return Learner(params, jax.tree.map(jnp.copy, params.world.values), jnp.ones((), jnp.float32), opt)

    def act(key: Key, learner: Learner, carry: Array, obs: Obs, explore: bool) -> tuple[Array, Array, Tree]:
        key_values, key_plan = jax.random.split(key)
        model = bind(nets, learner.params, key_values)
        state = encode(nets, learner.params.world, obs)
        action, carry, _ = planner(gamma_of(obs), explore).plan(key_plan, model, state, carry)
        return action, carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key, key_shift = jax.random.split(key) if shifts else (key, None)
        key_sample, key_world, key_policy = jax.random.split(key, 3)
        batch: Window = replay.sample(key_sample, cfg.batch)
        rows = batch.steps.reward.shape[0]
        if rows != window(cfg):
            raise ValueError(f"windows must have planner.horizon + 1 = {window(cfg)} rows, got {rows}")
        if key_shift is not None:
            batch = shift_images(key_shift, batch, pad=cfg.net.shift)
        gamma = jax.vmap(gamma_of)(batch.steps.obs[0])
        learner, latents, metrics = update_world(learner, key_world, batch, cfg=cfg, nets=nets, gamma=gamma)
        learner, more = update_policy(learner, key_policy, batch, latents, cfg=cfg, nets=nets)
        target = optax.incremental_update(learner.params.world.values, learner.target, cfg.tau)
        return learner._replace(target=target), metrics | more, ()

    start = planner(1.0, True)
    agent = Agent(init, start.init, act, update, follow=plan_anew(start))
    # Behind the observation of several tasks stands a code of the task.
    return standardized(agent, spec, obs=cfg.normalize_obs and tasks is None, rewards=cfg.scale_rewards)


def open_loop_model(cfg: TDMPC2Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """TD-MPC2's open-loop model. Observations are not reconstructed: it shows values and latents instead.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    Returns:
      The model; it shows the mean of all values at the policy's mean action, and the first entries of the latent, of
      unrolled latents beside those of the encoded observations.
    """
    nets = tdmpc(cfg.net, spec)
    world, policy = inner_of(learner).params

    def step(key: Key, state: Latent, action: Action) -> Latent:
        del key
        return next_latent(nets, world, state, action)

    def decode(state: Latent) -> Array:
        action = sample_action(nets, policy, jax.random.key(0), state).mean
        value = jnp.mean(decode_values(nets, value_logits(nets, world.values, state, action)))
        return jnp.concatenate([value[None], state.z[:LATENTS]])

    def show(obs: Obs) -> Array:
        return decode(encode(nets, world, obs))

    names = ("value", *(f"z[{i}]" for i in range(LATENTS)))
    model = OpenLoopModel(
        lambda key, obs, action: jax.vmap(lambda obs: encode(nets, world, obs))(obs), step, decode, show, names
    )
    return open_loop_in_units(model, learner, decodes=False)


def learned_model(cfg: TDMPC2Config, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over latent states, with the policy as prior and its value.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets, params = tdmpc(cfg.net, spec), inner_of(learner).params
    learned = LearnedModel(bind(nets, params), lambda key, obs: encode(nets, params.world, obs))
    return model_in_units(learned, learner)
