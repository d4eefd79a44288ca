"""The world model of the first two Dreamers, and the terms of its loss that both share.

Hafner et al. 2020 (arXiv 1912.01603) and 2021 (arXiv 2010.02193). With states s_t = (h_t, z_t) filtered along a window:

    L_rec = ½ Σ (decoder(s_t) - o_t)²           Gaussian with standard deviation 1; Bernoulli for planes of 0 and 1
    L_rew = ½ (reward(s_t) - r_t)²
    L_con = BCE(continue(s_t), d_t)

The reward and the discount are those of arriving at o_t. The KL loss of the latents differs between the two agents: the
totals are `agents.dreamer.v1.model_loss` and `agents.dreamer.v2.model_loss`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import Array, Key, Metrics, Model, Obs, Params, Spec, State, StepOut
from mbrl_jax.models.rssm.rssm import RSSM, GRUConfig, Latent, Rows, Tracked, categorical_rssm, features, gaussian_rssm
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.observations import CoderConfig, Decoder, decoder, encoder
from mbrl_jax.ops.model_losses import binary_cross_entropy


@config
class DreamerNetConfig:
    """Sizes of the first two Dreamers' networks."""

    deter: int = setting(default=200, low=1, help="size of the deterministic state, a multiple of 8 for images")
    units: int = setting(default=200, low=1, help="units of every hidden layer")
    layers: int = setting(default=3, low=1, help="hidden layers of decoder, heads, actor and critic")
    stoch: int = setting(default=30, low=1, help="number of latent variables")
    classes: int = setting(default=32, low=2, help="classes of each latent variable; Gaussian latents ignore it")
    depth: int = setting(default=16, low=0, help="base number of convolution channels, for planes and images")
    squash: bool = setting(default=False, help="whether vectors pass through symlog, as in DreamerV3")
    images: str = setting(
        default="stride", choices=("stride", "pool"),
        help="what halves images: convolutions 4 x 4 of stride 2, or 5 x 5 with max-pooling, for accelerators",
    )  # fmt: skip


class ModelParams(NamedTuple):
    """Parameters of `Networks`."""

    encoder: Params
    rssm: Params
    decoder: Params
    reward: Params
    cont: Params


class Networks(NamedTuple):
    """The world model's networks as pure functions. Heads take `rssm.features` [F] of one state."""

    encoder: Net  # observation -> token [E]
    rssm: RSSM
    decoder: Decoder
    reward: Net  # -> [1]
    cont: Net  # -> logit [1]

    def init(self, key: Key) -> ModelParams:
        """Initial parameters of all networks."""
        nets = (self.encoder, self.rssm, self.decoder.net, self.reward, self.cont)
        return ModelParams(*(net.init(key) for net, key in zip(nets, jax.random.split(key, len(nets)), strict=True)))


def networks(cfg: DreamerNetConfig, spec: Spec, gaussian: bool) -> Networks:
    """The world model's networks for one environment.

    Args:
      cfg: sizes.
      spec: observations a vector, planes or an image (see `nets.observations`).
      gaussian: whether latents are the first Dreamer's Gaussians or the second's categoricals.
    Raises:
      ValueError: a size out of range, or observations of another kind.
    """
    check(cfg)
    coder = CoderConfig(
        units=cfg.units,
        layers=cfg.layers,
        depth=cfg.depth,
        activation="elu",
        norm="none",
        squash=cfg.squash,
        images=cfg.images,
    )
    encode = encoder(spec.obs, coder)
    sizes = GRUConfig(deter=cfg.deter, hidden=cfg.units, stoch=cfg.stoch, classes=cfg.classes)
    rssm = (gaussian_rssm if gaussian else categorical_rssm)(sizes, spec.action, encode.size)
    return Networks(
        encode.net,
        rssm,
        decoder(spec.obs, cfg.deter, rssm.size - cfg.deter, coder, half=True),
        head(cfg, rssm.size, 1),
        head(cfg, rssm.size, 1),
    )


def head(cfg: DreamerNetConfig, size: int, out: int) -> Net:
    """An MLP from a state's features [size] to [out]."""
    return layers(size, (cfg.units,) * cfg.layers, out, "elu", "none")


def model_terms(params: ModelParams, key: Key, start: Latent, rows: Rows, *, nets: Networks) -> tuple[Tracked, Metrics]:
    """The terms of both Dreamers' model losses on a batch of windows, all but the KL's.

    Args:
      params: the world model's.
      key: for sampling latents.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows.
      nets: the networks.
    Returns:
      states, posteriors and priors [T, B, ...]; the means "decoder_loss", "reward_loss" and "continue_loss", [] each.
    """
    keys = jax.random.split(key, start.deter.shape[0])
    one = partial(window_terms, nets=nets)
    tracked, terms = vmap_shares(one, params, (keys, start, rows), (0, 0, 1), 1)
    return tracked, jax.tree.map(jnp.mean, terms)


def window_terms(
    params: ModelParams, key: Key, start: Latent, rows: Rows, *, nets: Networks
) -> tuple[Tracked, dict[str, Array]]:
    """L_rec, L_rew and L_con of each step of one window.

    Args:
      params, key, nets: as in `model_terms`.
      start: the state before the first row.
      rows: [T, ...].
    Returns:
      states, posteriors and priors [T, ...]; [T] each "decoder_loss", "reward_loss" and "continue_loss".
    """
    tokens = jax.vmap(nets.encoder.apply, (None, 0))(params.encoder, rows.obs)
    tracked = nets.rssm.track(params.rssm, key, start, rows.action, tokens, rows.first)

    def heads(state: Latent, obs: Obs, reward: Array, discount: Array) -> dict[str, Array]:
        feature = features(state)
        prediction = nets.decoder.net.apply(params.decoder, state.deter, state.stoch.reshape(-1))
        return {
            "decoder_loss": nets.decoder.loss(prediction, obs),
            "reward_loss": 0.5 * jnp.square(nets.reward.apply(params.reward, feature)[0] - reward),
            "continue_loss": binary_cross_entropy(nets.cont.apply(params.cont, feature)[0], discount),
        }

    return tracked, jax.vmap(heads)(tracked.states, rows.obs, rows.reward, rows.discount)


def predicted(nets: Networks, params: ModelParams, state: Latent) -> tuple[Array, Array]:
    """What the heads predict at one state.

    Args:
      nets: the networks.
      params: the world model's.
      state: where the reward is received.
    Returns:
      E[r] [] on arriving there, and the probability [] in [0, 1] that the state is not terminal.
    """
    feature = features(state)
    reward = nets.reward.apply(params.reward, feature)[0]
    return reward, jax.nn.sigmoid(nets.cont.apply(params.cont, feature)[0])


def bind(nets: Networks, params: ModelParams) -> Model:
    """The learned model as a planner's `Model` over latent states."""

    def step(key: Key, state: State, action: Array) -> StepOut:
        state = nets.rssm.step(params.rssm, key, state, action)
        return StepOut(state, *predicted(nets, params, state))

    return Model(step)
