"""Search on the true environment: UCT plays a small process and a game well, AlphaZero learns what it should."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import minimax

from mbrl_jax.agents import alphazero
from mbrl_jax.agents import uct as uct_agent
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core import Box, Discrete, Env, Replay, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.discrete import frozen_lake
from mbrl_jax.envs.games import unmask
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.envs.tictactoe import Board, tictactoe
from mbrl_jax.models.muzero.losses import SearchTargets
from mbrl_jax.planners.mcts import UCT
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.loop import LoopConfig, make_loop

SMALL = {
    "hidden": (8,), "search.gumbel.simulations": 4, "n_steps": 2, "batch": 8, "gamma": 0.9, "support": 3,
}  # fmt: skip


@pytest.fixture
def quick():
    """For tests that compile much and run little; the folder's own fixture sets this back."""
    jax.config.update("jax_disable_most_optimizations", True)


def test_uct_finds_the_way_over_the_frozen_lake():
    env = frozen_lake(slippery=False)
    agent = uct_agent.make(
        uct_agent.UCTConfig(uct=UCT(simulations=200, gamma=0.9, rollout_depth=30, rollouts=16, c=0.5)), env
    )
    play = jax.jit(lambda key: evaluate(agent, wrappers.reveal_state(env), key, (), 2))
    returns, lengths = play(jax.random.key(0))
    np.testing.assert_array_equal(returns, 1)
    np.testing.assert_array_equal(lengths, 6)  # the shortest there is


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


# AlphaZero ----------------------------------------------------------------------------------------------------------


def any_probe(which: jax.Array) -> Env:
    """One of the probes, chosen by a traced number, so that one program learns them all."""
    envs = [wrappers.time_limit(make(False), 3) for make in PROBES.values()]
    return Env(
        envs[0].spec,
        lambda key: jax.lax.switch(which, [env.reset for env in envs], key),
        lambda key, state, action: jax.lax.switch(which, [env.step for env in envs], key, state, action),
        envs[0].observe,
    )


def test_alphazero_learns_the_probes():
    cfg = replace(alphazero.AlphaZeroConfig(), SMALL | {"batch": 32, "lr": 1e-2})
    loop_cfg = LoopConfig(num_envs=4, inner=250, cycles=1, warmup=20, capacity=1000, eval_episodes=0)

    def learn(which):
        env = any_probe(which)
        buffer = alphazero.buffer(cfg, loop_cfg.capacity, loop_cfg.num_envs)
        loop = make_loop(alphazero.make(cfg, env), wrappers.reveal_state(env), buffer, loop_cfg)
        state, _ = loop.chunk(loop.init(jax.random.key(0)))
        guide = alphazero.guided(cfg, env, state.learner.params)
        states = jax.vmap(lambda obs: wrappers.Timed(obs, jnp.int32(0)))(jnp.array([[-1.0], [0.0], [1.0]]))
        key = jax.random.key(0)
        return jax.vmap(lambda state: (guide.value(key, state), guide.prior(key, state)))(states)

    values, priors = jax.jit(jax.vmap(learn))(jnp.arange(len(PROBES)))
    no = np.nan
    known = [[no, 1, no], [-1, no, 1], [no, 0.9, 1], [no, 1, no], [1, no, 1]]
    for value, wanted, name in zip(values, known, PROBES, strict=True):
        np.testing.assert_allclose(np.where(np.isnan(wanted), no, value), wanted, atol=0.15, err_msg=name)
    for probe, state, action in ((3, 1, 0), (4, 0, 0), (4, 2, 1)):
        assert float(priors[probe, state, action] - priors[probe, state, 1 - action]) > 2  # logits


def test_an_update_descends_both_cross_entropies(quick):
    env = wrappers.time_limit(PROBES["observation_action_reward"](False), 3)
    cfg = replace(alphazero.AlphaZeroConfig(), SMALL | {"value_weight": 0.3, "batch": 4})
    agent = alphazero.make(cfg, env)
    rng = np.random.default_rng(0)
    shape = (3, 4)
    last = np.zeros(shape, bool)
    last[0, 1] = last[1, 2] = True
    states = wrappers.Timed(jnp.asarray(rng.normal(size=(*shape, 1)), jnp.float32), jnp.zeros(shape, jnp.int32))
    found = SearchTargets(
        jnp.asarray(rng.dirichlet([1, 1], shape), jnp.float32),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.ones(shape, bool).at[1, 0].set(False),  # at random: the return of that window ends there
    )
    reward = jnp.asarray(rng.normal(size=shape), jnp.float32)
    steps = Step(
        states, jnp.zeros(shape, jnp.int32), reward, jnp.asarray(~last, jnp.float32), last, jnp.asarray(last), found
    )
    window = Window(steps, jnp.arange(4), jnp.array([1.0, 1.0, 0.5, 0.0]))
    replay = Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)
    learner = jax.jit(agent.init)(jax.random.key(0))
    # Twice: at first all outputs are 0, whatever the observation.
    for _ in range(2):
        before = learner
        learner, metrics, feedback = jax.jit(lambda learner: agent.update(jax.random.key(1), learner, replay))(before)
    nets = alphazero.heads(cfg, env.spec)
    total = {"policy": 0.0, "value": 0.0}
    apply = jax.jit(lambda net, obs: (nets.policy.apply(net["policy"], obs), nets.value.apply(net["value"], obs)))
    for b in (0, 2):
        logits, value_logits = apply(before.params, states.inner[0, b])
        v, r = found.value[:, b], reward[:, b]
        z = r[1] + 0.9 * v[1] if b == 0 else r[1]
        h = np.sign(z) * (np.sqrt(abs(z) + 1) - 1) + 1e-3 * z
        classes = np.maximum(0, 1 - np.abs(np.arange(-3, 4) - h))
        weight = float(window.weight[b]) / 4
        total["policy"] += weight * float(optax.softmax_cross_entropy(logits, found.policy[0, b]))
        total["value"] += weight * float(optax.softmax_cross_entropy(value_logits, jnp.asarray(classes)))
    assert float(metrics["policy_loss"]) == pytest.approx(total["policy"], rel=1e-4)
    assert float(metrics["value_loss"]) == pytest.approx(total["value"], rel=1e-4)
    assert feedback == ()
    assert int(learner.updates) == 2


def test_what_does_not_fit_is_refused():
    blind = Env(Spec(Box((2,)), Discrete(2), name="blind"), lambda key: ((), ()), lambda key, state, action: ())
    with pytest.raises(ValueError, match="blind must have `observe`"):
        alphazero.make(alphazero.AlphaZeroConfig(), blind)
    with pytest.raises(ValueError, match=r"uct\.simulations must be at least 1, got 0"):
        uct_agent.make(uct_agent.UCTConfig(uct=UCT(simulations=0)), frozen_lake())
