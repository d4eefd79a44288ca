"""A run taken up again in Python: act with its policy, plan in its model, read its rows."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mbrl_jax.core.types import Agent, Model, Obs, Spec, State, Tree
from mbrl_jax.presets import builder
from mbrl_jax.presets.restore import Loaded, saved_settings
from mbrl_jax.presets.seen import as_seen


class Carry(NamedTuple):
    """What a policy carries from step to step of an episode."""

    memory: Tree  # the actor's
    key: Any  # of the next action


class Policy:
    """What a run has learned to do: `action, carry = policy(obs, carry)`, with NumPy arrays in and out.

    Args:
      agent: acts.
      learner: what it has learned.
      raw: of the environment by its name, whose observations are taken.
      spec: of the environment in the form that the agent takes, whose observations are taken too.
      simulator: whether it acts on the environment's states; their form is not checked.
    """

    def __init__(self, agent: Agent, learner: Tree, raw: Spec, spec: Spec, simulator: bool):
        self.agent, self.learner, self.raw, self.spec, self.simulator = agent, learner, raw, spec, simulator
        self._act = jax.jit(self._step, static_argnums=3)

    def _step(self, learner: Tree, carry: Carry, obs: Obs, explore: bool) -> tuple[Any, Carry]:
        key, key_act = jax.random.split(carry.key)
        action, memory, _ = self.agent.act(key_act, learner, carry.memory, obs, explore)
        return action, Carry(memory, key)

    def start(self, seed: int = 0) -> Carry:
        """The carry at the start of an episode.

        Args:
          seed: of the actions that are drawn in it: all that are sampled, and a planner's candidates.
        """
        return Carry(self.agent.carry(), jax.random.key(seed))

    def __call__(self, obs: Obs, carry: Carry | None = None, *, sample: bool = False) -> tuple[Any, Carry]:
        """One action for one observation.

        Args:
          obs: of the environment, or as the agent sees it: images and planes may be flat already, numbers one-hot.
          carry: from the call before in this episode; None at its start, as `start()`.
          sample: draw the action as in training, instead of the deterministic one of evaluation.
        Returns:
          the action as a NumPy array of the environment's action space, and the carry for the next call.
        Raises:
          ValueError: the observation is of another shape.
        """
        seen = obs if self.simulator else as_seen(obs, self.raw.obs, self.spec.obs)
        action, after = self._act(self.learner, self.start() if carry is None else carry, seen, sample)
        return jax.tree.map(np.asarray, action), after


class Run:
    """One seed of a run at one of its checkpoints.

    Args:
      folder: of the run.
      seed: which of its seeds, counted from 0.
      loaded: what was read of it.
    """

    def __init__(self, folder: Path | str, seed: int, loaded: Loaded):
        self.folder, self.seed, self.loaded = Path(folder), seed, loaded
        self.algo: str = loaded.algo
        self.name: str = loaded.name  # of the environment
        self.config: Any = loaded.config  # of the agent
        self.agent: Agent = loaded.agent
        self.env: Any = loaded.env  # as the agent sees it
        self.evaluation: Any = loaded.evaluation
        self.state: Any = loaded.state  # of the loop
        self.chunk: int = loaded.chunk
        self.env_steps: int = loaded.env_steps
        self.checkpoint: str = loaded.checkpoint  # by the name of its folder

    def __repr__(self) -> str:
        return f"Run({self.algo} on {self.name}, seed {self.seed}, after {self.env_steps:,} steps, {self.folder})"

    @property
    def learner(self) -> Tree:
        """What the agent has learned: its parameters, and all that training goes on from."""
        return self.state.learner

    @property
    def settings(self) -> dict[str, Any]:
        """All that `config.json` holds: the settings of agent and loop, seeds, and versions of the libraries."""
        return saved_settings(self.folder)

    @cached_property
    def policy(self) -> Policy:
        """`action, carry = run.policy(obs, carry)`."""
        raw = self.loaded.raw.spec
        simulator = builder.algorithm(self.algo).simulator
        return Policy(self.agent, self.learner, raw, self.env.spec, simulator)

    @cached_property
    def _learned(self) -> Any:
        entry = builder.algorithm(self.algo)
        if entry.learned_model is None:
            able = ", ".join(name for name, known in builder.AGENTS.items() if known.model_part is not None)
            raise ValueError(f"run must be of an agent with a model ({able}), got {self.algo}")
        return entry.learned_model(self.config, builder.source(self.algo, self.loaded.raw, self.env), self.learner)

    @property
    def model(self) -> Model:
        """The learned model with its parameters inside, for `unroll`, `imagine` and every planner.

        Raises:
          ValueError: the agent has no model.
        """
        return self._learned.model

    def encode(self, obs: Obs, seed: int = 0) -> State:
        """The model's state for the first observation of an episode, to plan or imagine from.

        Args:
          obs: as for `policy`.
          seed: of what is drawn for it, where the state is random.
        Raises:
          ValueError: the agent has no model, or the observation is of another shape.
        """
        policy = self.policy
        seen = obs if policy.simulator else as_seen(obs, policy.raw.obs, policy.spec.obs)
        return self._learned.encode(jax.random.key(seed), seen)

    @property
    def metrics(self) -> Any:
        """The rows of `metrics.csv` of all seeds, a pandas frame; empty cells are NaN.

        Raises:
          ValueError: pandas is not installed.
        """
        return self._table("metrics.csv")

    @property
    def evaluations(self) -> Any:
        """The rows of `eval.csv`, likewise."""
        return self._table("eval.csv")

    def _table(self, name: str) -> Any:
        try:
            import pandas
        except ImportError as error:
            raise ValueError(f"{name} as a frame needs pandas: pip install pandas") from error
        return pandas.read_csv(self.folder / name)
