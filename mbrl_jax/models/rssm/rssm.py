"""Recurrent state-space models: the latent dynamics of the Dreamers (Hafner et al. 2019, arXiv 1811.04551).

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})        deterministic state
    z_t ~ p(z_t | h_t)                        prior, for imagination
    z_t ~ q(z_t | h_t, x_t)                   posterior, x_t the encoded observation (the token)

a_{t-1} is the action that led to observation t. At the first observation of an episode the previous h, z and a are
zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Discrete, Key, MultiDiscrete, Obs, Params, Space
from mbrl_jax.models.rssm import latents
from mbrl_jax.models.rssm.latents import Latents
from mbrl_jax.nets.layers import Staged, joint, layers
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.recurrent import block_gru, gru


@config
class RSSMConfig:
    """Sizes of DreamerV3's RSSM; the defaults are the smallest size of the authors' code, 1m."""

    deter: int = setting(default=512, low=1, help="size of the deterministic state, a multiple of blocks")
    hidden: int = setting(default=64, low=1, help="units of every hidden layer")
    stoch: int = setting(default=32, low=1, help="number of categorical latent variables")
    classes: int = setting(default=4, low=2, help="classes of each latent variable")
    blocks: int = setting(default=8, low=1, help="blocks of the recurrent weights")
    unimix: float = setting(default=0.01, above=0, below=1, help="share of the uniform distribution in every latent")


@config
class GRUConfig:
    """Sizes of the RSSMs of the first two Dreamers."""

    deter: int = setting(default=200, low=1, help="size of the deterministic state")
    hidden: int = setting(default=200, low=1, help="units of every hidden layer")
    stoch: int = setting(default=30, low=1, help="number of latent variables")
    classes: int = setting(
        default=32, low=2, help="classes of each categorical latent variable; Gaussian ones ignore it"
    )


class Latent(NamedTuple):
    """A model state."""

    deter: Array  # [D] deterministic state h
    stoch: Array  # [S] or [S, C] stochastic latent z


class RSSMParams(NamedTuple):
    """Parameters of an RSSM."""

    cell: Params  # recurrent cell f
    prior: Params
    posterior: Params


class Tracked(NamedTuple):
    """The filtered states of an observation sequence."""

    states: Latent  # [T, ...] h_t and z_t ~ q
    posterior: Any  # [T, ...] distributions q, as `RSSM.kl` takes them
    prior: Any  # [T, ...] distributions p


class Rows(NamedTuple):
    """A window of experience as a model's input: row t holds o_t and the action a_{t-1} that led to it."""

    obs: Obs  # [T, ...]
    action: Array  # [T, A] `action_code` of a_{t-1}; ignored where `first`
    reward: Array  # [T] received on arriving at o_t
    discount: Array  # [T] 0 where o_t is terminal, else 1
    first: Array  # [T] bool: o_t starts an episode
    last: Array  # [T] bool: o_t ends an episode


class RSSM(NamedTuple):
    """A recurrent state-space model as pure functions over one sequence or one state."""

    init: Callable[[Key], RSSMParams]
    start: Callable[[], Latent]  # the state before an episode: zeros
    observe: Callable[[RSSMParams, Key, Latent, Action, Array, Array], Latent]
    """(params, key, state, action, token [E], first []) -> the posterior state after one more observation"""
    track: Callable[[RSSMParams, Key, Latent, Action, Array, Array], Tracked]
    """(params, key, state, actions [T], tokens [T, E], first [T]) -> states, posteriors and priors [T, ...]"""
    step: Callable[[RSSMParams, Key, Latent, Action], Latent]
    """(params, key, state, action) -> the next state, sampled from the prior"""
    imagine: Callable[..., tuple[Latent, Action]]
    """(params, key, state, policy, horizon) -> states [H + 1, ...] from the given one on, actions [H, ...];
    policy: (key, state) -> action"""
    kl: Callable[[Any, Any], Array]  # (q, p) -> KL(q ‖ p), [] in nats
    size: int  # F, entries of `features`


def initial_state(deter: int, stoch: tuple[int, ...]) -> Latent:
    """The state before an episode: zeros of the sizes of h and z."""
    return Latent(jnp.zeros(deter, jnp.float32), jnp.zeros(stoch, jnp.float32))


def features(state: Latent) -> Array:
    """The input of every head, h and z concatenated, [F]."""
    return jnp.concatenate([state.deter, state.stoch.reshape(-1)])


def previous(actions: Action) -> Action:
    """The action before each of T steps, from the action at each: zeros, then all but the last, [T, ...].

    Rows of a buffer hold the action taken at an observation; a model needs the one that led there.
    """
    return jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]]), actions)


def action_code(space: Space, action: Action) -> Array:
    """An action as a vector [A]: one-hot if it is a number of a discrete space, else a / max(1, |a|).

    A vector of numbers, of a `MultiDiscrete` space, is the one-hot codes of its entries, one after the other.

    A vector for a discrete action passes unchanged, so that gradients can flow through it.
    """
    if isinstance(space, Discrete):
        is_index = jnp.issubdtype(jnp.result_type(action), jnp.integer)
        return jax.nn.one_hot(action, space.n, dtype=jnp.float32) if is_index else action
    if isinstance(space, MultiDiscrete):
        return space.one_hot(action) if jnp.issubdtype(jnp.result_type(action), jnp.integer) else action
    action = jnp.reshape(action, -1)
    return action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))


