"""The compiled training loop: an outer loop of `refresh` around an inner loop of collecting, storing and `update`.

An iteration takes `unroll` steps in each of `num_envs` environments, stores them, and calls `update` `updates` times. A
cycle is one `refresh` (fit a model, branch rollouts) followed by `inner` iterations. A chunk is `cycles` cycles and one
evaluation. All of it is nested scans: no step counter decides what runs. `advance` runs any part of a chunk, to
the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_env
from mbrl_jax.core.sharding import make_mesh, on_all, over_data, over_model, using
from mbrl_jax.core.types import Action, Agent, Array, Buffer, Env, Key, Metrics, Obs, Replay, Transition, Tree
from mbrl_jax.train.evaluate import evaluate


@config
class LoopConfig:
    """How much is collected, learned and evaluated when, and how much is stored."""

    num_envs: int = setting(default=1, low=1, help="number of environments stepped in parallel")
    unroll: int = setting(default=1, low=1, help="environment steps per iteration, in each environment")
    updates: int = setting(default=1, low=1, help="calls of the agent's update per iteration")
    inner: int = setting(default=50, low=1, help="iterations per cycle, which begins with the agent's refresh")
    cycles: int = setting(
        default=5, low=1, help="cycles per chunk; logs, evaluations and checkpoints follow each chunk"
    )
    warmup: int = setting(default=200, low=0, help="iterations of uniformly random actions before learning")
    hold: int = setting(default=1, low=1, help="iterations for which each random action of the warm-up is repeated")
    eval_episodes: int = setting(default=10, low=0, help="deterministic evaluation episodes after every chunk")
    capacity: int = setting(default=10_000, low=1, help="transitions that fit into the replay buffer")
    overlap: int = setting(
        default=0,
        low=0,
        help="iterations collected with the parameters of before while those learn; host environments only",
    )
    mesh: str = setting(
        default="", help="devices that share one learner, as data=4 or data=4,model=2: batches, replay and "
        "environments are divided over data, parameters over model; empty for one device",
    )  # fmt: skip


COUNTS = ("ended", "ended_return", "lost_obs", "lost_reward")
"""What `step_envs` counts, beside the agent's metrics."""


class Actors(NamedTuple):
    """The environments and the progress of their current episodes."""

    env: Tree  # [N, ...]
    obs: Tree  # [N, ...]
    carry: Tree  # [N, ...]
    episode_return: Array  # [N] undiscounted, so far


class LoopState(NamedTuple):
    """The complete state of a run; continuing needs nothing else."""

    key: Key
    learner: Tree
    buffer: Tree
    actors: Actors


class Report(NamedTuple):
    """What a chunk reports: scalars averaged over it, and one deterministic evaluation at its end."""

    metrics: Metrics  # "return": mean of the training episodes that ended (0 if none did); "episodes": their number
    returns: Array  # [eval_episodes]
    lengths: Array  # [eval_episodes] int32
    not_finite: dict[str, Array] = {}  # noqa: RUF012, as `not_finite` returns it


class Gathered(NamedTuple):
    """The metrics of a chunk that is not complete yet; what has not run is zero or of the chunk before."""

    iterations: Metrics  # names to arrays [cycles, inner]
    refreshes: Metrics  # names to arrays [cycles]


class Pieces(NamedTuple):
    """A chunk that may be run in several calls. Its units: each cycle's refresh and iterations, then the evaluation.

    Unit `c * (blocks + 1)` is the refresh of cycle `c`, the `blocks` units after it are its iterations, `block` at a
    time, and the last unit of all is the evaluation.
    """

    units: int  # in a chunk
    blocks: int  # per cycle
    block: int  # iterations in each
    gather: Callable[[LoopState], Gathered]  # zeros, to begin a chunk with
    # (state, gathered, start, stop) runs the units from `start` to below `stop`; the Report counts where the last ran
    advance: Callable[[LoopState, Gathered, Array, Array], tuple[LoopState, Gathered, Report]]
    whole: Callable[[LoopState], tuple[LoopState, Report]]  # the chunk that these are pieces of


class WarmUp(NamedTuple):
    """A run's beginning, watched."""

    watched: Callable[[Key], tuple[LoopState, dict[str, Array]]]  # the state, and what `lost_in` says of the warm-up
    whole: Callable[[Key], LoopState]  # the `init` that this is
    start: Callable[[Key], LoopState] | None = None  # the state before the warm-up, in the same shapes


