"""TD-MPC2: planning with a learned latent model, value and policy.

Hansen et al. 2024, "TD-MPC2: Scalable, Robust World Models for Continuous Control" (arXiv 2310.16828), and the authors'
code. Networks are those of `models.tdmpc2.networks`, losses of one window those of `models.tdmpc2.losses`. With the
mean over the windows of a batch whose step t is in their first episode,

    L_world = Σ_t ρ^t / H [ c_z consistency_t + c_r reward_t + c_q value_t ] + c_d / H Σ_t termination_t
    L_π     = mean_{t<=H} ρ^t [ -( Q(z_t, a) / S + η scaled_entropy_t ) ],   a ~ π(sg z_t),  Q the mean of two of N
    S      <- S + κ ( max(1, P95 - P5 of Q(z_0, a)) - S )
    Q̄      <- τ Q + (1 - τ) Q̄
    γ       = clip( (L/5 - 1) / (L/5), low, high )                           L the time limit in steps

The encoder learns at a rate of its own. Acting is `planners.mppi_elites` in the model, from the last plan shifted by a
step, with candidates that follow π; evaluation leaves the noise out.

Differs from the paper in: coefficients are those of the code (20, 0.1, 0.1; the paper prints others); windows are drawn
from all rows, and what lies past the end of an episode is masked, where the code draws from whole episodes; the random
steps are not followed by as many updates at once; the two values that judge a plan are drawn once a plan instead of
once an iteration; a candidate without a finite score is dropped instead of counted as 0; observations are vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.buffers.sequence import Window, sequence
from mbrl_jax.core.config import check, config, replace, setting
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Key, Metrics, Obs, Params, Planner, Replay, Spec, Tree
from mbrl_jax.envs.multitask import Tasks
from mbrl_jax.models.tdmpc2.losses import hold, policy_value, rows_of, world_losses
from mbrl_jax.models.tdmpc2.networks import Latent, TDMPCParams, World, advance, bind, draw, encode, tdmpc, value_logits
from mbrl_jax.models.tdmpc2.sizes import TDMPCNetConfig, two_of
from mbrl_jax.models.tdmpc2.sizes import decode as decode_bins
from mbrl_jax.ops.optim import descend
from mbrl_jax.planners.mpc.mppi import MPPIElites, mppi_elites

WIDE_ACTION = 20  # entries of an action from which a plan takes two iterations more


@config
class TDMPC2Config:
    """Settings of TD-MPC2. The planner's horizon is also H of the losses; its gamma comes from the time limit."""

    net: TDMPCNetConfig = TDMPCNetConfig()
    planner: MPPIElites = MPPIElites()
    batch: int = setting(default=256, low=1, help="windows per update")
    lr: float = setting(default=3e-4, above=0, help="Adam's learning rate")
    encoder_scale: float = setting(default=0.3, low=0, help="of the encoder's learning rate")
    max_grad_norm: float = setting(default=20.0, above=0, help="longer gradients are scaled down to it")
    rho: float = setting(default=0.5, above=0, high=1, help="weight of each step of an unroll over the one before")
    consistency_weight: float = setting(default=20.0, low=0, help="of foretold latents against those encoded later")
    reward_weight: float = setting(default=0.1, low=0, help="of rewards")
    value_weight: float = setting(default=0.1, low=0, help="of values")
    termination_weight: float = setting(default=1.0, low=0, help="of the end of episodes")
    entropy_weight: float = setting(default=1e-4, low=0, help="of the policy's scaled entropy")
    scale_rate: float = setting(default=0.01, above=0, high=1, help="share by which the scale of values moves")
    tau: float = setting(default=0.01, above=0, high=1, help="share of the values that moves into the targets")
    gamma_low: float = setting(default=0.95, low=0, high=1, help="smallest discount; equal to gamma_high to set it")
    gamma_high: float = setting(default=0.995, low=0, high=1, help="largest discount, and that without a time limit")


class Learner(NamedTuple):
    """What TD-MPC2 has learned so far."""

    params: TDMPCParams
    target: Params  # of the values, [N, ...]
    scale: Array  # [] S
    opt: tuple[Any, Any]  # Adam's states for world and policy


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


def discount_of(limit: int | None, low: Array | float, high: Array | float) -> Array:
    """γ = clip((L/5 - 1) / (L/5), low, high), [] from a time limit L; `high` without one."""
    return jnp.asarray(high if limit is None else jnp.clip((limit / 5 - 1) / (limit / 5), low, high), jnp.float32)


