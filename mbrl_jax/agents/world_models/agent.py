"""World Models: a linear controller that evolves inside a learned dream.

Ha & Schmidhuber 2018, "World Models" (arXiv 1803.10122). V sees (`models.world_models.vae`), M remembers and foretells
(`models.world_models.mdn_rnn`), and C acts:

    a_t = W [z_t, h_t] + b,  z_t of V's encoder and h_t of M's LSTM        the largest entry, or tanh a_t

The slow clock fits V and M to the buffer, then lets C evolve by CMA-ES, all in one compiled program. The score of a
candidate is the mean over R dreams of what it gathers there, from observations that began real episodes:

    s(C) = 1/R Σ_i Σ_t (Π_{k<t} d_k) r_t,   z_{t+1} ~ M at temperature τ,  d the chance that the episode goes on

Within a generation all candidates dream the same R dreams: the same initial observations, and the same random numbers
in each step. A temperature above 1 makes dreams less certain than the world, so that faults of M are harder to live by.
Real steps between two fits are taken by C, with some random actions: the iterated form of the paper's section 5.

Differs from the paper in: what `models.world_models.mdn_rnn` says; C sees the mean of z in the real environment; real
steps come from C as soon as there is one; C is the mean of the strategy's last generation, from which the next fit's
goes on; as an option further strategies start from 0 in each fit, for one that goes on stays where it is stuck.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer.common import need_unit_actions
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.agents.world_models.controller import (
    WorldModelsConfig,
    control,
    controller_size,
    evolved,
    features,
    scorer,
)
from mbrl_jax.buffers.sequence import Step, Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Discrete, Key, Metrics, Obs, Replay, Spec, Tree
from mbrl_jax.models.world_models import mdn_rnn as mdn_rnns
from mbrl_jax.models.world_models.mdn_rnn import DreamState, MDNRNNParams, Memory, Rows, mdn_rnn
from mbrl_jax.models.world_models.vae import draw, vae
from mbrl_jax.ops.optim import descend


class Learner(NamedTuple):
    """What World Models have learned so far."""

    memory: MDNRNNParams  # M
    memory_opt: Any
    vision: Any  # V
    vision_opt: Any
    controller: Array  # [D], W row by row and b


def window(cfg: WorldModelsConfig) -> int:
    """Rows of the windows that World Models' buffer must give."""
    return cfg.length + 1


def buffer(cfg: WorldModelsConfig, capacity: int, num_envs: int) -> Buffer:
    """The buffer that World Models learn from: windows of `window(cfg)` rows.

    Args:
      cfg: settings.
      capacity: rows in all.
      num_envs: environments side by side.
    """
    return sequence(capacity, window(cfg), num_envs)


