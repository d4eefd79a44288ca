"""Numbered environments against their tables, the tables against counted steps and independently written rules."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Discrete
from mbrl_jax.envs import discrete, mdp, wrappers
from mbrl_jax.envs.adapters import gymnax as adapter

LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")
lake_mdp, rooms_mdp = cache(discrete.frozen_lake_mdp), cache(discrete.four_rooms_mdp)
sea_mdp, catch_mdp = cache(discrete.deep_sea_mdp), cache(discrete.catch_mdp)

# What makes the environment, what makes the tables, and how many pairs of state and action a walk meets 30 times.
WORLDS = {
    "lake": (discrete.frozen_lake, lake_mdp, {}, 44),
    "other lake": (
        discrete.frozen_lake,
        discrete.frozen_lake_mdp,
        {"success_rate": 0.5, "map_name": "8x8", "reward_schedule": (2.0, -1.0, 0.5)},
        100,
    ),
    "rooms": (
        discrete.four_rooms,
        discrete.four_rooms_mdp,
        {"goal_fixed": (1, 11), "fail_prob": 0.1, "resample_init_pos": True},
        400,
    ),
    "sea": (discrete.deep_sea, sea_mdp, {}, 60),
    "catch": (discrete.catch, catch_mdp, {}, 300),
}


def walk(env, key, policy):
    """State numbers, rewards, discounts and ends of an episode as long as the time limit; invalid after its end."""

    def one(at, key):
        state, number, alive = at
        key_act, key_step = jax.random.split(key)
        action = policy(key_act, number)
        state, number, reward, discount, last = env.step(key_step, state, action)
        return (state, number, alive & ~last), (number, reward * alive, discount, last, alive)

    key_reset, key = jax.random.split(key)
    state, number = env.reset(key_reset)
    start = state, number, jnp.ones((), bool)
    return number, *jax.lax.scan(one, start, jax.random.split(key, env.spec.time_limit))[1]


@pytest.mark.parametrize("name", WORLDS)
def test_tables_agree_with_the_environment(name):
    """Steps of random walks: every (s, a, s') has its probability, its reward, and its termination or none."""
    make_env, make_mdp, settings, met = WORLDS[name]
    env, tables = make_env(**settings), make_mdp(**settings)
    assert env.observe is not None
    n, actions = env.spec.obs.n, env.spec.action.n
    assert tables.transitions.shape == tables.rewards.shape == (n, actions, n)
    np.testing.assert_allclose(tables.transitions.sum(-1), 1.0, atol=1e-6)
    steps, walks = 50, 600

    def one(at, key):
        state, number = at
        key_act, key_step, key_reset = jax.random.split(key, 3)
        action = env.spec.action.sample(key_act)
        following, successor, reward, discount, last = env.step(key_step, state, action)
        onward = jax.tree.map(lambda a, b: jnp.where(last, a, b), env.reset(key_reset), (following, successor))
        return onward, (number, action, successor, reward, discount, env.observe(following))

    @jax.jit
    @jax.vmap
    def run(key):
        key_reset, key = jax.random.split(key)
        return jax.lax.scan(one, env.reset(key_reset), jax.random.split(key, steps))[1]

    s, a, t, reward, discount, seen = (
        np.asarray(x).reshape(-1) for x in run(jax.random.split(jax.random.key(0), walks))
    )
    assert s.dtype == t.dtype == np.int32
    np.testing.assert_array_equal(seen, t)
    counts = np.zeros((n, actions, n))
    np.add.at(counts, (s, a, t), 1)
    chances, tried = np.asarray(tables.transitions), counts.sum(-1, keepdims=True)
    assert not counts[chances == 0].any()
    # Every probability by its standard error; the largest of thousands of them stays below 5.
    error = np.abs(counts - tried * chances) / np.sqrt(np.maximum(tried * chances * (1 - chances), 1e-9))
    assert error[tried[..., 0] >= 30].max() < 5.0
    assert (tried[..., 0] >= 30).sum() >= met
    np.testing.assert_array_equal(np.asarray(tables.rewards)[s, a, t], reward)
    np.testing.assert_array_equal(np.asarray(tables.terminal)[t], discount == 0.0)
    # Starts.
    share, start = np.bincount(s.reshape(walks, steps)[:, 0], minlength=n) / walks, np.asarray(tables.start)
    np.testing.assert_allclose(start.sum(), 1.0, rtol=1e-5)
    assert not share[start == 0].any()
    assert np.all(np.abs(share - start) <= 5 * np.sqrt(start * (1 - start) / walks + 1e-12))


def lake_numpy(rows):
    """[S, A] lists of equally likely successors, by the rules of Gymnasium's slippery FrozenLake; terminal states."""
    height, width = len(rows), len(rows[0])
    moves = [(0, -1), (1, 0), (0, 1), (-1, 0)]
    transitions = np.zeros((height * width, 4, height * width))
    for s in range(height * width):
        for a in range(4):
            for taken in (a - 1, a, a + 1):
                dr, dc = moves[taken % 4]
                r, c = min(max(s // width + dr, 0), height - 1), min(max(s % width + dc, 0), width - 1)
                transitions[s, a, r * width + c] += 1 / 3
    signs = np.array(list("".join(rows)))
    return transitions, np.isin(signs, ["H", "G"]), signs == "G"


def test_frozen_lake_by_its_rules_and_its_known_optimum():
    tables = lake_mdp()
    transitions, ends, goal = lake_numpy(LAKE)
    np.testing.assert_array_equal(tables.terminal, ends)
    np.testing.assert_allclose(np.asarray(tables.transitions)[~ends], transitions[~ends], atol=1e-6)
    leads_to_goal = (transitions > 0) & goal & ~ends[:, None, None]
    np.testing.assert_array_equal(tables.rewards, leads_to_goal)
    np.testing.assert_array_equal(
        np.asarray(tables.transitions)[ends].argmax(-1), np.flatnonzero(ends)[:, None] + [0] * 4
    )
    # Undiscounted and without a limit the goal is reached with probability 14/17.
    values, _ = mdp.value_iteration(tables, 1.0, iterations=5_000)
    np.testing.assert_allclose(values[0], 14 / 17, atol=1e-4)


def test_frozen_lakes_optimal_policy_reaches_its_value_within_the_limit():
    env, tables = discrete.frozen_lake(), lake_mdp()
    best = mdp.value_iteration(tables, 0.999)[1].argmax(-1)
    _, _, reward, discount, _, alive = jax.jit(
        jax.vmap(lambda key: walk(env, key, lambda _, number: best[number].astype(jnp.int32)))
    )(jax.random.split(jax.random.key(3), 10_000))
    # The exact probability of the goal within 100 steps: powers of the policy's Markov chain, in float64.
    chain = np.asarray(tables.transitions, np.float64)[np.arange(16), np.asarray(best)]
    exact = np.linalg.matrix_power(chain, 100)[0, 15]
    assert exact == pytest.approx(0.7402, abs=1e-3)
    scores = np.asarray(reward).sum(1)
    assert set(scores) == {0.0, 1.0}
    assert abs(scores.mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / 10_000)
    # Whoever never met an end was cut off at 100, and that is no termination.
    unfinished = np.asarray(alive).all(1) & (np.asarray(discount)[:, -1] == 1.0)
    assert abs(unfinished.mean() - np.linalg.matrix_power(chain, 100)[0, ~np.asarray(tables.terminal)].sum()) < 0.02


def test_four_rooms_by_hand():
    tables = rooms_mdp(fail_prob=0.0)
    values, _ = mdp.value_iteration(tables, 0.9)
    # Without slips the way from (4, 1) has 14 steps: 1 up and 5 right to the hallway (3, 6), 3 right and 5 down.
    grid = np.asarray(values).reshape(13, 13)
    assert grid[4, 1] == pytest.approx(0.9**13, rel=1e-4)
    assert [grid[7, 9], grid[8, 8], grid[8, 10], grid[9, 9]] == pytest.approx([1.0] * 4)
    layout = discrete.four_rooms_layout()
    assert (layout.start, layout.goal, layout.walls.sum()) == ((4, 1), (8, 9), 169 - 104)
    assert not layout.walls[[3, 6, 7, 10], [6, 2, 9, 6]].any()  # the four hallways
    assert layout.walls[[0, 12, 6, 6], [5, 5, 0, 6]].all()


def test_deep_sea_is_solved_by_always_going_right():
    size = 8
    env, tables = discrete.deep_sea(), sea_mdp()
    assert (env.spec.obs, env.spec.time_limit, env.spec.name) == (Discrete(72), 8, "DeepSea-bsuite")
    best = mdp.value_iteration(tables, 1.0, iterations=20)[1].argmax(-1)
    _, number, reward, discount, last, _ = jax.jit(lambda key: walk(env, key, lambda _, s: best[s].astype(jnp.int32)))(
        jax.random.key(0)
    )
    np.testing.assert_array_equal(number, [size * row + min(row, size - 1) for row in range(1, size + 1)])
    np.testing.assert_allclose(reward, [-0.01 / 8] * 7 + [1 - 0.01 / 8], atol=1e-6)
    np.testing.assert_array_equal(discount, [1] * 7 + [0])  # the limit falls on the last step, which terminates
    np.testing.assert_array_equal(last, [False] * 7 + [True])
    # Which action goes right differs between cells and not between episodes.
    assert len(set(np.asarray(best)[:: size + 1].tolist())) == 2
    states = [env.reset(jax.random.key(i))[0].action_mapping for i in range(2)]
    np.testing.assert_array_equal(*states)
    tables = discrete.deep_sea_mdp(3, randomize_actions=False)
    np.testing.assert_array_equal(tables.transitions.argmax(-1)[:9], [[3 + 3 * (i // 3) + max(i % 3 - 1, 0),
        3 + 3 * (i // 3) + min(i % 3 + 1, 2)] for i in range(9)])  # fmt: skip


def test_the_optimal_policy_always_catches():
    env, tables = discrete.catch(), catch_mdp()
    assert (env.spec.obs, env.spec.action, env.spec.time_limit) == (Discrete(250), Discrete(3), 1000)
    values, q = mdp.value_iteration(tables, 1.0, iterations=20)
    np.testing.assert_allclose(tables.start @ values, 1.0)
    # A ball of row 7 over column 0 and a paddle in column 4: two steps are left, four are needed.
    assert float(values[(7 * 5 + 0) * 5 + 4]) == -1.0
    assert float(values[(7 * 5 + 0) * 5 + 2]) == 1.0
    short = wrappers.time_limit(env, 12)
    first, number, reward, discount, last, _ = jax.jit(
        jax.vmap(lambda key: walk(short, key, lambda _, s: q[s].argmax().astype(jnp.int32)))
    )(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_array_equal(first % 5, 2)
    np.testing.assert_array_equal(number[:, :9] // 25, np.arange(1, 10) * np.ones((50, 1)))  # the ball falls
    np.testing.assert_array_equal(number[:, :9] // 5 % 5, (first // 5)[:, None] * np.ones(9))  # in one column
    np.testing.assert_array_equal(last[:, :9], np.arange(9) * np.ones((50, 1)) == 8)
    np.testing.assert_array_equal(discount[:, 8], 0.0)
    np.testing.assert_array_equal(reward, np.arange(12) * np.ones((50, 1)) == 8)


def test_numbered_maps_every_observation():
    env = discrete.numbered(adapter.make("FourRooms-misc"), 12, lambda obs: obs[1])
    assert env.spec.obs == Discrete(12)
    state, number = env.reset(jax.random.key(0))
    assert (int(number), number.dtype) == (1, jnp.int32)
    assert env.observe is not None
    for key in jax.random.split(jax.random.key(0), 6):
        state, number, *_ = env.step(key, state, jnp.array(1))
        assert int(number) == int(state.pos[1]) == int(env.observe(state))
    assert discrete.numbered(env._replace(observe=None), 12, lambda obs: obs).observe is None
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        discrete.numbered(env, 0, lambda obs: obs)


def test_layouts_and_moves_match_the_tables():
    lake = discrete.as_layout(lake_mdp(), 4)
    np.testing.assert_array_equal(lake.walls, [[sign == "H" for sign in row] for row in LAKE])
    assert (lake.start, lake.goal) == ((0, 0), (3, 3))
    assert discrete.frozen_lake(False).spec.name == "FrozenLake-deterministic"
    for tables, moves, width, at in (
        (discrete.frozen_lake_mdp(False, map_name="8x8"), discrete.FROZEN_LAKE_MOVES, 8, 9),
        (rooms_mdp(fail_prob=0.0), discrete.FOUR_ROOMS_MOVES, 13, 2 * 13 + 2),
    ):
        np.testing.assert_array_equal(tables.transitions[at].argmax(-1), [at + width * dr + dc for dr, dc in moves])


def test_tables_can_be_made_inside_a_trace():
    made = jax.jit(lambda fail: discrete.four_rooms_mdp(fail_prob=fail).transitions)(jnp.float32(0.3))
    straight = rooms_mdp(fail_prob=0.0).transitions
    np.testing.assert_allclose(made, 0.6 * straight + 0.1 * straight.sum(1, keepdims=True), atol=1e-6)


def test_wrong_settings():
    with pytest.raises(ValueError, match="resample_goal_pos must be False"):
        discrete.four_rooms(resample_goal_pos=True)
    with pytest.raises(ValueError, match=r"goal_fixed must be a free cell of the rooms, got \(6, 6\)"):
        discrete.four_rooms(goal_fixed=[6, 6])
    with pytest.raises(ValueError, match="pos_fixed must be a free cell"):
        discrete.four_rooms(pos_fixed=[13, 1])
    with pytest.raises(ValueError, match="size must be at least 2"):
        discrete.deep_sea(1)
    with pytest.raises(ValueError, match="sample_action_map must be False"):
        discrete.deep_sea(sample_action_map=True)
    with pytest.raises(ValueError, match="deterministic must be True"):
        discrete.deep_sea_mdp(deterministic=False)
    with pytest.raises(ValueError, match="rows must be at least 2"):
        discrete.catch(rows=1)
    with pytest.raises(ValueError, match="columns must be at least 1"):
        discrete.catch_mdp(columns=0)
    with pytest.raises(ValueError, match="slope is not a setting of FrozenLake-misc"):
        discrete.frozen_lake(slope=1)
