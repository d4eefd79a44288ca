"""DreamerV3's networks by size, and its world model's loss.

Hafner et al. 2023 (arXiv 2301.04104) and the authors' code. With states s_t = (h_t, z_t) filtered along a window:

    L_model = mean [ L_kl + α L_rec + L_rew + L_con ]                           `model_loss`
    L_kl  = β_dyn max(f, KL(sg q_t ‖ p_t)) + β_rep max(f, KL(q_t ‖ sg p_t))     `ops.kl.clipped`, f free nats
    L_rec = decoder's loss of o_t                                               `nets.observations`
    L_rew = CE(reward(s_t), two-hot(r_t))                                       `ops.two_hot`, symexp bins
    L_con = BCE(continue(s_t), γ d_t)                                           `ops.model_losses`

Without a decoder R2-Dreamer's loss (`models.rssm.r2_dreamer`) takes the place of α L_rec. The reward and the discount
are those of arriving at o_t: 0 and 1 where it is the first of an episode.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import Array, Box, Key, Metrics, Model, Obs, Params, Spec, State, StepOut
from mbrl_jax.models.rssm.r2_dreamer import SCALE, projector, redundancy_loss
from mbrl_jax.models.rssm.rssm import RSSM, Latent, Rows, RSSMConfig, block_rssm, code_size, features
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.observations import CoderConfig, Decoder, decoder, encoder
from mbrl_jax.ops.kl import clipped, two_way
from mbrl_jax.ops.model_losses import binary_cross_entropy, likelihood_weight
from mbrl_jax.ops.two_hot import expectation, symexp_bins, two_hot_cross_entropy


class Widths(NamedTuple):
    """The widths that a size stands for, as in `DreamerV3NetConfig`."""

    deter: int
    units: int
    stoch: int
    classes: int
    depth: int
    blocks: int


SIZES: dict[str, Widths] = {
    "nano": Widths(128, 64, 8, 8, 4, 4),
    "1m": Widths(512, 64, 32, 4, 4, 8),
    "12m": Widths(2048, 256, 32, 16, 16, 8),
    "25m": Widths(3072, 384, 32, 24, 24, 8),
    "50m": Widths(4096, 512, 32, 32, 32, 8),
    "100m": Widths(6144, 768, 32, 48, 48, 8),
    "200m": Widths(8192, 1024, 32, 64, 64, 8),
    "400m": Widths(12288, 1536, 32, 96, 96, 8),
}
"""Sizes of the authors' code, and "nano" for small tasks on a CPU."""


@config
class DreamerV3NetConfig:
    """Sizes of DreamerV3's networks."""

    size: str = setting(
        default="nano", choices=tuple(SIZES), help="preset of all widths; a width given explicitly overrides it"
    )
    deter: int = setting(default=0, low=0, help="size of the deterministic state; 0 takes the preset's, as below")
    units: int = setting(default=0, low=0, help="units of every hidden layer")
    stoch: int = setting(default=0, low=0, help="number of categorical latent variables")
    classes: int = setting(default=0, low=0, help="classes of each latent variable")
    depth: int = setting(default=0, low=0, help="base number of convolution channels, for planes and images")
    blocks: int = setting(default=0, low=0, help="blocks of the recurrent weights")
    images: str = setting(
        default="stride", choices=("stride", "pool"),
        help="what halves images: convolutions 4 x 4 of stride 2, or 5 x 5 with max-pooling, for accelerators",
    )  # fmt: skip
    unimix: float = setting(default=0.01, above=0, below=1, help="share of the uniform distribution in every latent")
    bins: int = setting(default=255, low=3, high=65_535, help="bins of reward and value distributions, an odd number")
    bound: int = setting(default=20, low=1, high=80, help="largest bin in symlog units: 20 is 485 million, 8 is 2980")
    decoder: bool = setting(
        default=True, help="whether to reconstruct observations; if not, R2-Dreamer's loss trains the states"
    )


class DreamerParams(NamedTuple):
    """Parameters of `Networks`."""

    encoder: Params
    rssm: Params
    decoder: Params  # of the projector where there is no decoder
    reward: Params
    cont: Params
    actor: Params
    critic: Params


class Networks(NamedTuple):
    """All networks as pure functions. Heads take `rssm.features` [F] of one state."""

    encoder: Net  # observation -> token [E]
    rssm: RSSM
    decoder: Decoder | None
    project: Net | None  # features -> [E]; where there is no decoder
    reward: Net  # -> logits [bins]
    cont: Net  # -> logit [1]
    actor: Net  # -> logits [A], or mean and standard deviation [2A] before their transforms
    critic: Net  # -> logits [bins]
    bins: Array  # [bins] symexp bins of rewards and values

    def init(self, key: Key) -> DreamerParams:
        """Initial parameters of all networks. Rewards and values start at exactly 0, the policy nearly uniform."""
        reconstruct = self.project if self.decoder is None else self.decoder.net
        nets: Any = (self.encoder, self.rssm, reconstruct, self.reward, self.cont, self.actor, self.critic)
        return DreamerParams(*(net.init(key) for net, key in zip(nets, jax.random.split(key, len(nets)), strict=True)))