def make(cfg: WorldModelsConfig, spec: Spec) -> Agent:
    """World Models for one environment; they learn from `buffer(cfg, ...)`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    need_unit_actions(spec)
    sight = vae(cfg.vision, spec.obs)
    dynamics = mdn_rnn(cfg.memory, sight.size, spec)
    size = controller_size(cfg, sight.size, spec.action)
    fading = optax.cosine_decay_schedule(1.0, cfg.memory_updates, cfg.lr_end)  # pyright: ignore[reportArgumentType]
    memory_rule = optax.chain(optax.clip(cfg.max_grad), optax.scale_by_adam())  # pyright: ignore[reportArgumentType]
    vision_rule = optax.adam(cfg.vision_rate)

    def init(key: Key) -> Learner:
        key_memory, key_vision = jax.random.split(key)
        memory, vision = dynamics.init(key_memory), sight.init(key_vision)
        return Learner(memory, memory_rule.init(memory), vision, vision_rule.init(vision), jnp.zeros(size))

    def act(key: Key, learner: Learner, carry: Memory, obs: Obs, explore: bool) -> tuple[Action, Memory, Tree]:
        z = sight.encode(learner.vision, obs).mean
        action = control(spec.action, learner.controller, features(cfg.sees, DreamState(z, carry)))
        if explore:
            action = explored(key, action)
        return action, dynamics.remember(learner.memory, carry, z, action), ()

    def explored(key: Key, action: Action) -> Action:
        key_which, key_action = jax.random.split(key)
        if isinstance(spec.action, Discrete):
            anew = jax.random.uniform(key_which) < cfg.epsilon
            return jnp.where(anew, spec.action.sample(key_action), action)
        return jnp.clip(action + cfg.noise * jax.random.normal(key_action, action.shape), -1.0, 1.0)

    def sampled(key: Key, replay: Replay) -> Window:
        found: Window = replay.sample(key, cfg.batch)
        if len(found.steps.reward) != window(cfg):
            raise ValueError(f"windows must have length + 1 = {window(cfg)} rows, got {len(found.steps.reward)}")
        return found

    def fit_vision(key: Key, vision: Any, opt: Any, replay: Replay) -> tuple[Any, Any, Metrics]:
        """V after its gradient steps, and means over them."""
        one = sight.loss
        if one is None or cfg.vision_updates == 0:
            return vision, opt, {}

        def one_step(at: tuple[Any, Any], i: Array) -> tuple[tuple[Any, Any], Metrics]:
            (vision, opt), (key_sample, key_loss) = at, jax.random.split(jax.random.fold_in(key, i))
            obs = tree.flatten_dims(sampled(key_sample, replay).steps.obs, 2)
            keys = jax.random.split(key_loss, cfg.batch * window(cfg))

            def loss(vision: Any) -> tuple[Array, Metrics]:
                return jax.tree.map(jnp.mean, jax.vmap(one, (None, 0, 0))(vision, keys, obs))

            grads, means = jax.grad(loss, has_aux=True)(vision)
            return descend(vision_rule, grads, opt, vision), means

        (vision, opt), means = jax.lax.scan(one_step, (vision, opt), jnp.arange(cfg.vision_updates))
        return vision, opt, {f"vision/{name}": jnp.mean(value) for name, value in means.items()}

    def fit_memory(
        key: Key, memory: MDNRNNParams, opt: Any, vision: Any, replay: Replay
    ) -> tuple[MDNRNNParams, Any, Metrics]:
        """M after its gradient steps, and means over them."""

        def one_step(at: tuple[MDNRNNParams, Any], i: Array) -> tuple[tuple[MDNRNNParams, Any], Metrics]:
            (memory, opt), (key_sample, key_latent) = at, jax.random.split(jax.random.fold_in(key, i))
            found = sampled(key_sample, replay)
            steps: Step = found.steps
            keys = jax.random.split(key_latent, (window(cfg), cfg.batch))
            z = jax.vmap(jax.vmap(lambda key, obs: draw(key, sight.encode(vision, obs))))(keys, steps.obs)
            rows = Rows(z, steps.action, steps.reward, steps.discount, steps.first, steps.last)

            def loss(memory: MDNRNNParams) -> tuple[Array, Metrics]:
                losses, terms = jax.vmap(dynamics.loss, (None, 1))(memory, rows)
                return jnp.mean(found.weight * losses), jax.tree.map(jnp.mean, terms)

            grads, means = jax.grad(loss, has_aux=True)(memory)
            change, opt = memory_rule.update(grads, opt, memory)
            rate = cfg.lr * fading(i)
            return (jax.tree.map(lambda p, d: p - rate * d, memory, change), opt), means

        (memory, opt), means = jax.lax.scan(one_step, (memory, opt), jnp.arange(cfg.memory_updates))
        return memory, opt, {f"model/{name}": jnp.mean(value) for name, value in means.items()}

    def calibrated(learner: Learner, replay: Replay) -> Learner:
        """Scales of rewards, and of vectors, as all rows of the buffer are."""
        index = jnp.arange(replay.capacity)
        rows: Step = replay.take(jnp.minimum(index, jnp.maximum(replay.size - 1, 0)))
        held = index < replay.size
        learner = learner._replace(memory=dynamics.calibrate(learner.memory, rows.reward, held & ~rows.first))
        if sight.calibrate is None:
            return learner
        return learner._replace(vision=sight.calibrate(learner.vision, rows.obs, held))

    def refresh(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        key_vision, key_memory, key_evolve = jax.random.split(key, 3)
        learner = calibrated(learner, replay)
        vision, vision_opt, metrics = fit_vision(key_vision, learner.vision, learner.vision_opt, replay)
        memory, memory_opt, more = fit_memory(key_memory, learner.memory, learner.memory_opt, vision, replay)

        learner = Learner(memory, memory_opt, vision, vision_opt, learner.controller)
        found = evolved(cfg, key_evolve, scorer(cfg, spec, memory, vision, replay), learner.controller)
        metrics |= more | {
            "dream/return": found.centre[-1],  # of the last generation's mean, in dreams it has not been chosen by
            "dream/best": found.best[-1],
            "dream/average": found.average[-1],
            "dream/sigma": found.sigma[-1],
        }
        return learner._replace(controller=found.mean), metrics

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        del key, replay
        return learner, {}, ()

    return Agent(init, dynamics.start, act, update, refresh)


def open_loop_model(cfg: WorldModelsConfig, spec: Spec, learner: Learner) -> OpenLoopModel:
    """World Models' dream at its temperature: V encodes and rebuilds observations, M dreams on from its memory.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    sight = vae(cfg.vision, spec.obs)
    dynamics = mdn_rnn(cfg.memory, sight.size, spec)
    model = mdn_rnns.bind(dynamics, learner.memory, cfg.temperature)

    def track(key: Key, obs: Obs, action: Action) -> DreamState:
        del key

        def one(memory: Any, at: tuple[Array, Action]) -> tuple[Any, DreamState]:
            z, action = at
            return dynamics.remember(learner.memory, memory, z, action), DreamState(z, memory)

        seen = jax.vmap(lambda obs: sight.encode(learner.vision, obs).mean)(obs)
        return jax.lax.scan(one, dynamics.start(), (seen, action))[1]

    def step(key: Key, state: DreamState, action: Action) -> DreamState:
        return model.step(key, state, action).state

    return OpenLoopModel(track, step, lambda state: sight.decode(learner.vision, state.z))
