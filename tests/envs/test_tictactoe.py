"""Tic-tac-toe against a solution of all of its positions in plain Python."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import minimax

from mbrl_jax.core import Discrete
from mbrl_jax.envs import games
from mbrl_jax.envs.tictactoe import Board, legal, observe, perfect, solution, tictactoe


def boards(positions: list[str]) -> Board:
    """Positions as the environment keeps them."""
    letters = np.array([list(p) for p in positions])
    movers = np.array([minimax.mover(p) for p in positions])
    own = letters == movers[:, None]
    over = np.array([minimax.over(p) for p in positions])
    return Board(*map(jnp.asarray, (own, (letters != ".") & ~own, (movers == "o").astype(np.int32), over)))


def test_the_oracle_knows_the_game():
    every = minimax.positions()
    assert len(every) == 5_478
    ended = [p for p in every if minimax.over(p)]
    assert (len(ended), sum(minimax.winner(p) == "x" for p in ended), sum(minimax.winner(p) == "o" for p in ended)) == (
        958, 626, 316,
    )  # fmt: skip
    assert minimax.value(minimax.START) == 0
    assert minimax.value("x...o....") == 0
    assert minimax.value("xo.......") == 1


def test_every_move_from_every_position():
    env = tictactoe()
    alive = [p for p in minimax.positions() if not minimax.over(p)]
    cells = jnp.arange(9)
    step = jax.jit(jax.vmap(jax.vmap(env.step, (None, None, 0)), (None, 0, None)))
    state, seen, reward, discount, last = step(jax.random.key(0), boards(alive), cells)
    np.testing.assert_array_equal(seen.obs[..., 0].reshape(len(alive), 9, 9), state.own)
    np.testing.assert_array_equal(seen.obs[..., 1].reshape(len(alive), 9, 9), state.other)
    wanted, tables, nexts = [], [], []
    for position in alive:
        for cell in range(9):
            if position[cell] != ".":
                wanted.append((-1.0, 0.0, True))
                nexts.append(None)
                continue
            after = minimax.play(position, cell)
            over = minimax.over(after)
            wanted.append((float(minimax.winner(after) is not None), 0.0 if over else -1.0, over))
            nexts.append(after)
    got = np.stack([np.asarray(x, np.float64).reshape(-1) for x in (reward, discount, last)], axis=1)
    np.testing.assert_array_equal(got, np.array(wanted, np.float64))
    kept = np.array([after is not None for after in nexts])
    tables = boards([after for after in nexts if after is not None])
    for ours, exact in zip(state, tables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours).reshape(len(alive) * 9, *ours.shape[2:])[kept], exact)
    assert (~kept).sum() > 10_000


def test_the_solution_is_the_oracles():
    alive = [p for p in minimax.positions() if not minimax.over(p)]
    table = boards(alive)
    number = np.asarray(table.own) @ 3 ** np.arange(9) + 2 * np.asarray(table.other) @ 3 ** np.arange(9)
    exact = np.full((len(alive), 9), -2)
    for row, position in zip(exact, alive, strict=True):
        for cell in minimax.moves(position):
            row[cell] = -minimax.value(minimax.play(position, cell))
    np.testing.assert_array_equal(solution()[number], exact)

    seen, keys = jax.vmap(observe)(table), jax.random.split(jax.random.key(0), 40)
    chosen = jax.jit(jax.vmap(jax.vmap(perfect, (None, 0)), (0, None)))(keys, seen)  # [40, positions]
    best = exact == exact.max(1, keepdims=True)
    assert best[np.arange(len(alive)), np.asarray(chosen)].all()
    few = best.sum(1) <= 3  # of few enough, all are played
    assert all(len(set(column)) == n for column, n in zip(np.asarray(chosen).T[few], best.sum(1)[few], strict=True))


def test_legal_moves_and_observations_of_every_position():
    every = minimax.positions()
    table = boards(every)
    mask = np.asarray(jax.vmap(legal)(table))
    free = np.array([list(p) for p in every]) == "."
    ended = np.array([minimax.over(p) for p in every])
    np.testing.assert_array_equal(mask, free | ended[:, None])
    seen = jax.vmap(observe)(table)
    np.testing.assert_array_equal(seen.legal, mask)
    np.testing.assert_array_equal(seen.obs.sum((1, 2, 3)), 9 - free.sum(1))


def test_games_start_empty_or_after_a_few_random_moves():
    board, seen = tictactoe().reset(jax.random.key(0))
    assert not board.own.any()
    assert not board.other.any()
    assert seen.legal.all()
    boards_, _ = jax.jit(jax.vmap(tictactoe(openings=4).reset))(jax.random.split(jax.random.key(1), 2000))
    own, other = np.asarray(boards_.own), np.asarray(boards_.other)
    stones = (own | other).sum(1)
    np.testing.assert_allclose(np.bincount(stones, minlength=5) / 2000, 0.2, atol=0.03)
    np.testing.assert_array_equal(boards_.player, stones % 2)
    assert not (own & other).any()
    np.testing.assert_array_equal(other.sum(1) - own.sum(1), stones % 2)
    np.testing.assert_allclose((own | other).mean(0), 2 / 9, atol=0.03)  # no cell is preferred
    with pytest.raises(ValueError, match="openings must be at least 0 and at most 4, got 5"):
        tictactoe(5)


def first_free(key, seen):
    del key
    return jnp.argmax(seen.legal).astype(jnp.int32)


def test_against_an_opponent_returns_are_those_of_the_learner():
    env = games.versus(tictactoe(), first_free)
    step = jax.jit(env.step)
    starts = [env.reset(jax.random.key(i)) for i in range(40)]
    began = np.array([int(obs.obs.sum()) for _, obs in starts])
    assert set(began) == {0, 1}
    assert 8 < began.sum() < 32

    def game(start, cells):
        state, rewards = start[0], []
        for cell in cells:
            state, seen, reward, discount, last = step(jax.random.key(0), state, jnp.int32(cell))
            rewards.append(float(reward))
            assert float(discount) == (0.0 if last else 1.0)
        return rewards, bool(last), seen

    first, second = starts[int(np.argmin(began))], starts[int(np.argmax(began))]
    # We hold the middle column: 4, (0), 1, (2), 7.
    assert game(first, [4, 1, 7])[:2] == ([0.0, 0.0, 1.0], True)
    # It began with 0 and takes 1 and 2 unless stopped.
    assert game(second, [4, 8])[:2] == ([0.0, -1.0], True)
    rewards, last, seen = game(second, [2])
    assert (rewards, last) == ([0.0], False)
    np.testing.assert_array_equal(np.flatnonzero(seen.obs[..., 0].reshape(-1)), [2])
    np.testing.assert_array_equal(np.flatnonzero(seen.obs[..., 1].reshape(-1)), [0, 1])
    assert game(first, [4, 4])[:2] == ([0.0, -1.0], True)  # a taken cell


def test_without_its_mask_a_game_is_an_environment_like_any():
    env = games.unmask(tictactoe())
    state, obs = env.reset(jax.random.key(0))
    assert obs.shape == env.spec.obs.shape == (3, 3, 2)
    _, obs, *_ = env.step(jax.random.key(0), state, jnp.int32(3))
    assert float(obs[1, 0, 1]) == 1
    np.testing.assert_array_equal(env.observe(state), jnp.zeros((3, 3, 2)))
    assert env.spec.action == Discrete(9)
