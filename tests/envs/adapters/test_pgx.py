"""The pgx adapter: pgx's tic-tac-toe move for move against the package's own, if pgx is installed; the rest without."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.envs.adapters import pgx
from mbrl_jax.envs.tictactoe import tictactoe

installed = importlib.util.find_spec("pgx") is not None


class Pile(NamedTuple):
    """Two players take one or two stones from a pile; who takes the last one wins. Taking two gives another turn."""

    left: jax.Array
    current_player: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    legal_action_mask: jax.Array

    @property
    def observation(self):
        return jnp.stack([self.left > 1, self.current_player == 1])


def pile() -> SimpleNamespace:
    """A game with pgx's interface."""

    def state(left, player, rewards, over):
        mask = jnp.stack([left >= 1, left >= 2]) | over
        return Pile(left, player, rewards, over, jnp.zeros((), bool), mask)

    def step(at, action, key):
        del key
        left = at.left - 1 - action
        over = left == 0
        rewards = jnp.where(over, jnp.where(jnp.arange(2) == at.current_player, 1.0, -1.0), 0.0)
        return state(left, jnp.where(action == 1, at.current_player, 1 - at.current_player), rewards, over)

    start = lambda key: state(jnp.int32(4), jax.random.randint(key, (), 0, 2), jnp.zeros(2), jnp.zeros((), bool))  # noqa: E731
    return SimpleNamespace(init=start, step=step, observation_shape=(2,), num_actions=2, num_players=2)


def test_rewards_go_to_the_mover_and_the_sign_changes_with_the_player():
    env = pgx.adapt(pile(), "pile", time_limit=4)
    assert env.spec.action == Discrete(2)
    assert env.spec.obs == Box((2,))
    assert env.spec.time_limit == 4
    key = jax.random.key(0)
    state, seen = env.reset(key)
    assert seen.obs.dtype == jnp.float32
    player, outputs = int(state.current_player), []
    for action in (0, 1, 0):
        state, seen, *rest = env.step(key, state, jnp.int32(action))
        outputs.append([float(x) for x in rest])
    # One stone: the other's turn. Two: the same player's again. The last one: won by that player.
    assert outputs == [[0, -1, 0], [0, 1, 0], [1, 0, 1]]
    assert int(state.rewards[player]) == -1
    np.testing.assert_array_equal(seen.legal, [True, True])
    np.testing.assert_array_equal(env.observe(state).obs, seen.obs)


@pytest.mark.skipif(installed, reason="pgx is installed")
def test_without_pgx_it_says_what_to_install():
    with pytest.raises(ValueError, match="pip install pgx"):
        pgx.make("connect_four")


@pytest.mark.skipif(not installed, reason="pgx is not installed")
def test_tic_tac_toe_is_the_packages_own():
    ours, theirs = tictactoe(), pgx.make("tic_tac_toe")
    steps = [jax.jit(env.step) for env in (ours, theirs)]
    rng = np.random.default_rng(0)
    for game in range(20):
        key = jax.random.key(game)
        (a, seen_a), (b, seen_b) = ours.reset(key), theirs.reset(key)
        over = False
        while not over:
            np.testing.assert_array_equal(seen_a.obs, seen_b.obs)
            np.testing.assert_array_equal(seen_a.legal, seen_b.legal)
            action = jnp.int32(rng.integers(9) if game < 4 else rng.choice(np.flatnonzero(seen_a.legal)))
            a, seen_a, *out_a = steps[0](key, a, action)
            b, seen_b, *out_b = steps[1](key, b, action)
            np.testing.assert_array_equal(out_a, out_b)
            over = bool(out_a[2])


@pytest.mark.skipif(not installed, reason="pgx is not installed")
def test_connect_four_has_its_shapes_and_wrong_games_are_refused():
    env = pgx.make("connect_four", time_limit=42)
    state, seen = env.reset(jax.random.key(0))
    assert seen.obs.shape == env.spec.obs.shape == (6, 7, 2)
    assert seen.legal.shape == (env.spec.num_actions,) == (7,)
    for column in (3, 0, 3, 0, 3, 0, 3):
        state, seen, reward, discount, last = env.step(jax.random.key(0), state, jnp.int32(column))
    assert (float(reward), float(discount), bool(last)) == (1, 0, True)
    with pytest.raises(ValueError, match="env must be one of"):
        pgx.make("connect_five")
    with pytest.raises(ValueError, match="game of one or two players, sparrow_mahjong has 3"):
        pgx.make("sparrow_mahjong")
