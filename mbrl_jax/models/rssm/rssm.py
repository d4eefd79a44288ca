"""Recurrent state-space models: the latent dynamics of the Dreamers (Hafner et al. 2019, arXiv 1811.04551).

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})        memory
    z_t ~ p(z_t | h_t)                        prior, for imagination
    z_t ~ q(z_t | h_t, x_t)                   posterior, x_t the encoded observation

a_{t-1} is the action that led to observation t. Where an observation is the first of an episode, h, z and a before it
are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Discrete, Key, Obs, Params, Space
from mbrl_jax.models.rssm import latents
from mbrl_jax.models.rssm.latents import Latents
from mbrl_jax.nets.layers import Staged, joint, layers
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.recurrent import block_gru, gru


@config
class RSSMConfig:
    """Sizes of DreamerV3's model; the defaults are the smallest size of the paper's code, 1m."""

    deter: int = setting(default=512, low=1, help="entries of the memory, a multiple of blocks")
    hidden: int = setting(default=64, low=1, help="width of every layer")
    stoch: int = setting(default=32, low=1, help="categorical latents")
    classes: int = setting(default=4, low=2, help="classes of each")
    blocks: int = setting(default=8, low=1, help="blocks of the memory")
    unimix: float = setting(default=0.01, above=0, below=1, help="share of uniform chances in every latent")


@config
class GRUConfig:
    """Sizes of the models of the first two Dreamers."""

    deter: int = setting(default=200, low=1, help="entries of the memory")
    hidden: int = setting(default=200, low=1, help="width of every layer")
    stoch: int = setting(default=30, low=1, help="latents")
    classes: int = setting(default=32, low=2, help="classes of each; of no account for Gaussian ones")


class Latent(NamedTuple):
    """A state of the model."""

    deter: Array  # [D] memory h
    stoch: Array  # [S] or [S, C] latent z


class RSSMParams(NamedTuple):
    cell: Params
    prior: Params
    posterior: Params


class Tracked(NamedTuple):
    """What a sequence of observations leads to."""

    states: Latent  # [T, ...]
    posterior: Any  # [T, ...] distributions, as `kl` takes them
    prior: Any  # [T, ...]


class Rows(NamedTuple):
    """A window as a model is driven through it: the row of t holds the action before o_t."""

    obs: Obs  # [T, ...]
    action: Array  # [T, A] `action_code` of the action that led to o_t; of no account where `first`
    reward: Array  # [T] received on arriving
    discount: Array  # [T] 0 where o_t is terminal, else 1
    first: Array  # [T] bool
    last: Array  # [T] bool


class RSSM(NamedTuple):
    """A recurrent state-space model as pure functions over one sequence or one state."""

    init: Callable[[Key], RSSMParams]
    start: Callable[[], Latent]  # the state before an episode: zeros
    observe: Callable[[RSSMParams, Key, Latent, Action, Array, Array], Latent]
    """(params, key, state, action, token, first []) -> the state at one more observation"""
    track: Callable[[RSSMParams, Key, Latent, Action, Array, Array], Tracked]
    """(params, key, state, actions [T], tokens [T, E], first [T]) -> all states, posteriors and priors"""
    step: Callable[[RSSMParams, Key, Latent, Action], Latent]
    """(params, key, state, action) -> a state drawn from the prior"""
    imagine: Callable[..., tuple[Latent, Action]]
    """(params, key, state, policy, horizon) -> states [H + 1, ...] from the given one on, actions [H, ...]"""
    kl: Callable[[Any, Any], Array]  # of two distributions, [] in nats
    size: int  # entries of `features`


def features(state: Latent) -> Array:
    """h and z side by side, [F], for heads."""
    return jnp.concatenate([state.deter, state.stoch.reshape(-1)])


def previous(actions: Action) -> Action:
    """The action before each of T steps, from the action at each: zeros, then all but the last, [T, ...].

    Rows of a buffer hold the action taken at an observation; a model is driven by the one that led there.
    """
    return jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]]), actions)


def action_code(space: Space, action: Action) -> Array:
    """An action as a vector: one-hot if it is a number of a discrete space, else a / max(1, |a|).

    A vector for a discrete action is taken as it is, so that a gradient can come back through it.
    """
    if isinstance(space, Discrete):
        return jax.nn.one_hot(action, space.n) if jnp.issubdtype(jnp.result_type(action), jnp.integer) else action
    action = jnp.reshape(action, -1)
    return action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))


def code_size(space: Space) -> int:
    """Entries of `action_code`."""
    return space.n if isinstance(space, Discrete) else space.size


def block_rssm(cfg: RSSMConfig, space: Space, token: int) -> RSSM:
    """DreamerV3's model: a block GRU, categorical latents with unimix, two layers to the prior, one to the posterior.

    Args:
      cfg: sizes; floats may be traced.
      space: of the actions.
      token: entries of an encoded observation.
    Raises:
      ValueError: a setting out of range.
    """
    check(cfg)
    family = latents.categorical(cfg.stoch, cfg.classes, cfg.unimix)
    cell = block_gru(cfg.deter, family.outputs, code_size(space), cfg.hidden, cfg.blocks)
    prior = layers(cfg.deter, (cfg.hidden, cfg.hidden), family.outputs)
    posterior = joint((cfg.deter, token), (cfg.hidden,), family.outputs)
    return rssm(cfg.deter, space, family, cell, prior, posterior)


def gaussian_rssm(cfg: GRUConfig, space: Space, token: int) -> RSSM:
    """The first Dreamer's model: a plain GRU, Gaussian latents of deviation above 0.1, ELU."""
    check(cfg)
    return _gru_rssm(cfg, space, token, latents.gaussian(cfg.stoch), "none")


