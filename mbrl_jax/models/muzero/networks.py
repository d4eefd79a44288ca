"""MuZero's model: a latent state, its dynamics, and the predictions from it.

Schrittwieser et al. 2020, "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model" (arXiv 1911.08265):

    s^0 = h(o),    s^k, r^k = g(s^{k-1}, a^k),    p^k, v^k = f(s^k)

Latent states are rescaled to [0, 1] by their smallest and largest entry (appendix G). Rewards and values are softmaxes
over the integers from -n to n; the number is h⁻¹ of the mean (appendix F, `ops.transforms`). The model has no
termination head: past the end of an episode it learns rewards and values of 0 (`models.muzero.losses`).

Projector and predictor of the consistency loss are those of EfficientZero (Ye et al. 2021, arXiv 2111.00210).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.images import is_image
from mbrl_jax.core.types import Action, Array, Box, Key, Model, Obs, Params, Spec, StepOut
from mbrl_jax.nets import residual
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.transforms import signed_parabolic
from mbrl_jax.ops.two_hot import integer_bins, two_hot_decode


@config
class MuZeroNetConfig:
    """Sizes of MuZero's networks."""

    latent: int = setting(default=64, low=1, help="size of the latent vector, without blocks")
    hidden: tuple[int, ...] = setting(default=(64,), low=1, help="widths of the hidden layers of every MLP")
    layer_norm: bool = setting(default=True, help="layer norm before each hidden activation of the MLPs")
    support: int = setting(
        default=10, low=1, help="largest class n: transformed values and rewards are classes from -n to n"
    )
    blocks: int = setting(
        default=0, low=0, help="number of residual blocks of representation and dynamics; 0 flattens planes"
    )
    channels: int = setting(
        default=16, low=1, help="number of latent planes, with blocks above 0; else of an image's first convolution"
    )
    project: int = setting(
        default=0, low=0, help="size of the projection in the consistency loss; 0 for no consistency loss"
    )


class Networks(NamedTuple):
    """The three networks h, g and f, their parameters outside."""

    init: Callable[[Key], Params]
    represent: Callable[[Params, Obs], Array]  # h: -> latent, in [0, 1]
    advance: Callable[[Params, Array, Action], tuple[Array, Array]]  # g: -> latent, reward logits [2n + 1]
    predict: Callable[[Params, Array], tuple[Array, Array]]  # f: -> policy logits [A], value logits [2n + 1]
    project: Callable[[Params, Array], tuple[Array, Array]] | None  # latent -> p(latent), q(p(latent))
    bins: Array  # [2n + 1] the integers from -n to n
    num_actions: int


class Latent(NamedTuple):
    """The state of this model in a planner."""

    features: Array  # [latent], or planes [height, width, channels]
    legal: Array | None  # [A] bool: the environment's mask at the root, all True below it; None without masks


def unit_range(x: Array) -> Array:
    """(x - min x) / (max x - min x): a latent state in [0, 1]; all 0 where all entries are equal."""
    low, high = jnp.min(x), jnp.max(x)
    return (x - low) / jnp.maximum(high - low, 1e-6)


