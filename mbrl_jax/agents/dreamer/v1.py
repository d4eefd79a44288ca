"""Dreamer: an actor that climbs the gradient of imagined returns through a latent model.

Hafner et al. 2020, "Dream to Control: Learning Behaviors by Latent Imagination" (arXiv 1912.01603). With the model's
losses of `models.rssm.dreamer_v1_v2`, Gaussian latents, posterior q and prior p of each step:

    L_model = L_rec + L_rew + κ L_con + β max(f, mean KL(q ‖ p))

From every state of the batch, H steps are imagined; actions are reparametrised, so that the gradient of the returns
runs through dynamics, rewards and values into the actor:

    R_t = r_{t+1} + γ c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H,     w_t = Π_{k<=t} γ c_k     (eq. 5, 6)
    L_π = -mean w_t R_t                                                                                  (eq. 7)
    L_v = mean w_t ½ (v(s_t) - sg R_t)²                                                                  (eq. 8)

Differs from the paper in: the reward r_{t+1} is the one on arriving at s_{t+1}, where the authors' code takes that of
s_t, and rewards can be scaled first; the continuation is learned in every task; discrete actions are one-hot samples
with a straight-through gradient; an evaluation takes the mean of latents, and tanh of the mean, where the code samples,
and looks for the mode among samples.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer.actor_critic_v1_v2 import Life, Policy, critic_loss, live, policy_of, targets, value_of
from mbrl_jax.agents.dreamer.common import (
    Memory,
    driven_windows,
    initial_carry,
    need_unit_actions,
    rssm_open_loop_model,
    sense,
)
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.buffers.sequence import Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Discrete, Key, Metrics, Obs, Params, Replay, Spec, Tree
from mbrl_jax.models.rssm.dreamer_v1_v2 import DreamerNetConfig, ModelParams, head, losses, networks
from mbrl_jax.models.rssm.rssm import Latent, action_code, features
from mbrl_jax.ops.optim import descend


@config
class DreamerV1Config:
    """Settings of the first Dreamer, the paper's."""

    net: DreamerNetConfig = DreamerNetConfig()
    batch: int = setting(default=50, low=1, help="windows per update")
    length: int = setting(default=50, low=2, help="rows of a window")
    imagined: int = setting(default=15, low=1, help="H, imagined steps from each row")
    gamma: float = setting(default=0.99, low=0, below=1, help="discount per step")
    lam: float = setting(default=0.95, low=0, high=1, help="λ, of the returns")
    reward_scale: float = setting(
        default=1.0,
        above=0,
        help="by which rewards are multiplied before all else; the paper's tasks have them in [0, 1]",
    )
    kl_scale: float = setting(default=1.0, low=0, help="β, of the latents' loss")
    free: float = setting(default=3.0, low=0, help="f, nats of the batch's mean without gradient")
    cont_scale: float = setting(default=10.0, low=0, help="κ, of the continuation's loss")
    noise: float = setting(
        default=0.3, low=0, help="deviation of noise added to actions in training; for discrete ones, share of random"
    )
    first_std: float = setting(default=5.0, above=0, help="the actor's deviation before tanh, at first")
    mean_scale: float = setting(default=5.0, above=0, help="bound of the actor's mean before tanh")
    model_lr: float = setting(default=6e-4, above=0, help="Adam's learning rate for the model")
    actor_lr: float = setting(default=8e-5, above=0, help="for the actor")
    critic_lr: float = setting(default=8e-5, above=0, help="for the critic")
    clip: float = setting(default=100.0, above=0, help="largest global norm of a gradient")


class Learner(NamedTuple):
    """What Dreamer has learned so far."""

    model: ModelParams
    actor: Params
    critic: Params
    opts: Any


def window(cfg: DreamerV1Config) -> int:
    """Rows of the windows that the buffer must give."""
    return cfg.length


