"""Hand-made batches for the losses of AlphaZero and MuZero."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.loss_cases import LossCase
from mbrl_jax.agents import alphazero
from mbrl_jax.core import Box, Discrete, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.models.muzero.losses import Targets, consistency_loss, muzero_loss
from mbrl_jax.models.muzero.networks import MuZeroNetConfig, muzero

ACTIONS, SIZE, K, B = 3, 4, 2, 3
SPEC = Spec(Box((SIZE,)), Discrete(ACTIONS))


def shaken(rng: np.random.Generator, params: Any) -> Any:
    """Parameters of which no layer is at 0."""
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)


def cases() -> list[LossCase]:
    """A case for each loss."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    policy = lambda *shape: jnp.asarray(rng.dirichlet(np.ones(ACTIONS), shape), jnp.float32)  # noqa: E731
    weight = jnp.array([1.0, 0.5, 0.0])

    heads = alphazero.heads(replace(alphazero.AlphaZeroConfig(), {"hidden": (6,), "support": 3}), SPEC)
    guide = {
        "policy": jax.jit(heads.policy.init)(jax.random.key(0)),
        "value": jax.jit(heads.value.init)(jax.random.key(1)),
    }

    nets = muzero(MuZeroNetConfig(latent=5, hidden=(6,), support=3, project=3), SPEC)
    params = shaken(rng, jax.jit(nets.init)(jax.random.key(2)))
    ones = lambda *shape: jnp.ones(shape)  # noqa: E731
    targets = Targets(
        jnp.asarray(rng.integers(0, ACTIONS, (B, K)), jnp.int32), policy(B, K + 1), draw(B, K + 1), draw(B, K),
        ones(B, K + 1), ones(B, K + 1), ones(B, K), ones(B, K).at[1, 1].set(0.0),
    )  # fmt: skip
    return [
        LossCase(
            "alphazero", alphazero.alphazero_loss, shaken(rng, guide), (draw(B, SIZE), policy(B), draw(B)),
            {"nets": heads, "weight": weight, "value_weight": 0.5},
        ),
        # Neither is smooth: half of the gradient is stopped at each step, and all of it at observed projections.
        LossCase(
            "muzero", muzero_loss, params, (draw(K + 1, B, SIZE), targets),
            {"nets": nets, "weight": weight, "value_weight": 0.25, "consistency_weight": 2.0}, smooth=False,
        ),
        LossCase(
            "muzero", consistency_loss, params, (jax.nn.sigmoid(draw(K, 5)), draw(K, SIZE), jnp.ones(K)),
            {"nets": nets}, smooth=False,
        ),
    ]  # fmt: skip
