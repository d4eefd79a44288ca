"""The world model of the first two Dreamers, and what it loses on a window but for its latents.

Hafner et al. 2020 (arXiv 1912.01603) and 2021 (arXiv 2010.02193). With states s_t = (h_t, z_t) tracked along a window:

    L_rec = ½ Σ (decoder(s_t) - o_t)²           a Gaussian of deviation 1; planes of zeros and ones have a Bernoulli
    L_rew = ½ (reward(s_t) - r_t)²
    L_con = BCE(continue(s_t), d_t)

The reward and the discount are those of arriving at o_t. How posterior and prior share their divergence is what tells
the two agents apart, and is theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Array, Key, Model, Obs, Params, Spec, State, StepOut
from mbrl_jax.models.rssm.rssm import RSSM, GRUConfig, Latent, Rows, Tracked, categorical_rssm, features, gaussian_rssm
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.observations import CoderConfig, Decoder, decoder, encoder
from mbrl_jax.ops.model_losses import binary_cross_entropy


@config
class DreamerNetConfig:
    """Sizes of the first two Dreamers' networks."""

    deter: int = setting(default=200, low=1, help="entries of the memory, a multiple of 8 for images")
    units: int = setting(default=200, low=1, help="width of every layer")
    layers: int = setting(default=3, low=1, help="layers of decoder, heads, actor and critic")
    stoch: int = setting(default=30, low=1, help="latents")
    classes: int = setting(default=32, low=2, help="classes of each; of no account for Gaussian ones")
    depth: int = setting(default=16, low=0, help="channels for planes and images, in the coders' units")
    squash: bool = setting(default=False, help="vectors through symlog, which the third Dreamer brought")


class ModelParams(NamedTuple):
    encoder: Params
    rssm: Params
    decoder: Params
    reward: Params
    cont: Params


class Networks(NamedTuple):
    """The networks of the model, their parameters outside. Heads take `rssm.features` of one state."""

    encoder: Net
    rssm: RSSM
    decoder: Decoder
    reward: Net  # -> [1]
    cont: Net  # -> logit [1]

    def init(self, key: Key) -> ModelParams:
        """Parameters of all of them."""
        nets = (self.encoder, self.rssm, self.decoder.net, self.reward, self.cont)
        return ModelParams(*(net.init(key) for net, key in zip(nets, jax.random.split(key, len(nets)), strict=True)))


def networks(cfg: DreamerNetConfig, spec: Spec, gaussian: bool) -> Networks:
    """The model for one environment.

    Args:
      cfg: sizes.
      spec: observations a vector, planes or an image (see `nets.observations`).
      gaussian: latents of the first Dreamer; else those of the second.
    Raises:
      ValueError: a size out of range, or observations of another kind.
    """
    check(cfg)
    coder = CoderConfig(
        units=cfg.units, layers=cfg.layers, depth=cfg.depth, activation="elu", norm="none", squash=cfg.squash
    )
    encode = encoder(spec.obs, coder)
    sizes = GRUConfig(deter=cfg.deter, hidden=cfg.units, stoch=cfg.stoch, classes=cfg.classes)
    rssm = (gaussian_rssm if gaussian else categorical_rssm)(sizes, spec.action, encode.size)
    return Networks(
        encode.net,
        rssm,
        decoder(spec.obs, cfg.deter, rssm.size - cfg.deter, coder),
        head(cfg, rssm.size, 1),
        head(cfg, rssm.size, 1),
    )


def head(cfg: DreamerNetConfig, size: int, out: int) -> Net:
    """Layers over a state's features [size]."""
    return layers(size, (cfg.units,) * cfg.layers, out, "elu", "none")


def losses(
    model: Networks, params: ModelParams, key: Key, start: Latent, rows: Rows
) -> tuple[Tracked, dict[str, Array]]:
    """The model along one window.

    Args:
      model, params: the networks.
      key: for the latents' samples.
      start: the state before the first row.
      rows: [T, ...].
    Returns:
      what the rows lead to, and of each step [T]: "decoder_loss", "reward_loss" and "continue_loss".
    """
    tokens = jax.vmap(model.encoder.apply, (None, 0))(params.encoder, rows.obs)
    tracked = model.rssm.track(params.rssm, key, start, rows.action, tokens, rows.first)

    def heads(state: Latent, obs: Obs, reward: Array, discount: Array) -> dict[str, Array]:
        feature = features(state)
        seen = model.decoder.net.apply(params.decoder, state.deter, state.stoch.reshape(-1))
        planes = seen.ndim == 1 and jnp.ndim(obs) == 3
        return {
            "decoder_loss": (1.0 if planes else 0.5) * model.decoder.loss(seen, obs),
            "reward_loss": 0.5 * jnp.square(model.reward.apply(params.reward, feature)[0] - reward),
            "continue_loss": binary_cross_entropy(model.cont.apply(params.cont, feature)[0], discount),
        }

    return tracked, jax.vmap(heads)(tracked.states, rows.obs, rows.reward, rows.discount)


def predicted(model: Networks, params: ModelParams, state: Latent) -> tuple[Array, Array]:
    """The reward on arriving at a state, and the chance that it is not terminal, each []."""
    feature = features(state)
    reward = model.reward.apply(params.reward, feature)[0]
    return reward, jax.nn.sigmoid(model.cont.apply(params.cont, feature)[0])


def bind(model: Networks, params: ModelParams) -> Model:
    """The learned model as a planner sees it, from a latent state on."""

    def step(key: Key, state: State, action: Array) -> StepOut:
        state = model.rssm.step(params.rssm, key, state, action)
        return StepOut(state, *predicted(model, params, state))

    return Model(step)
