"""Action distributions. The one file of this folder that knows distrax."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.precision import narrow
from mbrl_jax.core.types import Array, Key

if TYPE_CHECKING:
    import distrax

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # Haarnoja et al. 2018, reference code


def _library() -> ModuleType:
    """distrax, imported on first use: that takes a third of a command's start, and many need no distribution."""
    with jax.ensure_compile_time_eval():  # its constants must be numbers, also where a trace comes first
        import distrax
    return distrax


def tanh_normal(mean: Array, raw_log_std: Array) -> distrax.Distribution:
    """A diagonal normal squashed into (-1, 1) by tanh (Haarnoja et al. 2018, appendix C).

        u ~ N(mean, σ²),  a = tanh(u),  log π(a) = log N(u) - Σ log(1 - tanh²(u))

    Args:
      mean: [A].
      raw_log_std: [A] log σ, clipped here to [-20, 2].
    Returns:
      a distribution over [A], without a closed-form mode or entropy.
    """
    chex.assert_rank([mean, raw_log_std], 1)
    lib = _library()
    normal = lib.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(raw_log_std, LOG_STD_MIN, LOG_STD_MAX)))
    return lib.Transformed(normal, lib.Block(lib.Tanh(), 1))


def normal(mean: Array, log_std: Array) -> distrax.Distribution:
    """A diagonal normal N(mean, σ²), unbounded.

    Args:
      mean: [A].
      log_std: [A] log σ.
    Returns:
      a distribution over [A].
    """
    chex.assert_rank([mean, log_std], 1)
    return _library().MultivariateNormalDiag(mean, jnp.exp(log_std))


def categorical(logits: Array) -> distrax.Distribution:
    """A categorical distribution over A choices.

    Args:
      logits: [A] unnormalised log-probabilities.
    Returns:
      a distribution over [] int32 in 0..A-1.
    """
    chex.assert_rank(logits, 1)
    return _library().Categorical(logits)


class MultiCategorical(NamedTuple):
    """Independent categorical distributions over the entries of a vector of integers."""

    logits: list[Array]  # [n_i] of each entry, unnormalised

    def sample(self, seed: Key) -> Array:
        """A draw, [k] int32."""
        keys = jax.random.split(seed, len(self.logits))
        drawn = [jax.random.categorical(key, logits) for key, logits in zip(keys, self.logits, strict=True)]
        return jnp.stack(drawn).astype(jnp.int32)

    def log_prob(self, value: Array) -> Array:
        """The log-probability [] of a value [k], the sum over its entries."""
        terms = [jax.nn.log_softmax(logits)[value[i]] for i, logits in enumerate(self.logits)]
        return jnp.sum(jnp.stack(terms))

    def sample_and_log_prob(self, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        drawn = self.sample(seed)
        return drawn, self.log_prob(drawn)

    def entropy(self) -> Array:
        """The entropy [] in nats, the sum over the entries."""
        return jnp.sum(jnp.stack([categorical_entropy(logits) for logits in self.logits]))

    def mode(self) -> Array:
        """The most likely value, [k] int32."""
        return jnp.stack([jnp.argmax(logits) for logits in self.logits]).astype(jnp.int32)


def sample_and_log_prob(dist: distrax.Distribution, key: Key) -> tuple[Array, Array]:
    """A sample and its log-probability [] in nats, computed together so that tanh is never inverted.

    Args:
      dist: any distribution.
      key: used once.
    """
    return narrow(dist.sample_and_log_prob(seed=key))  # pyright: ignore[reportReturnType]


def categorical_entropy(logits: Array) -> Array:
    """Entropy [] in nats of a categorical distribution.

    Args:
      logits: [A].
    """
    chex.assert_rank(logits, 1)
    return _library().Categorical(logits).entropy()
