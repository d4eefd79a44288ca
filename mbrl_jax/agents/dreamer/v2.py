"""DreamerV2: discrete world models, and an actor by REINFORCE or by the gradient of the dynamics.

Hafner et al. 2021, "Mastering Atari with Discrete World Models" (arXiv 2010.02193). With the model's losses of
`models.rssm.dreamer_v1_v2`, posterior q and prior p of each step:

    L_model = L_rec + L_rew + κ L_con + β [ α max(f, mean KL(sg q ‖ p)) + (1 - α) max(f, mean KL(q ‖ sg p)) ]

From every state of the batch, H steps are imagined. With v' the critic's copy, made anew every so many updates,

    R_t  = r_{t+1} + γ c_{t+1} [ (1 - λ) v'_{t+1} + λ R_{t+1} ],   R_H = v'_H,     w_t = Π_{k<=t} γ c_k
    L_π  = -mean w_t [ ρ log π(a_t|s_t) sg(R_t - v'_t) + (1 - ρ) R_t + η H(π(s_t)) ]
    L_v  = mean w_t ½ (v(s_t) - sg R_t)²

Model, actor and critic have an Adam each, behind clipping of the global norm and with weight decay.

Differs from the paper in: the reward r_{t+1} is the one on arriving at s_{t+1}, where the authors' code takes that of
s_t, and rewards can be scaled first; the first weight is the start's own continuation; continuous actions are normal,
and clipped, where the paper cuts the distribution itself off at ±1; an evaluation takes the likeliest latents and
action.
"""

from __future__ import annotations

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
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Key, Metrics, Obs, Params, Replay, Spec, Tree
from mbrl_jax.models.rssm.dreamer_v1_v2 import DreamerNetConfig, ModelParams, head, losses, networks
from mbrl_jax.models.rssm.rssm import Latent, action_code, features
from mbrl_jax.ops import dists
from mbrl_jax.ops.kl import balanced, two_way
from mbrl_jax.ops.optim import descend


@config
class DreamerV2Config:
    """Settings of DreamerV2: the paper's for continuous control; those for games in brackets."""

    net: DreamerNetConfig = DreamerNetConfig()
    batch: int = setting(default=50, low=1, help="windows per update")
    length: int = setting(default=50, low=2, help="rows of a window")
    imagined: int = setting(default=15, low=1, help="H, imagined steps from each row")
    gamma: float = setting(default=0.99, low=0, below=1, help="discount per step (0.999)")
    lam: float = setting(default=0.95, low=0, high=1, help="λ, of the returns")
    reward_scale: float = setting(default=1.0, above=0, help="by which rewards are multiplied before all else")
    kl_scale: float = setting(default=1.0, low=0, help="β, of the latents' loss (0.1)")
    balance: float = setting(default=0.8, low=0, high=1, help="α, the prior's share of it")
    free: float = setting(default=1.0, low=0, help="f, nats of the batch's mean without gradient (0)")
    cont_scale: float = setting(default=1.0, low=0, help="κ, of the continuation's loss (5)")
    reinforce: float = setting(
        default=0.0, low=0, high=1, help="ρ, the share of REINFORCE in the actor's gradient: 1 for discrete actions"
    )
    entropy: float = setting(default=1e-4, low=0, help="η, of the policy (0.001)")
    model_lr: float = setting(default=3e-4, above=0, help="Adam's learning rate for the model (2e-4)")
    actor_lr: float = setting(default=8e-5, above=0, help="for the actor (4e-5)")
    critic_lr: float = setting(default=8e-5, above=0, help="for the critic (1e-4)")
    adam_eps: float = setting(default=1e-5, above=0, help="Adam's epsilon")
    clip: float = setting(default=100.0, above=0, help="largest global norm of a gradient")
    weight_decay: float = setting(default=1e-6, low=0, help="of all weights")
    copy_every: int = setting(default=100, low=1, help="updates after which the target critic is copied anew")


class Learner(NamedTuple):
    """What DreamerV2 has learned so far."""

    model: ModelParams
    actor: Params
    critic: Params
    target: Params
    opts: Any
    updates: Array  # [] int32


def window(cfg: DreamerV2Config) -> int:
    """Rows of the windows that the buffer must give."""
    return cfg.length