def widths(cfg: DreamerV3NetConfig) -> Widths:
    """The preset's widths, each overridden where the config gives one."""
    return Widths(*(getattr(cfg, name) or own for name, own in SIZES[cfg.size]._asdict().items()))


def dreamer_v3(cfg: DreamerV3NetConfig, spec: Spec) -> Networks:
    """DreamerV3's networks for one environment.

    Args:
      cfg: sizes; floats may be traced.
      spec: observations a vector, planes or an image (see `nets.observations`).
    Raises:
      ValueError: a size out of range, or observations of another kind.
    """
    check(cfg)
    if cfg.bins % 2 == 0:
        raise ValueError(f"bins must be odd, got {cfg.bins}")
    size = widths(cfg)
    coder = CoderConfig(units=size.units, depth=size.depth, images=cfg.images)
    encode = encoder(spec.obs, coder)
    sizes = RSSMConfig(
        deter=size.deter, hidden=size.units, stoch=size.stoch, classes=size.classes, blocks=size.blocks,
        unimix=cfg.unimix,
    )  # fmt: skip
    rssm = block_rssm(sizes, spec.action, encode.size)
    one, three = (size.units,), (size.units,) * 3
    actions = 2 * spec.action.size if isinstance(spec.action, Box) else code_size(spec.action)
    return Networks(
        encoder=encode.net,
        rssm=rssm,
        decoder=decoder(spec.obs, size.deter, size.stoch * size.classes, coder) if cfg.decoder else None,
        project=None if cfg.decoder else projector(rssm.size, encode.size),
        reward=layers(rssm.size, one, cfg.bins, out_scale=0.0),
        cont=layers(rssm.size, one, 1),
        actor=layers(rssm.size, three, actions, out_scale=0.01),
        critic=layers(rssm.size, three, cfg.bins, out_scale=0.0),
        bins=symexp_bins(cfg.bins, cfg.bound),
    )


def predicted_reward(nets: Networks, params: DreamerParams, feature: Array) -> Array:
    """The mean of the predicted reward distribution at one state.

    Args:
      nets: the networks.
      params: of all networks.
      feature: [F] of the state.
    Returns:
      E[r] [] on arriving there.
    """
    return expectation(nets.reward.apply(params.reward, feature).astype(jnp.float32), nets.bins)


def predicted_discount(nets: Networks, params: DreamerParams, feature: Array) -> Array:
    """The predicted discount of one state; it contains γ, see L_con.

    Args:
      nets, params, feature: as in `predicted_reward`.
    Returns:
      γ times the probability that the state is not terminal, [] in [0, 1].
    """
    return jax.nn.sigmoid(nets.cont.apply(params.cont, feature)[0].astype(jnp.float32))


def model_loss(
    params: DreamerParams,
    key: Key,
    start: Latent,
    rows: Rows,
    *,
    nets: Networks,
    weights: Array,
    gamma: Array | float,
    free: Array | float = 1.0,
    dyn_scale: Array | float = 1.0,
    rep_scale: Array | float = 0.1,
    decoder_scale: Array | float = 1.0,
    calibrated: bool = False,
) -> tuple[Array, Metrics]:
    """The world model's loss on a batch of windows.

        L_model = mean w [ L_kl + α L_rec + L_rew + L_con ]           terms in the module's docstring
        L_model = mean w [ L_kl + L_rew + L_con ] + 0.05 L_R2         without a decoder

    Args:
      params: of all networks; those of actor and critic get no gradient.
      key: for sampling latents.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows.
      nets: the networks.
      weights: [B] w, importance weight of each window.
      gamma: γ in [0, 1), discount per step.
      free: f, free nats of each KL per step.
      dyn_scale: β_dyn, weight of the KL that trains the prior.
      rep_scale: β_rep, weight of the KL that trains the posterior.
      decoder_scale: α, weight of the reconstruction; unused without a decoder.
      calibrated: whether α is multiplied by `likelihood_weight`, for observations that are vectors.
    Returns:
      L_model [] and the means "kl_loss", "decoder_loss" (L_rec, or L_R2), "reward_loss", "continue_loss" and "kl",
      KL(q ‖ p) in nats before the free nats.
    Source: Hafner et al. 2023, eq. 2 and 3, and the authors' code.
    """
    (loss, _), metrics = model_loss_and_states(
        params, key, start, rows, nets=nets, weights=weights, gamma=gamma, free=free, dyn_scale=dyn_scale,
        rep_scale=rep_scale, decoder_scale=decoder_scale, calibrated=calibrated,
    )  # fmt: skip
    return loss, metrics


