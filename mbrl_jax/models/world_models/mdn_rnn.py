"""A recurrent mixture density network: the dynamics model M of World Models (Ha & Schmidhuber 2018, arXiv 1803.10122).

    x_t = [z_t, a_t],   (h, c)_{t+1} = LSTM(x_t, (h, c)_t)
    z_{t+1,d} ~ Σ_k π_dk N(z_{t,d} + μ_dk, σ_dk²),   π, μ, σ linear in h_{t+1}, for each entry d of the latent
    temperature τ:  log π / τ  before the softmax, and  σ √τ
    r_{t+1}, termination logit = Layers([h_{t+1}, x_t, z_{t+1}, z_{t+1}²])

    L = mean over steps of  - 1/Z Σ_d log p(z_{t+1,d}) + (r̂ - r)² + BCE(termination), terminal steps weighted w times

The memory is zeros before an episode's first row. Two kinds of rows are not learned from: an episode's last row, which
has no successor, and the first `burn_in` rows of a window that begins within an episode, whose memory is unknown.

Differs from the paper in: the mixture predicts the latent's change; reward and termination depend on the next latent
too, so that they follow from what was imagined; the weight w of terminal steps is taken out of the predicted chance
again, as log w off the logit; deviations have a lower bound; rewards are scaled to deviation 1, and imagined ones
clipped to the range seen; a dream's discount is its chance to go on, where the paper draws whether it ends.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import Action, Array, Key, Metrics, Model, Params, Space, Spec, StepOut
from mbrl_jax.models.rssm.rssm import action_code, code_size
from mbrl_jax.nets.layers import layers, scaled_init
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.normalize import Normalizer, fit_normalizer, identity_normalizer

FARTHEST = 10.0  # the heads see entries of a latent clipped to this


@config
class MDNRNNConfig:
    """Settings of the dynamics."""

    hidden: int = setting(default=256, low=1, help="H, units of the LSTM")
    components: int = setting(default=5, low=1, help="K, Gaussians of each mixture")
    heads: tuple[int, ...] = setting(default=(64,), low=1, help="hidden widths of the reward and termination head")
    least_std: float = setting(default=0.01, above=0, help="lower bound of the Gaussians' deviations")
    end_weight: float = setting(default=10.0, above=0, help="w, weight of terminal steps in the termination loss")
    burn_in: int = setting(default=4, low=0, help="unlearned first rows of a window that begins within an episode")


class Memory(NamedTuple):
    """The state of an LSTM."""

    h: Array  # [H] output
    c: Array  # [H] cell


class DreamState(NamedTuple):
    """A state of the model: a latent, and the memory of what led there."""

    z: Array  # [Z]
    memory: Memory


class LSTM(NamedTuple):
    """Weights of an LSTM cell; gates in the order input, forget, candidate, output."""

    kernel: Array  # [X + H, 4 H]
    bias: Array  # [4 H]


class MDNRNNParams(NamedTuple):
    """Parameters of the dynamics."""

    cell: LSTM
    mixture: Params
    outcome: Params
    rewards: Normalizer  # [1], of rewards
    bounds: Array  # [2] lowest and highest reward seen


class Mixture(NamedTuple):
    """A mixture of K Gaussians for each of Z entries."""

    logits: Array  # [Z, K]
    mean: Array  # [Z, K]
    log_std: Array  # [Z, K]


class Rows(NamedTuple):
    """Rows in arrival form (see `buffers.sequence`), with their observations as latents."""

    z: Array  # [L, Z]
    action: Action  # [L, ...]
    reward: Array  # [L]
    discount: Array  # [L]
    first: Array  # [L] bool
    last: Array  # [L] bool


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
    """The mixture at a temperature τ, with logits / τ and σ √τ: less uncertain below 1, more so above."""
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
    """A draw [Z] with independent entries: for each a component, then a number of it."""
    key_which, key_noise = jax.random.split(key)
    size, components = mixture.mean.shape
    # By the inverse of the cumulated chances, in one product: one number for each entry where Gumbel noise needs K.
    upto = jax.nn.softmax(mixture.logits) @ jnp.triu(jnp.ones((components, components), jnp.float32))
    which = jnp.sum(jax.random.uniform(key_which, (size, 1), jnp.float32) >= upto[:, :-1], axis=1)
    chosen = jax.nn.one_hot(which, components, dtype=jnp.float32)
    mean, log_std = jnp.sum(chosen * mixture.mean, 1), jnp.sum(chosen * mixture.log_std, 1)
    return mean + jnp.exp(log_std) * jax.random.normal(key_noise, (size,), jnp.float32)


class MDNRNN(NamedTuple):
    """The dynamics as pure functions of one state, their parameters outside."""

    cfg: MDNRNNConfig
    latent: int  # Z
    space: Space  # of the actions
    terminates: bool  # whether there is a termination head
    mixture: Net  # h [H] -> [3 Z K]
    outcome: Net  # [h, x, z', z'²] -> reward, and termination logit

    @property
    def inputs(self) -> int:
        """X, entries of the LSTM's input."""
        return self.latent + code_size(self.space)

    def init(self, key: Key) -> MDNRNNParams:
        """First parameters."""
        key_cell, key_mixture, key_outcome = jax.random.split(key, 3)
        hidden = self.cfg.hidden
        kernel = scaled_init()(key_cell, (self.inputs + hidden, 4 * hidden))
        return MDNRNNParams(
            LSTM(kernel, jnp.zeros(4 * hidden, jnp.float32)),
            self.mixture.init(key_mixture),
            self.outcome.init(key_outcome),
            identity_normalizer(1),
            jnp.array([-jnp.inf, jnp.inf], jnp.float32),
        )

    def start(self) -> Memory:
        """The memory before an episode: zeros."""
        return Memory(jnp.zeros(self.cfg.hidden, jnp.float32), jnp.zeros(self.cfg.hidden, jnp.float32))

    def lstm_input(self, z: Array, action: Action) -> Array:
        """x = [z, code of the action], [X]."""
        return jnp.concatenate([z, action_code(self.space, action)])

    def remember(self, params: MDNRNNParams, memory: Memory, z: Array, action: Action) -> Memory:
        """The memory after one more latent and the action taken there."""
        return lstm(params.cell, memory, self.lstm_input(z, action))

    def predict(self, params: MDNRNNParams, memory: Memory, z: Array) -> Mixture:
        """The distribution of the next latent, from the memory after the step and the latent before it."""
        shape = (self.latent, self.cfg.components)
        logits, change, raw = self.mixture.apply(params.mixture, memory.h).reshape(3, *shape)
        least = jnp.log(self.cfg.least_std)
        return Mixture(logits, z[:, None] + change, least + jax.nn.softplus(raw - least))

    def predict_outcome(self, params: MDNRNNParams, memory: Memory, x: Array, after: Array) -> tuple[Array, Array]:
        """The scaled reward [] and the termination logit [], as learned, of a step to the latent `after` [Z].

        The logit is that of the weighted loss: log w too high; minus infinity without a termination head.
        """
        near = jnp.clip(after, -FARTHEST, FARTHEST)
        out = self.outcome.apply(params.outcome, jnp.concatenate([memory.h, x, near, jnp.square(near)]))
        return out[0], out[1] if self.terminates else jnp.float32(-jnp.inf)

    def step(
        self, params: MDNRNNParams, key: Key, state: DreamState, action: Action, temperature: Array | float
    ) -> StepOut:
        """One imagined step at a temperature τ; its discount is the chance to go on."""
        memory = self.remember(params, state.memory, state.z, action)
        z = sample(key, tempered(self.predict(params, memory, state.z), temperature))
        reward, logit = self.predict_outcome(params, memory, self.lstm_input(state.z, action), z)
        goes_on = jax.nn.sigmoid(jnp.log(self.cfg.end_weight) - logit)
        reward = jnp.clip(params.rewards.mean[0] + params.rewards.std[0] * reward, *params.bounds)
        return StepOut(DreamState(z, memory), reward, goes_on)

    def calibrate(self, params: MDNRNNParams, rewards: Array, mask: Array) -> MDNRNNParams:
        """The scale and range of rewards, from rewards [N] where the mask [N] is True."""
        some = jnp.any(mask)
        low, high = (jnp.where(mask, rewards, sign * jnp.inf) for sign in (1.0, -1.0))
        bounds = jnp.stack([jnp.where(some, jnp.min(low), -jnp.inf), jnp.where(some, jnp.max(high), jnp.inf)])
        return params._replace(rewards=fit_normalizer(rewards[:, None], mask), bounds=bounds)


