"""TD-MPC2's losses on a batch of two windows."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from helpers.loss_cases import LossCase
from mbrl_jax.agents import tdmpc2
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core import Box, Spec
from mbrl_jax.models.tdmpc2.networks import Latent, tdmpc
from mbrl_jax.models.tdmpc2.sizes import TDMPCNetConfig

OBS, ACTIONS, H, B = 3, 2, 2, 2


def cases() -> list[LossCase]:
    """`world_loss` and `policy_loss`; one window contains the end of an episode."""
    cfg = TDMPCNetConfig(size="nano", encoder=8, units=8, latent=8, group=4, bins=5)
    nets = tdmpc(cfg, Spec(Box((OBS,)), Box((ACTIONS,), -1.0, 1.0)))
    rng = np.random.default_rng(0)
    # No layer is left at 0, as those of rewards and values are at first.
    noisy = lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(noisy, jax.jit(nets.init)(jax.random.key(0)))
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    last = np.zeros((H + 1, B), bool)
    last[1, 1] = True
    steps = Step(
        draw(H + 1, B, OBS), jnp.tanh(draw(H + 1, B, ACTIONS)), draw(H + 1, B), jnp.asarray(1.0 - last, jnp.float32),
        jnp.asarray(np.roll(last, 1, 0)), jnp.asarray(last),
    )  # fmt: skip
    batch = Window(steps, jnp.arange(B, dtype=jnp.int32), jnp.ones(B))
    pair = jax.tree.map(lambda leaf: leaf[:2], params.world.values)
    td_targets = partial(tdmpc2.td_targets, nets=nets, target_values=pair, gamma=0.95)
    targets = jax.jit(td_targets)(params, jax.random.key(1), batch)
    latents = Latent(jax.nn.softmax(draw(B, H + 1, 8)), jnp.zeros((B, H + 1, 0)), None)
    key = jax.random.key(2)
    of_policy = {"nets": nets, "values": params.world.values, "scale": jnp.ones(())}
    return [
        LossCase("tdmpc2", tdmpc2.world_loss, params.world, (key, batch), {"nets": nets, "targets": targets}),
        # The scale of values has no gradient.
        LossCase("tdmpc2", tdmpc2.policy_loss, params.policy, (key, latents, jnp.ones((B, H + 1))), of_policy, False),
    ]