def model_loss_and_states(
    params: DreamerParams,
    key: Key,
    start: Latent,
    rows: Rows,
    *,
    nets: Networks,
    weights: Array,
    gamma: Array | float,
    free: Array | float = 1.0,
    dyn_scale: Array | float = 1.0,
    rep_scale: Array | float = 0.1,
    decoder_scale: Array | float = 1.0,
    calibrated: bool = False,
) -> tuple[tuple[Array, Latent], Metrics]:
    """`model_loss` together with the rows' states, from which imagination starts.

    Both can be differentiated, for losses of the states that come later; see `agents.dreamer.v3`.

    Args:
      params, key, start, rows, nets, weights, gamma: as in `model_loss`.
      free, dyn_scale, rep_scale, decoder_scale, calibrated: as in `model_loss`.
    Returns:
      L_model [] with the states [T, B, ...], and the metrics of `model_loss`.
    """

    def one(params: DreamerParams, key: Key, start: Latent, rows: Rows) -> tuple[Latent, Array, dict[str, Array]]:
        scales = {"free": free, "dyn_scale": dyn_scale, "rep_scale": rep_scale}
        return window_terms(params, key, start, rows, nets=nets, gamma=gamma, **scales)

    keys = jax.random.split(key, weights.shape[0])
    states, tokens, terms = vmap_shares(one, params, (keys, start, rows), (0, 0, 1), 1)
    means = jax.tree.map(lambda term: jnp.mean(weights * term), terms)
    if nets.project is not None:
        flat, tokens = tree.flatten_dims((states, tokens), 2)
        feature, decoder_scale = jax.vmap(features)(flat), SCALE
        means["decoder_loss"], _ = redundancy_loss(params.decoder, feature, tokens, project=nets.project)
    elif calibrated:
        decoder_scale *= likelihood_weight(means["decoder_loss"], rows.obs.shape[-1])
    loss = (
        means["kl_loss"] + decoder_scale * means["decoder_loss"] + means["reward_loss"] + means["continue_loss"]
    )  # fmt: skip
    return (loss, states), means


def window_terms(
    params: DreamerParams,
    key: Key,
    start: Latent,
    rows: Rows,
    *,
    nets: Networks,
    gamma: Array | float,
    free: Array | float = 1.0,
    dyn_scale: Array | float = 1.0,
    rep_scale: Array | float = 0.1,
) -> tuple[Latent, Array, dict[str, Array]]:
    """States and loss terms of each step of one window.

    Args:
      params, key, nets, gamma, free, dyn_scale, rep_scale: as in `model_loss`.
      start: the state before the first row.
      rows: [T, ...].
    Returns:
      the states [T, ...], the tokens [T, E], and [T] each "kl_loss", "reward_loss", "continue_loss", with a decoder
      "decoder_loss", and "kl", KL(q ‖ p) before the free nats.
    """
    tokens = jax.vmap(nets.encoder.apply, (None, 0))(params.encoder, rows.obs)
    tracked = nets.rssm.track(params.rssm, key, start, rows.action, tokens, rows.first)
    dyn, rep = two_way(jax.vmap(nets.rssm.kl), tracked.posterior, tracked.prior)

    def heads(state: Latent, obs: Obs, reward: Array, discount: Array) -> dict[str, Array]:
        feature = features(state)
        reward_logits = nets.reward.apply(params.reward, feature).astype(jnp.float32)
        cont_logit = nets.cont.apply(params.cont, feature)[0].astype(jnp.float32)
        terms = {
            "reward_loss": two_hot_cross_entropy(reward_logits, reward, nets.bins),
            "continue_loss": binary_cross_entropy(cont_logit, gamma * discount),
        }
        if nets.decoder is not None:
            prediction = nets.decoder.net.apply(params.decoder, state.deter, state.stoch.reshape(-1))
            terms["decoder_loss"] = nets.decoder.loss(jax.tree.map(lambda x: x.astype(jnp.float32), prediction), obs)
        return terms

    terms = jax.vmap(heads)(tracked.states, rows.obs, rows.reward, rows.discount)
    kl_loss = clipped(dyn, rep, free, dyn_scale, rep_scale)
    return tracked.states, tokens, terms | {"kl_loss": kl_loss, "kl": dyn}


def bind(nets: Networks, params: DreamerParams) -> Model:
    """The learned model as a planner's `Model` over latent states, with the critic as its value.

    Its discounts already contain γ: a planner on it should discount by 1.
    """

    def step(key: Key, state: State, action: Array) -> StepOut:
        state = nets.rssm.step(params.rssm, key, state, action)
        feature = features(state)
        return StepOut(state, predicted_reward(nets, params, feature), predicted_discount(nets, params, feature))

    def value(key: Key, state: State) -> Array:
        del key
        return expectation(nets.critic.apply(params.critic, features(state)).astype(jnp.float32), nets.bins)

    return Model(step, value)
