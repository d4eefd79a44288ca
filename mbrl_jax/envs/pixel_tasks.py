"""The classic tasks of balancing and swinging up, seen as pictures: `pixels` of an environment and its drawing."""

from __future__ import annotations

from mbrl_jax.core import Env
from mbrl_jax.envs.cartpole import cartpole_swingup
from mbrl_jax.envs.pixels import draw_cartpole, draw_pendulum, draw_swingup, pixels
from mbrl_jax.envs.registry import from_gymnax


def cartpole(size: int = 32) -> Env:
    """CartPole-v1 as pictures [size, size, 3]."""
    return pixels(from_gymnax("CartPole-v1"), draw_cartpole, size, _name("CartPole-pixels", size))


def swingup(size: int = 32) -> Env:
    """CartPoleSwingUp as pictures [size, size, 3]."""
    return pixels(cartpole_swingup(), draw_swingup, size, _name("CartPoleSwingUp-pixels", size))


def pendulum(size: int = 32) -> Env:
    """Pendulum-v1 as pictures [size, size, 3]."""
    return pixels(from_gymnax("Pendulum-v1"), draw_pendulum, size, _name("Pendulum-pixels", size))


def _name(name: str, size: int) -> str:
    return name if size == 32 else f"{name}-{size}"
