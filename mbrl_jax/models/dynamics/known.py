"""What is known of an environment in place of what a model learns of it: its reward, its terminations, or a model.

    step of the learned model:  s' ~ f(s, a);   then  r = reward(s', a),   d = 1 - termination(s', a)

Chua et al. 2018 and Janner et al. 2019 take both functions as known. They are given to an agent's `make`, or named in
its settings as "module:function" or "file.py:function", so that a run finds them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax.numpy as jnp

from mbrl_jax.core.config import config, flat, replace, setting
from mbrl_jax.core.types import Action, Array, Key, Obs, Params, Spec, StepOut, WorldModel

RewardFn: TypeAlias = Callable[[Obs, Action], Array]  # (next observation, action) -> [], the reward of a step
TerminationFn: TypeAlias = Callable[[Obs, Action], Array]  # (next observation, action) -> [] bool: the episode ends

C = TypeVar("C")


@config
class KnownConfig:
    """Functions of the user's own by name, "module:function" or "file.py:function"; "" for none."""

    reward: str = setting(
        default="", help="module:function of a reward, (next observation, action) -> number; empty: learned"
    )
    termination: str = setting(
        default="", help="module:function that says whether an episode ends, (next observation, action) -> bool"
    )
    member: str = setting(
        default="", help="module:function of the ensemble's member, (spec) -> WorldModel; empty: the agent's own"
    )


def named_part(name: str, field: str) -> Any:
    """The function that a setting names, imported; None where it names none.

    Args:
      name: "module:function", "file.py:function" or "".
      field: of `KnownConfig`, for messages.
    Raises:
      ValueError: there is no such module, file or function.
    """
    if not name:
        return None
    from mbrl_jax.envs import own

    part = own.find(name, f"agent.known.{field}").made
    if not callable(part):
        raise ValueError(f"agent.known.{field}: {name} must be a function, got {type(part).__name__}")
    return part


def chosen(
    cfg: KnownConfig, member: WorldModel | None, reward: RewardFn | None, termination: TerminationFn | None, spec: Spec
) -> tuple[WorldModel | None, RewardFn | None, TerminationFn | None]:
    """What is given, or else what the settings name.

    Args:
      cfg: names.
      member: a model of the user's own, given to `make`.
      reward: likewise.
      termination: likewise.
      spec: of the environment, which a named member is made for.
    Returns:
      member, reward and termination; None for what is neither given nor named.
    Raises:
      ValueError: a name that leads nowhere, one beside what is given, or a named member that is no `WorldModel`.
    """
    for field, given in (("member", member), ("reward", reward), ("termination", termination)):
        if given is not None and getattr(cfg, field):
            raise ValueError(f"agent.known.{field} must be empty where one is given, got {getattr(cfg, field)!r}")
    if cfg.member:
        member = named_part(cfg.member, "member")(spec)
        if not isinstance(member, WorldModel):
            raise ValueError(f"agent.known.member: {cfg.member} must return a WorldModel, got {type(member).__name__}")
    reward = reward or named_part(cfg.reward, "reward")
    return member, reward, termination or named_part(cfg.termination, "termination")


def member_of(
    cfg: KnownConfig,
    learned: Callable[[], WorldModel],
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> WorldModel:
    """The ensemble's member with what is known of the environment: given, named in the settings, or else learned.

    Args:
      cfg, spec, member, reward, termination: as in `chosen`.
      learned: makes the agent's own member, where there is no other.
    Raises:
      ValueError: as in `chosen`.
    """
    member, reward, termination = chosen(cfg, member, reward, termination, spec)
    return with_known(learned() if member is None else member, reward, termination)


def with_known(
    member: WorldModel, reward: RewardFn | None = None, termination: TerminationFn | None = None
) -> WorldModel:
    """A model over observations whose rewards or terminations are computed from the observation that it predicts.

    Args:
      member: any model whose state is the observation.
      reward: (next observation, action) -> []; None for the model's own.
      termination: (next observation, action) -> [] bool; None for the model's own.
    Returns:
      the model with another `step`; what it learns is unchanged.
    """
    if reward is None and termination is None:
        return member

    def step(params: Params, key: Key, state: Obs, action: Action) -> StepOut:
        out = member.step(params, key, state, action)
        if reward is not None:
            out = out._replace(reward=_scalar(reward(out.state, action), "reward").astype(jnp.float32))
        if termination is not None:
            ends = _scalar(termination(out.state, action), "termination").astype(bool)
            out = out._replace(discount=1.0 - ends.astype(jnp.float32))
        return out

    return member._replace(step=step)


def _scalar(value: Any, what: str) -> Array:
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(f"{what} must return a scalar for one observation and action, got {value.dtype}{value.shape}")
    return value


def settled(cfg: C) -> C:
    """Settings whose named functions are found from any folder: paths of files made absolute.

    Args:
      cfg: of any agent; a `KnownConfig` in its field `known` is looked at.
    Raises:
      ValueError: as `named_part`.
    """
    from mbrl_jax.envs import own

    found: dict[str, str] = {}
    for name, value in flat(cfg).items():
        if name.startswith("known.") and isinstance(value, str) and value:
            named_part(value, name.rpartition(".")[2])
            found[name] = own.find(value, f"agent.{name}").name
    return replace(cfg, found) if found else cfg
