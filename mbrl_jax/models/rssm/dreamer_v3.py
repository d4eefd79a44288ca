"""DreamerV3's networks by size, and what its world model loses on a window.

Hafner et al. 2023 (arXiv 2301.04104) and the authors' code. With states s_t = (h_t, z_t) tracked along a window:

    L_kl  = β_dyn max(1, KL(sg q_t ‖ p_t)) + β_rep max(1, KL(q_t ‖ sg p_t))     latents, 1 free nat each
    L_rec = decoder's loss of o_t                                               see `nets.observations`
    L_rew = CE(reward(s_t), two-hot(r_t))                                       symexp bins
    L_con = BCE(continue(s_t), γ d_t)                                           γ is folded into the target

The reward and the discount are those of arriving at o_t: 0 and 1 where it is the first of an episode.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Array, Discrete, Key, Model, Obs, Params, Spec, State, StepOut
from mbrl_jax.models.rssm.r2_dreamer import projector, redundancy_loss
from mbrl_jax.models.rssm.rssm import RSSM, Latent, Rows, RSSMConfig, block_rssm, features
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net
from mbrl_jax.nets.observations import CoderConfig, Decoder, decoder, encoder
from mbrl_jax.ops.kl import clipped, two_way
from mbrl_jax.ops.model_losses import binary_cross_entropy
from mbrl_jax.ops.two_hot import expectation, symexp_bins, two_hot


class Widths(NamedTuple):
    """What a size stands for."""

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

    size: str = setting(default="nano", choices=tuple(SIZES), help="all widths at once; those below prevail over it")
    deter: int = setting(default=0, low=0, help="entries of the memory; 0 for the size's own, as below")
    units: int = setting(default=0, low=0, help="width of every layer")
    stoch: int = setting(default=0, low=0, help="categorical latents")
    classes: int = setting(default=0, low=0, help="classes of each")
    depth: int = setting(default=0, low=0, help="channels for planes and images, in the decoder's and encoder's units")
    blocks: int = setting(default=0, low=0, help="blocks of the memory")
    unimix: float = setting(default=0.01, above=0, below=1, help="share of uniform chances in every latent")
    bins: int = setting(default=255, low=3, help="of rewards and values, an odd number")
    bound: int = setting(default=20, low=1, help="of the bins in symlog units: 20 reach to 485 million, 8 to 2980")
    decoder: bool = setting(
        default=True, help="rebuild observations; without, states are held to them by R2-Dreamer's loss"
    )


class DreamerParams(NamedTuple):
    encoder: Params
    rssm: Params
    decoder: Params
    reward: Params
    cont: Params
    actor: Params
    critic: Params


class Networks(NamedTuple):
    """All networks, their parameters outside. Heads take `rssm.features` of one state."""

    encoder: Net  # observation -> token
    rssm: RSSM
    decoder: Decoder | None
    project: Net | None  # in its place: features -> [token]
    reward: Net  # -> logits [bins]
    cont: Net  # -> logit [1]
    actor: Net  # -> logits [A], or mean and deviation [2A] before their transforms
    critic: Net  # -> logits [bins]
    bins: Array  # [bins]

    def init(self, key: Key) -> DreamerParams:
        """Parameters of all of them. Rewards and values start at exactly 0, the policy nearly uniform."""
        shown = self.project if self.decoder is None else self.decoder.net
        nets: Any = (self.encoder, self.rssm, shown, self.reward, self.cont, self.actor, self.critic)
        return DreamerParams(*(net.init(key) for net, key in zip(nets, jax.random.split(key, len(nets)), strict=True)))


def widths(cfg: DreamerV3NetConfig) -> Widths:
    """The size's widths, with those that are given in their place."""
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
    size = widths(cfg)
    coder = CoderConfig(units=size.units, depth=size.depth)
    encode = encoder(spec.obs, coder)
    sizes = RSSMConfig(
        deter=size.deter, hidden=size.units, stoch=size.stoch, classes=size.classes, blocks=size.blocks,
        unimix=cfg.unimix,
    )  # fmt: skip
    rssm = block_rssm(sizes, spec.action, encode.size)
    one, three = (size.units,), (size.units,) * 3
    actions = spec.action.n if isinstance(spec.action, Discrete) else 2 * spec.action.size
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


