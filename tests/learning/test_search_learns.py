"""Learning by tree search, on seeds of its own: `python -m pytest -m slow`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import minimax

from mbrl_jax import presets
from mbrl_jax.agents import alphazero, muzero
from mbrl_jax.envs.tictactoe import Board, observe, tictactoe
from mbrl_jax.train.loop import chunks_for
from mbrl_jax.train.run import seed_keys


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alphazero", "muzero"])
def test_it_never_loses_at_tic_tac_toe(name):
    """Whatever the opponent plays, all of its replies tried, from either side. MuZero takes half an hour."""
    it = presets.preset(name, "TicTacToe")
    loop = presets.build(name, "TicTacToe", it.agent, it.loop)
    train = jax.jit(jax.vmap(lambda key: loop.train(key, chunks_for(it.loop, it.steps))[0].learner))
    learners = train(seed_keys(200, 4))
    env = tictactoe()
    agent = alphazero.make(it.agent, env) if name == "alphazero" else muzero.make(it.agent, env.spec)
    positions = [p for p in minimax.positions() if not minimax.over(p)]
    letters = np.array([list(p) for p in positions])
    own = letters == np.array([minimax.mover(p) for p in positions])[:, None]
    n = len(positions)
    boards = Board(jnp.asarray(own), jnp.asarray((letters != ".") & ~own), jnp.zeros(n, jnp.int32), jnp.zeros(n, bool))
    seen = boards if name == "alphazero" else jax.vmap(observe)(boards)
    act = jax.jit(jax.vmap(lambda learner, obs: agent.act(jax.random.key(0), learner, (), obs, False)[0], (None, 0)))
    for seed in range(4):
        moves = np.asarray(act(jax.tree.map(lambda leaf: leaf[seed], learners), seen)).tolist()  # noqa: B023
        chosen = dict(zip(positions, moves, strict=True))
        assert (minimax.worst_result(chosen, "x"), minimax.worst_result(chosen, "o")) == (0, 0), seed


@pytest.mark.slow
def test_muzero_balances_the_cart_pole():
    it = presets.preset("muzero", "CartPole-v1")
    loop = presets.build("muzero", "CartPole-v1", it.agent, it.loop)
    train = jax.jit(jax.vmap(lambda key: loop.train(key, chunks_for(it.loop, 60_000))[1].returns))
    best = np.asarray(train(seed_keys(200, 4))).mean(axis=2).max(axis=1)
    assert np.median(best) >= 475
