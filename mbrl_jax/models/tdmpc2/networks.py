"""TD-MPC2's networks by size, and the model a planner sees.

Hansen et al. 2024, "TD-MPC2: Scalable, Robust World Models for Continuous Control" (arXiv 2310.16828), and the authors'
code. With the embedding e of a task, empty where there is one:

    z = h(o, e)    z' = d(z, a, e)    r = R(z, a, e)    q = Q_i(z, a, e), i < N    a ~ π(z, e)    end = σ(T(z, e))

Latents are normalised by `nets.simnorm`. Rewards and values are classes: softmaxes over bins evenly spaced in symlog
space, whose mean is taken back by symexp. Nothing is decoded into observations.

    two-hot(x) = two-hot of clip(symlog x, -10, 10),    decode(l) = symexp( Σ_i softmax(l)_i b_i )
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.config import check
from mbrl_jax.core.types import Array, Key, Model, Obs, Params, Spec, StepOut
from mbrl_jax.models.tdmpc2.sizes import (
    VALUE_RANGE,
    Drawn,
    TDMPCNetConfig,
    Widths,
    action_size,
    decode,
    obs_size,
    squashed,
    two_of,
    widths,
)
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.simnorm import normed_layers


class World(NamedTuple):
    """Parameters of all that is learned jointly."""

    encoder: Params
    dynamics: Params
    reward: Params
    values: Params  # [N, ...]
    termination: Params  # () where no state ends an episode
    task: Array | tuple[()]  # [tasks, E], () with one


class TDMPCParams(NamedTuple):
    world: World
    policy: Params


class Latent(NamedTuple):
    """A latent state, in a task."""

    z: Array  # [L]
    task: Array  # [E] embedding, empty with one task
    mask: Array | None  # [A] 1 for the entries of an action that the task has; None where it has all


class Networks(NamedTuple):
    """All networks, their parameters outside; each takes z, a where it depends on it, and e."""

    encoder: Net  # (o, e) -> z
    dynamics: Net  # -> z
    reward: Net  # -> logits [bins]
    value: Net  # one of them -> logits [bins]
    policy: Net  # -> mean and raw deviation [2A]
    termination: Net | None  # -> logit [1]
    bins: Array  # [bins]
    sizes: Widths
    num_actions: int
    tasks: int
    task_dim: int
    masks: np.ndarray | None  # [tasks, A]

    def init(self, key: Key) -> TDMPCParams:
        """Parameters of all of them. Rewards and values start at 0."""
        keys = jax.random.split(key, 7)
        world = World(
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
      spec: observations a vector, with several tasks its last `tasks` entries telling the task by a 1; actions a vector
        in [-1, 1]. Where `spec.terminates`, there is a termination head.
      masks: [tasks, A] 1 for the entries of an action that a task has; None where all have all.
    Raises:
      ValueError: a size out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    size = widths(cfg)
    obs, actions = obs_size(spec) - cfg.tasks, action_size(spec)
    if obs < 1:
        raise ValueError(f"tasks must be below the observation's {obs_size(spec)} entries, got {cfg.tasks}")
    if size.latent % cfg.group:
        raise ValueError(f"latent must be a multiple of group ({cfg.group}), got {size.latent}")
    e, two = cfg.task_dim if cfg.tasks else 0, (size.units,) * 2
    moved = (size.latent, actions, e)
    return Networks(
        encoder=normed_layers((obs, e), (size.encoder,) * (size.layers - 1), size.latent, cfg.group),
        dynamics=normed_layers(moved, two, size.latent, cfg.group),
        reward=normed_layers(moved, two, cfg.bins, out_scale=0.0),
        value=normed_layers(moved, two, cfg.bins, out_scale=0.0),
        policy=normed_layers((size.latent, e), two, 2 * actions),
        termination=normed_layers((size.latent, e), two, 1) if spec.terminates else None,
        bins=jnp.linspace(-VALUE_RANGE, VALUE_RANGE, cfg.bins),
        sizes=size,
        num_actions=actions,
        tasks=cfg.tasks,
        task_dim=e,
        masks=None if masks is None else np.asarray(masks, np.float32),
    )


def encode(nets: Networks, world: World, obs: Obs) -> Latent:
    """The latent state of one observation.

    An embedding longer than 1 is scaled to 1, the factor taken as a constant.
    """
    obs = jnp.asarray(obs, jnp.float32)
    if not nets.tasks:
        task = jnp.zeros(0)
        return Latent(nets.encoder.apply(world.encoder, obs, task), task, None)
    obs, told = obs[: -nets.tasks], obs[-nets.tasks :]
    row = told @ world.task
    task = row * jax.lax.stop_gradient(1.0 / jnp.maximum(1.0, jnp.sqrt(jnp.sum(jnp.square(row)))))
    return Latent(nets.encoder.apply(world.encoder, obs, task), task, None if nets.masks is None else told @ nets.masks)


def masked(state: Latent, action: Array) -> Array:
    """The action [A] with 0 where the task has none."""
    return action if state.mask is None else action * state.mask


def advance(nets: Networks, world: World, state: Latent, action: Array) -> Latent:
    """The next latent state."""
    return state._replace(z=nets.dynamics.apply(world.dynamics, state.z, masked(state, action), state.task))


def reward_logits(nets: Networks, world: World, state: Latent, action: Array) -> Array:
    """Classes [bins] of the reward of a step."""
    return nets.reward.apply(world.reward, state.z, masked(state, action), state.task)


def value_logits(
    nets: Networks, values: Params, state: Latent, action: Array, key: Key | None = None, rate: Array | float = 0.0
) -> Array:
    """Classes [N, bins] of an action's value, by each of the networks `values` [N, ...]; a `key` drops at `rate`."""
    action = masked(state, action)
    if key is None:
        return jax.vmap(lambda own: nets.value.apply(own, state.z, action, state.task))(values)
    keys = jax.random.split(key, jax.tree.leaves(values)[0].shape[0])
    return jax.vmap(lambda own, key: nets.value.apply(own, state.z, action, state.task, key=key, rate=rate))(
        values, keys
    )