def make(cfg: TDMPC2Config, spec: Spec, tasks: Tasks | None = None) -> Agent:
    """TD-MPC2 for one environment; it learns from `buffer(cfg, ...)`. An actor's memory is its plan [H, A].

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, actions a vector in [-1, 1].
      tasks: those of `envs.multitask`, as many as `net.tasks`; None where there is one.
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    if cfg.net.tasks != (0 if tasks is None else len(tasks.limits)):
        raise ValueError(f"net.tasks must be the number of tasks given, {tasks and len(tasks.limits)}")
    nets = tdmpc(cfg.net, spec, None if tasks is None else tasks.masks)
    limits = (spec.time_limit,) if tasks is None else tasks.limits
    gammas = [discount_of(limit, cfg.gamma_low, cfg.gamma_high) for limit in limits]
    more = 2 * (nets.num_actions >= WIDE_ACTION)
    planning = replace(cfg.planner, {"iterations": cfg.planner.iterations + more})
    world_rule = optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),  # pyright: ignore[reportArgumentType]
        optax.scale_by_adam(),
    )
    policy_rule = optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),  # pyright: ignore[reportArgumentType]
        optax.adam(cfg.lr, eps=1e-5),
    )

    def gamma_of(obs: Obs) -> Array:
        return gammas[0] if tasks is None else obs[-len(limits) :] @ jnp.stack(gammas)

    def planner(gamma: Array | float, explore: bool) -> Planner:
        noise = planning.explore if explore else 0.0
        return mppi_elites(replace(planning, {"gamma": gamma, "explore": noise}), spec)

    def init(key: Key) -> Learner:
        params = nets.init(key)
        opt = (world_rule.init(params.world), policy_rule.init(params.policy))
        return Learner(params, jax.tree.map(jnp.copy, params.world.values), jnp.ones(()), opt)

    def act(key: Key, learner: Learner, carry: Array, obs: Obs, explore: bool) -> tuple[Array, Array, Tree]:
        key_values, key_plan = jax.random.split(key)
        model = bind(nets, learner.params, key_values)
        state = encode(nets, learner.params.world, obs)
        action, carry, _ = planner(gamma_of(obs), explore).plan(key_plan, model, state, carry)
        return action, carry, ()

    def learn_world(key: Key, learner: Learner, batch: Window) -> tuple[World, Any, Latent, Metrics]:
        key_pair, key_next, key_drop = jax.random.split(key, 3)
        rows = jax.vmap(rows_of, in_axes=1)(batch.steps)
        live = rows.live * batch.weight[:, None]
        pair = two_of(key_pair, learner.target)
        held = jax.vmap(lambda key, rows: hold(nets, learner.params, pair, key, rows, gamma_of(rows.obs[0])))(
            jax.random.split(key_next, cfg.batch), rows
        )
        keys = jax.random.split(key_drop, cfg.batch)

        def loss(world: World) -> tuple[Array, tuple[Latent, Metrics]]:
            one = lambda key, rows, held: world_losses(nets, world, key, rows, held, cfg.net.dropout)  # noqa: E731
            states, losses = jax.vmap(one)(keys, rows, held)
            means = {name: live_mean(loss, live) for name, loss in losses.items()}  # [H]
            total, parts = joint_loss(cfg, means)
            return total, (states, {f"{name}_loss": part for name, part in parts.items()})

        grads, (states, metrics) = jax.grad(loss, has_aux=True)(learner.params.world)
        change, opt = world_rule.update(grads, learner.opt[0])
        world = stepped(learner.params.world, change, cfg.lr, cfg.encoder_scale)
        metrics |= {"world_grad": optax.tree.norm(grads), "target": live_mean(held.target, live)[0]}
        return world, opt, jax.lax.stop_gradient(states), metrics

    def learn_policy(
        key: Key, learner: Learner, world: World, states: Latent, live: Array
    ) -> tuple[Params, Any, Array, Metrics]:
        key_pair, key_value = jax.random.split(key)
        pair = two_of(key_pair, world.values)
        keys = jax.random.split(key_value, (cfg.batch, cfg.planner.horizon + 1))

        def loss(policy: Params) -> tuple[Array, tuple[Array, Metrics]]:
            one = lambda key, state: policy_value(nets, policy, pair, key, state, cfg.net.dropout)  # noqa: E731
            value, scaled_entropy, entropy = jax.vmap(jax.vmap(one))(keys, states)  # [B, H + 1]
            scale = moved_scale(learner.scale, value[:, 0], live[:, 0], cfg.scale_rate)
            gain = live_mean(value / scale + cfg.entropy_weight * scaled_entropy, live)
            metrics = {"value": live_mean(value, live)[0], "entropy": live_mean(entropy, live)[0], "scale": scale}
            return -jnp.mean(by_step(cfg.rho, gain) * gain), (scale, metrics)

        (total, (scale, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(learner.params.policy)
        policy, opt = descend(policy_rule, grads, learner.opt[1], learner.params.policy)
        return policy, opt, scale, metrics | {"policy_loss": total}

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_world, key_policy = jax.random.split(key, 3)
        batch: Window = replay.sample(key_sample, cfg.batch)
        if batch.steps.reward.shape[0] != window(cfg):
            raise ValueError(
                f"windows must have planner.horizon + 1 = {window(cfg)} rows, got {len(batch.steps.reward)}"
            )
        world, opt_world, states, metrics = learn_world(key_world, learner, batch)
        live = jax.vmap(rows_of, in_axes=1)(batch.steps).live * batch.weight[:, None]
        alive = jnp.concatenate([live[:, :1], live], axis=1)  # a state is there after the step that leads to it
        policy, opt_policy, scale, more = learn_policy(key_policy, learner, world, states, alive)
        target = optax.incremental_update(world.values, learner.target, cfg.tau)
        learner = Learner(TDMPCParams(world, policy), target, scale, (opt_world, opt_policy))
        return learner, metrics | more, ()

    return Agent(init, planner(1.0, True).init, act, update)


def live_mean(values: Array, live: Array) -> Array:
    """Of each step, the mean over the windows in which it is live: [B, T], [B, T] -> [T]; 0 where there is none."""
    return jnp.sum(values * live, axis=0) / jnp.maximum(jnp.sum(live, axis=0), 1e-6)


def by_step(rho: Array | float, values: Array) -> Array:
    """ρ^t for each of the T values."""
    return rho ** jnp.arange(values.shape[0])


def joint_loss(cfg: TDMPC2Config, means: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """L_world from the losses of each step, [H] by name; and each by itself, before its weight."""
    parts = {
        name: jnp.mean(loss if name == "termination" else by_step(cfg.rho, loss) * loss) for name, loss in means.items()
    }
    total = cfg.consistency_weight * parts["consistency"] + cfg.reward_weight * parts["reward"]
    total = total + cfg.value_weight * parts["value"]
    return total + cfg.termination_weight * parts.get("termination", jnp.zeros(())), parts


def stepped(world: World, change: Any, lr: Array | float, encoder_scale: Array | float) -> World:
    """The parameters after a step against `change`, which Adam has scaled; the encoder's share times its own factor."""

    def one(name: str) -> Any:
        rate = lr * encoder_scale if name == "encoder" else lr
        return jax.tree.map(lambda w, u: w - rate * u, getattr(world, name), getattr(change, name))

    return World(*(one(name) for name in World._fields))


