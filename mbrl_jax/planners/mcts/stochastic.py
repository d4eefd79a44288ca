"""Search with chance nodes (Stochastic MuZero, Antonoglou et al. 2022).

A decision node's edges are actions and lead to afterstates; a chance node's edges are outcomes and lead to states, with
a reward. Decisions are chosen by PUCT. At a chance node the outcome is followed that is most under-visited:

    argmax_c  σ(c | afterstate) / (1 + N(c)),   whose shares of visits go to σ

so that V(afterstate) becomes the mean over outcomes, where a sampled step would keep the first outcome it met.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree as trees
from mbrl_jax.core.config import check
from mbrl_jax.core.types import Array, Key, Planner, Spec, State, StepOut, Tree
from mbrl_jax.planners.mcts import tree
from mbrl_jax.planners.mcts.backup import back_up
from mbrl_jax.planners.mcts.puct import (
    PUCT,
    by_siblings,
    by_tree,
    draw,
    exploration,
    noise_rows,
    prior_weights,
    with_noise,
)
from mbrl_jax.planners.mcts.search import SearchInfo, summary


class ChanceModel(NamedTuple):
    """Dynamics in two halves, with parameters inside: what was decided, and what chance made of it."""

    decide: Callable[[State, Array], tuple[State, Array, Array]]
    """(state, action) -> afterstate, its value [], logits of the outcomes [C]"""
    happen: Callable[[State, Array], StepOut]  # (afterstate, outcome) -> StepOut
    value: Callable[[State], Array]  # (state) -> []
    prior: Callable[[State], Array]  # (state) -> logits [A]
    legal: Callable[[State], Array] | None = None  # (state) -> mask [A]


def chance(cfg: PUCT, spec: Spec, outcomes: int) -> Planner:
    """PUCT over actions and their outcomes. A simulation adds one node, of either kind; depths count both.

    Args:
      cfg: settings; floats may be traced. γ is applied where something happens, once per step.
      spec: actions discrete.
      outcomes: C.
    Returns:
      the planner, over a `ChanceModel`; info is `SearchInfo`, as of `puct`.
    Raises:
      ValueError: a setting out of its range, continuous actions, fewer than one outcome, or `reuse`.
    """
    check(cfg)
    if outcomes < 1:
        raise ValueError(f"outcomes must be at least 1, got {outcomes}")
    if cfg.reuse:
        raise ValueError("reuse must be False: a tree with chance nodes is not kept from move to move")
    num_actions = spec.num_actions
    edges = max(num_actions, outcomes)
    max_depth = min(cfg.max_depth or cfg.simulations, cfg.simulations)

    def padded(chances: Array, decision: float) -> Array:
        """What a node keeps, [E + 1]: probabilities of its edges, minus infinity where it has none; and its kind."""
        missing = jnp.full(edges - chances.shape[0], -jnp.inf, chances.dtype)
        return jnp.concatenate([chances, missing, jnp.full(1, decision, chances.dtype)])

    def plan(key: Key, model: ChanceModel, state: State, warm: Tree) -> tuple[Array, Tree, SearchInfo]:
        drawn = jax.random.uniform(key, (2 + noise_rows(), num_actions), minval=jnp.finfo(jnp.float32).tiny)

        def probabilities(state: State) -> Array:
            logits = model.prior(state)
            legal = jnp.ones(num_actions, bool) if model.legal is None else model.legal(state)
            return jnp.where(legal, jax.nn.softmax(jnp.where(legal, logits, jnp.finfo(logits.dtype).min)), -jnp.inf)

        def ask(both: tuple[State, State, Array], edge: Array) -> tuple[StepOut, Array, Array]:
            """One edge of either kind: both halves are computed, and one is kept."""
            state, afterstate, decision = both
            decided, its_value, logits = model.decide(state, jnp.minimum(edge, num_actions - 1))
            out = model.happen(afterstate, jnp.minimum(edge, outcomes - 1))
            yes, no = jnp.ones((), bool), jnp.zeros((), bool)
            to_chance = StepOut((state, decided, no), jnp.zeros_like(out.reward), jnp.ones_like(out.reward))
            to_state = StepOut((out.state, afterstate, yes), out.reward, cfg.gamma * out.discount)
            step = trees.where(decision, to_chance, to_state)
            kept = jnp.where(decision, padded(jax.nn.softmax(logits), 0.0), padded(probabilities(out.state), 1.0))
            return step, kept, jnp.where(decision, its_value, model.value(out.state))

        afterstate = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(model.decide, state, jnp.int32(0))[0]
        )
        prior = with_noise(drawn[2:], probabilities(state), cfg.dirichlet_fraction, cfg.dirichlet_alpha)
        row = tree.fresh(edges, padded(prior, 1.0), model.value(state))
        ties = jnp.concatenate([cfg.tie_noise * drawn[0], jnp.zeros(edges - num_actions)])
        weights = prior_weights(cfg.simulations + 1, cfg.c1, cfg.c2)
        start = tree.new_tree(row, (state, afterstate, jnp.ones((), bool)), cfg.simulations + 1)

        def simulate(i: Array, t: tree.Tree) -> tree.Tree:
            def score(node: tree.Node) -> Array:
                decision = node.prior[..., -1:] > 0.0
                node = node._replace(prior=node.prior[..., :-1])
                scaled = by_siblings(node) if cfg.normalise == "siblings" else by_tree(node, t.low, t.high)
                decided = scaled + exploration(node, weights) + ties
                return jnp.where(decision, decided, node.prior / (1.0 + node.visits))

            rule = tree.by_score(edges, score)
            first = tree.first_max(score(tree.unpack(t.rows[:1], edges)))
            t, leaf = tree.descend(t, first, jnp.ones(1, bool), rule, max_depth)
            t, out, values = tree.expand(t, leaf, i + 1, rule, jax.vmap(ask), 1.0)
            return back_up(t, leaf, i + 1, rule, out, values, cfg.normalise == "tree")

        t = jax.lax.fori_loop(0, cfg.simulations, simulate, tree.with_room(start, max_depth))
        root = tree.unpack(t.rows[0], edges)
        visits, q = root.visits[:num_actions], root.q[:num_actions]
        policy = visits / jnp.sum(visits)
        q = jnp.where(visits > 0, q, root.value)
        info = summary(t, edges, policy, q, cfg.keep_tree)._replace(visits=visits.astype(jnp.int32))
        return draw(drawn[1], policy, cfg.temperature), warm, info

    return Planner(lambda: (), plan)  # pyright: ignore[reportArgumentType]  # plan takes a ChanceModel