class Loop(NamedTuple):
    """A training run as pure functions."""

    init: Callable[[Key], LoopState]  # warm-up included
    chunk: Callable[[LoopState], tuple[LoopState, Report]]
    train: Callable[[Key, int], tuple[LoopState, Report]]  # Report of [chunks, ...]; equals `init` and then `chunk`s
    pieces: Pieces | None = None  # of `chunk`; None, or those of another chunk: it runs in one call
    warm_up: WarmUp | None = None  # of `init`; None, or that of another `init`: nothing is known of its environments
    place: Callable[[LoopState], LoopState] | None = None  # divides a state among the devices of `LoopConfig.mesh`


def env_steps(cfg: LoopConfig, chunks: int) -> int:
    """Environment steps of one seed after the warm-up and `chunks` chunks, the random steps of the warm-up included.

    Args:
      cfg: of the loop.
      chunks: number of chunks, at least 0.
    """
    return (cfg.warmup + chunks * cfg.cycles * cfg.inner) * cfg.unroll * cfg.num_envs


def updates(cfg: LoopConfig, chunks: int) -> int:
    """Calls of `update` in one seed's first `chunks` chunks.

    Args:
      cfg: of the loop.
      chunks: number of chunks, at least 0.
    """
    return chunks * cfg.cycles * cfg.inner * cfg.updates


