"""World Models: a linear controller that evolves inside a learned dream.

Ha & Schmidhuber 2018, "World Models" (arXiv 1803.10122). V encodes observations (`models.world_models.vae`), M predicts
latents with a recurrent memory (`models.world_models.mdn_rnn`), and the controller C acts:

    a_t = W [z_t, h_t] + b,  z_t of V's encoder and h_t of M's LSTM        the largest entry, or tanh a_t

The slow clock fits V and M to the buffer, then evolves C by CMA-ES, all in one compiled program. A candidate's score is
its mean return in R dreams that start from first observations of real episodes:

    s(C) = 1/R Σ_i Σ_t (Π_{k<t} d_k) r_t,   z_{t+1} ~ M at temperature τ,  d the chance that the episode goes on

Within a generation all candidates meet the same R dreams: the same initial observations, and the same random numbers in
each step. A temperature above 1 makes dreams more uncertain than the environment, so that a controller can exploit M's
errors less. Between two fits C acts in the environment, with some random actions: the iterated form of the paper's
section 5.

Differs from the paper in: what `models.world_models.mdn_rnn` says; C sees the mean of z in the real environment; real
steps come from C as soon as there is one; C is the mean of the strategy's last generation, from which the next fit's
strategy continues; as an option each fit runs further strategies from 0, since one that continues stays where it is
stuck.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.agents.world_models.controller import (
    control,
    controller_size,
    evolve_controller,
    features,
    score_controllers,
)
from mbrl_jax.buffers.sequence import Step, Window, sequence
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import over_data
from mbrl_jax.core.types import (
    Action,
    Agent,
    Array,
    Buffer,
    Discrete,
    Key,
    Metrics,
    MultiDiscrete,
    Obs,
    Replay,
    Space,
    Spec,
    Tree,
    no_update,
)
from mbrl_jax.envs.spaces import check_unit_actions
from mbrl_jax.models.world_models import mdn_rnn as mdn_rnns
from mbrl_jax.models.world_models.mdn_rnn import (
    MDNRNN,
    DreamState,
    MDNRNNConfig,
    MDNRNNParams,
    Memory,
    Rows,
    mdn_rnn_loss,
)
from mbrl_jax.models.world_models.vae import VAE, VAEConfig, sample_latent, vae, vae_loss
from mbrl_jax.ops.evolution import KINDS
from mbrl_jax.ops.optim import descend


@config
class WorldModelsConfig:
    """Settings of World Models."""

    lr: float = setting(default=1e-3, above=0, help="Adam's learning rate for M")
    lr_end: float = setting(default=0.1, above=0, high=1, help="final fraction of M's learning rate in each fit")
    vision: VAEConfig = VAEConfig()
    memory: MDNRNNConfig = MDNRNNConfig()
    vision_rate: float = setting(default=1e-4, above=0, help="Adam's learning rate for V")
    batch: int = setting(default=32, low=1, help="windows per gradient step of M; V's steps use all their rows")
    length: int = setting(default=32, low=1, help="steps per window")
    vision_updates: int = setting(default=500, low=0, help="gradient steps of V per fit")
    memory_updates: int = setting(default=1_000, low=1, help="gradient steps of M per fit")
    max_grad: float = setting(default=1.0, above=0, help="largest absolute entry of M's gradient; others are clipped")
    sees: str = setting(default="zh", choices=("z", "zh", "zhc"), help="input of C: latent, LSTM output, LSTM cell")
    temperature: float = setting(default=1.15, above=0, help="τ, temperature of the dreams")
    horizon: int = setting(default=200, low=1, help="steps per dream")
    dreams: int = setting(default=16, low=1, help="R, dreams per candidate and generation")
    strategy: str = setting(default="cma", choices=KINDS, help="evolution strategy: CMA-ES, or separable for large C")
    population: int = setting(default=64, low=2, help="candidates per generation")
    generations: int = setting(default=25, low=1, help="generations per fit")
    tries: int = setting(default=1, low=1, help="strategies per fit: the first continues, the others start from 0")
    sigma: float = setting(default=0.1, above=0, help="standard deviation of the candidates at the start of each fit")
    epsilon: float = setting(default=0.1, low=0, high=1, help="probability of a random action (discrete actions)")
    noise: float = setting(default=0.2, low=0, help="standard deviation of exploration noise (continuous actions)")


class Learner(NamedTuple):
    """What World Models have learned so far."""

    memory: MDNRNNParams  # M
    memory_opt: Any
    vision: Any  # V
    vision_opt: Any
    controller: Array  # [D], W row by row and b


class Networks(NamedTuple):
    """V and M, without parameters."""

    vision: VAE
    memory: MDNRNN


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


def networks(cfg: WorldModelsConfig, spec: Spec) -> Networks:
    """V and M for one environment."""
    vision = vae(cfg.vision, spec.obs)
    return Networks(vision, mdn_rnns.mdn_rnn(cfg.memory, vision.size, spec))


# Fits ----------------------------------------------------------------------------------------------------------------


def memory_optimizer(max_grad: Array | float) -> optax.GradientTransformation:
    """Clipping of each entry of the gradient, then Adam's scaling; `fit_memory` applies the learning rate."""
    return optax.chain(optax.clip(max_grad), optax.scale_by_adam())  # pyright: ignore[reportArgumentType]