def muzero(cfg: MuZeroNetConfig, spec: Spec) -> Networks:
    """MuZero's networks for one environment.

    The last layers of policy, value and reward start at 0: a uniform policy, and values and rewards of 0.

    Args:
      cfg: sizes.
      spec: actions discrete; observations a vector, planes or an image.
    Raises:
      ValueError: a size out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    if not isinstance(spec.obs, Box) or len(spec.obs.shape) not in (1, 3):
        raise ValueError(f"{spec.name}: observations must be a vector or planes [height, width, channels]")
    if cfg.blocks and len(spec.obs.shape) != 3:
        raise ValueError(f"blocks must be 0: {spec.name} has no planes to convolve")
    num_actions, bins = spec.num_actions, integer_bins(cfg.support)
    encoder, dynamics, latent = _trunk(cfg, spec.obs, num_actions)

    def head(out: int) -> Net:
        return network(latent, cfg.hidden, out, out_scale=0.0, channels=0, layer_norm=cfg.layer_norm)

    nets = {
        "encoder": encoder, "dynamics": dynamics,
        "reward": head(len(bins)), "policy": head(num_actions), "value": head(len(bins)),
    }  # fmt: skip
    if cfg.project:
        nets["projector"] = network(latent, cfg.hidden, cfg.project, channels=0, layer_norm=cfg.layer_norm)
        nets["latent_predictor"] = mlp(cfg.project, cfg.hidden, cfg.project, layer_norm=cfg.layer_norm)

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(nets))
        return {name: net.init(key) for (name, net), key in zip(nets.items(), keys, strict=True)}

    def represent(params: Params, obs: Obs) -> Array:
        return unit_range(encoder.apply(params["encoder"], obs))

    def advance(params: Params, features: Array, action: Action) -> tuple[Array, Array]:
        after = unit_range(
            dynamics.apply(params["dynamics"], features, jax.nn.one_hot(action, num_actions, dtype=jnp.float32))
        )
        return after, nets["reward"].apply(params["reward"], after)

    def predict(params: Params, features: Array) -> tuple[Array, Array]:
        return nets["policy"].apply(params["policy"], features), nets["value"].apply(params["value"], features)

    def project(params: Params, features: Array) -> tuple[Array, Array]:
        projection = nets["projector"].apply(params["projector"], features)
        return projection, nets["latent_predictor"].apply(params["latent_predictor"], projection)

    return Networks(init, represent, advance, predict, project if cfg.project else None, bins, num_actions)


def _trunk(cfg: MuZeroNetConfig, obs: Box, num_actions: int) -> tuple[Net, Net, Box]:
    """Representation and dynamics before rescaling, and the shape of a latent state."""
    if cfg.blocks:
        shape = (*obs.shape[:2], cfg.channels)
        if is_image(obs):
            encoder, shape = residual.image_encoder(obs.shape, cfg.channels, cfg.blocks)
        else:
            encoder = residual.encoder(obs.shape, cfg.channels, cfg.blocks)
        return encoder, residual.transition(shape, num_actions, cfg.blocks), Box(shape)
    channels = cfg.channels if is_image(obs) else 0
    encoder = network(obs, cfg.hidden, cfg.latent, channels=channels, layer_norm=cfg.layer_norm)
    change = mlp(cfg.latent + num_actions, cfg.hidden, cfg.latent, layer_norm=cfg.layer_norm)

    def apply(params: Params, features: Array, action: Array) -> Array:
        return features + change.apply(params, jnp.concatenate([features, action]))

    return encoder, Net(change.init, apply), Box((cfg.latent,))


def root(nets: Networks, params: Params, obs: Obs, legal: Array | None = None) -> Latent:
    """The latent state of an observation, the root of a search.

    Args:
      nets: the networks.
      params: the networks'.
      obs: one observation, without its mask.
      legal: [A] bool, the legal actions; None for all.
    """
    return Latent(nets.represent(params, obs), legal)


def bind(nets: Networks, params: Params, players: int = 1, masked: bool = False) -> Model:
    """The learned model as a planner sees it.

    Args:
      nets: the networks.
      params: the networks'.
      players: 1, or 2 who move in turn: the discount of every step is then -1.
      masked: whether the root comes with a mask of legal actions.
    """

    def step(key: Key, state: Latent, action: Action) -> StepOut:
        del key
        features, reward = nets.advance(params, state.features, action)
        legal = None if state.legal is None else jnp.ones_like(state.legal)
        return StepOut(
            Latent(features, legal),
            two_hot_decode(reward, nets.bins, signed_parabolic),
            jnp.float32(1 if players == 1 else -1),
        )

    def value(key: Key, state: Latent) -> Array:
        del key
        return two_hot_decode(nets.predict(params, state.features)[1], nets.bins, signed_parabolic)

    def prior(key: Key, state: Latent) -> Array:
        del key
        return nets.predict(params, state.features)[0]

    def legal(state: Latent) -> Any:
        return state.legal

    return Model(step, value, prior, legal if masked else None)