def mdn_rnn(cfg: MDNRNNConfig, latent: int, spec: Spec) -> MDNRNN:
    """The dynamics of latents [latent] under an environment's actions.

    Args:
      cfg: settings; floats may be traced.
      latent: Z, at least 1.
      spec: its actions, and whether it terminates: if not, no termination is learned.
    Raises:
      ValueError: a setting out of range.
    """
    check(cfg)
    inputs = latent + code_size(spec.action)
    mixture = layers(cfg.hidden, (), 3 * latent * cfg.components)
    outcome = layers(cfg.hidden + inputs + 2 * latent, cfg.heads, 1 + spec.terminates, norm="none")
    return MDNRNN(cfg, latent, spec.action, spec.terminates, mixture, outcome)


def window_memories(params: MDNRNNParams, x: Array, first: Array, *, model: MDNRNN) -> Memory:
    """The memories [T, ...] after each step of a window, zeroed at the first row of an episode.

    Args:
      params: of the dynamics.
      x: [T, X] inputs of the LSTM.
      first: [T] bool.
      model: the dynamics.
    """
    driven = x @ params.cell.kernel[: model.inputs] + params.cell.bias  # for all steps at once

    def one(memory: Memory, at: tuple[Array, Array]) -> tuple[Memory, Memory]:
        driven, first = at
        memory = _gated(tree.where(first, model.start(), memory), driven, params.cell.kernel[model.inputs :])
        return memory, memory

    return jax.lax.scan(one, model.start(), (driven, first))[1]