def sample_windows(key: Key, replay: Replay, *, batch: int, rows: int) -> Window:
    """A batch of windows [rows, batch, ...].

    Args:
      key: used once.
      replay: the experience.
      batch: number of windows.
      rows: of each.
    Raises:
      ValueError: the buffer gives windows of another length.
    """
    found: Window = replay.sample(key, batch)
    if len(found.steps.reward) != rows:
        raise ValueError(f"windows must have length + 1 = {rows} rows, got {len(found.steps.reward)}")
    return found


def calibrate(learner: Learner, replay: Replay, *, nets: Networks) -> Learner:
    """The learner with the scales of rewards, and of vector observations, set to the statistics of the buffer.

    Args:
      learner: what was learned so far.
      replay: the experience; all of its rows count.
      nets: V and M.
    """
    index = jnp.arange(replay.capacity)
    rows: Step = replay.take(jnp.minimum(index, jnp.maximum(replay.size - 1, 0)))
    filled = index < replay.size
    learner = learner._replace(memory=nets.memory.calibrate(learner.memory, rows.reward, filled & ~rows.first))
    if nets.vision.calibrate is None:
        return learner
    return learner._replace(vision=nets.vision.calibrate(learner.vision, rows.obs, filled))


def fit_vae(
    key: Key, params: Any, opt: Any, replay: Replay, *, model: VAE, optimizer: optax.GradientTransformation,
    tolerance: Array | float, updates: int, batch: int, rows: int,
) -> tuple[Any, Any, Metrics]:  # fmt: skip
    """V after gradient steps on `vae_loss`.

    Args:
      key: used once.
      params: of V.
      opt: state of the optimizer.
      replay: the experience.
      model: V.
      optimizer: of the parameters.
      tolerance: τ of the loss.
      updates: gradient steps; with 0, or where V learns nothing by gradient, nothing changes.
      batch: windows per gradient step.
      rows: of a window.
    Returns:
      parameters, the optimizer's state, and the means of the loss's metrics over the steps, as "vision/...".
    """
    if model.error is None or updates == 0:
        return params, opt, {}

    def one_step(at: tuple[Any, Any], i: Array) -> tuple[tuple[Any, Any], Metrics]:
        (params, opt), (key_sample, key_loss) = at, jax.random.split(jax.random.fold_in(key, i))
        obs = over_data(tree.flatten_dims(sample_windows(key_sample, replay, batch=batch, rows=rows).steps.obs, 2))
        grads, metrics = jax.grad(vae_loss, has_aux=True)(params, key_loss, obs, model=model, tolerance=tolerance)
        return descend(optimizer, grads, opt, params), metrics

    (params, opt), metrics = jax.lax.scan(one_step, (params, opt), jnp.arange(updates))
    return params, opt, {f"vision/{name}": jnp.mean(value) for name, value in metrics.items()}


def encode_windows(key: Key, vision: Any, steps: Step, *, model: VAE) -> Rows:
    """A batch of windows as the dynamics learn from them, with a draw of the latent for each observation.

    Args:
      key: draws the latents.
      vision: parameters of V.
      steps: [L, B, ...] windows.
      model: V.
    Returns:
      [L, B, ...] rows.
    """
    keys = jax.random.split(key, steps.reward.shape)
    z = jax.vmap(jax.vmap(lambda key, obs: sample_latent(key, model.encode(vision, obs))))(keys, steps.obs)
    return Rows(z, steps.action, steps.reward, steps.discount, steps.first, steps.last)