def categorical_rssm(cfg: GRUConfig, space: Space, token: int) -> RSSM:
    """The second Dreamer's model: a GRU with layer norm, categorical latents, ELU."""
    check(cfg)
    return _gru_rssm(cfg, space, token, latents.categorical(cfg.stoch, cfg.classes), "layer")


def _gru_rssm(cfg: GRUConfig, space: Space, token: int, family: Latents, norm: str) -> RSSM:
    cell = gru(cfg.deter, math.prod(family.shape), code_size(space), cfg.hidden, "elu", norm)
    prior = layers(cfg.deter, (cfg.hidden,), family.outputs, "elu", "none")
    posterior = joint((cfg.deter, token), (cfg.hidden,), family.outputs, "elu", "none")
    return rssm(cfg.deter, space, family, cell, prior, posterior)


def rssm(deter: int, space: Space, family: Latents, cell: Staged, prior: Net, posterior: Staged) -> RSSM:
    """A model of its parts.

    Args:
      deter: D.
      space: of the actions.
      family: of the latents.
      cell: (h, z, action) -> h.
      prior: h -> outputs.
      posterior: (h, token) -> outputs.
    """

    def init(key: Key) -> RSSMParams:
        keys = jax.random.split(key, 3)
        return RSSMParams(cell.init(keys[0]), prior.init(keys[1]), posterior.init(keys[2]))

    def start() -> Latent:
        return Latent(jnp.zeros(deter), jnp.zeros(family.shape))

    def remember(params: RSSMParams, state: Latent, drive: Array) -> Array:
        return cell.apply(params.cell, state.deter, state.stoch.reshape(-1), drive)

    def prior_of(params: RSSMParams, memory: Array) -> Any:
        return family.dist(prior.apply(params.prior, memory))

    def track(params: RSSMParams, key: Key, state: Latent, actions: Action, tokens: Array, first: Array) -> Tracked:
        codes = jax.vmap(lambda action: action_code(space, action))(actions)
        codes = jnp.where(first[:, None], 0.0, codes).astype(tokens.dtype)
        # All that does not depend on the state, for all steps at once.
        drives = jax.vmap(cell.ahead, (None, 0))(params.cell, codes)
        told = jax.vmap(posterior.ahead, (None, 0))(params.posterior, tokens)
        noise = family.noise(key, tokens.shape[0])
        state = jax.tree.map(lambda leaf: leaf.astype(tokens.dtype), state)  # what a buffer keeps may be narrower

        def one(state: Latent, at: tuple[Array, Array, Array, Array]) -> tuple[Latent, tuple[Latent, Any]]:
            drive, told, noise, first = at
            memory = remember(params, tree.where(first, jax.tree.map(jnp.zeros_like, state), state), drive)
            dist = family.dist(posterior.apply(params.posterior, memory, told))
            state = Latent(memory, family.sample(dist, noise).astype(memory.dtype))
            return state, (state, dist)

        states, dists = jax.lax.scan(one, state, (drives, told, noise, first))[1]
        return Tracked(states, dists, jax.vmap(prior_of, (None, 0))(params, states.deter))

    def observe(params: RSSMParams, key: Key, state: Latent, action: Action, token: Array, first: Array) -> Latent:
        action, token, first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (action, token, first))
        return tree.take(track(params, key, state, action, token, first).states, 0)

    def forward(params: RSSMParams, noise: Array, state: Latent, action: Action) -> Latent:
        code = action_code(space, action).astype(state.deter.dtype)
        memory = remember(params, state, cell.ahead(params.cell, code))
        return Latent(memory, family.sample(prior_of(params, memory), noise).astype(memory.dtype))

    def step(params: RSSMParams, key: Key, state: Latent, action: Action) -> Latent:
        return forward(params, family.noise(key, 1)[0], state, action)

    def imagine(
        params: RSSMParams, key: Key, state: Latent, policy: Callable[[Key, Latent], Action], horizon: int
    ) -> tuple[Latent, Action]:
        key_noise, key_policy = jax.random.split(key)

        def one(state: Latent, at: tuple[Array, Array]) -> tuple[Latent, tuple[Latent, Action]]:
            noise, i = at
            action = policy(jax.random.fold_in(key_policy, i), state)
            state = forward(params, noise, state, action)
            return state, (state, action)

        later, actions = jax.lax.scan(one, state, (family.noise(key_noise, horizon), jnp.arange(horizon)))[1]
        states = jax.tree.map(lambda now, then: jnp.concatenate([now[None], then]), state, later)
        return states, actions

    return RSSM(init, start, observe, track, step, imagine, family.kl, deter + math.prod(family.shape))
