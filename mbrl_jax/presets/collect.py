"""Data sets made with what a run has learned: episodes of its policy, of random actions, or its replay buffer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.buffers import datasets
from mbrl_jax.buffers.datasets import Dataset
from mbrl_jax.buffers.uniform import Ring
from mbrl_jax.core import tree
from mbrl_jax.core.precision import narrow_env
from mbrl_jax.core.types import Agent, Array, DictSpace, Env, HostEnv, Key, Obs, Transition, Tree, no_update
from mbrl_jax.envs import games
from mbrl_jax.presets.registry import AGENTS
from mbrl_jax.presets.restore import Loaded
from mbrl_jax.presets.seen import as_seen
from mbrl_jax.train.host_evaluate import episode_seeds
from mbrl_jax.train.loop import Actors, LoopConfig, step_envs


def collect(
    run: Loaded, key: Key, steps: int, *, envs: int = 10, sampled: bool = False, random: float = 0.0
) -> Dataset:
    """Steps in the environment of a run, in several copies of it side by side.

    Args:
      run: what was learned.
      key: used once.
      steps: rows of the data set.
      envs: copies of the environment; the rows of each follow each other.
      sampled: draw the policy's actions as in training, instead of the deterministic ones of evaluation.
      random: share of the rows, in [0, 1], whose actions are uniformly random; they come first, in episodes of their
        own.
    Returns:
      the data set; the last row of each copy is marked as truncated. `about` counts the complete episodes.
    Raises:
      ValueError: an agent that plans in the simulator, a game, observations that are no single array, or no steps.
    """
    _refuse(run)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    key_random, key_policy = jax.random.split(key)
    at_random = round(random * steps)
    parts = []
    if at_random:
        parts.append(_play(_random_agent(run), (), run.raw, key_random, at_random, envs, False))
    if steps > at_random:
        acting = _seeing(run)
        parts.append(_play(acting, run.state.learner, run.raw, key_policy, steps - at_random, envs, sampled))
    about = _about(run) | {"sampled": sampled, "random": random}
    return _joined(parts, about)


def episodes(run: Loaded, key: Key, steps: int, count: int, actions: str = "policy") -> Transition:
    """Rows of several copies of a run's environment, from the start of an episode on.

    Args:
      run: what was learned, by an agent that sees observations.
      key: used once.
      steps: T, rows of each copy.
      count: N, copies.
      actions: "policy" for those of evaluation, "sampled" for those of training, "random" for uniform ones.
    Returns:
      rows [N, T, ...] with observations as the environment gives them; a copy whose episode ends starts the next one.
    """
    agent, learner = (_random_agent(run), ()) if actions == "random" else (_seeing(run), run.state.learner)
    play: Any = _on_host if isinstance(run.raw, HostEnv) else _compiled
    rows = play(agent._replace(act=_mode(agent, actions == "sampled")), learner, run.raw, key, steps, count)
    return jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 0, 1), rows)


def replayed(run: Loaded) -> Dataset:
    """The rows of a run's replay buffer, from the oldest to the newest, those of each environment together.

    Args:
      run: whose checkpoint holds a buffer of single transitions.
    Raises:
      ValueError: it holds none, or an empty one.
    """
    _refuse(run)
    ring = run.state.buffer
    if not isinstance(ring, Ring):
        raise ValueError(f"--replay needs a run that keeps single transitions, which {run.algo} does not here")
    size, capacity = int(ring.size), ring.rows.reward.shape[0]
    if size == 0:
        raise ValueError("--replay: the run's replay buffer is empty")
    order = (np.arange(size) + (int(ring.head) if size == capacity else 0)) % capacity
    copies = run.loop.num_envs
    if size % copies or capacity % copies:
        copies = 1  # the oldest row may be of any of them: rows stay as they lie
    rows = jax.tree.map(np.asarray, tree.take(ring.rows, jnp.asarray(order.reshape(-1, copies).T)))
    return _joined([_of_copies(rows, size)], _about(run) | {"replay": True})


def _refuse(run: Loaded) -> None:
    if AGENTS[run.algo].simulator:
        raise ValueError(
            f"run must be of an agent that sees observations, got {run.algo}, which plans in the simulator"
        )
    if isinstance(run.raw.spec.obs, DictSpace):
        raise ValueError(f"data sets hold observations that are one array, those of {run.name} are a dict")
    if isinstance(run.raw, Env) and games.is_game(run.raw):
        raise ValueError(f"data sets hold steps of one player, {run.name} has two or illegal actions")


def _about(run: Loaded) -> dict[str, Any]:
    return {"env": run.name, "algo": run.algo, "env_steps": run.env_steps, "chunk": run.chunk}


def _seeing(run: Loaded) -> Agent:
    """The run's agent, which takes observations as the environment gives them."""
    agent, raw, spec = run.agent, run.raw.spec, run.env.spec

    def act(key: Key, learner: Tree, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        action, carry, _ = agent.act(key, learner, carry, as_seen(obs, raw.obs, spec.obs), explore)
        return action, carry, ()

    return agent._replace(act=act, follow=None)


def _random_agent(run: Loaded) -> Agent:
    space = run.env.spec.action

    def act(key: Key, learner: Tree, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        del learner, obs, explore
        return space.sample(key), carry, ()

    return Agent(lambda key: (), lambda: (), act, no_update)


def _play(
    agent: Agent, learner: Tree, env: Any, key: Key, steps: int, envs: int, sampled: bool
) -> tuple[Dataset, list[float]]:
    """Steps of an agent, those of each environment together, the newest of the last environments left out."""
    copies = min(envs, steps)
    length = -(-steps // copies)
    agent = agent._replace(act=_mode(agent, sampled))
    play: Any = _on_host if isinstance(env, HostEnv) else _compiled
    rows = play(agent, learner, env, key, length, copies)
    return _of_copies(jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 0, 1), rows), steps)


def _mode(agent: Agent, sampled: bool) -> Any:
    """The agent's `act` that draws, or does not, whatever it is asked."""
    return lambda key, learner, carry, obs, explore: agent.act(key, learner, carry, obs, sampled)


def _compiled(agent: Agent, learner: Tree, env: Env, key: Key, length: int, copies: int) -> Transition:
    """Rows [T, N, ...] of an environment in JAX."""
    cfg, env = LoopConfig(num_envs=copies), narrow_env(env)

    def play(key: Key, learner: Tree) -> Transition:
        key_reset, key_steps = jax.random.split(key)
        state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, copies))
        start = Actors(state, obs, tree.tile(agent.carry(), copies), jnp.zeros(copies, jnp.float32))

        def one(actors: Actors, key: Key) -> tuple[Actors, Transition]:
            return step_envs(key, learner, actors, agent, env, cfg)[:2]

        return jax.lax.scan(one, tree.strip_weak_types(start), jax.random.split(key_steps, length))[1]

    return jax.jit(play)(key, learner)


