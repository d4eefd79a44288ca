"""gymnax environments with numbered states, and their exact tables.

State numbers, with rows and columns from 0 and row 0 at the top:

    FrozenLake   row · width + column                      4 x 4 or 8 x 8; actions left, down, right, up
    FourRooms    13 · row + column                         13 x 13, walls included; actions up, right, down, left
    DeepSea      size · row + column                       row `size`, below the last one, ends every episode
    Catch        (columns · ball row + ball column) · columns + paddle column

The tables are computed from the environment: its noiseless variant takes every action in every state, and the noise,
which in both noisy environments replaces the action by another, is applied to the result. They have no time limit.
Terminal states lead to themselves with reward 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Discrete, Env, Key
from mbrl_jax.core.types import Action, Obs, State
from mbrl_jax.envs import drawings
from mbrl_jax.envs.adapters import gymnax
from mbrl_jax.envs.maze import Layout
from mbrl_jax.envs.mdp import MDP

FROZEN_LAKE_MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""Rows and columns moved by FrozenLake's actions."""

FOUR_ROOMS_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Rows and columns moved by FourRooms' actions."""

FOUR_ROOMS_SIDE = 13


def numbered(env: Env, n: int, number: Callable[[Obs], Array]) -> Env:
    """The same environment with state numbers as observations.

    Args:
      env: any environment.
      n: number of states, at least 1.
      number: (observation) -> [] integer in 0..n-1, different for different states.
    Returns:
      The same environment with observations `Discrete(n)`, int32.
    Raises:
      ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    reset_inner, step_inner, observe = env.reset, env.step, env.observe

    def to_number(obs: Obs) -> Array:
        return jnp.asarray(number(obs), jnp.int32)

    def reset(key: Key) -> tuple[State, Array]:
        state, obs = reset_inner(key)
        return state, to_number(obs)

    def step(key: Key, state: State, action: Action) -> tuple[State, Array, Array, Array, Array]:
        state, obs, reward, discount, last = step_inner(key, state, action)
        return state, to_number(obs), reward, discount, last

    return Env(
        spec=env.spec._replace(obs=Discrete(n)),
        reset=reset,
        step=step,
        observe=None if observe is None else lambda state: to_number(observe(state)),
        render=env.render,
    )


# Environments -------------------------------------------------------------------------------------------------------


def frozen_lake(slippery: bool = True, **params: Any) -> Env:
    """FrozenLake: a step to the goal has reward 1; holes and the goal terminate.

    Args:
      slippery: the intended direction and the two perpendicular to it are taken with probability 1/3 each.
      **params: gymnax settings: `map_name` ("4x4", "8x8"), `desc`, `success_rate` (probability of the intended
        direction; the other two share the rest), `reward_schedule`, `max_steps_in_episode` (100; 200 for 8x8).
    Raises:
      ValueError: as `gymnax.make`.
    """
    env = gymnax.make("FrozenLake-misc", is_slippery=slippery, **params)
    assert isinstance(env.spec.obs, Discrete)
    width = _width(env.spec.obs.n, params)
    env = drawings.on_grid(env, lambda: as_layout(frozen_lake_mdp(slippery, **params), width))
    return env if slippery else env._replace(spec=env.spec._replace(name="FrozenLake-deterministic"))


def four_rooms(**params: Any) -> Env:
    """FourRooms with a fixed goal, so that the position is the state: a step to the goal has reward 1 and terminates.

    The chosen action is taken with probability 1 - fail_prob, each other one with fail_prob / 3.

    Args:
      **params: gymnax settings: `goal_fixed` ([8, 9]), `pos_fixed` ([4, 1], the start), `resample_init_pos` (False;
        True draws the start from all free cells but the goal), `fail_prob` (1/3), `max_steps_in_episode` (500).
    Raises:
      ValueError: `resample_goal_pos` is set, a position is in a wall, or as `gymnax.make`.
    """
    if params.get("resample_goal_pos"):
        raise ValueError(
            "resample_goal_pos must be False: if the goal differs between episodes, the position is not the state"
        )
    inner = gymnax.make("FourRooms-misc", **params)
    for name in ("goal_fixed", "pos_fixed"):
        if name in params and not _is_free(*params[name]):
            raise ValueError(f"{name} must be a free cell of the rooms, got {tuple(params[name])}")
    env = numbered(_bare(inner), FOUR_ROOMS_SIDE**2, lambda state: FOUR_ROOMS_SIDE * state.pos[0] + state.pos[1])
    return drawings.on_grid(env, lambda: four_rooms_layout(**params))


def deep_sea(size: int = 8, **params: Any) -> Env:
    """DeepSea: `size` steps down and to the left or right; always going right leads to the treasure, reward 1.

    Every step right costs 0.01 / size, so the best return is 0.99; a uniformly random policy succeeds with probability
    2^-size. Which action goes right differs between cells, by a map that is the same in all episodes. The last step
    terminates (its discount is 0) and reaches the time limit at once.

    Args:
      size: rows and columns, at least 2.
      **params: gymnax settings: `randomize_actions` (True; False makes action 1 go right everywhere),
        `action_mapping_key`, `deterministic` (True), `unscaled_move_cost` (0.01).
    Raises:
      ValueError: the size is below 2, `sample_action_map` is set, or as `gymnax.make`.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2, got {size}")
    if params.get("sample_action_map"):
        raise ValueError(
            "sample_action_map must be False: if the map differs between episodes, a cell is not the state"
        )
    env = _bare(gymnax.make("DeepSea-bsuite", size=size, **params))
    return numbered(env, (size + 1) * size, lambda state: size * state.row + state.column)