def termination_logit(nets: Networks, world: World, state: Latent) -> Array:
    """Log-odds [] that a state is terminal.

    Raises:
      ValueError: the environment has no terminal states, and the networks no head for them.
    """
    if nets.termination is None:
        raise ValueError("these networks have no termination head: no state of the environment ends an episode")
    return nets.termination.apply(world.termination, state.z, state.task)[0]


def draw(nets: Networks, policy: Params, key: Key, state: Latent) -> Drawn:
    """An action of the policy, with its entropies."""
    mean, raw = jnp.split(nets.policy.apply(policy, state.z, state.task), 2)
    return squashed(key, mean, raw, jnp.ones_like(mean) if state.mask is None else state.mask)


def bind(nets: Networks, params: TDMPCParams, key: Key | None = None) -> Model:
    """The learned model as a planner sees it, from an encoded observation on.

    Its discount is 0 where the termination head gives the end more than an even chance, else 1; its value is the mean
    of two of the value networks, at an action of the policy; its prior is such an action.

    Args:
      nets: the networks.
      params: theirs.
      key: draws the two value networks, once for all states; None for the mean of all.
    """
    world = params.world
    values = world.values if key is None else two_of(key, world.values)

    def step(key: Key, state: Latent, action: Array) -> StepOut:
        del key
        reward = decode(reward_logits(nets, world, state, action), nets.bins)
        state = advance(nets, world, state, action)
        ends = jnp.zeros(()) if nets.termination is None else termination_logit(nets, world, state)
        return StepOut(state, reward, jnp.where(ends > 0.0, 0.0, 1.0))

    def value(key: Key, state: Latent) -> Array:
        logits = value_logits(nets, values, state, prior(key, state))
        return jnp.mean(jax.vmap(decode, (0, None))(logits, nets.bins))

    def prior(key: Key, state: Latent) -> Array:
        return draw(nets, params.policy, key, state).action

    return Model(step, value, prior)


def _uniform(key: Key, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-0.02, maxval=0.02)