def moved_scale(scale: Array, values: Array, live: Array, rate: Array | float) -> Array:
    """S moved towards the range of values, [] with no gradient.

        S <- S + κ ( max(1, P95 - P5) - S )

    Args:
      scale: [] S.
      values: [B] of the first states.
      live: [B] 0 for those that do not count; with none that does, S stays.
      rate: κ.
    """
    counted = jax.lax.stop_gradient(jnp.where(live > 0.0, values, jnp.nan))
    low, high = jnp.nanpercentile(counted, jnp.array([5.0, 95.0]))
    return jnp.where(jnp.any(live > 0.0), scale + rate * (jnp.maximum(1.0, high - low) - scale), scale)


LATENTS = 5  # entries of the latent that are shown


def open_loop_model(cfg: TDMPC2Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """TD-MPC2's rollout: nothing is decode_bins, so values and latents stand beside those of the encoded observations.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    Returns:
      Shown are the mean of all values at the policy's mean action, and the first entries of the latent.
    """
    nets = tdmpc(cfg.net, spec)
    world, policy = learner.params

    def step(key: Key, state: Latent, action: Action) -> Latent:
        del key
        return advance(nets, world, state, action)

    def decode(state: Latent) -> Array:
        action = draw(nets, policy, jax.random.key(0), state).mean
        logits = value_logits(nets, world.values, state, action)
        value = jnp.mean(jax.vmap(decode_bins, (0, None))(logits, nets.bins))
        return jnp.concatenate([value[None], state.z[:LATENTS]])

    def show(obs: Obs) -> Array:
        return decode(encode(nets, world, obs))

    names = ("value", *(f"z[{i}]" for i in range(LATENTS)))
    return OpenLoopModel(
        lambda key, obs, action: jax.vmap(lambda obs: encode(nets, world, obs))(obs), step, decode, show, names
    )