def catch(rows: int = 10, columns: int = 5, **params: Any) -> Env:
    """Catch: after rows - 1 steps the ball reaches the bottom, with reward 1 on the paddle and -1 beside it.

    Actions 0, 1 and 2 move the paddle left, leave it, and move it right.

    Args:
      rows: at least 2.
      columns: at least 1.
      **params: gymnax settings: `max_steps_in_episode` (1,000, longer than any episode).
    Raises:
      ValueError: a number below its minimum, or as `gymnax.make`.
    """
    for name, value, least in (("rows", rows, 2), ("columns", columns, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    inner = gymnax.make("Catch-bsuite", rows=rows, columns=columns, **params)
    seen = inner.observe
    assert seen is not None
    env = _bare(inner._replace(render=lambda state: drawings.planes(seen(state))))
    return numbered(
        env,
        rows * columns**2,
        lambda state: (columns * state.ball_y + state.ball_x) * columns + state.paddle_x,
    )


def _width(cells: int, params: dict[str, Any]) -> int:
    """Columns of a frozen lake."""
    desc = params.get("desc")
    return math.isqrt(cells) if desc is None else len(desc[0])


def _is_free(row: int, column: int) -> bool:
    """Whether a step down from the cell above leads to this cell."""
    if not (0 < row < FOUR_ROOMS_SIDE and 0 <= column < FOUR_ROOMS_SIDE):
        return False
    with jax.ensure_compile_time_eval():
        env = gymnax.make("FourRooms-misc", fail_prob=0.0)
        state, _ = env.reset(jax.random.key(0))
        state, *_ = env.step(jax.random.key(0), state.replace(pos=jnp.array([row - 1, column])), jnp.array(2))
        return bool(state.pos[0] == row)


def _bare(env: Env) -> Env:
    """The simulator's state as the observation: images of Catch and DeepSea do not distinguish their last states."""

    def reset(key: Key) -> tuple[State, State]:
        state, _ = env.reset(key)
        return state, state

    def step(key: Key, state: State, action: Action) -> tuple[State, State, Array, Array, Array]:
        state, _, reward, discount, last = env.step(key, state, action)
        return state, state, reward, discount, last

    return env._replace(reset=reset, step=step, observe=lambda state: state)


# Tables -------------------------------------------------------------------------------------------------------------


def frozen_lake_mdp(slippery: bool = True, **params: Any) -> MDP:
    """The tables of `frozen_lake(slippery, **params)`, rewards [S, 4, S].

    Args:
      slippery, **params: as in `frozen_lake`.
    """
    env = frozen_lake(False, **params)
    straight = float(params.get("success_rate", 1 / 3)) if slippery else 1.0
    quarter = np.roll(np.eye(4), 1, axis=1)  # a quarter turn: from each direction to the next
    slip = straight * np.eye(4) + (1.0 - straight) / 2 * (quarter + quarter.T)
    return _tables(env, lambda state, i: state.replace(position=i), slip=slip)


def four_rooms_mdp(**params: Any) -> MDP:
    """The tables of `four_rooms(**params)`, rewards [169, 4, 169].

    Args:
      **params: as in `four_rooms`.
    """
    env = four_rooms(**{**params, "fail_prob": 0.0, "resample_init_pos": False})
    random = jnp.minimum(4 / 3 * params.get("fail_prob", 1 / 3), 1.0)  # a random action may equal the chosen one

    def put(state: Any, i: Array) -> Any:
        return state.replace(pos=jnp.stack(jnp.divmod(i, FOUR_ROOMS_SIDE)))

    mdp = _tables(env, put, slip=(1.0 - random) * jnp.eye(4, dtype=jnp.float32) + random / 4)
    if not params.get("resample_init_pos"):
        return mdp
    free = _entered(mdp) & ~mdp.terminal
    return mdp._replace(start=free / jnp.sum(free))


def deep_sea_mdp(size: int = 8, **params: Any) -> MDP:
    """The tables of `deep_sea(size, **params)`, rewards [S, 2, S].

    Args:
      size, **params: as in `deep_sea`.
    Raises:
      ValueError: as `deep_sea`, or `deterministic` is False: that noise does not replace the action.
    """
    if not params.get("deterministic", True):
        raise ValueError("deterministic must be True: there are no tables of the noisy DeepSea")

    def put(state: Any, i: Array) -> Any:
        return state.replace(row=i // size, column=i % size)

    return _tables(deep_sea(size, **params), put)


def catch_mdp(rows: int = 10, columns: int = 5, **params: Any) -> MDP:
    """The tables of `catch(rows, columns, **params)`, rewards [S, 3, S]; the ball starts in a uniformly random column.

    Args:
      rows, columns, **params: as in `catch`.
    """

    def put(state: Any, i: Array) -> Any:
        return state.replace(ball_y=i // columns**2, ball_x=i // columns % columns, paddle_x=i % columns)

    mdp = _tables(catch(rows, columns, **params), put)
    first = jnp.arange(columns) * columns + columns // 2
    return mdp._replace(start=jnp.zeros_like(mdp.start).at[first].set(1.0 / columns))


def as_layout(mdp: MDP, width: int) -> Layout:
    """The grid of the tables of FrozenLake or FourRooms, for drawing.

    Args:
      mdp: tables whose state number is row · width + column.
      width: columns of the grid.
    Returns:
      walls where no action leads and where the episode ends without reward (holes); the most probable start; as the
      goal, the terminal cell with the largest reward.
    """
    best = np.max(np.asarray(mdp.rewards), axis=(0, 1))
    ends, start = np.asarray(mdp.terminal), int(np.argmax(mdp.start))
    walls = ~np.asarray(_entered(mdp)) | (ends & (best <= 0))
    walls[start] = False
    goal = int(np.argmax(np.where(ends, best, -np.inf)))
    return Layout(walls.reshape(-1, width), divmod(start, width), divmod(goal, width))


def four_rooms_layout(**params: Any) -> Layout:
    """The walls, the start and the goal of `four_rooms(**params)`.

    Args:
      **params: as in `four_rooms`.
    """
    return as_layout(four_rooms_mdp(**params), FOUR_ROOMS_SIDE)


def _entered(mdp: MDP) -> Array:
    """[S] bool: states that some action reaches from another state."""
    return jnp.any(jnp.any(mdp.transitions > 0, 1) & ~jnp.eye(len(mdp.start), dtype=bool), 0)


def _tables(env: Env, put: Callable[[Any, Array], Any], slip: Any = None) -> MDP:
    """The tables of a deterministic environment with numbered states, under noise that replaces actions.

        p(s' | s, a) = Σ_b slip(a, b) [f(s, b) = s']
        r(s, a, s') = Σ_b slip(a, b) [f(s, b) = s'] r(s, b) / p(s' | s, a)

    Args:
      env: deterministic, with one initial state.
      put: (any simulator state, number) -> the simulator state with that number.
      slip: [A, A] probabilities of the action taken (columns) given the chosen one (rows); None for no noise.
    """
    assert isinstance(env.spec.obs, Discrete)
    n, actions = env.spec.obs.n, env.spec.num_actions
    key = jax.random.key(0)  # not used by a deterministic environment

    def one(i: Array, action: Array) -> tuple[Array, Array, Array]:
        _, number, reward, discount, _ = env.step(key, put(state, i), action)
        return number, reward, discount

    @jax.jit
    def build() -> MDP:
        every = jnp.arange(n, dtype=jnp.int32), jnp.arange(actions, dtype=jnp.int32)
        led, reward, discount = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(*every)
        terminal = jnp.zeros(n, bool).at[led].max(discount == 0.0)
        leads = jax.nn.one_hot(led, n, dtype=jnp.float32)
        pays = leads * reward[..., None]
        if slip is not None:
            mix = jnp.asarray(slip, jnp.float32)
            leads, pays = (jnp.einsum("ab,sbt->sat", mix, x, precision="highest") for x in (leads, pays))
        ended = terminal[:, None, None]
        return MDP(
            transitions=jnp.where(ended, jnp.eye(n, dtype=jnp.float32)[:, None], leads),
            rewards=jnp.where(ended | (leads == 0.0), 0.0, pays / jnp.where(leads == 0.0, 1.0, leads)),
            terminal=terminal,
            start=jax.nn.one_hot(first, n, dtype=jnp.float32),
        )

    state, first = env.reset(key)
    return build()