def _on_host(agent: Agent, learner: Tree, env: HostEnv, key: Key, length: int, copies: int) -> Transition:
    """Rows [T, N, ...] of an environment whose steps are Python."""
    key_reset, key_act, key_next = jax.random.split(key, 3)

    def act(learner: Tree, carry: Tree, obs: Obs, i: Array) -> tuple[Array, Tree]:
        keys = jax.random.split(jax.random.fold_in(key_act, i), copies)
        action, carry, _ = jax.vmap(lambda k, c, o: agent.act(k, learner, c, o, True))(keys, carry, obs)
        return action, carry

    step, fresh = jax.jit(act), tree.tile(agent.carry(), copies)
    renew = jax.jit(lambda last, carry: tree.where(last, fresh, carry))
    seeds = jax.jit(lambda i: episode_seeds(jax.random.split(jax.random.fold_in(key_next, i), copies)))
    hosts, carry, found = env.make(copies, 0), fresh, []
    try:
        obs = hosts.reset(np.asarray(episode_seeds(jax.random.split(key_reset, copies))))
        for i in range(length):
            action, carry = step(learner, carry, obs, np.int32(i))
            taken = np.asarray(action)
            out = hosts.step(taken, np.asarray(seeds(np.int32(i))), None)
            found.append(Transition(obs, taken, out.reward, out.discount, out.next_obs, out.last))
            carry, obs = renew(out.last, carry), out.obs
    finally:
        hosts.close()
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def _of_copies(rows: Transition, count: int) -> tuple[Dataset, list[float]]:
    """The first rows of several copies of an environment, one after the other, and the returns of complete episodes.

    Args:
      rows: [N, T, ...].
      count: of the rows to keep.
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], rows)
    fields = {"obs": flat.obs, "action": flat.action, "reward": flat.reward, "discount": flat.discount}
    length = rows.reward.shape[1]
    ends = np.arange(1, count + 1) % length == 0
    ends[-1] = True
    totals = []
    for start in range(0, count, length):
        own = slice(start, min(start + length, count))
        stops = np.flatnonzero(flat.last[own]) + 1
        totals += [float(part.sum()) for part in np.split(flat.reward[own], stops)[:-1]]
    return datasets.checked(fields | {"last": flat.last | ends, "next_obs": flat.next_obs}, "rows"), totals


def _joined(parts: list[tuple[Dataset, list[float]]], about: dict[str, Any]) -> Dataset:
    """The parts as one, with the complete episodes counted in `about`."""
    whole, returns = datasets.concatenate([data for data, _ in parts]), [total for _, own in parts for total in own]
    told = {"rows": whole.rows, "episodes": len(returns)}
    told |= {"mean_return": float(np.mean(returns))} if returns else {}
    return whole._replace(about=about | told)
