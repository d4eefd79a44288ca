"""Checks of observation and action spaces that agents share: what they need, or one line that names the wrapper."""

from __future__ import annotations

import numpy as np

from mbrl_jax.core.types import Box, DictSpace, Discrete, MultiDiscrete, Spec


def vector_size(spec: Spec) -> int:
    """Entries of a vector observation.

    Raises:
      ValueError: observations are not vectors.
    """
    if not isinstance(spec.obs, Box) or len(spec.obs.shape) != 1:
        raise ValueError(f"{spec.name}: observations must be a vector (wrappers.flatten or one_hot), got {spec.obs}")
    return spec.obs.size


def unit_action_size(spec: Spec) -> int:
    """Entries of a continuous action, a vector in [-1, 1].

    Raises:
      ValueError: actions are anything else.
    """
    action = spec.action
    unit = isinstance(action, Box) and np.all(np.asarray(action.low) == -1) and np.all(np.asarray(action.high) == 1)
    if not isinstance(action, Box) or len(action.shape) != 1 or not unit:
        raise ValueError(f"{spec.name}: actions must be a vector in [-1, 1] (wrappers.scale_action), got {action}")
    return action.size


def check_unit_actions(spec: Spec) -> None:
    """Refuses continuous actions that are not vectors in [-1, 1]; discrete ones pass, of one entry or of several.

    Raises:
      ValueError: as `unit_action_size`.
    """
    if not isinstance(spec.action, Discrete | MultiDiscrete):
        unit_action_size(spec)


def need_one_array(spec: Spec, what: str) -> None:
    """Refuses observations that are a dict of arrays.

    Args:
      spec: of the environment.
      what: needs a single array; begins the message.
    Raises:
      ValueError: observations are a dict.
    """
    if isinstance(spec.obs, DictSpace):
        names = ", ".join(sorted(spec.obs.spaces))
        raise ValueError(f"{what} needs observations that are one array, {spec.name} has a dict of {names}")


def num_states(spec: Spec) -> int:
    """States of an environment whose observations are their numbers.

    Raises:
      ValueError: observations are anything else.
    """
    if not isinstance(spec.obs, Discrete):
        raise ValueError(f"{spec.name}: observations must be numbered states (envs/discrete.py), got {spec.obs}")
    return spec.obs.n