def chunks_for(cfg: LoopConfig, steps: int) -> int:
    """The fewest chunks, at least 1, after which a seed has made `steps` environment steps.

    Args:
      cfg: of the loop.
      steps: environment steps of one seed, those of the warm-up included.
    """
    per_chunk = env_steps(cfg, 1) - env_steps(cfg, 0)
    return max(1, -(-(steps - env_steps(cfg, 0)) // per_chunk))


def make_loop(agent: Agent, env: Env, buffer: Buffer, cfg: LoopConfig, eval_env: Env | None = None) -> Loop:
    """Binds an agent, an environment and a buffer to one compiled loop over one seed; `vmap` it for more.

    Args:
      agent: what learns.
      env: the environment it learns in.
      buffer: what stores the experience.
      cfg: how much is collected, learned and evaluated when.
      eval_env: the environment of the evaluation episodes, with the same observations and actions; `env` if None.
    Returns:
      the run's `init`, `chunk` and `train`, pure functions that may be compiled and `vmap`ped.
    Raises:
      ValueError: a setting out of its range, or evaluation in an environment without a time limit.
    """
    check(cfg, "loop.")
    if cfg.overlap:
        raise ValueError(
            f"loop.overlap must be 0 for {env.spec.name}, which is compiled into one program with the agent, "
            f"got {cfg.overlap}"
        )
    mesh = make_mesh(cfg.mesh)
    env, eval_env = narrow_env(env), narrow_env(env if eval_env is None else eval_env)
    buffer = buffer if mesh is None else divided(buffer)
    # Compiled for themselves these would be no faster; but each is traced once for all the places that call it.
    agent = agent._replace(act=jax.jit(agent.act, static_argnums=4))
    one = jax.jit(lambda key, state: iteration(key, state, agent, env, buffer, cfg))
    refresh = jax.jit(lambda key, learner, data: agent.refresh(key, learner, buffer.replay(data)))
    if cfg.eval_episodes and eval_env.spec.time_limit is None:
        raise ValueError(f"loop.eval_episodes must be 0: {eval_env.spec.name} has no time limit to end an episode")

    def watched(key: Key) -> tuple[LoopState, dict[str, Array]]:
        return warmed_up(key, agent, env, buffer, cfg)

    def init(key: Key) -> LoopState:
        return watched(key)[0]

    def chunk(state: LoopState) -> tuple[LoopState, Report]:
        key, key_cycles, key_evaluate = jax.random.split(state.key, 3)
        state, metrics = jax.lax.scan(
            lambda state, key: cycle(key, state, one, refresh, cfg),
            state,
            jax.random.split(key_cycles, cfg.cycles),
        )
        return state._replace(key=key), finish(key_evaluate, state, Gathered(*metrics))

    @jax.jit
    def finish(key: Key, state: LoopState, gathered: Gathered) -> Report:
        returns, lengths = evaluate(agent, eval_env, key, state.learner, cfg.eval_episodes)
        return Report(summarize(*gathered), returns, lengths, not_finite(state, gathered.iterations))

    def train(key: Key, chunks: int) -> tuple[LoopState, Report]:
        return jax.lax.scan(lambda state, _: chunk(state), init(key), None, length=chunks)

    def piece(state: LoopState, gathered: Gathered, start: Array, stop: Array) -> tuple[LoopState, Gathered, Report]:
        return advance(state, gathered, start, stop, one, refresh, finish, cfg)

    def gather(state: LoopState) -> Gathered:
        learner, refreshed = jax.eval_shape(refresh, state.key, state.learner, state.buffer)
        _, iterated = jax.eval_shape(one, state.key, state._replace(learner=learner))
        zeros = lambda shape, leaf: jnp.zeros(shape, leaf.dtype)  # noqa: E731
        iterations = jax.tree.map(partial(zeros, (cfg.cycles, cfg.inner)), iterated)
        return Gathered(iterations, jax.tree.map(partial(zeros, (cfg.cycles,)), refreshed))

    block = iterations_at_once(cfg)
    blocks = cfg.inner // block
    pieces = Pieces(cfg.cycles * (blocks + 1) + 1, blocks, block, gather, piece, chunk)
    loop = Loop(init, chunk, train, pieces, WarmUp(watched, init, lambda key: begun(key, agent, env, buffer, cfg)[0]))
    return loop if mesh is None else on_mesh(loop, mesh, buffer.axis)


def divided(buffer: Buffer) -> Buffer:
    """A buffer whose samples are divided among the devices of the mesh in force, by their batch axis.

    Args:
      buffer: of transitions, of windows [L, B, ...], or of trajectories.
    """

    def replay(data: Tree) -> Replay:
        found = buffer.replay(data)

        def sample(key: Key, n: int) -> Tree:
            batch = found.sample(key, n)
            if hasattr(batch, "steps"):  # windows are time-major
                return over_data(batch._replace(steps=()))._replace(steps=over_data(batch.steps, 1))
            return over_data(batch, buffer.axis)

        return found._replace(sample=sample)

    return buffer._replace(replay=replay)


def on_mesh(loop: Loop, mesh: Mesh, axis: int = 0) -> Loop:
    """A loop whose state lies on the devices of a mesh: parameters over `model`, all that is counted over `data`.

    Args:
      loop: whose functions say by `core.sharding.over_data` what a batch is.
      mesh: of the devices.
      axis: of the replay that is divided, as `Buffer.axis`.
    """
    assert loop.pieces is not None
    pieces = loop.pieces

    def settled(state: LoopState) -> LoopState:
        buffer, actors = over_data(state.buffer, axis), over_data(state.actors)
        return LoopState(on_all(state.key), over_model(state.learner), buffer, actors)

    def place(state: LoopState) -> LoopState:
        with using(mesh):
            return settled(state)

    def init(key: Key) -> LoopState:
        with using(mesh):
            return settled(loop.init(key))

    def chunk(state: LoopState) -> tuple[LoopState, Report]:
        with using(mesh):
            state, report = loop.chunk(state)
            return settled(state), report

    def train(key: Key, chunks: int) -> tuple[LoopState, Report]:
        return jax.lax.scan(lambda state, _: chunk(state), init(key), None, length=chunks)

    def gather(state: LoopState) -> Gathered:
        with using(mesh):
            return on_all(pieces.gather(state))

    def advance(state: LoopState, gathered: Gathered, start: Array, stop: Array) -> tuple[LoopState, Gathered, Report]:
        with using(mesh):
            state, gathered, report = pieces.advance(state, gathered, start, stop)
            return settled(state), on_all(gathered), report

    def watched(key: Key) -> tuple[LoopState, dict[str, Array]]:
        assert loop.warm_up is not None
        with using(mesh):
            state, lost = loop.warm_up.watched(key)
            return settled(state), on_all(lost)

    made = pieces._replace(gather=gather, advance=advance, whole=chunk)
    return Loop(init, chunk, train, made, WarmUp(watched, init), place)


def iterations_at_once(cfg: LoopConfig) -> int:
    """How many iterations make a unit of a chunk: one, but some where they take microseconds, for speed.

    Args:
      cfg: of the loop.
    """
    small = cfg.num_envs * cfg.unroll * cfg.updates == 1
    return max(n for n in range(1, 9 if small else 2) if cfg.inner % n == 0)


def begun(key: Key, agent: Agent, env: Env, buffer: Buffer, cfg: LoopConfig) -> tuple[LoopState, Key, Transition]:
    """The state of a run before its warm-up, with an empty buffer.

    Args:
      key: used once.
      agent, env, buffer, cfg: as in `make_loop`.
    Returns:
      the state; the key of the warm-up; the shapes of one transition.
    """
    key_learner, key_reset, key_warmup, key_run = jax.random.split(key, 4)
    learner = agent.init(key_learner)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, cfg.num_envs))
    carry = tree.tile(agent.carry(), cfg.num_envs)
    actors = tree.strip_weak_types(Actors(env_state, obs, carry, jnp.zeros(cfg.num_envs, jnp.float32)))
    rows = jax.eval_shape(lambda: step_envs(key_run, learner, actors, agent, env, cfg)[1])
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    return LoopState(key_run, tree.strip_weak_types(learner), buffer.init(item), actors), key_warmup, item


