"""A recurrent network with mixture densities: the dynamics of World Models (Ha & Schmidhuber 2018, arXiv 1803.10122).

    x_t = [z_t, a_t],   (h, c)_{t+1} = LSTM(x_t, (h, c)_t)
    z_{t+1,d} ~ Σ_k π_dk N(z_{t,d} + μ_dk, σ_dk²),   π, μ, σ linear in h_{t+1}, for each entry d of the latent
    temperature τ:  log π / τ  before the softmax, and  σ √τ
    r_{t+1}, logit of the end = Layers([h_{t+1}, x_t, z_{t+1}, z_{t+1}²])

    L = mean over steps of  - 1/Z Σ_d log p(z_{t+1,d}) + (r̂ - r)² + BCE(end), ends weighted w times

At an episode's first row the memory is zeros. An episode's last row has no successor, and a window that begins within
an episode has an unknown memory: neither is learned from, the latter for `burn_in` rows.

Differs from the paper in: means are of the latent's change; reward and end are told by the latent that a step leads
to as well, so that what is dreamt is what ends an episode, and rewards by it and the action; the weight w of ends is
taken out of their chance again, as log w off the logit; deviations have a least value; a reward is scaled to deviation
1, and none is dreamt beyond those seen; a dream goes on with its chance to (`StepOut.discount`), where the paper ends
it by a draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Key, Metrics, Model, Params, Spec, StepOut
from mbrl_jax.models.rssm.rssm import action_code, code_size
from mbrl_jax.nets.layers import layers, scaled_init
from mbrl_jax.ops.normalize import Normalizer, fit_normalizer, identity_normalizer

FARTHEST = 10.0  # entries of a latent beyond it look alike to the heads


@config
class MDNRNNConfig:
    """Settings of the dynamics."""

    hidden: int = setting(default=256, low=1, help="H, entries of the LSTM's memory")
    components: int = setting(default=5, low=1, help="K, Gaussians of each mixture")
    heads: tuple[int, ...] = setting(default=(64,), low=1, help="widths of the layers of reward and end")
    least_std: float = setting(default=0.01, above=0, help="below which no Gaussian's deviation falls")
    end_weight: float = setting(default=10.0, above=0, help="w, of the steps that end an episode")
    burn_in: int = setting(default=4, low=0, help="rows of a window whose episode began before it, not learned from")


class Memory(NamedTuple):
    """What an LSTM remembers."""

    h: Array  # [H]
    c: Array  # [H]


class DreamState(NamedTuple):
    """A state of the model: where it is, and what led there."""

    z: Array  # [Z]
    memory: Memory


class LSTM(NamedTuple):
    """Weights of a cell; gates in the order input, forget, candidate, output."""

    kernel: Array  # [X + H, 4 H]
    bias: Array  # [4 H]


class MDNRNNParams(NamedTuple):
    cell: LSTM
    mixture: Params
    outcome: Params
    rewards: Normalizer  # [1], of rewards
    bounds: Array  # [2] lowest and highest reward seen


class Mixture(NamedTuple):
    """A mixture of K Gaussians for each of Z numbers."""

    logits: Array  # [Z, K]
    mean: Array  # [Z, K]
    log_std: Array  # [Z, K]


class Rows(NamedTuple):
    """A window in arrival form (see `buffers.sequence`), its observations as latents."""

    z: Array  # [L, Z]
    action: Action  # [L, ...]
    reward: Array  # [L]
    discount: Array  # [L]
    first: Array  # [L] bool
    last: Array  # [L] bool


class MDNRNN(NamedTuple):
    """The dynamics as pure functions over one state or one window."""

    init: Callable[[Key], MDNRNNParams]
    start: Callable[[], Memory]  # before an episode: zeros
    remember: Callable[[MDNRNNParams, Memory, Array, Action], Memory]  # (params, memory, z, action) -> memory
    predict: Callable[[MDNRNNParams, Memory, Array], Mixture]  # (params, memory after the step, z) -> of the next z
    loss: Callable[[MDNRNNParams, Rows], tuple[Array, Metrics]]  # of one window
    step: Callable[[MDNRNNParams, Key, DreamState, Action, Array | float], StepOut]  # the last is the temperature
    calibrate: Callable[[MDNRNNParams, Array, Array], MDNRNNParams]  # (params, rewards [N], mask [N]) -> params


def lstm(params: LSTM, memory: Memory, x: Array) -> Memory:
    """One step of an LSTM (Hochreiter & Schmidhuber 1997; with Gers et al.'s forget gate, 1 added to its sum).

        [i, f, g, o] = W [x, h] + b,   c' = σ(f + 1) c + σ(i) tanh g,   h' = σ(o) tanh c'

    Args:
      params: the weights.
      memory: h and c.
      x: [X].
    """
    return _gated(memory, x @ params.kernel[: x.shape[0]] + params.bias, params.kernel[x.shape[0] :])


def _gated(memory: Memory, driven: Array, kernel: Array) -> Memory:
    """The cell from its input's share of the sums, [4 H], and the memory's weights [H, 4 H]."""
    i, f, g, o = jnp.split(driven + memory.h @ kernel, 4)
    c = jax.nn.sigmoid(f + 1.0) * memory.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return Memory(jax.nn.sigmoid(o) * jnp.tanh(c), c)


def tempered(mixture: Mixture, temperature: Array | float) -> Mixture:
    """The mixture at a temperature τ: logits / τ and σ √τ. Below 1 it is surer than what was learned, above less so."""
    return Mixture(mixture.logits / temperature, mixture.mean, mixture.log_std + 0.5 * jnp.log(temperature))


def log_prob(mixture: Mixture, x: Array) -> Array:
    """The log-density [Z] of x [Z], of each entry in its own mixture.

    log Σ_k π_k N(x; μ_k, σ_k²)
    """
    log_pi = jax.nn.log_softmax(mixture.logits)
    scaled = (x[:, None] - mixture.mean) * jnp.exp(-mixture.log_std)
    log_normal = -0.5 * jnp.square(scaled) - mixture.log_std - 0.5 * jnp.log(2.0 * jnp.pi)
    return jax.nn.logsumexp(log_pi + log_normal, axis=-1)


def sample(key: Key, mixture: Mixture) -> Array:
    """A draw [Z], the entries independent: a Gaussian by its chance, and a number of it."""
    key_which, key_noise = jax.random.split(key)
    size, components = mixture.mean.shape
    # By the inverse of the cumulated chances, in one product: one number for each entry where Gumbel noise needs K.
    upto = jax.nn.softmax(mixture.logits) @ jnp.triu(jnp.ones((components, components)))
    which = jnp.sum(jax.random.uniform(key_which, (size, 1)) >= upto[:, :-1], axis=1)
    chosen = jax.nn.one_hot(which, components)
    mean, log_std = jnp.sum(chosen * mixture.mean, 1), jnp.sum(chosen * mixture.log_std, 1)
    return mean + jnp.exp(log_std) * jax.random.normal(key_noise, (size,))


def mdn_rnn(cfg: MDNRNNConfig, latent: int, spec: Spec) -> MDNRNN:
    """The dynamics of latents [latent] under an environment's actions.

    Args:
      cfg: settings; floats may be traced.
      latent: Z, at least 1.
      spec: its actions, and whether it terminates: if not, no end is learned.
    Raises:
      ValueError: a setting out of range.
    """
    check(cfg)
    inputs, shape = latent + code_size(spec.action), (latent, cfg.components)
    mixture = layers(cfg.hidden, (), 3 * latent * cfg.components)
    outcome = layers(cfg.hidden + inputs + 2 * latent, cfg.heads, 1 + spec.terminates, norm="none")

    def init(key: Key) -> MDNRNNParams:
        key_cell, key_mixture, key_outcome = jax.random.split(key, 3)
        kernel = scaled_init()(key_cell, (inputs + cfg.hidden, 4 * cfg.hidden))
        cell = LSTM(kernel, jnp.zeros(4 * cfg.hidden))
        return MDNRNNParams(
            cell,
            mixture.init(key_mixture),
            outcome.init(key_outcome),
            identity_normalizer(1),
            jnp.array([-jnp.inf, jnp.inf]),
        )

    def start() -> Memory:
        return Memory(jnp.zeros(cfg.hidden), jnp.zeros(cfg.hidden))

    def drive(z: Array, action: Action) -> Array:
        return jnp.concatenate([z, action_code(spec.action, action)])

    def remember(params: MDNRNNParams, memory: Memory, z: Array, action: Action) -> Memory:
        return lstm(params.cell, memory, drive(z, action))

    def predict(params: MDNRNNParams, memory: Memory, z: Array) -> Mixture:
        logits, change, raw = mixture.apply(params.mixture, memory.h).reshape(3, *shape)
        least = jnp.log(cfg.least_std)
        return Mixture(logits, z[:, None] + change, least + jax.nn.softplus(raw - least))

    def tell(params: MDNRNNParams, memory: Memory, x: Array, after: Array) -> tuple[Array, Array]:
        """The reward [], scaled, and the logit [] of the end that was learned, of a step to the latent `after`."""
        near = jnp.clip(after, -FARTHEST, FARTHEST)
        out = outcome.apply(params.outcome, jnp.concatenate([memory.h, x, near, jnp.square(near)]))
        return out[0], out[1] if spec.terminates else jnp.float32(-jnp.inf)

    def loss(params: MDNRNNParams, rows: Rows) -> tuple[Array, Metrics]:
        now, then = jax.tree.map(lambda leaf: leaf[:-1], rows), jax.tree.map(lambda leaf: leaf[1:], rows)
        x = jax.vmap(drive)(now.z, now.action)
        driven = x @ params.cell.kernel[:inputs] + params.cell.bias  # for all steps at once

        def one(memory: Memory, at: tuple[Array, Array]) -> tuple[Memory, Memory]:
            driven, first = at
            memory = _gated(tree.where(first, start(), memory), driven, params.cell.kernel[inputs:])
            return memory, memory

        memories = jax.lax.scan(one, start(), (driven, now.first))[1]
        predicted = jax.vmap(predict, (None, 0, 0))(params, memories, now.z)
        of_latent = -jnp.mean(jax.vmap(log_prob)(predicted, then.z), axis=1)
        reward, logit = jax.vmap(tell, (None, 0, 0, 0))(params, memories, x, then.z)
        scale = jax.lax.stop_gradient(params.rewards)
        of_reward = jnp.square(reward - (then.reward - scale.mean[0]) / scale.std[0])
        end = 1.0 - then.discount
        of_end = jnp.zeros_like(reward)
        if spec.terminates:
            of_end = cfg.end_weight * end * jax.nn.softplus(-logit) + (1.0 - end) * jax.nn.softplus(logit)

        known = jnp.cumsum(now.first) > 0  # the memory is this episode's from its start on
        counted = ~now.last & (known | (jnp.arange(now.last.shape[0]) >= cfg.burn_in))
        means = {
            name: jnp.mean(jnp.where(counted, term, 0.0))
            for name, term in {"latent": of_latent, "reward": of_reward, "end": of_end}.items()
        }
        return sum(means.values(), jnp.zeros(())), means | {"counted": jnp.mean(counted.astype(jnp.float32))}

    def step(params: MDNRNNParams, key: Key, state: DreamState, action: Action, temperature: Array | float) -> StepOut:
        memory = remember(params, state.memory, state.z, action)
        z = sample(key, tempered(predict(params, memory, state.z), temperature))
        reward, logit = tell(params, memory, drive(state.z, action), z)
        goes_on = jax.nn.sigmoid(jnp.log(cfg.end_weight) - logit)
        reward = jnp.clip(params.rewards.mean[0] + params.rewards.std[0] * reward, *params.bounds)
        return StepOut(DreamState(z, memory), reward, goes_on)

    def calibrate(params: MDNRNNParams, rewards: Array, mask: Array) -> MDNRNNParams:
        some = jnp.any(mask)
        low, high = (jnp.where(mask, rewards, sign * jnp.inf) for sign in (1.0, -1.0))
        bounds = jnp.stack([jnp.where(some, jnp.min(low), -jnp.inf), jnp.where(some, jnp.max(high), jnp.inf)])
        return params._replace(rewards=fit_normalizer(rewards[:, None], mask), bounds=bounds)

    return MDNRNN(init, start, remember, predict, loss, step, calibrate)


def bind(model: MDNRNN, params: MDNRNNParams, temperature: Array | float = 1.0) -> Model:
    """The dream as a planner sees it, from a `DreamState` on; its discount is the chance to go on.

    Args:
      model: the dynamics.
      params: what it has learned.
      temperature: τ, above 0; may be traced.
    """
    return Model(lambda key, state, action: model.step(params, key, state, action, temperature))
