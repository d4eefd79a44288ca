"""TD-MPC2's networks, and the model that a planner sees.

Hansen et al. 2024, "TD-MPC2: Scalable, Robust World Models for Continuous Control" (arXiv 2310.16828), and the authors'
code. With the embedding e of a task, empty where there is a single one:

    z = h(o, e)    z' = d(z, a, e)    r = R(z, a, e)    q = Q_i(z, a, e), i < N    a ~ π(z, e)    p(end) = σ(T(z, e))

Latents are normalised by `nets.simnorm`. Rewards and values are categorical: softmaxes l over bins b evenly spaced in
symlog space, decoded by symexp. Observations are not reconstructed.

    target(x) = two-hot of clip(symlog x, -10, 10),    decode(l) = symexp( Σ_i softmax(l)_i b_i )
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.config import check
from mbrl_jax.core.images import is_image
from mbrl_jax.core.types import Array, Key, Model, Obs, Params, Spec, StepOut
from mbrl_jax.envs.spaces import unit_action_size, vector_size
from mbrl_jax.models.tdmpc2.sizes import TDMPCNetConfig, Widths, widths
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.simnorm import image_layers, normed_layers
from mbrl_jax.ops.transforms import symexp
from mbrl_jax.ops.two_hot import two_hot_decode

LOG_STD = (-10.0, 2.0)  # bounds of the policy's log σ
VALUE_RANGE = 10.0  # outermost bins, in symlog space


class WorldParams(NamedTuple):
    """Parameters of all networks that the world loss trains jointly."""

    encoder: Params
    dynamics: Params
    reward: Params
    values: Params  # [N, ...]
    termination: Params  # () where no state of the environment is terminal
    task: Array | tuple[()]  # [tasks, E] embeddings; () with a single task


class TDMPCParams(NamedTuple):
    """All parameters: those of the world loss, and the policy's."""

    world: WorldParams
    policy: Params


class Latent(NamedTuple):
    """A latent state of a task."""

    z: Array  # [L]
    task: Array  # [E] embedding, empty with a single task
    mask: Array | None  # [A] 1 for the action entries that the task uses; None where it uses all


class Networks(NamedTuple):
    """All networks, without parameters; each takes z, a where it depends on it, and e."""

    encoder: Net  # (o, e) -> z
    dynamics: Net  # -> z
    reward: Net  # -> logits [bins]
    value: Net  # one member of the ensemble -> logits [bins]
    policy: Net  # -> mean and unbounded log-deviation [2A]
    termination: Net | None  # -> logit [1]
    bins: Array  # [bins]
    sizes: Widths
    num_actions: int
    tasks: int
    task_dim: int
    masks: np.ndarray | None  # [tasks, A]

    def init(self, key: Key) -> TDMPCParams:
        """First parameters. Rewards and values start at 0."""
        keys = jax.random.split(key, 7)
        world = WorldParams(
            encoder=self.encoder.init(keys[0]),
            dynamics=self.dynamics.init(keys[1]),
            reward=self.reward.init(keys[2]),
            values=jax.vmap(self.value.init)(jax.random.split(keys[3], self.sizes.values)),
            termination=() if self.termination is None else self.termination.init(keys[4]),
            task=_uniform(keys[5], (self.tasks, self.task_dim)) if self.tasks else (),
        )
        return TDMPCParams(world, self.policy.init(keys[6]))