def classify(logits: Array, target: Array, bins: Array) -> Array:
    """-Σ_i w_i log p_i [] with w = two-hot(target []); logits [bins]."""
    return -jnp.sum(two_hot(target, bins) * jax.nn.log_softmax(logits))


def predicted_reward(nets: Networks, params: DreamerParams, feature: Array) -> Array:
    """E[r] on arriving at a state, [] from its features."""
    return expectation(nets.reward.apply(params.reward, feature).astype(jnp.float32), nets.bins)


def predicted_discount(nets: Networks, params: DreamerParams, feature: Array) -> Array:
    """The chance that a state is not terminal, times γ; [] from its features."""
    return jax.nn.sigmoid(nets.cont.apply(params.cont, feature)[0].astype(jnp.float32))


def model_losses(
    nets: Networks,
    params: DreamerParams,
    key: Key,
    start: Latent,
    rows: Rows,
    gamma: Array | float,
    free: Array | float = 1.0,
    dyn_scale: Array | float = 1.0,
    rep_scale: Array | float = 0.1,
) -> tuple[Latent, Array, dict[str, Array]]:
    """The world model along one window.

    Args:
      nets: the networks.
      params: theirs.
      key: for the latents' samples.
      start: the state before the first row.
      rows: [T, ...].
      gamma: γ, folded into the continuation's target.
      free, dyn_scale, rep_scale: of the latents' loss, see `ops.kl.clipped`.
    Returns:
      the states [T, ...], the tokens [T, E], and of each step [T]: "kl_loss", "reward_loss", "continue_loss" and, with
      a decoder, "decoder_loss", to be added up, and "kl" before the free nats.
    """
    tokens = jax.vmap(nets.encoder.apply, (None, 0))(params.encoder, rows.obs)
    tracked = nets.rssm.track(params.rssm, key, start, rows.action, tokens, rows.first)
    dyn, rep = two_way(jax.vmap(nets.rssm.kl), tracked.posterior, tracked.prior)

    def heads(state: Latent, obs: Obs, reward: Array, discount: Array) -> dict[str, Array]:
        feature = features(state)
        bet = nets.reward.apply(params.reward, feature).astype(jnp.float32)
        goes_on = nets.cont.apply(params.cont, feature)[0].astype(jnp.float32)
        told = {
            "reward_loss": classify(bet, reward, nets.bins),
            "continue_loss": binary_cross_entropy(goes_on, gamma * discount),
        }
        if nets.decoder is not None:
            seen = nets.decoder.net.apply(params.decoder, state.deter, state.stoch.reshape(-1)).astype(jnp.float32)
            told["decoder_loss"] = nets.decoder.loss(seen, obs)
        return told

    told = jax.vmap(heads)(tracked.states, rows.obs, rows.reward, rows.discount)
    kl_loss = clipped(dyn, rep, free, dyn_scale, rep_scale)
    return tracked.states, tokens, told | {"kl_loss": kl_loss, "kl": dyn}


def without_decoder(nets: Networks, params: DreamerParams, states: Latent, tokens: Array) -> Array:
    """R2-Dreamer's loss [] of all rows of a batch, from states [N, ...] and tokens [N, E]."""
    assert nets.project is not None
    projected = jax.vmap(lambda state: nets.project.apply(params.decoder, features(state)))(states)  # pyright: ignore
    return redundancy_loss(projected, tokens)


def bind(nets: Networks, params: DreamerParams) -> Model:
    """The learned model as a planner sees it, from a latent state on; its discount is a chance times γ."""

    def step(key: Key, state: State, action: Array) -> StepOut:
        state = nets.rssm.step(params.rssm, key, state, action)
        feature = features(state)
        return StepOut(state, predicted_reward(nets, params, feature), predicted_discount(nets, params, feature))

    def value(key: Key, state: State) -> Array:
        del key
        return expectation(nets.critic.apply(params.critic, features(state)).astype(jnp.float32), nets.bins)

    return Model(step, value)
