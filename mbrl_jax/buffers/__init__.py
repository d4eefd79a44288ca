"""Replay as pure functions: single rows, the newest trajectory, windows of steps, windows by priority."""

from __future__ import annotations

from mbrl_jax.buffers.latest import latest
from mbrl_jax.buffers.prioritized import Prioritized, prioritized
from mbrl_jax.buffers.sequence import Feedback, Step, Window, sequence
from mbrl_jax.buffers.uniform import uniform

__all__ = [
    "Feedback", "Prioritized", "Step", "Window", "latest", "prioritized", "sequence", "uniform",
]  # fmt: skip