def tdmpc(cfg: TDMPCNetConfig, spec: Spec, masks: Any = None) -> Networks:
    """TD-MPC2's networks for one environment.

    Args:
      cfg: sizes.
      spec: observations are vectors, whose last `tasks` entries are the task's one-hot code if there are several tasks,
        or images; actions are vectors in [-1, 1]. There is a termination head where `spec.terminates`.
      masks: [tasks, A] 1 for the action entries that a task uses; None where all tasks use all.
    Raises:
      ValueError: a size out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    size = widths(cfg)
    actions = unit_action_size(spec)
    if size.latent % cfg.group:
        raise ValueError(f"latent must be a multiple of group ({cfg.group}), got {size.latent}")
    e, two = cfg.task_dim if cfg.tasks else 0, (size.units,) * 2
    inputs = (size.latent, actions, e)
    return Networks(
        encoder=_encoder(cfg, size, spec),
        dynamics=normed_layers(inputs, two, size.latent, cfg.group),
        reward=normed_layers(inputs, two, cfg.bins, out_scale=0.0),
        value=normed_layers(inputs, two, cfg.bins, out_scale=0.0),
        policy=normed_layers((size.latent, e), two, 2 * actions),
        termination=normed_layers((size.latent, e), two, 1) if spec.terminates else None,
        bins=jnp.linspace(-VALUE_RANGE, VALUE_RANGE, cfg.bins, dtype=jnp.float32),
        sizes=size,
        num_actions=actions,
        tasks=cfg.tasks,
        task_dim=e,
        masks=None if masks is None else np.asarray(masks, np.float32),
    )


def _encoder(cfg: TDMPCNetConfig, size: Widths, spec: Spec) -> Net:
    """(o, e) -> z; e is empty for images."""
    if is_image(spec.obs):
        if cfg.tasks:
            raise ValueError(f"tasks must be 0 where observations are images, got {cfg.tasks}")
        net = image_layers(spec.obs.shape, cfg.channels, size.latent, cfg.group)
        return Net(net.init, lambda params, obs, task: net.apply(params, obs))
    obs = vector_size(spec) - cfg.tasks
    if obs < 1:
        raise ValueError(f"tasks must be below the observation's {vector_size(spec)} entries, got {cfg.tasks}")
    e = cfg.task_dim if cfg.tasks else 0
    return normed_layers((obs, e), (size.encoder,) * (size.layers - 1), size.latent, cfg.group)


def encode(nets: Networks, world: WorldParams, obs: Obs) -> Latent:
    """The latent state of one observation.

    A task embedding of norm above 1 is rescaled to norm 1, without a gradient through the factor.

    Args:
      nets: the networks.
      world: their parameters.
      obs: one observation, with several tasks the task's one-hot code included.
    """
    obs = jnp.asarray(obs, jnp.float32)
    if not nets.tasks:
        task = jnp.zeros(0, jnp.float32)
        return Latent(nets.encoder.apply(world.encoder, obs, task), task, None)
    obs, one_hot = obs[: -nets.tasks], obs[-nets.tasks :]
    row = one_hot @ world.task
    task = row * jax.lax.stop_gradient(1.0 / jnp.maximum(1.0, jnp.sqrt(jnp.sum(jnp.square(row)))))
    z = nets.encoder.apply(world.encoder, obs, task)
    return Latent(z, task, None if nets.masks is None else one_hot @ nets.masks)


def mask_action(state: Latent, action: Array) -> Array:
    """The action [A], with 0 in the entries that the task does not use."""
    return action if state.mask is None else action * state.mask


def next_latent(nets: Networks, world: WorldParams, state: Latent, action: Array) -> Latent:
    """The latent state after an action.

    Args:
      nets: the networks.
      world: their parameters.
      state: one latent.
      action: [A].
    """
    return state._replace(z=nets.dynamics.apply(world.dynamics, state.z, mask_action(state, action), state.task))


def reward_logits(nets: Networks, world: WorldParams, state: Latent, action: Array) -> Array:
    """The distribution [bins] of a step's reward, as logits.

    Args:
      nets: the networks.
      world: their parameters.
      state: one latent.
      action: [A].
    """
    return nets.reward.apply(world.reward, state.z, mask_action(state, action), state.task)


def value_logits(
    nets: Networks, values: Params, state: Latent, action: Array, key: Key | None = None, rate: Array | float = 0.0
) -> Array:
    """The distributions [N, bins] of an action's value, as logits.

    Args:
      nets: the networks.
      values: parameters of N value networks, [N, ...].
      state: one latent.
      action: [A].
      key: of dropout; None for none.
      rate: dropout rate, in [0, 1).
    """
    action = mask_action(state, action)
    if key is None:
        return jax.vmap(lambda member: nets.value.apply(member, state.z, action, state.task))(values)
    keys = jax.random.split(key, jax.tree.leaves(values)[0].shape[0])
    return jax.vmap(lambda member, key: nets.value.apply(member, state.z, action, state.task, key=key, rate=rate))(
        values, keys
    )


def decode(nets: Networks, logits: Array) -> Array:
    """The reward or value [] of a distribution [bins]: symexp(Σ_i softmax(l)_i b_i)."""
    return two_hot_decode(logits, nets.bins, symexp, symmetric=False)


def decode_values(nets: Networks, logits: Array) -> Array:
    """The values [N] of N distributions [N, bins]."""
    return jax.vmap(lambda logits: decode(nets, logits))(logits)


def termination_logit(nets: Networks, world: WorldParams, state: Latent) -> Array:
    """Log-odds [] that a state is terminal.

    Args:
      nets: the networks.
      world: their parameters.
      state: one latent.
    Raises:
      ValueError: the networks have no termination head, as the environment has no terminal states.
    """
    if nets.termination is None:
        raise ValueError("these networks have no termination head: no state of the environment ends an episode")
    return nets.termination.apply(world.termination, state.z, state.task)[0]


class PolicySample(NamedTuple):
    """An action drawn from the policy."""

    action: Array  # [A]
    mean: Array  # [A] tanh of the mean
    entropy: Array  # [] -log π(a), of the squashed action
    scaled_entropy: Array  # [] see `sample_squashed`


def sample_action(nets: Networks, policy: Params, key: Key, state: Latent) -> PolicySample:
    """An action of the policy, with its entropies.

    Args:
      nets: the networks.
      policy: the policy's parameters.
      key: used once.
      state: one latent.
    """
    mean, raw = jnp.split(nets.policy.apply(policy, state.z, state.task), 2)
    return sample_squashed(key, mean, raw, jnp.ones_like(mean) if state.mask is None else state.mask)


def sample_squashed(key: Key, mean: Array, raw: Array, mask: Array) -> PolicySample:
    """A tanh-squashed normal action, with its entropies.

        log σ = low + ½ (high - low) (tanh s + 1),   u = μ + σ ε,   a = tanh u
        log π(a) = log N(u) - Σ log(1 - a² + 1e-6),   scaled = -log π(a) · A log N(u) / log π(a) = -A log N(u)

    The authors' code computes the ratio, with 1e-8 added to its denominator; here it is cancelled, so that it cannot
    blow up near log π = 0.

    Args:
      key: used once.
      mean: [A] μ.
      raw: [A] s.
      mask: [A] 1 for the entries that the task uses; the others are 0.
    """
    low, high = LOG_STD
    log_std = low + 0.5 * (high - low) * (jnp.tanh(raw) + 1.0)
    eps = jax.random.normal(key, mean.shape, jnp.float32)
    mean, log_std, eps = mean * mask, log_std * mask, eps * mask
    before = mean + jnp.exp(log_std) * eps
    action = jnp.tanh(before)
    log_normal = jnp.sum(mask * (-0.5 * jnp.square(eps) - log_std - 0.5 * math.log(2.0 * math.pi)))
    # 1 - a² of a saturated action is a difference of neighbouring floats, no more exact than 6 % of 1e-6.
    decay = jnp.exp(-2.0 * jnp.abs(before))
    correction = jnp.sum(mask * jnp.log(4.0 * decay / jnp.square(1.0 + decay) + 1e-6))
    return PolicySample(action, jnp.tanh(mean), correction - log_normal, -jnp.sum(mask) * log_normal)


def sample_pair(key: Key, values: Params) -> Params:
    """Two of the value networks [N, ...], drawn without replacement: [2, ...]."""
    count = jax.tree.leaves(values)[0].shape[0]
    return values if count == 2 else tree.take(values, jax.random.permutation(key, count)[:2])


def bind(nets: Networks, params: TDMPCParams, key: Key | None = None) -> Model:
    """The learned model as a planner sees it; its states are `Latent`s.

    Its discount is 0 where the termination head puts the chance of an end above one half, else 1. Its value is the
    mean of two value networks at an action of the policy; its prior is such an action.

    Args:
      nets: the networks.
      params: their parameters.
      key: draws the two value networks, once for all states; None for the mean of all.
    """
    world = params.world
    values = world.values if key is None else sample_pair(key, world.values)

    def step(key: Key, state: Latent, action: Array) -> StepOut:
        del key
        reward = decode(nets, reward_logits(nets, world, state, action))
        state = next_latent(nets, world, state, action)
        logit = jnp.zeros((), jnp.float32) if nets.termination is None else termination_logit(nets, world, state)
        return StepOut(state, reward, jnp.where(logit > 0.0, jnp.float32(0.0), 1.0))

    def value(key: Key, state: Latent) -> Array:
        return jnp.mean(decode_values(nets, value_logits(nets, values, state, prior(key, state))))

    def prior(key: Key, state: Latent) -> Array:
        return sample_action(nets, params.policy, key, state).action

    return Model(step, value, prior)


def _uniform(key: Key, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-0.02, maxval=0.02, dtype=jnp.float32)
