"""Which agents there are by name, and how each is made from its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mbrl_jax.agents import (
    dqn,
    dreamer_v1,
    dreamer_v2,
    dreamer_v3,
    dyna_dqn,
    dyna_q,
    imaginers,
    mbpo,
    mpc_true,
    muzero,
    pets,
    ppo,
    q_learning,
    sac,
    search,
    sweeping,
    tdmpc2,
    world_models,
)
from mbrl_jax.agents.imagination import Imaginer
from mbrl_jax.buffers.latest import latest
from mbrl_jax.buffers.prioritized import prioritized
from mbrl_jax.buffers.sequence import sequence
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core.types import Agent, Box, Buffer, Discrete, Spec, Tree
from mbrl_jax.envs import cartpole
from mbrl_jax.envs.names import ENVS as ENVS
from mbrl_jax.train.loop import LoopConfig


class Algorithm(NamedTuple):
    """How an agent is made from its settings."""

    config: Any  # a `@config` class whose defaults suit no environment in particular
    make: Callable[[Any, Any], Agent]  # (settings, spec) -> agent; (settings, env) with `simulator`
    buffer: Callable[[Any, LoopConfig], Buffer]  # (settings, loop) -> buffer
    actions: tuple[type, ...] = (Discrete, Box)  # the action spaces it can handle
    summary: str = ""
    table: bool = False  # needs numbered states; other agents get them as one-hot vectors
    planes: bool = False  # takes planes [height, width, channels] as they are; other agents get them flattened
    simulator: bool = False  # plans in the environment itself, and sees its state
    games: bool = False  # knows of illegal actions and of a second player
    window: Callable[[Any], int] | None = None  # (settings) -> rows of the windows it learns from, where it does
    imaginer: Callable[[Any, Spec, Tree], Imaginer] | None = None  # (settings, spec, learner) -> what it imagines with


def ring(agent: Any, loop: LoopConfig) -> Buffer:
    """Single transitions, for agents that need no windows."""
    del agent
    return uniform(loop.capacity)


def _latest(agent: Any, loop: LoopConfig) -> Buffer:
    del agent
    return latest(loop.unroll, loop.num_envs)


def _muzero_windows(agent: muzero.MuZeroConfig, loop: LoopConfig) -> Buffer:
    sizes = loop.capacity, muzero.window(agent), loop.num_envs
    return prioritized(*sizes, alpha=1.0, beta=1.0) if agent.priorities else sequence(*sizes)


def _alphazero_windows(agent: search.AlphaZeroConfig, loop: LoopConfig) -> Buffer:
    return sequence(loop.capacity, search.window(agent), loop.num_envs)


def _windows_of(module: Any) -> Callable[[Any, LoopConfig], Buffer]:
    return lambda agent, loop: module.buffer(agent, loop.capacity, loop.num_envs)


def _dreamer(module: Any, config: type, summary: str) -> Algorithm:
    return Algorithm(
        config, module.make, _windows_of(module), planes=True, window=module.window, imaginer=module.imaginer,
        summary=summary,
    )  # fmt: skip


def _dyna_q_plus() -> dyna_q.DynaQConfig:
    return dyna_q.DynaQConfig(bonus=1e-3, untried=True)


REWARDS: dict[str, pets.RewardFn] = {"cartpole-swingup": cartpole.swingup_reward}
"""Reward functions that a planner may be told, by the name in the environment's spec."""


def _pets(cfg: pets.PETSConfig, spec: Spec) -> Agent:
    return pets.make(cfg, spec, REWARDS.get(spec.name) if cfg.known_reward else None)


AGENTS: dict[str, Algorithm] = {
    "q_learning": Algorithm(
        q_learning.QLearningConfig, q_learning.make, _latest, (Discrete,), table=True,
        summary="tabular Q-learning",
    ),
    "dyna_q": Algorithm(
        dyna_q.DynaQConfig, dyna_q.make, _latest, (Discrete,), table=True,
        summary="Q-learning that plans with a table of what it saw",
    ),
    "dyna_q_plus": Algorithm(
        _dyna_q_plus, dyna_q.make, _latest, (Discrete,), table=True,
        summary="Dyna-Q with a bonus for what it has not tried for long",
    ),
    "sweeping": Algorithm(
        sweeping.SweepingConfig, sweeping.make, _latest, (Discrete,), table=True,
        summary="prioritized sweeping: planned backups where the error is largest",
    ),
    "dqn": Algorithm(
        dqn.DQNConfig, dqn.make, ring, (Discrete,), planes=True,
        summary="deep Q-network, double and with a target network, model-free",
    ),
    "dyna_dqn": Algorithm(
        dyna_dqn.DynaDQNConfig, dyna_dqn.make, ring, (Discrete,),
        summary="deep Dyna: DQN with more updates, on rollouts of a learned model",
    ),
    "ppo": Algorithm(
        ppo.PPOConfig, ppo.make, _latest, planes=True,
        summary="proximal policy optimisation, model-free and on-policy",
    ),
    "sac": Algorithm(sac.SACConfig, sac.make, ring, summary="soft actor-critic, model-free"),
    "mbpo": Algorithm(mbpo.MBPOConfig, mbpo.make, ring, summary="SAC on short rollouts of a learned ensemble"),
    "pets": Algorithm(pets.PETSConfig, _pets, ring, summary="planning anew in every step with a learned ensemble"),
    "mpc": Algorithm(
        mpc_true.MPCTrueConfig, mpc_true.make, _latest, simulator=True,
        summary="planning anew in every step with the true dynamics; nothing is learned",
    ),
    "uct": Algorithm(
        search.UCTConfig, search.make_uct, _latest, (Discrete,), simulator=True, games=True,
        summary="tree search with random play in the true dynamics; nothing is learned",
    ),
    "alphazero": Algorithm(
        search.AlphaZeroConfig, search.make_alphazero, _alphazero_windows, (Discrete,), simulator=True, games=True,
        window=search.window, summary="tree search in the true dynamics, guided by a learned policy and value",
    ),
    "muzero": Algorithm(
        muzero.MuZeroConfig, muzero.make, _muzero_windows, (Discrete,), planes=True, games=True, window=muzero.window,
        summary="tree search in a latent model that is learned for the search alone",
    ),
    "dreamer_v1": _dreamer(
        dreamer_v1, dreamer_v1.DreamerV1Config, summary="an actor on the gradient of imagined returns",
    ),
    "dreamer_v2": _dreamer(
        dreamer_v2, dreamer_v2.DreamerV2Config, summary="an actor and critic in the imagination of a discrete model",
    ),
    "dreamer_v3": _dreamer(
        dreamer_v3, dreamer_v3.DreamerV3Config, summary="the same, with one set of settings for many tasks",
    ),
    "world_models": Algorithm(
        world_models.WorldModelsConfig, world_models.make, _windows_of(world_models), planes=True,
        window=world_models.window, imaginer=imaginers.dreams,
        summary="a linear controller that evolves in a learned dream",
    ),
    "tdmpc2": Algorithm(
        tdmpc2.TDMPC2Config, tdmpc2.make, _windows_of(tdmpc2), (Box,), window=tdmpc2.window, imaginer=imaginers.latents,
        summary="planning in a learned latent model with a learned value and policy",
    ),
}  # fmt: skip
