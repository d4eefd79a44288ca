"""DreamerV3: an actor and a critic that learn in the imagination of a recurrent state-space model.

Hafner et al. 2023, "Mastering Diverse Domains through World Models" (arXiv 2301.04104), and the authors' newest code.
The model's losses are those of `models.rssm.dreamer_v3`. From every state of the batch, H steps are imagined with
the actor; with rewards r, continuations c (γ folded in) and values v of the critic,

    R_t  = r_{t+1} + c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H,      w_t = Π_{k<=t} c_k
    L_π  = mean w_t [ -log π(a_t|s_t) sg((R_t - v_t) / S) - η H(π(s_t)) ],      S = max(1, Per(R, 95) - Per(R, 5))
    L_v  = mean w_t [ CE(v(s_t), R_t) + CE(v(s_t), v'(s_t)) ],                  v' <- τ v + (1 - τ) v'
    G_t  = r_{t+1} + γ d_{t+1} [ (1 - λ_{t+1}) b_{t+1} + λ_{t+1} G_{t+1} ],     b_t the R_0 imagined from row t
    L_rv = mean (1 - last_t) [ CE(v(s_t), G_t) + CE(v(s_t), v'(s_t)) ],         λ_t = λ (1 - last_t)
    L    = L_kl + α L_rec + L_rew + L_con + L_π + L_v + β L_rv

G is over the replayed rows, and the gradient of L_rv alone, of these three, goes on into the model. All parameters have
one optimiser: LaProp behind clipping by tensor. The latents that `act` saw are stored as the context from which windows
start, and replaced by fresher ones after every update.

Differs from the paper in: evaluation takes the latents' chances and the likeliest action where the code samples both;
actions beyond [-1, 1] are clipped where they are taken, as the model sees them; the policy's share of uniform chances
is the paper's, which the newest code leaves out; planes of zeros and ones have a Bernoulli decoder.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer import plan2explore
from mbrl_jax.agents.dreamer.actor_critic_v3 import (
    ActorCriticGrads,
    critic_loss,
    learn,
    outputs,
    policy_of,
    replay_targets,
)
from mbrl_jax.agents.dreamer.common import (
    Memory,
    driven_windows,
    initial_carry,
    need_unit_actions,
    rssm_open_loop_model,
    sense,
)
from mbrl_jax.agents.dreamer.plan2explore import Plan2ExploreConfig
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.buffers.sequence import Feedback, Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Discrete, Key, Metrics, Obs, Params, Replay, Spec, Tree
from mbrl_jax.models.rssm.dreamer_v3 import (
    DreamerParams,
    DreamerV3NetConfig,
    dreamer_v3,
    model_losses,
    widths,
    without_decoder,
)
from mbrl_jax.models.rssm.r2_dreamer import SCALE
from mbrl_jax.models.rssm.rssm import Latent, Rows, action_code, code_size, features
from mbrl_jax.ops import return_scale
from mbrl_jax.ops.optim import descend, laprop
from mbrl_jax.ops.return_scale import ReturnRange

MODEL_LOSSES = ("kl_loss", "decoder_loss", "reward_loss", "continue_loss")


@config
class DreamerV3Config:
    """Settings of DreamerV3: the authors', but for the size, the learning rate and the precision."""

    net: DreamerV3NetConfig = DreamerV3NetConfig()
    batch: int = setting(default=16, low=1, help="windows per update")
    length: int = setting(default=64, low=2, help="steps of a window that are learned from")
    imagined: int = setting(default=15, low=1, help="H, imagined steps from each of them")
    gamma: float = setting(default=1 - 1 / 333, low=0, below=1, help="discount per step")
    lam: float = setting(default=0.95, low=0, high=1, help="of both returns")
    entropy: float = setting(default=3e-4, low=0, help="η, of the policy")
    actor_unimix: float = setting(default=0.01, low=0, below=1, help="share of uniform chances, discrete actions")
    free: float = setting(default=1.0, low=0, help="nats of each half of the latents' loss")
    dyn_scale: float = setting(default=1.0, low=0, help="of the half that trains the prior")
    rep_scale: float = setting(default=0.1, low=0, help="of the half that trains the posterior")
    decoder_scale: float = setting(
        default=1.0, low=0, help="α, of the decoder's loss: above 1 where what matters in observations is small"
    )
    replay_value: float = setting(default=0.3, low=0, help="β, of the critic's loss on replayed rows")
    slow_share: float = setting(default=0.02, above=0, high=1, help="τ, what moves into the slow critic per update")
    slow_weight: float = setting(default=1.0, low=0, help="of the critic's loss against the slow one")
    range_rate: float = setting(default=0.01, low=0, high=1, help="at which the percentiles of returns move")
    lr: float = setting(default=3e-4, above=0, help="LaProp's learning rate; the authors' is 4e-5")
    lr_warmup: int = setting(default=1_000, low=1, help="updates over which it rises from 0")
    clip: float = setting(default=0.3, above=0, help="largest ratio of a gradient's norm to that of its weights")
    context: bool = setting(default=True, help="start windows from stored latents, and keep these fresh")
    online: bool = setting(default=True, help="learn first from windows that no batch has had yet")
    bfloat16: bool = setting(default=False, help="compute in half precision; for devices that gain from it")
    explorer: str = setting(default="none", choices=("none", "plan2explore"), help="who acts in training: see there")
    plan2explore: Plan2ExploreConfig = Plan2ExploreConfig()