def window_loss(params: MDNRNNParams, rows: Rows, *, model: MDNRNN) -> tuple[Array, Metrics]:
    """The loss of one window; see `mdn_rnn_loss`.

    Args:
      params: of the dynamics.
      rows: [L, ...] one window.
      model: the dynamics.
    Returns:
      the loss []; metrics "latent", "reward", "end" and "counted", the share of steps that are learned from.
    """
    cfg = model.cfg
    now, then = jax.tree.map(lambda leaf: leaf[:-1], rows), jax.tree.map(lambda leaf: leaf[1:], rows)
    x = jax.vmap(model.lstm_input)(now.z, now.action)
    memories = window_memories(params, x, now.first, model=model)
    predicted = jax.vmap(model.predict, (None, 0, 0))(params, memories, now.z)
    of_latent = -jnp.mean(jax.vmap(log_prob)(predicted, then.z), axis=1)
    reward, logit = jax.vmap(model.predict_outcome, (None, 0, 0, 0))(params, memories, x, then.z)
    scale = jax.lax.stop_gradient(params.rewards)
    of_reward = jnp.square(reward - (then.reward - scale.mean[0]) / scale.std[0])
    end = 1.0 - then.discount
    of_end = jnp.zeros_like(reward)
    if model.terminates:
        of_end = cfg.end_weight * end * jax.nn.softplus(-logit) + (1.0 - end) * jax.nn.softplus(logit)

    known = jnp.cumsum(now.first) > 0  # the memory is this episode's, from its start on
    counted = ~now.last & (known | (jnp.arange(now.last.shape[0]) >= cfg.burn_in))
    means = {
        name: jnp.mean(jnp.where(counted, term, 0.0))
        for name, term in {"latent": of_latent, "reward": of_reward, "end": of_end}.items()
    }
    return sum(means.values(), jnp.zeros((), jnp.float32)), means | {"counted": jnp.mean(counted.astype(jnp.float32))}


def mdn_rnn_loss(params: MDNRNNParams, rows: Rows, weight: Array, *, model: MDNRNN) -> tuple[Array, Metrics]:
    """The loss of the dynamics on a batch of windows (Ha & Schmidhuber 2018, A.2; reward and termination added).

        L = mean over windows and steps of  - 1/Z Σ_d log p(z_{t+1,d}) + (r̂ - r)² + BCE(termination)

    with steps that are not learned from counted as 0 (see the top of this file), and rewards scaled to deviation 1.

    Args:
      params: of the dynamics.
      rows: [L, B, ...] windows.
      weight: [B] importance weights of the windows.
      model: the dynamics.
    Returns:
      the loss []; unweighted means over windows "latent" (nats per entry), "reward", "end" and "counted", the share of
      steps that are learned from.
    """
    losses, terms = vmap_shares(partial(window_loss, model=model), params, (rows,), (1,))
    return jnp.mean(weight * losses), jax.tree.map(jnp.mean, terms)


def bind(model: MDNRNN, params: MDNRNNParams, temperature: Array | float = 1.0) -> Model:
    """The dream as a planner sees it; its states are `DreamState`s, its discount the chance to go on.

    Args:
      model: the dynamics.
      params: their parameters.
      temperature: τ, above 0; may be traced.
    """
    return Model(lambda key, state, action: model.step(params, key, state, action, temperature))
