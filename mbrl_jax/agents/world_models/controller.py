"""Linear controllers, what they score in dreams, and their evolution there (see `agents.world_models.agent`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Array, Discrete, Key, Obs, Replay, Space, Spec
from mbrl_jax.models.rssm.rssm import code_size
from mbrl_jax.models.world_models.mdn_rnn import MDNRNN, DreamState, MDNRNNConfig, MDNRNNParams, bind, mdn_rnn
from mbrl_jax.models.world_models.vae import VAEConfig, draw, vae
from mbrl_jax.ops.evolution import KINDS, Evolved, evolve


@config
class WorldModelsConfig:
    """Settings of World Models."""

    lr: float = setting(default=1e-3, above=0, help="Adam's learning rate for M")
    lr_end: float = setting(default=0.1, above=0, high=1, help="share of it that is left at the end of each fit")
    vision: VAEConfig = VAEConfig()
    memory: MDNRNNConfig = MDNRNNConfig()
    vision_rate: float = setting(default=1e-4, above=0, help="Adam's learning rate for V")
    batch: int = setting(default=32, low=1, help="windows per gradient step, for V too, which sees all their rows")
    length: int = setting(default=32, low=1, help="steps of a window")
    vision_updates: int = setting(default=500, low=0, help="gradient steps of V in a fit")
    memory_updates: int = setting(default=1_000, low=1, help="gradient steps of M in a fit")
    max_grad: float = setting(default=1.0, above=0, help="entries of M's gradient are clipped to it")
    sees: str = setting(default="zh", choices=("z", "zh", "zhc"), help="what C sees: latent, and the LSTM's h and c")
    temperature: float = setting(default=1.15, above=0, help="τ, of the dreams")
    horizon: int = setting(default=200, low=1, help="steps of a dream")
    dreams: int = setting(default=16, low=1, help="R, dreams of each candidate")
    strategy: str = setting(default="cma", choices=tuple(KINDS), help="CMA-ES, or its separable form for large C")
    population: int = setting(default=64, low=2, help="candidates of a generation")
    generations: int = setting(default=25, low=1, help="in each fit")
    tries: int = setting(default=1, low=1, help="strategies in each fit: one from the last C, others from 0")
    sigma: float = setting(default=0.1, above=0, help="first deviation of candidates, at the start of each fit")
    epsilon: float = setting(
        default=0.1, low=0, high=1, help="chance of a random action while exploring, discrete ones"
    )
    noise: float = setting(default=0.2, low=0, help="deviation of normal noise added while exploring, continuous ones")


def features(sees: str, state: DreamState) -> Array:
    """What a controller sees of a state, [F]."""
    parts = {"z": (), "zh": (state.memory.h,), "zhc": (state.memory.h, state.memory.c)}
    return jnp.concatenate([state.z, *parts[sees]])


def controller_size(cfg: WorldModelsConfig, latent: int, space: Space) -> int:
    """D, how many numbers a controller is, for latents of Z = `latent` entries."""
    seen = latent + cfg.memory.hidden * (len(cfg.sees) - 1)
    return code_size(space) * (seen + 1)


def control(space: Space, controller: Array, seen: Array) -> Array:
    """The action of a linear controller: the first of the largest entries, or tanh.

    Args:
      space: of the actions.
      controller: [D], A rows of F weights and a bias.
      seen: [F].
    """
    table = controller.reshape(code_size(space), seen.shape[0] + 1)
    out = table[:, :-1] @ seen + table[:, -1]
    return jnp.argmax(out).astype(jnp.int32) if isinstance(space, Discrete) else jnp.tanh(out)


def dream_scores(
    cfg: WorldModelsConfig, dynamics: MDNRNN, space: Space, key: Key, params: MDNRNNParams, starts: Array,
    controllers: Array,
) -> Array:  # fmt: skip
    """What controllers gather in the same dreams, each [] the mean over them.

    Args:
      cfg: settings.
      dynamics: M.
      space: of the actions.
      key: of the dreams, used once; for all candidates the same random numbers come of it.
      params: of M.
      starts: [R, Z] latents that dreams begin with.
      controllers: [P, D].
    Returns:
      [P].
    """
    model = bind(dynamics, params, cfg.temperature)

    def dream(controller: Array, key: Key, z: Array) -> Array:
        def one(i: Array, at: tuple[DreamState, Array, Array]) -> tuple[DreamState, Array, Array]:
            state, alive, total = at
            action = control(space, controller, features(cfg.sees, state))
            out = model.step(jax.random.fold_in(key, i), state, action)
            return out.state, alive * out.discount, total + alive * out.reward

        start = DreamState(z, dynamics.start()), jnp.ones(()), jnp.zeros(())
        return jax.lax.fori_loop(0, cfg.horizon, one, start)[2]

    keys = jax.random.split(key, starts.shape[0])
    lives = jax.vmap(jax.vmap(dream, (None, 0, 0)), (0, None, None))
    return jnp.mean(lives(controllers, keys, starts), axis=1)


def sample_initial_obs(key: Key, replay: Replay, count: int) -> Obs:
    """Observations [count, ...] that began episodes, drawn uniformly; any, where the buffer holds no beginning."""
    rows = jnp.minimum(jnp.arange(replay.capacity), jnp.maximum(replay.size - 1, 0))
    first = replay.take(rows).first & (jnp.arange(replay.capacity) < replay.size)
    upto = jnp.cumsum(first | ~jnp.any(first))
    drawn = jax.random.randint(key, (count,), 0, upto[-1])
    return replay.take(rows[jnp.searchsorted(upto, drawn, side="right")]).obs


def scorer(
    cfg: WorldModelsConfig, spec: Spec, memory: MDNRNNParams, vision: Any, replay: Replay
) -> Callable[[Key, Array], Array]:
    """What C evolves by: (key, controllers [P, D]) -> [P], `dream_scores` from sample_initial_obs in the buffer.

    Args:
      cfg: settings.
      spec: of the environment.
      memory: parameters of M.
      vision: parameters of V.
      replay: the experience.
    """
    sight = vae(cfg.vision, spec.obs)
    dynamics = mdn_rnn(cfg.memory, sight.size, spec)

    def score(key: Key, controllers: Array) -> Array:
        key_begin, key_latent, key_dream = jax.random.split(key, 3)
        seen = jax.vmap(sight.encode, (None, 0))(vision, sample_initial_obs(key_begin, replay, cfg.dreams))
        starts = jax.vmap(draw)(jax.random.split(key_latent, cfg.dreams), seen)
        return dream_scores(cfg, dynamics, spec.action, key_dream, memory, starts, controllers)

    return score


def evolved(cfg: WorldModelsConfig, key: Key, score: Callable[[Key, Array], Array], controller: Array) -> Evolved:
    """The best of `cfg.tries` strategies by new dreams; the first goes on from a controller, the others start from 0.

    Args:
      cfg: settings.
      key: used once.
      score: as `scorer` gives it.
      controller: [D], the last one.
    """
    sizes = cfg.population, cfg.generations, cfg.strategy
    if cfg.tries == 1:
        return evolve(key, controller, score, cfg.sigma, *sizes)
    key_evolve, key_choose = jax.random.split(key)
    starts = jnp.zeros((cfg.tries, *controller.shape)).at[0].set(controller)
    run = jax.vmap(lambda key, start: evolve(key, start, score, cfg.sigma, *sizes))
    found = run(jax.random.split(key_evolve, cfg.tries), starts)
    return tree.take(found, jnp.argmax(score(key_choose, found.mean)))
