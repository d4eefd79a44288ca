"""UCT on the true environment: it plays a small process and a game well."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import minimax

from mbrl_jax.agents import uct as uct_agent
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.discrete import frozen_lake
from mbrl_jax.envs.games import unmask
from mbrl_jax.envs.tictactoe import Board, tictactoe
from mbrl_jax.planners.mcts import UCT
from mbrl_jax.train.evaluate import evaluate


@pytest.mark.optimized
@pytest.mark.slow
def test_uct_finds_the_way_over_the_frozen_lake():
    env = frozen_lake(slippery=False)
    agent = uct_agent.make(
        uct_agent.UCTConfig(uct=UCT(simulations=200, gamma=0.9, rollout_depth=30, rollouts=16, c=0.5)), env
    )
    play = jax.jit(lambda key: evaluate(agent, wrappers.reveal_state(env), key, (), 2))
    returns, lengths = play(jax.random.key(0))
    np.testing.assert_array_equal(returns, 1)
    np.testing.assert_array_equal(lengths, 6)  # the shortest there is


@pytest.mark.optimized
def test_uct_wins_and_parries_in_one_move():
    """In positions where a move wins at once or where all but one lose at once, by the solution of the game."""

    def wins(position):
        return [cell for cell in minimax.moves(position) if minimax.winner(minimax.play(position, cell))]

    def forced(position):
        after = [minimax.play(position, cell) for cell in minimax.moves(position)]
        return wins(position) or sum(not wins(p) for p in after) == 1

    every = [p for p in minimax.positions() if not minimax.over(p) and p.count(".") > 1 and forced(p)]
    chosen = [every[i] for i in np.random.default_rng(0).choice(len(every), 128, replace=False)]
    letters = np.array([list(p) for p in chosen])
    own = letters == np.array([minimax.mover(p) for p in chosen])[:, None]
    boards = Board(
        jnp.asarray(own), jnp.asarray((letters != ".") & ~own), jnp.zeros(128, jnp.int32), jnp.zeros(128, bool)
    )
    agent = uct_agent.make(uct_agent.UCTConfig(uct=UCT(simulations=200, gamma=1.0, rollout_depth=9)), tictactoe())
    act = jax.jit(jax.vmap(lambda key, board: agent.act(key, (), (), board, False)[0]))
    moves = np.asarray(act(jax.random.split(jax.random.key(0), 128), boards))
    for position, move in zip(chosen, moves, strict=True):
        best = [
            c for c in minimax.moves(position) if -minimax.value(minimax.play(position, c)) == minimax.value(position)
        ]
        assert move in best, position


def test_the_mask_comes_from_the_states_of_games_alone():
    assert uct_agent.true_model(frozen_lake()).legal is None
    assert uct_agent.true_model(unmask(tictactoe())).legal is None
    env = tictactoe()
    state, _ = env.reset(jax.random.key(0))
    state, *_ = env.step(jax.random.key(0), state, jnp.int32(4))
    np.testing.assert_array_equal(uct_agent.true_model(env).legal(state), np.arange(9) != 4)


def test_the_subtree_below_the_action_is_reused():
    """The carry is the subtree below the action taken, of one shape throughout; the next search takes it up."""
    env = frozen_lake(slippery=False)
    agent = uct_agent.make(uct_agent.UCTConfig(uct=UCT(simulations=30, gamma=0.9, reuse=True)), env)
    state, _ = env.reset(jax.random.key(0))
    start = agent.carry()
    assert jax.tree.map(jnp.shape, start.states) == jax.tree.map(lambda leaf: (31, *jnp.shape(leaf)), state)
    act = jax.jit(lambda key, state, carry: agent.act(key, (), carry, state, False))
    action, carry, _ = act(jax.random.key(1), state, start)
    assert float(carry.rows[0].sum()) != 0  # the root of the subtree
    after = env.step(jax.random.key(0), state, action)[0]
    _, later, _ = act(jax.random.key(2), after, carry)
    assert jax.tree.map(jnp.shape, later) == jax.tree.map(jnp.shape, start)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"uct\.simulations must be at least 1, got 0"):
        uct_agent.make(uct_agent.UCTConfig(uct=UCT(simulations=0)), frozen_lake())
