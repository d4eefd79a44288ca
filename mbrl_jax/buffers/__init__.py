"""Replay as pure functions: single rows, the newest trajectory, windows of steps, windows by priority; data sets."""

from __future__ import annotations

from mbrl_jax.buffers.datasets import Dataset
from mbrl_jax.buffers.fixed import fixed, preloaded
from mbrl_jax.buffers.latest import latest
from mbrl_jax.buffers.prioritized import Prioritized, prioritized
from mbrl_jax.buffers.sequence import Feedback, Step, Window, sequence
from mbrl_jax.buffers.uniform import uniform

__all__ = [
    "Dataset", "Feedback", "Prioritized", "Step", "Window", "fixed", "latest", "preloaded", "prioritized", "sequence",
    "uniform",
]  # fmt: skip