def buffer(cfg: DreamerV1Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that Dreamer learns from."""
    return sequence(capacity, window(cfg), num_envs)


def tanh_normal(size: int, first_std: float, mean_scale: Array | float) -> Policy:
    """tanh(u), u ~ N(k tanh(m / k), softplus(s + s_0)²), whose deviation starts near `first_std`."""
    raw_first = math.log(math.expm1(first_std))

    def parts(out: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(out, 2)
        return mean_scale * jnp.tanh(mean / mean_scale), jax.nn.softplus(raw + raw_first) + 1e-4

    def sample(key: Key, out: Array) -> Array:
        mean, std = parts(out)
        return jnp.tanh(mean + std * jax.random.normal(key, mean.shape))

    def none(*_: Any) -> Array:
        raise NotImplementedError("the first Dreamer's actor asks for neither chances nor entropy")

    return Policy(sample, lambda out: jnp.tanh(parts(out)[0]), none, none, lambda action: action, 2 * size)


def make(cfg: DreamerV1Config, spec: Spec) -> Agent:
    """The first Dreamer for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced, but for `first_std`.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    need_unit_actions(spec)
    nets = networks(cfg.net, spec, gaussian=True)
    policy = policy_of(spec.action, lambda size: tanh_normal(size, cfg.first_std, cfg.mean_scale))
    actor_net, critic_net = head(cfg.net, nets.rssm.size, policy.outputs), head(cfg.net, nets.rssm.size, 1)

    def rule(lr: Array | float) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(cfg.clip), optax.adam(lr))  # pyright: ignore[reportArgumentType]

    rules = rule(cfg.model_lr), rule(cfg.actor_lr), rule(cfg.critic_lr)

    def init(key: Key) -> Learner:
        key_model, key_actor, key_critic = jax.random.split(key, 3)
        trained = nets.init(key_model), actor_net.init(key_actor), critic_net.init(key_critic)
        return Learner(*trained, tuple(r.init(params) for r, params in zip(rules, trained, strict=True)))

    def explored(key: Key, action: Action) -> Action:
        key_which, key_what = jax.random.split(key)
        if isinstance(spec.action, Discrete):
            other = jax.random.bernoulli(key_which, cfg.noise)
            return jnp.where(other, spec.action.sample(key_what), action)
        return jnp.clip(action + cfg.noise * jax.random.normal(key_what, action.shape), -1.0, 1.0)

    def act(key: Key, learner: Learner, carry: Memory, obs: Obs, explore: bool) -> tuple[Action, Memory, Tree]:
        key_latent, key_action, key_noise = jax.random.split(key, 3)
        token = nets.encoder.apply(learner.model.encoder, obs)
        at = sense(nets.rssm, learner.model.rssm, key_latent, carry, token)
        latent: Latent = at.states
        if not explore:  # the likeliest
            latent = latent._replace(stoch=at.posterior.mean)
        out = actor_net.apply(learner.actor, features(latent))
        action = policy.real(policy.sample(key_action, out) if explore else policy.mode(out))
        action = explored(key_noise, action) if explore else action
        return action, Memory(latent, action_code(spec.action, action)), ()

    def of_model(params: ModelParams, key: Key, start: Latent, rows: Any) -> tuple[Array, tuple[Latent, Metrics]]:
        keys = jax.random.split(key, cfg.batch)
        tracked, terms = jax.vmap(lambda *window: losses(nets, params, *window), (0, 0, 1), 1)(keys, start, rows)
        means = jax.tree.map(jnp.mean, terms)
        means["kl"] = jnp.mean(jax.vmap(jax.vmap(nets.rssm.kl))(tracked.posterior, tracked.prior))
        total = (
            means["decoder_loss"]
            + means["reward_loss"]
            + cfg.cont_scale * means["continue_loss"]
            + cfg.kl_scale * jnp.maximum(cfg.free, means["kl"])
        )
        return total, (tracked.states, means)

    def of_actor(
        actor: Params, key: Key, model: ModelParams, critic: Params, starts: Latent
    ) -> tuple[Array, tuple[Life, Array, Array]]:
        """L_π [], and the lives [N, ...] with their returns and weights [N, H]."""

        def one(key: Key, start: Latent) -> tuple[Array, tuple[Life, Array, Array]]:
            life = live(key, nets, model, (actor_net, actor), policy, start, cfg.imagined, cfg.gamma)
            values = jax.vmap(lambda x: value_of(critic_net, critic, x))(life.feature)
            returns, weight = targets(life, values, cfg.lam)
            return -jnp.mean(weight * returns), (life, returns, weight)

        loss, lives = jax.vmap(one)(jax.random.split(key, starts.deter.shape[0]), starts)
        return jnp.mean(loss), lives

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_model, key_dream = jax.random.split(key, 3)
        sampled: Window = replay.sample(key_sample, cfg.batch)
        start, rows = driven_windows(sampled.steps, nets.rssm, spec.action, False)
        rows = rows._replace(reward=cfg.reward_scale * rows.reward)
        (model_loss, (states, metrics)), grad = jax.value_and_grad(of_model, has_aux=True)(
            learner.model, key_model, start, rows
        )
        model, opt_model = descend(rules[0], grad, learner.opts[0], learner.model)

        starts = tree.flatten_dims(jax.lax.stop_gradient(states), 2)
        (_, (life, returns, weight)), grad_actor = jax.value_and_grad(of_actor, has_aux=True)(
            learner.actor, key_dream, model, learner.critic, starts
        )
        actor, opt_actor = descend(rules[1], grad_actor, learner.opts[1], learner.actor)

        value_loss, grad_critic = jax.value_and_grad(critic_loss)(learner.critic, critic_net, life, returns, weight)
        critic, opt_critic = descend(rules[2], grad_critic, learner.opts[2], learner.critic)
        metrics |= {"model_loss": model_loss, "value_loss": value_loss, "imagined_return": jnp.mean(returns)}
        return Learner(model, actor, critic, (opt_model, opt_actor, opt_critic)), metrics, ()

    return Agent(init, lambda: initial_carry(nets.rssm, spec.action), act, update)


def open_loop_model(cfg: DreamerV1Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """What the learned model imagines with."""
    nets, params = networks(cfg.net, spec, gaussian=True), learner.model
    return rssm_open_loop_model(spec.action, nets.encoder, nets.rssm, nets.decoder, params)