class Learner(NamedTuple):
    """What DreamerV3 has learned so far."""

    params: DreamerParams
    slow: Params  # the critic's, following
    range: ReturnRange
    opt: Any
    explorer: Any = ()  # `plan2explore.Explorer`, or nothing


def window(cfg: DreamerV3Config) -> int:
    """Rows of the windows that DreamerV3's buffer must give."""
    return cfg.length + cfg.context


def buffer(cfg: DreamerV3Config, capacity: int, num_envs: int) -> Buffer:
    """The buffer that DreamerV3 learns from: windows of `window(cfg)` rows.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: environments side by side.
    """
    return sequence(capacity, window(cfg), num_envs, cfg.batch if cfg.online else 0)


def make(cfg: DreamerV3Config, spec: Spec) -> Agent:
    """DreamerV3 for one environment; it learns from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    need_unit_actions(spec)
    nets = dreamer_v3(cfg.net, spec)
    policy = policy_of(spec.action, cfg.actor_unimix)
    rule = laprop(cfg.lr, cfg.lr_warmup, cfg.clip)

    def narrow(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params) if cfg.bfloat16 else params

    curious, explorers = cfg.explorer == "plan2explore", cfg.plan2explore
    size = widths(cfg.net)
    member = plan2explore.predictor(explorers, nets.rssm.size, code_size(spec.action), size.stoch * size.classes)

    def init(key: Key) -> Learner:
        key_explorer = None
        if curious:
            key, key_explorer = jax.random.split(key)
        params = nets.init(key)
        learner = Learner(params, jax.tree.map(jnp.copy, params.critic), return_scale.init(), rule.init(params))
        if key_explorer is None:
            return learner
        first = jax.tree.map(jnp.copy, (params.actor, params.critic))
        return learner._replace(explorer=plan2explore.begin(key_explorer, member, explorers.members, *first, rule=rule))

    def act(key: Key, learner: Learner, carry: Memory, obs: Obs, explore: bool) -> tuple[Action, Memory, Tree]:
        key_latent, key_action = jax.random.split(key)
        params = learner.params
        at = sense(nets.rssm, params.rssm, key_latent, carry, nets.encoder.apply(params.encoder, obs))
        latent: Latent = at.states
        if explore:
            actor = learner.explorer.actor if curious else params.actor
            action = policy.sample(key_action, outputs(nets, actor, features(latent)))
            action = action if isinstance(spec.action, Discrete) else jnp.clip(action, -1.0, 1.0)
        else:
            latent = latent._replace(stoch=jnp.exp(at.posterior))  # all latents by their chances: nothing is drawn
            action = policy.mode(outputs(nets, params.actor, features(latent)))
        return action, Memory(latent, action_code(spec.action, action)), latent if cfg.context else ()

    def of_model(
        params: DreamerParams, key: Key, start: Latent, rows: Rows, weight: Array
    ) -> tuple[tuple[Array, Latent], Metrics]:
        """L of the model [], and the states [T, B] that the rest of it is about."""

        def one(key: Key, start: Latent, rows: Rows) -> tuple[Latent, Array, dict[str, Array]]:
            scales = cfg.free, cfg.dyn_scale, cfg.rep_scale
            return model_losses(nets, narrow(params), key, start, rows, cfg.gamma, *scales)

        states, tokens, terms = jax.vmap(one, (0, 0, 1), 1)(jax.random.split(key, cfg.batch), start, rows)
        means = jax.tree.map(lambda term: jnp.mean(weight * term), terms)
        scales = {"decoder_loss": cfg.decoder_scale}
        if nets.decoder is None:
            flat: Any = tree.flatten_dims((states, tokens), 2)
            means["decoder_loss"] = without_decoder(nets, narrow(params), *flat)
            scales = {"decoder_loss": SCALE}
        total = sum((scales.get(name, 1.0) * means[name] for name in MODEL_LOSSES), jnp.zeros(()))
        return (total, states), means

    def of_rows(critic: Params, states: Latent, target: Array, slow: Array, weight: Array) -> tuple[Array, Array]:
        """β L_rv and L_rv [], of states [T, B], the last of which has no target."""

        def one(state: Latent, target: Array, slow: Array) -> Array:
            return critic_loss(nets, narrow(critic), features(state), target, slow, cfg.slow_weight)

        before = jax.tree.map(lambda leaf: leaf[:-1], states)
        mean = jnp.mean(weight * jax.vmap(jax.vmap(one))(before, target, slow))
        return cfg.replay_value * mean, mean

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_explorer = key
        if curious:
            key, key_explorer = jax.random.split(key)
        key_sample, key_model, key_dream = jax.random.split(key, 3)
        sampled: Window = replay.sample(key_sample, cfg.batch)
        count = sampled.steps.reward.shape[0]
        if count != window(cfg):
            raise ValueError(f"windows must have length + context = {window(cfg)} rows, got {count}")
        start, rows = driven_windows(sampled.steps, nets.rssm, spec.action, cfg.context)
        params = learner.params
        (model_loss, states), back, metrics = jax.vjp(
            lambda params: of_model(params, key_model, start, rows, sampled.weight), params, has_aux=True
        )

        # Nothing of what is imagined from these states reaches the model.
        starts: Latent = tree.flatten_dims(states, 2)
        counted = jnp.tile(sampled.weight, cfg.length)
        old = learner.slow, learner.range
        lesson = learn(key_dream, nets, params, *old, policy, starts, counted, cfg, narrow)
        of_actor, of_critic = lesson.grads

        # The critic's loss on the rows themselves does.
        boot, slow = (x[0].reshape(cfg.length, cfg.batch) for x in (lesson.returns, lesson.slow))
        target, counts = jax.vmap(replay_targets, (1, 1, None, None), 1)(rows, boot, cfg.gamma, cfg.lam)
        (more, into_states), replayed = jax.grad(of_rows, (0, 1), has_aux=True)(
            params.critic, states, target, slow[:-1], counts * sampled.weight
        )
        (grads,) = back((jnp.ones_like(model_loss), into_states))
        grads = grads._replace(actor=of_actor, critic=jax.tree.map(jnp.add, of_critic, more))

        new, opt = descend(rule, grads, learner.opt, params)
        followed = optax.incremental_update(new.critic, learner.slow, cfg.slow_share)
        metrics |= lesson.metrics | {"replay_value_loss": replayed}
        explorer = learner.explorer
        if curious:

            def lives(by: plan2explore.Explorer, earns: Any) -> ActorCriticGrads:
                acting = params._replace(actor=by.actor, critic=by.critic)
                how = policy, starts, counted, cfg, narrow, earns
                return learn(key_explorer, nets, acting, by.slow, by.range, *how)

            told = explorers, member, spec.action, rule, cfg.slow_share, states, rows
            explorer, wondered = plan2explore.update(explorer, *told, lives)
            metrics |= wondered
        feedback = Feedback(sampled.index, extras=states if cfg.context else None)
        return Learner(new, followed, lesson.range, opt, explorer), metrics, feedback

    return Agent(init, lambda: initial_carry(nets.rssm, spec.action), act, update)


def open_loop_model(cfg: DreamerV3Config, spec: Spec, learner: Learner) -> OpenLoopModel:
    """What the learned model imagines with.

    Raises:
      ValueError: the model has no decoder.
    """
    nets = dreamer_v3(cfg.net, spec)
    if nets.decoder is None:
        raise ValueError("net.decoder must be on for imagination to be seen")
    return rssm_open_loop_model(spec.action, nets.encoder, nets.rssm, nets.decoder, learner.params)
