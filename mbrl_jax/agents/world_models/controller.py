"""World Models' linear controllers: how they act, what they score in dreams, and their evolution there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Discrete, Key, MultiDiscrete, Obs, Replay, Space
from mbrl_jax.models.rssm.rssm import code_size
from mbrl_jax.models.world_models.mdn_rnn import MDNRNN, DreamState, MDNRNNParams, bind
from mbrl_jax.models.world_models.vae import VAE, sample_latent
from mbrl_jax.ops.evolution import Evolved, evolve


def features(sees: str, state: DreamState) -> Array:
    """A controller's input [F]: "z" the latent, "zh" with the LSTM's h, "zhc" with its h and c."""
    parts = {"z": (), "zh": (state.memory.h,), "zhc": (state.memory.h, state.memory.c)}
    return jnp.concatenate([state.z, *parts[sees]])


def controller_size(space: Space, *, latent: int, hidden: int, sees: str) -> int:
    """D, parameters of a controller.

    Args:
      space: of the actions.
      latent: Z, dimension of the latent.
      hidden: H, units of the LSTM.
      sees: see `features`.
    """
    inputs = latent + hidden * (len(sees) - 1)
    return code_size(space) * (inputs + 1)


def control(space: Space, controller: Array, inputs: Array) -> Action:
    """The action of a linear controller: its largest output, the first of equal ones, or tanh of all outputs.

    A vector of discrete actions has the largest output of each entry.

    Args:
      space: of the actions.
      controller: [D], A rows of F weights and a bias.
      inputs: [F] features.
    """
    table = controller.reshape(code_size(space), inputs.shape[0] + 1)
    out = table[:, :-1] @ inputs + table[:, -1]
    if isinstance(space, MultiDiscrete):
        return jnp.stack([jnp.argmax(part) for part in space.split(out)]).astype(jnp.int32)
    return jnp.argmax(out).astype(jnp.int32) if isinstance(space, Discrete) else jnp.tanh(out)


def sample_initial_obs(key: Key, replay: Replay, count: int) -> Obs:
    """First observations of episodes [count, ...], drawn uniformly; any rows, if the buffer holds no episode's first.

    Args:
      key: used once.
      replay: the experience; rows with a `first` (see `buffers.sequence`).
      count: how many, drawn with replacement.
    """
    rows = jnp.minimum(jnp.arange(replay.capacity), jnp.maximum(replay.size - 1, 0))
    first = replay.take(rows).first & (jnp.arange(replay.capacity) < replay.size)
    upto = jnp.cumsum(first | ~jnp.any(first))
    drawn = jax.random.randint(key, (count,), 0, upto[-1])
    return replay.take(rows[jnp.searchsorted(upto, drawn, side="right")]).obs


def dream_returns(
    key: Key, controllers: Array, starts: Array, *, memory: MDNRNNParams, dynamics: MDNRNN, space: Space, sees: str,
    temperature: Array | float, horizon: int,
) -> Array:  # fmt: skip
    """The mean returns [P] of controllers in the same R dreams.

        s(C) = 1/R Σ_i Σ_t (Π_{k<t} d_k) r_t

    Args:
      key: used once; all controllers meet the same random numbers.
      controllers: [P, D].
      starts: [R, Z] first latents of the dreams.
      memory: parameters of M.
      dynamics: M.
      space: of the actions.
      sees: see `features`.
      temperature: τ, above 0.
      horizon: steps of a dream.
    """
    model = bind(dynamics, memory, temperature)

    def dream(controller: Array, key: Key, z: Array) -> Array:
        def one(i: Array, at: tuple[DreamState, Array, Array]) -> tuple[DreamState, Array, Array]:
            state, weight, total = at
            action = control(space, controller, features(sees, state))
            out = model.step(jax.random.fold_in(key, i), state, action)
            return out.state, weight * out.discount, total + weight * out.reward

        start = DreamState(z, dynamics.start()), jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
        return jax.lax.fori_loop(0, horizon, one, start)[2]

    keys = jax.random.split(key, starts.shape[0])
    returns = jax.vmap(jax.vmap(dream, (None, 0, 0)), (0, None, None))
    return jnp.mean(returns(controllers, keys, starts), axis=1)


def score_controllers(
    key: Key, controllers: Array, *, vision: Any, autoencoder: VAE, replay: Replay, dreams: int, memory: MDNRNNParams,
    dynamics: MDNRNN, space: Space, sees: str, temperature: Array | float, horizon: int,
) -> Array:  # fmt: skip
    """`dream_returns` [P] of controllers [P, D], in dreams that start from first observations of real episodes.

    Args:
      key: used once.
      controllers: [P, D].
      vision: parameters of V.
      autoencoder: V.
      replay: the experience.
      dreams: R, how many.
      memory, dynamics, space, sees, temperature, horizon: see `dream_returns`.
    """
    key_begin, key_latent, key_dream = jax.random.split(key, 3)
    posterior = jax.vmap(autoencoder.encode, (None, 0))(vision, sample_initial_obs(key_begin, replay, dreams))
    starts = jax.vmap(sample_latent)(jax.random.split(key_latent, dreams), posterior)
    return dream_returns(
        key_dream, controllers, starts, memory=memory, dynamics=dynamics, space=space, sees=sees,
        temperature=temperature, horizon=horizon,
    )  # fmt: skip


def evolve_controller(
    key: Key, controller: Array, score: Callable[[Key, Array], Array], *, sigma: Array | float, population: int,
    generations: int, strategy: str = "cma", tries: int = 1,
) -> Evolved:  # fmt: skip
    """Evolves a controller by one or several strategies, and keeps the one whose mean scores best in new dreams.

    Args:
      key: used once.
      controller: [D] where the first strategy starts; the others start from 0.
      score: (key, controllers [P, D]) -> [P], the higher the better.
      sigma: σ, first deviation of the candidates.
      population: candidates per generation, at least 2.
      generations: how many, at least 1.
      strategy: "cma" or "sep" (see `ops.evolution`).
      tries: strategies, at least 1.
    Returns:
      the chosen strategy's last mean, and its history.
    """
    sizes = population, generations, strategy
    if tries == 1:
        return evolve(key, controller, score, sigma, *sizes)
    key_evolve, key_choose = jax.random.split(key)
    starts = jnp.zeros((tries, *controller.shape), jnp.float32).at[0].set(controller)
    run = jax.vmap(lambda key, start: evolve(key, start, score, sigma, *sizes))
    found = run(jax.random.split(key_evolve, tries), starts)
    return tree.take(found, jnp.argmax(score(key_choose, found.mean)))