def code_size(space: Space) -> int:
    """Entries of `action_code`."""
    return space.n if isinstance(space, Discrete) else space.size


def block_rssm(cfg: RSSMConfig, space: Space, token: int) -> RSSM:
    """DreamerV3's RSSM: a block GRU, categorical latents with unimix, prior and posterior of two and one hidden layers.

    Args:
      cfg: sizes; floats may be traced.
      space: action space.
      token: E, entries of an encoded observation.
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
    """The first Dreamer's RSSM: a plain GRU, Gaussian latents with standard deviations above 0.1, ELU."""
    check(cfg)
    return _gru_rssm(cfg, space, token, latents.gaussian(cfg.stoch), "none")


def categorical_rssm(cfg: GRUConfig, space: Space, token: int) -> RSSM:
    """The second Dreamer's RSSM: a GRU with layer norm, categorical latents, ELU."""
    check(cfg)
    return _gru_rssm(cfg, space, token, latents.categorical(cfg.stoch, cfg.classes), "layer")


def _gru_rssm(cfg: GRUConfig, space: Space, token: int, family: Latents, norm: str) -> RSSM:
    cell = gru(cfg.deter, math.prod(family.shape), code_size(space), cfg.hidden, "elu", norm)
    prior = layers(cfg.deter, (cfg.hidden,), family.outputs, "elu", "none")
    posterior = joint((cfg.deter, token), (cfg.hidden,), family.outputs, "elu", "none")
    return rssm(cfg.deter, space, family, cell, prior, posterior)


def rssm(deter: int, space: Space, family: Latents, cell: Staged, prior: Net, posterior: Staged) -> RSSM:
    """Assembles an RSSM from its networks.

    Args:
      deter: D, size of the deterministic state.
      space: action space.
      family: distribution of the latents.
      cell: recurrent cell (h, z, action) -> h.
      prior: h -> parameters of p.
      posterior: (h, token) -> parameters of q.
    Returns:
      the model as pure functions; its features have D + (entries of z) entries.
    """

    def init(key: Key) -> RSSMParams:
        keys = jax.random.split(key, 3)
        return RSSMParams(cell.init(keys[0]), prior.init(keys[1]), posterior.init(keys[2]))

    def next_deter(params: RSSMParams, state: Latent, action_input: Array) -> Array:
        return cell.apply(params.cell, state.deter, state.stoch.reshape(-1), action_input)

    def prior_dist(params: RSSMParams, deter: Array) -> Any:
        return family.dist(prior.apply(params.prior, deter))

    def track(params: RSSMParams, key: Key, state: Latent, actions: Action, tokens: Array, first: Array) -> Tracked:
        codes = jax.vmap(lambda action: action_code(space, action))(actions)
        codes = jnp.where(first[:, None], 0.0, codes).astype(tokens.dtype)
        # Whatever does not depend on the state is computed for all steps at once, outside the scan.
        action_inputs = jax.vmap(cell.ahead, (None, 0))(params.cell, codes)
        token_inputs = jax.vmap(posterior.ahead, (None, 0))(params.posterior, tokens)
        noise = family.noise(key, tokens.shape[0])
        state = jax.tree.map(lambda leaf: leaf.astype(tokens.dtype), state)  # a buffer may store lower precision

        def one(state: Latent, at: tuple[Array, Array, Array, Array]) -> tuple[Latent, tuple[Latent, Any]]:
            action_input, token_input, noise, first = at
            state = tree.where(first, jax.tree.map(jnp.zeros_like, state), state)
            deter = next_deter(params, state, action_input)
            dist = family.dist(posterior.apply(params.posterior, deter, token_input))
            state = Latent(deter, family.sample(dist, noise).astype(deter.dtype))
            return state, (state, dist)

        _, (states, dists) = jax.lax.scan(one, state, (action_inputs, token_inputs, noise, first))
        return Tracked(states, dists, jax.vmap(prior_dist, (None, 0))(params, states.deter))

    def observe(params: RSSMParams, key: Key, state: Latent, action: Action, token: Array, first: Array) -> Latent:
        action, token, first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (action, token, first))
        return tree.take(track(params, key, state, action, token, first).states, 0)

    def forward(params: RSSMParams, noise: Array, state: Latent, action: Action) -> Latent:
        code = action_code(space, action).astype(state.deter.dtype)
        deter = next_deter(params, state, cell.ahead(params.cell, code))
        return Latent(deter, family.sample(prior_dist(params, deter), noise).astype(deter.dtype))

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
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state, later), actions

    start, size = partial(initial_state, deter, family.shape), deter + math.prod(family.shape)
    return RSSM(init, start, observe, track, step, imagine, family.kl, size)
