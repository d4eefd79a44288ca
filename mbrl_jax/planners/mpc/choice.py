"""A planner chosen by its name, for the settings of agents."""

from __future__ import annotations

from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Planner, Spec
from mbrl_jax.planners.mpc.cem import CEM, cem
from mbrl_jax.planners.mpc.gradient import Gradient, gradient
from mbrl_jax.planners.mpc.icem import ICEM, icem
from mbrl_jax.planners.mpc.mppi import MPPI, mppi
from mbrl_jax.planners.mpc.shooting import Shooting, shooting

KINDS = ("shooting", "cem", "icem", "mppi", "gradient")


@config
class PlannerConfig:
    """The name of a planner, and the settings of each."""

    kind: str = setting(default="cem", choices=KINDS, help="planner; the others' settings are ignored")
    shooting: Shooting = Shooting()
    cem: CEM = CEM()
    icem: ICEM = ICEM()
    mppi: MPPI = MPPI()
    gradient: Gradient = Gradient()


def make_planner(cfg: PlannerConfig, spec: Spec) -> Planner:
    """The planner that `kind` names.

    Args:
      cfg: settings; floats may be traced.
      spec: the environment's; the planners' docstrings say which actions they handle.
    Raises:
      ValueError: an unknown kind, or what the planner refuses.
    """
    if cfg.kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {cfg.kind!r}")
    if cfg.kind == "shooting":
        return shooting(cfg.shooting, spec)
    if cfg.kind == "cem":
        return cem(cfg.cem, spec)
    if cfg.kind == "icem":
        return icem(cfg.icem, spec)
    if cfg.kind == "mppi":
        return mppi(cfg.mppi, spec)
    return gradient(cfg.gradient, spec)