def warmed_up(key: Key, agent: Agent, env: Env, buffer: Buffer, cfg: LoopConfig) -> tuple[LoopState, dict[str, Array]]:
    """The state of a run after the warm-up: `cfg.warmup` iterations of random actions.

    With `cfg.hold` above 1 every environment repeats each random action for that many iterations, which carries it
    farther than independent actions do.

    Args:
      key: used once.
      agent, env, buffer, cfg: as in `make_loop`.
    Returns:
      the state; as `lost_in` the first iterations in which an environment gave a NaN, none without a warm-up.
    """
    state, key_warmup, item = begun(key, agent, env, buffer, cfg)
    if cfg.warmup == 0:
        return state, {}

    key_iterations, key_actions = (key_warmup, None) if cfg.hold == 1 else jax.random.split(key_warmup)

    def iteration(state: LoopState, at: tuple[Array, Key]) -> tuple[LoopState, Metrics]:
        i, key = at
        key_action = None if key_actions is None else jax.random.fold_in(key_actions, i // cfg.hold)
        return collect(key, state, agent, env, buffer, cfg, random=item, key_action=key_action)

    each = jnp.arange(cfg.warmup), jax.random.split(key_iterations, cfg.warmup)
    state, counts = jax.lax.scan(iteration, state, each)
    return state, lost_in(counts)


def step_envs(
    key: Key,
    learner: Tree,
    actors: Actors,
    agent: Agent,
    env: Env,
    cfg: LoopConfig,
    *,
    random: Transition | None = None,
    key_action: Key | None = None,
) -> tuple[Actors, Transition, Metrics]:
    """One step in every environment; an environment whose episode ends is reset.

    Args:
      key: used once.
      learner: what the agent has learned.
      actors: the N environments.
      agent, env, cfg: as in `make_loop`.
      random: the shapes of one transition, for uniformly random actions in place of the agent's.
      key_action: draws the random actions if given, so that the same key repeats them.
    Returns:
      the environments; the transitions [N, ...]; the number of episodes that ended, the sum of their returns, and how
      many environments gave an observation, and how many a reward, that is NaN.
    """

    def step(key: Key, key_repeated: Key | None, env_state: Tree, obs: Tree, carry: Tree, so_far: Array) -> tuple:
        key_act, key_random, key_step, key_reset = jax.random.split(key, 4)
        if random is not None:
            action = env.spec.action.sample(key_random if key_repeated is None else key_repeated)
            new_carry, extras = followed(agent, key_act, learner, carry, obs, action, random.extras)
        else:
            action, new_carry, extras = agent.act(key_act, learner, carry, obs, True)
        action = jnp.asarray(action, env.spec.action.dtype)
        new_state, new_obs, reward, discount, last = env.step(key_step, env_state, action)
        row = Transition(obs, action, reward, discount, new_obs, last, extras)
        total = so_far + reward
        fresh = (*env.reset(key_reset), agent.carry(), jnp.zeros_like(total))
        going = (new_state, new_obs, new_carry, total)
        return Actors(*tree.where(last, fresh, going)), row, total

    keys = jax.random.split(key, cfg.num_envs)
    keys_repeated = None if key_action is None else jax.random.split(key_action, cfg.num_envs)
    actors, rows, totals = jax.vmap(step)(keys, keys_repeated, *actors)
    ended = rows.last.astype(jnp.float32)
    return (
        actors,
        rows,
        {
            "ended": jnp.sum(ended),
            "ended_return": jnp.sum(ended * totals),
            "lost_obs": jnp.sum(jax.vmap(any_nan)((rows.obs, rows.next_obs, actors.obs)), dtype=jnp.float32),
            "lost_reward": jnp.sum(jax.vmap(any_nan)(rows.reward), dtype=jnp.float32),
        },
    )


def followed(
    agent: Agent, key: Key, learner: Tree, carry: Tree, obs: Obs, action: Action, extras: Tree
) -> tuple[Tree, Tree]:
    """The carry and extras of a step with a given action; see `Agent.follow`.

    Args:
      agent: what learns.
      key, learner, carry, obs, action: as of `FollowFn`.
      extras: the shapes of those that `act` returns.
    Returns:
      the new carry, and the extras to store.
    Raises:
      ValueError: the agent has a carry or extras and no `follow`, or one that returns another structure than `act`.
    """
    if agent.follow is None:
        if jax.tree.leaves((carry, extras)):
            raise ValueError(
                "loop.warmup must be 0 for an agent without `follow` whose `act` returns a carry or extras: they would "
                "describe other actions than the random ones of the warm-up"
            )
        return carry, extras
    found = agent.follow(key, learner, carry, obs, action)
    for name, one, other in zip(("carry", "extras"), found, (carry, extras), strict=True):
        if _shapes(one) != _shapes(other):
            raise ValueError(f"`follow` must return the {name} of `act`, {_shapes(other)}, got {_shapes(one)}")
    return found


def _shapes(record: Tree) -> Tree:
    """The shapes and dtypes of a pytree, to compare and to print."""
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", record)


def collect(
    key: Key,
    state: LoopState,
    agent: Agent,
    env: Env,
    buffer: Buffer,
    cfg: LoopConfig,
    *,
    random: Transition | None = None,
    key_action: Key | None = None,
) -> tuple[LoopState, Metrics]:
    """`cfg.unroll` steps in every environment, added to the buffer.

    Args:
      key: used once.
      state: of the run.
      agent, env, buffer, cfg: as in `make_loop`.
      random, key_action: as in `step_envs`.
    Returns:
      the state with the buffer filled further; counts as in `step_envs`.
    """

    def step(actors: Actors, key: Key) -> tuple[Actors, tuple[Transition, Metrics]]:
        actors, rows, counts = step_envs(
            key, state.learner, actors, agent, env, cfg, random=random, key_action=key_action
        )
        return actors, (rows, counts)

    actors, (trajectory, counts) = jax.lax.scan(step, state.actors, jax.random.split(key, cfg.unroll))
    state = state._replace(actors=actors, buffer=buffer.add(state.buffer, trajectory))
    return state, jax.tree.map(jnp.sum, counts)


def learn(key: Key, state: LoopState, agent: Agent, buffer: Buffer, cfg: LoopConfig) -> tuple[LoopState, Metrics]:
    """`cfg.updates` calls of the agent's `update`, whose feedback (priorities, extras) goes to `buffer.revise`.

    Args:
      key: used once.
      state: of the run.
      agent, buffer, cfg: as in `make_loop`.
    Returns:
      the state with the learner and the buffer updated; the updates' mean metrics.
    Raises:
      ValueError: a metric is no scalar, or the agent gives feedback and the buffer has no `revise`.
    """

    def update(at: tuple[Tree, Tree], key: Key) -> tuple[tuple[Tree, Tree], Metrics]:
        learner, revised = at
        data = state.buffer if buffer.revise is None else revised
        learner, metrics, feedback = agent.update(key, learner, buffer.replay(data))
        for name, value in metrics.items():
            if jnp.shape(value) != ():
                raise ValueError(
                    f"metric {name} must be a scalar, got {jnp.result_type(value)}{list(jnp.shape(value))}"
                )
        if buffer.revise is not None:
            revised = buffer.revise(data, feedback)
        elif jax.tree.leaves(feedback):
            raise ValueError("the agent gives feedback for its buffer, but this buffer cannot be revised")
        return (learner, revised), metrics

    # A buffer that is never revised stays out of the scan's carry, so that it is read in place.
    start = (state.learner, () if buffer.revise is None else state.buffer)
    (learner, revised), metrics = jax.lax.scan(update, start, jax.random.split(key, cfg.updates))
    state = state._replace(learner=learner, buffer=state.buffer if buffer.revise is None else revised)
    return state, jax.tree.map(jnp.mean, metrics)


Iteration: TypeAlias = Callable[[Key, LoopState], tuple[LoopState, Metrics]]
"""(key, state) -> state, metrics: `iteration` of one agent, environment and buffer."""

Refresh: TypeAlias = Callable[[Key, Tree, Tree], tuple[Tree, Metrics]]
"""(key, learner, data of the buffer) -> learner, metrics: the agent's `refresh`."""


def cycle(
    key: Key, state: LoopState, iteration: Iteration, refresh: Refresh, cfg: LoopConfig
) -> tuple[LoopState, tuple[Metrics, Metrics]]:
    """One call of the agent's `refresh`, then `cfg.inner` iterations of `collect` and `learn`.

    Args:
      key: used once.
      state: of the run.
      iteration, refresh: of the run.
      cfg: as in `make_loop`.
    Returns:
      the state; the metrics of the iterations [inner] and those of the refresh [].
    """

    key_refresh, key_iterations = jax.random.split(key)
    learner, refreshed = refresh(key_refresh, state.learner, state.buffer)
    state, metrics = jax.lax.scan(
        lambda state, key: iteration(key, state),
        state._replace(learner=learner),
        jax.random.split(key_iterations, cfg.inner),
    )
    return state, (metrics, refreshed)


def iteration(
    key: Key, state: LoopState, agent: Agent, env: Env, buffer: Buffer, cfg: LoopConfig
) -> tuple[LoopState, Metrics]:
    """One `collect` and one `learn`.

    Args:
      key: used once.
      state: of the run.
      agent, env, buffer, cfg: as in `make_loop`.
    Returns:
      the state; the metrics of both.
    """
    key_collect, key_learn = jax.random.split(key)
    state, counts = collect(key_collect, state, agent, env, buffer, cfg)
    state, metrics = learn(key_learn, state, agent, buffer, cfg)
    return state, {**metrics, **counts}


def advance(
    state: LoopState,
    gathered: Gathered,
    start: Array,
    stop: Array,
    iteration: Iteration,
    refresh: Refresh,
    finish: Callable[[Key, LoopState, Gathered], Report],
    cfg: LoopConfig,
) -> tuple[LoopState, Gathered, Report]:
    """A part of a chunk: its units (see `Pieces`) from `start` to below `stop`.

    Called until all units have run, it gives what one call for all of them gives, bitwise: the bounds are the trip
    counts of the same loops. They must be the same for all seeds under one `vmap`, where a loop of unequal lengths
    would copy the whole state in every round.

    Args:
      state: of the run; its key is that of the chunk's beginning until the last unit has run.
      gathered: the metrics of the units before.
      start, stop: [] int32, in 0 <= start <= stop <= units.
      iteration, refresh: of the run.
      finish: (key of the evaluation, state, all metrics) -> the chunk's report.
      cfg: as in `make_loop`.
    Returns:
      the state; the metrics so far; the chunk's report where the last unit has run, else zeros.
    """
    key, key_cycles, key_evaluate = jax.random.split(state.key, 3)
    keys = jax.random.split(key_cycles, cfg.cycles)
    block = iterations_at_once(cfg)
    width = cfg.inner // block + 1

    def one_cycle(c: Array, at: tuple[LoopState, Gathered]) -> tuple[LoopState, Gathered]:
        state, (iterations, refreshes) = at
        first, last = jnp.clip(start - c * width, 0, width), jnp.clip(stop - c * width, 0, width)
        key_refresh, key_iterations = jax.random.split(jax.lax.dynamic_index_in_dim(keys, c, keepdims=False))
        keys_iterations = jax.random.split(key_iterations, cfg.inner)

        def refreshed(i: Array, at: tuple[Tree, Metrics]) -> tuple[Tree, Metrics]:
            learner, metrics = refresh(_held(key_refresh, i), at[0], state.buffer)
            return learner, _put(at[1], jax.tree.map(lambda one: one[None], metrics), c)

        def some(i: Array, at: tuple[LoopState, Metrics]) -> tuple[LoopState, Metrics]:
            state, metrics = jax.lax.scan(
                lambda state, key: iteration(key, state),
                at[0],
                jax.lax.dynamic_slice_in_dim(keys_iterations, i * block, block),
            )
            return state, _put(at[1], jax.tree.map(lambda row: row[None], metrics), c, i * block)

        once = ((first == 0) & (last > 0)).astype(jnp.int32)
        learner, refreshes = jax.lax.fori_loop(jnp.int32(0), once, refreshed, (state.learner, refreshes))
        bounds = jnp.maximum(first, 1) - 1, jnp.maximum(last, 1) - 1
        state, iterations = jax.lax.fori_loop(*bounds, some, (state._replace(learner=learner), iterations))
        return state, Gathered(iterations, refreshes)

    end = jnp.minimum((stop + width - 1) // width, cfg.cycles)
    state, gathered = jax.lax.fori_loop(start // width, end, one_cycle, (state, gathered))

    ended = stop > cfg.cycles * width
    shapes = jax.eval_shape(finish, key_evaluate, state, gathered)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    report = jax.lax.fori_loop(
        jnp.int32(0), ended.astype(jnp.int32), lambda i, _: finish(_held(key_evaluate, i), state, gathered), nothing
    )
    return state._replace(key=jnp.where(ended, key, state.key)), gathered, report


def _held(key: Key, i: Array) -> Key:
    """A key that holds what is drawn with it within a loop of index `i`.

    XLA computes what is the same in every round before the loop, even where the loop has no round: without this, every
    piece of a chunk would evaluate.
    """
    return jax.random.wrap_key_data(
        jax.lax.optimization_barrier((i, jax.random.key_data(key)))[1], impl=jax.random.key_impl(key)
    )


def _put(kept: Metrics, new: Metrics, *index: Array) -> Metrics:
    """Arrays with a slice replaced, which begins at an index."""
    return jax.tree.map(lambda all, some: jax.lax.dynamic_update_slice(all, some, index), kept, new)


def summarize(iterations: Metrics, refreshes: Metrics) -> Metrics:
    """The means of a chunk's metrics, the mean return of the training episodes that ended in it, and their number.

    Args:
      iterations: names to arrays [cycles, inner], the counts of `step_envs` among them.
      refreshes: names to arrays [cycles].
    Returns:
      names to scalars; "return" is 0 if no episode ended, which "episodes" tells.
    """
    rest = {name: values for name, values in iterations.items() if name not in COUNTS}
    ended, total = jnp.sum(iterations["ended"]), jnp.sum(iterations["ended_return"])
    return {"return": total / jnp.maximum(ended, 1), "episodes": ended, **jax.tree.map(jnp.mean, {**rest, **refreshes})}


def lost_in(iterations: Metrics) -> dict[str, Array]:
    """The first iterations in which an environment gave a NaN.

    Args:
      iterations: the counts of `step_envs`, arrays [...] of all iterations in order.
    Returns:
      "observation" and "reward", [] int32 each: counted from 1, 0 if none did.
    """

    def first(*signs: Array) -> Array:
        lost = jnp.any(jnp.array(signs), axis=0).ravel()
        return jnp.where(jnp.any(lost), jnp.argmax(lost) + 1, 0).astype(jnp.int32)

    return {
        "observation": first(iterations["lost_obs"] > 0),
        "reward": first(iterations["lost_reward"] > 0, jnp.isnan(iterations["ended_return"])),
    }


def not_finite(state: LoopState, iterations: Metrics) -> dict[str, Array]:
    """What of a run is not a number any more; infinities are left to who reads the metrics.

    Args:
      state: at the end of a chunk.
      iterations: names to arrays [cycles, inner], the counts of `step_envs` among them.
    Returns:
      what `lost_in` says of the chunk, and "learner", [] bool.
    """
    return {**lost_in(iterations), "learner": any_nan(state.learner)}


def any_nan(part: Tree) -> Array:
    """Whether any float of a tree is NaN, [] bool."""
    floats = [leaf for leaf in jax.tree.leaves(part) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.any(jnp.array([jnp.any(jnp.isnan(leaf)) for leaf in floats], bool))
