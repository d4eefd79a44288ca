"""Noise that is correlated over time, for sequences of actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Array, Key


def coloured(key: Key, beta: Array | float, shape: tuple[int, ...], horizon: int) -> Array:
    """Gaussian noise of unit variance whose power falls with frequency (Timmer & König 1995; Pinneri et al. 2020).

        y = irfft(X) / σ,   E|X_k|² ∝ f_k^-β,   f_k = k / H, and f_0 taken as 1 / H

    β = 0 gives white noise, β = 2 a stationary random walk; the larger β, the longer actions keep their sign. The
    coefficients of the lowest and the highest frequency are real, with all of their power in that part, and σ counts
    every frequency: each entry has variance 1 exactly. The paper's code leaves the lowest one out of σ, which gives a
    variance of up to 1.25.

    Args:
      key: used once.
      beta: exponent of the spectrum, 0 or more.
      shape: of the independent sequences, e.g. (N,) or (N, A).
      horizon: H, at least 1; time is the last axis.
    Returns:
      [*shape, H].
    Raises:
      ValueError: the horizon is below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if horizon == 1:
        return jax.random.normal(key, (*shape, 1), jnp.float32)
    frequency = np.fft.rfftfreq(horizon)
    frequency[0] = frequency[1]
    real = np.zeros(len(frequency), bool)
    real[0], real[-1] = True, horizon % 2 == 0
    # Relative to the lowest, so that no power overflows.
    power = jnp.asarray(frequency / frequency[1], jnp.float32) ** -jnp.asarray(beta, jnp.float32)
    parts = jax.random.normal(key, (2, *shape, len(frequency)), jnp.float32) * jnp.sqrt(power)
    spectrum = jax.lax.complex(jnp.where(real, jnp.sqrt(2.0), 1.0) * parts[0], jnp.where(real, 0.0, parts[1]))
    variance = jnp.sum(jnp.where(real, 2.0, 4.0) * power) / horizon**2
    return jnp.fft.irfft(spectrum, horizon, axis=-1) / jnp.sqrt(variance)