def fit_memory(
    key: Key, params: MDNRNNParams, opt: Any, vision: Any, replay: Replay, *, nets: Networks,
    optimizer: optax.GradientTransformation, lr: Array | float, lr_end: Array | float, updates: int, batch: int,
    rows: int,
) -> tuple[MDNRNNParams, Any, Metrics]:  # fmt: skip
    """M after gradient steps on `mdn_rnn_loss`, at a learning rate that falls along a cosine.

    Args:
      key: used once.
      params: of M.
      opt: state of the optimizer.
      vision: parameters of V, which do not change.
      replay: the experience.
      nets: V and M.
      optimizer: gives the direction of each step (`memory_optimizer`).
      lr: first learning rate.
      lr_end: fraction of it at the end.
      updates: gradient steps, at least 1.
      batch: windows per gradient step.
      rows: of a window.
    Returns:
      parameters, the optimizer's state, and the means of the loss's metrics over the steps, as "model/...".
    """
    schedule = optax.cosine_decay_schedule(1.0, updates, lr_end)  # pyright: ignore[reportArgumentType]

    def one_step(at: tuple[MDNRNNParams, Any], i: Array) -> tuple[tuple[MDNRNNParams, Any], Metrics]:
        (params, opt), (key_sample, key_latent) = at, jax.random.split(jax.random.fold_in(key, i))
        found = sample_windows(key_sample, replay, batch=batch, rows=rows)
        encoded = encode_windows(key_latent, vision, found.steps, model=nets.vision)
        grads, metrics = jax.grad(mdn_rnn_loss, has_aux=True)(params, encoded, found.weight, model=nets.memory)
        updates, opt = optimizer.update(grads, opt, params)  # pyright: ignore[reportArgumentType]
        rate = lr * schedule(i)
        return (jax.tree.map(lambda p, d: p - rate * d, params, updates), opt), metrics

    (params, opt), metrics = jax.lax.scan(one_step, (params, opt), jnp.arange(updates))
    return params, opt, {f"model/{name}": jnp.mean(value) for name, value in metrics.items()}


def controller_score(
    cfg: WorldModelsConfig, spec: Spec, memory: MDNRNNParams, vision: Any, replay: Replay
) -> Callable[[Key, Array], Array]:
    """What C evolves by: (key, controllers [P, D]) -> [P], their `score_controllers` under these settings.

    Args:
      cfg: settings.
      spec: of the environment.
      memory: parameters of M.
      vision: parameters of V.
      replay: the experience.
    """
    nets = networks(cfg, spec)
    return partial(
        score_controllers, vision=vision, autoencoder=nets.vision, replay=replay, dreams=cfg.dreams, memory=memory,
        dynamics=nets.memory, space=spec.action, sees=cfg.sees, temperature=cfg.temperature, horizon=cfg.horizon,
    )  # fmt: skip


# The agent -----------------------------------------------------------------------------------------------------------


def explore_action(
    key: Key, action: Action, space: Space, *, epsilon: Array | float, noise: Array | float
) -> Action:  # fmt: skip
    """The action taken while exploring: sometimes a random one if discrete, else one with normal noise.

    Args:
      key: used once.
      action: the controller's.
      space: of the actions.
      epsilon: probability of a random action, for discrete ones.
      noise: standard deviation of the noise, for continuous ones, which are clipped to [-1, 1].
    """
    key_which, key_action = jax.random.split(key)
    if isinstance(space, Discrete | MultiDiscrete):
        replaced = jax.random.uniform(key_which, dtype=jnp.float32) < epsilon
        return jnp.where(replaced, space.sample(key_action), action)
    return jnp.clip(action + noise * jax.random.normal(key_action, action.shape, jnp.float32), -1.0, 1.0)