def buffer(cfg: DreamerV2Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that DreamerV2 learns from."""
    return sequence(capacity, window(cfg), num_envs)


def clipped_normal(size: int) -> Policy:
    """N(tanh m, σ²) with σ = 2 sigmoid(s / 2) + 0.1, samples clipped to [-1, 1]; their gradient passes the clip."""

    def dist(out: Array) -> Any:
        mean, raw = jnp.split(out, 2)
        return dists.normal(jnp.tanh(mean), jnp.log(2.0 * jax.nn.sigmoid(raw / 2.0) + 0.1))

    def sample(key: Key, out: Array) -> Array:
        action = dist(out).sample(seed=key)
        return action + jax.lax.stop_gradient(jnp.clip(action, -1.0, 1.0) - action)

    return Policy(
        sample,
        lambda out: jnp.tanh(jnp.split(out, 2)[0]),
        lambda out, action: dist(out).log_prob(jax.lax.stop_gradient(action)),
        lambda out: dist(out).entropy(),
        lambda action: action,
        2 * size,
    )


def make(cfg: DreamerV2Config, spec: Spec) -> Agent:
    """DreamerV2 for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    need_unit_actions(spec)
    nets = networks(cfg.net, spec, gaussian=False)
    policy = policy_of(spec.action, clipped_normal)
    actor_net, critic_net = head(cfg.net, nets.rssm.size, policy.outputs), head(cfg.net, nets.rssm.size, 1)

    def rule(lr: Array | float) -> optax.GradientTransformation:
        adam = optax.adamw(lr, eps=cfg.adam_eps, weight_decay=cfg.weight_decay)
        return optax.chain(optax.clip_by_global_norm(cfg.clip), adam)  # pyright: ignore[reportArgumentType]

    rules = rule(cfg.model_lr), rule(cfg.actor_lr), rule(cfg.critic_lr)

    def init(key: Key) -> Learner:
        key_model, key_actor, key_critic = jax.random.split(key, 3)
        trained = nets.init(key_model), actor_net.init(key_actor), critic_net.init(key_critic)
        opts = tuple(r.init(params) for r, params in zip(rules, trained, strict=True))
        return Learner(*trained, jax.tree.map(jnp.copy, trained[2]), opts, jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Memory, obs: Obs, explore: bool) -> tuple[Action, Memory, Tree]:
        key_latent, key_action = jax.random.split(key)
        token = nets.encoder.apply(learner.model.encoder, obs)
        at = sense(nets.rssm, learner.model.rssm, key_latent, carry, token)
        latent: Latent = at.states
        if not explore:  # the likeliest
            latent = latent._replace(stoch=jax.nn.one_hot(jnp.argmax(at.posterior, -1), latent.stoch.shape[-1]))
        out = actor_net.apply(learner.actor, features(latent))
        action = policy.real(policy.sample(key_action, out) if explore else policy.mode(out))
        return action, Memory(latent, action_code(spec.action, action)), ()

    def of_model(params: ModelParams, key: Key, start: Latent, rows: Any) -> tuple[Array, tuple[Latent, Metrics]]:
        keys = jax.random.split(key, cfg.batch)
        tracked, terms = jax.vmap(lambda *window: losses(nets, params, *window), (0, 0, 1), 1)(keys, start, rows)
        dyn, rep = two_way(jax.vmap(jax.vmap(nets.rssm.kl)), tracked.posterior, tracked.prior)
        means = jax.tree.map(jnp.mean, terms)
        means["kl_loss"] = balanced(dyn, rep, cfg.balance, cfg.free)
        total = (
            means["decoder_loss"]
            + means["reward_loss"]
            + cfg.cont_scale * means["continue_loss"]
            + cfg.kl_scale * means["kl_loss"]
        )
        return total, (tracked.states, means | {"kl": jnp.mean(dyn)})

    def of_actor(
        actor: Params, key: Key, model: ModelParams, target: Params, starts: Latent
    ) -> tuple[Array, tuple[Life, Array, Array, Metrics]]:
        """L_π [], and the lives [N, ...] with their returns and weights [N, H]."""

        def one(key: Key, start: Latent) -> tuple[Array, tuple[Life, Array, Array, Array]]:
            life = live(key, nets, model, (actor_net, actor), policy, start, cfg.imagined, cfg.gamma)
            values = jax.vmap(lambda x: value_of(critic_net, target, x))(life.feature)
            returns, weight = targets(life, values, cfg.lam)
            out = jax.vmap(actor_net.apply, (None, 0))(actor, jax.lax.stop_gradient(life.feature[:-1]))
            better = jax.lax.stop_gradient(returns - values[:-1])
            nats = jax.vmap(policy.entropy)(out)
            told = cfg.reinforce * jax.vmap(policy.log_prob)(out, life.action) * better
            gain = told + (1.0 - cfg.reinforce) * returns + cfg.entropy * nats
            return -jnp.mean(weight * gain), (life, returns, weight, jnp.mean(nats))

        keys = jax.random.split(key, starts.deter.shape[0])
        loss, (life, returns, weight, nats) = jax.vmap(one)(keys, starts)
        return jnp.mean(loss), (
            life,
            returns,
            weight,
            {"entropy": jnp.mean(nats), "imagined_return": jnp.mean(returns)},
        )

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
        grad_actor, (life, returns, weight, means) = jax.grad(of_actor, has_aux=True)(
            learner.actor, key_dream, model, learner.target, starts
        )
        actor, opt_actor = descend(rules[1], grad_actor, learner.opts[1], learner.actor)

        value_loss, grad_critic = jax.value_and_grad(critic_loss)(learner.critic, critic_net, life, returns, weight)
        critic, opt_critic = descend(rules[2], grad_critic, learner.opts[2], learner.critic)

        updates = learner.updates + 1
        target = tree.where(updates % cfg.copy_every == 0, critic, learner.target)
        metrics |= means | {"model_loss": model_loss, "value_loss": value_loss}
        return Learner(model, actor, critic, target, (opt_model, opt_actor, opt_critic), updates), metrics, ()

    return Agent(init, lambda: initial_carry(nets.rssm, spec.action), act, update)


def open_loop_model(cfg: DreamerV2Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """What the learned model imagines with."""
    nets, params = networks(cfg.net, spec, gaussian=False), learner.model
    return rssm_open_loop_model(spec.action, nets.encoder, nets.rssm, nets.decoder, params)
