"""RAMBO: SAC against a learned model that is trained to be as bad for it as the data allow.

Rigter et al. 2022, "RAMBO-RL: Robust Adversarial Model-Based Offline Reinforcement Learning" (arXiv 2204.12581). After
each refresh's rollouts the ensemble takes some gradient steps on

    L = λ mean [ A log T^(s', r | s, a) ] + L_fit,   s imagined, a ~ π(·|s), (s', r) ~ T^   `adversarial_loss`
    A = r + γ d Q(s', a') - Q(s, a),  a' ~ π(·|s'),  scaled to mean 0 and deviation 1         `advantages`
    T^ = 1/K Σ_i N(m_i, σ_i²)                                                                 `log_density`

the first term being the model's gradient of the policy's value, which it lowers, and L_fit the loss of the fit on rows
of the data. Q is the least of the critics. Rewards are not lowered.

Differs from the paper in: the first term is a mean over its batch where code for it sums, so that λ is theirs times
256; its states are those of the imagined rows, the starts of rollouts among them; T^ is a mixture of joint densities;
the policy is not pretrained by cloning; the rest as in MOPO here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents import sac
from mbrl_jax.agents.learned_model import gaussian_member
from mbrl_jax.agents.offline import model_based
from mbrl_jax.agents.offline.model_based import ImaginedConfig, Learner, learned_model
from mbrl_jax.buffers.uniform import sample as sample_ring
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Agent, Array, Key, Metrics, Obs, Params, Replay, Spec, Tree, WorldModel
from mbrl_jax.models.dynamics.ensemble import ensemble
from mbrl_jax.models.dynamics.ensemble import member as one_of
from mbrl_jax.models.dynamics.fit import FitConfig, FitState
from mbrl_jax.models.dynamics.gaussian import GaussianConfig
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn
from mbrl_jax.ops.optim import descend

__all__ = [
    "Learner", "RAMBOConfig", "Steps", "advantages", "adversarial_loss", "adversarial_step", "learned_model",
    "log_density", "make",
]  # fmt: skip


@config
class RAMBOConfig:
    """Settings of RAMBO."""

    policy: sac.SACConfig = sac.SACConfig()
    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig()
    imagined: ImaginedConfig = ImaginedConfig(real_ratio=0.5)
    adversary: float = setting(
        default=0.08, low=0, help="weight of the policy's value in the model's loss; 0 only goes on fitting"
    )
    adversary_lr: float = setting(default=3e-4, above=0, help="Adam's learning rate for the model in those steps")
    adversary_steps: int = setting(default=50, low=1, help="gradient steps of the model after each refresh")
    known: KnownConfig = KnownConfig()


class Steps(NamedTuple):
    """Steps that the ensemble imagined, [B, ...], constants to the gradient."""

    obs: Obs
    action: Action
    outcome: Array  # [B, |o| + 1] next observation and reward
    advantage: Array  # [B]


def log_density(elites: Params, obs: Obs, action: Action, outcome: Array, *, member: WorldModel) -> Array:
    """log T^(s', r | s, a) of the elites' even mixture, in nats per unit of observations and rewards, [].

    Args:
      elites: [K, ...].
      obs, action: of one step.
      outcome: [|o| + 1] s' and r.
      member: with `moments`.
    """
    mean, std = jax.vmap(model_based.moments_of(member), (0, None, None))(elites, obs, action)
    each = -0.5 * jnp.square((outcome - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)
    return jax.nn.logsumexp(jnp.sum(each, axis=-1)) - jnp.log(float(mean.shape[0]))


def advantages(
    elites: Params,
    key: Key,
    obs: Obs,
    *,
    member: WorldModel,
    nets: sac.Networks,
    policy: Params,
    critic: Params,
    gamma: Array | float,
) -> Steps:
    """One imagined step from each state, and how much better than expected it is for the policy.

        A = r + γ d min_i Q_i(s', a') - min_i Q_i(s, a),   scaled to mean 0 and deviation 1 over the batch

    Args:
      elites: [K, ...].
      key: used once.
      obs: [B, ...] states.
      member: the ensemble's member.
      nets: of SAC.
      policy: parameters.
      critic: [N, ...].
      gamma: γ, in [0, 1].
    Returns:
      the steps, each of an elite drawn anew, without a gradient.
    """
    count = jax.tree.leaves(elites)[0].shape[0]

    def one(key: Key, obs: Obs) -> tuple[Steps, Array]:
        key_action, key_next, key_elite, key_step = jax.random.split(key, 4)
        action, _ = nets.draw(policy, key_action, obs)
        steps = jax.vmap(member.step, (0, None, None, None))(elites, key_step, obs, action)
        out = one_of(steps, jax.random.randint(key_elite, (), 0, count))
        following, _ = nets.draw(policy, key_next, out.state)
        better = out.reward + gamma * out.discount * jnp.min(nets.q(critic, out.state, following))
        advantage = better - jnp.min(nets.q(critic, obs, action))
        return Steps(obs, action, jnp.append(out.state, out.reward), advantage), advantage

    steps, raw = jax.vmap(one)(jax.random.split(key, jax.tree.leaves(obs)[0].shape[0]), obs)
    scaled = (raw - jnp.mean(raw)) / (jnp.std(raw) + 1e-6)
    return jax.lax.stop_gradient(steps._replace(advantage=scaled))


def adversarial_loss(elites: Params, steps: Steps, *, member: WorldModel) -> tuple[Array, Metrics]:
    """The policy's value as the model can change it, mean_batch [ A log T^(s', r | s, a) ] (Rigter et al. 2022).

    Args:
      elites: [K, ...] which the loss is differentiated by.
      steps: [B, ...] from `advantages`.
      member: with `moments`.
    Returns:
      loss [] and the metrics `adversarial_loss` and `log_density`, the mean of log T^.
    """
    density = jax.vmap(lambda *row: log_density(elites, *row, member=member))(steps.obs, steps.action, steps.outcome)
    loss = jnp.mean(steps.advantage * density)
    return loss, {"adversarial_loss": loss, "log_density": jnp.mean(density)}


def adversarial_step(
    key: Key,
    fitted: FitState,
    opt: optax.OptState,
    learner: Learner,
    replay: Replay,
    *,
    cfg: RAMBOConfig,
    nets: sac.Networks,
    member: WorldModel,
    whole: WorldModel,
    optimizer: optax.GradientTransformation,
) -> tuple[tuple[FitState, optax.OptState], Metrics]:
    """A gradient step of the ensemble on λ times the adversarial loss plus the fit's loss on rows of the data.

    Args:
      key: used once.
      fitted: the ensemble.
      opt: the optimizer's state.
      learner: whose policy, critics and imagined rows are used.
      replay: the data.
      cfg: settings.
      nets: of SAC.
      member: the ensemble's member, with `moments`.
      whole: the ensemble of it.
      optimizer: of these steps.
    Returns:
      the ensemble and the optimizer's state; the metrics of `adversarial_loss`.
    """
    key_states, key_steps, key_rows, key_loss = jax.random.split(key, 4)
    sized = cfg.fit.batch
    chosen = lambda params: tree.take(params, fitted.elites)  # noqa: E731
    states = sample_ring(key_states, learner.imagined, sized).obs
    steps = advantages(
        chosen(fitted.params), key_steps, states, member=member, nets=nets, policy=learner.policy.policy,
        critic=learner.policy.critic, gamma=cfg.policy.gamma,
    )  # fmt: skip
    rows = [replay.sample(each, sized) for each in jax.random.split(key_rows, cfg.fit.members)]

    def loss(params: Params) -> tuple[Array, Metrics]:
        against, metrics = adversarial_loss(chosen(params), steps, member=member)
        return cfg.adversary * against + whole.loss(params, key_loss, tree.stack(rows))[0], metrics

    grads, metrics = jax.grad(loss, has_aux=True)(fitted.params)
    params, opt = descend(optimizer, grads, opt, fitted.params)
    return (fitted._replace(params=params), opt), metrics


def make(
    cfg: RAMBOConfig,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """RAMBO for one environment, with continuous or discrete actions as its SAC.

    Args:
      cfg: settings; floats may be traced.
      spec: as for `sac.make`.
      member, reward, termination: as for `mbpo.make`; a member needs `moments` with deviations above 0.
    Returns:
      the agent; its `refresh` must be called before its first `update`.
    Raises:
      ValueError: a setting out of range or at odds with another, a member without `moments`, or an environment that
        needs a wrapper first.
    """
    check(cfg)
    for name in ("normalize_obs", "scale_rewards"):
        if getattr(cfg.policy, name):
            raise ValueError(f"policy.{name} must be False in RAMBO, whose model learns from the policy's values")
    member = gaussian_member(cfg, spec, member, reward, termination)
    model_based.moments_of(member)  # before anything is trained
    nets, whole, adam = sac.networks(cfg.policy, spec), ensemble(member, cfg.fit.members), optax.adam(cfg.adversary_lr)

    def after(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        def one(at: tuple[FitState, Tree], key: Key) -> tuple[tuple[FitState, Tree], Metrics]:
            return adversarial_step(
                key, *at, learner, replay, cfg=cfg, nets=nets, member=member, whole=whole, optimizer=adam
            )

        start = (learner.model, learner.own)
        (fitted, opt), metrics = jax.lax.scan(one, start, jax.random.split(key, cfg.adversary_steps))
        return learner._replace(model=fitted, own=opt), jax.tree.map(jnp.mean, metrics)

    def study(fitted: FitState, replay: Replay) -> optax.OptState:
        del replay
        return adam.init(fitted.params)

    shapes = jax.eval_shape(lambda key: adam.init(whole.init(key)), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return model_based.make(
        cfg, spec, policy=sac.make(cfg.policy, spec), member=member, own=zeros, study=study, after=after
    )