def make(cfg: WorldModelsConfig, spec: Spec) -> Agent:
    """World Models for one environment; they learn from `buffer(cfg, ...)`. An actor's memory is that of M's LSTM.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`), actions discrete or in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    check_unit_actions(spec)
    nets = networks(cfg, spec)
    size = controller_size(spec.action, latent=nets.vision.size, hidden=cfg.memory.hidden, sees=cfg.sees)
    optimizer, vision_optimizer = memory_optimizer(cfg.max_grad), optax.adam(cfg.vision_rate)
    sampling = {"batch": cfg.batch, "rows": window(cfg)}

    def init(key: Key) -> Learner:
        key_memory, key_vision = jax.random.split(key)
        memory, vision = nets.memory.init(key_memory), nets.vision.init(key_vision)
        return Learner(
            memory, optimizer.init(memory), vision, vision_optimizer.init(vision), jnp.zeros(size, jnp.float32)
        )

    def act(key: Key, learner: Learner, carry: Memory, obs: Obs, explore: bool) -> tuple[Action, Memory, Tree]:
        z = nets.vision.encode(learner.vision, obs).mean
        action = control(spec.action, learner.controller, features(cfg.sees, DreamState(z, carry)))
        if explore:
            action = explore_action(key, action, spec.action, epsilon=cfg.epsilon, noise=cfg.noise)
        return action, nets.memory.remember(learner.memory, carry, z, action), ()

    def follow(key: Key, learner: Learner, carry: Memory, obs: Obs, action: Action) -> tuple[Memory, Tree]:
        del key
        z = nets.vision.encode(learner.vision, obs).mean
        return nets.memory.remember(learner.memory, carry, z, action), ()

    def refresh(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        key_vision, key_memory, key_evolve = jax.random.split(key, 3)
        learner = calibrate(learner, replay, nets=nets)
        vision, vision_opt, metrics = fit_vae(
            key_vision, learner.vision, learner.vision_opt, replay, model=nets.vision, optimizer=vision_optimizer,
            tolerance=cfg.vision.tolerance, updates=cfg.vision_updates, **sampling,
        )  # fmt: skip
        memory, memory_opt, more = fit_memory(
            key_memory, learner.memory, learner.memory_opt, vision, replay, nets=nets, optimizer=optimizer, lr=cfg.lr,
            lr_end=cfg.lr_end, updates=cfg.memory_updates, **sampling,
        )  # fmt: skip
        found = evolve_controller(
            key_evolve, learner.controller, controller_score(cfg, spec, memory, vision, replay), sigma=cfg.sigma,
            population=cfg.population, generations=cfg.generations, strategy=cfg.strategy, tries=cfg.tries,
        )  # fmt: skip
        metrics |= more | {
            "dream/return": found.centre[-1],  # of the last generation's mean, in dreams it was not selected by
            "dream/best": found.best[-1],
            "dream/average": found.average[-1],
            "dream/sigma": found.sigma[-1],
        }
        return Learner(memory, memory_opt, vision, vision_opt, found.mean), metrics

    return Agent(init, nets.memory.start, act, no_update, refresh, follow)


def open_loop_model(cfg: WorldModelsConfig, spec: Spec, learner: Learner) -> OpenLoopModel:
    """World Models' open-loop model, at the temperature of its dreams: V encodes and decodes observations, M predicts.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets = networks(cfg, spec)
    model = mdn_rnns.bind(nets.memory, learner.memory, cfg.temperature)

    def track(key: Key, obs: Obs, action: Action) -> DreamState:
        del key

        def one(memory: Memory, at: tuple[Array, Action]) -> tuple[Memory, DreamState]:
            z, action = at
            return nets.memory.remember(learner.memory, memory, z, action), DreamState(z, memory)

        z = jax.vmap(lambda obs: nets.vision.encode(learner.vision, obs).mean)(obs)
        return jax.lax.scan(one, nets.memory.start(), (z, action))[1]

    def step(key: Key, state: DreamState, action: Action) -> DreamState:
        return model.step(key, state, action).state

    return OpenLoopModel(track, step, lambda state: nets.vision.decode(learner.vision, state.z))


def learned_model(cfg: WorldModelsConfig, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model: the dream, at the temperature that the controller is trained at.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    nets = networks(cfg, spec)

    def encode(key: Key, obs: Obs) -> DreamState:
        del key
        return DreamState(nets.vision.encode(learner.vision, obs).mean, nets.memory.start())

    return LearnedModel(mdn_rnns.bind(nets.memory, learner.memory, cfg.temperature), encode)
