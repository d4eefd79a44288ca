"""Search with chance nodes (Stochastic MuZero, Antonoglou et al. 2022).

A decision node's edges are actions and lead to afterstates; a chance node's edges are outcomes and lead to states, with
a reward. Actions are selected by PUCT. At a chance node the most under-visited outcome is selected:

    argmax_c  σ(c | afterstate) / (1 + N(c)),   whose shares of visits converge to σ

so that V(afterstate) becomes the mean over outcomes. A sampled step would keep the first outcome it drew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    probabilities,
    with_noise,
)
from mbrl_jax.planners.mcts.search import (
    SearchInfo,
    checked_step,
    need_shape,
    root_value,
    shares,
    shown_q,
    summary,
    usable_logits,
)


class ChanceModel(NamedTuple):
    """Dynamics in two halves, with parameters inside: the decision, and what chance makes of it."""

    decide: Callable[[State, Array], tuple[State, Array, Array]]
    """(state, action) -> afterstate, its value [], logits of the outcomes [C]"""
    happen: Callable[[State, Array], StepOut]  # (afterstate, outcome) -> StepOut
    value: Callable[[State], Array]  # (state) -> []
    prior: Callable[[State], Array]  # (state) -> logits [A]
    legal: Callable[[State], Array] | None = None  # (state) -> mask [A]


class NodeState(NamedTuple):
    """The state of a node of either kind; the field of the other kind is arbitrary."""

    state: State  # of a decision node
    afterstate: State  # of a chance node
    decision: Array  # [] bool: a decision node


def chance(cfg: PUCT, spec: Spec, outcomes: int, *, keep_tree: bool = False) -> Planner:
    """PUCT over actions and their outcomes. A simulation adds one node, of either kind; depths count both.

    Args:
      cfg: settings; floats may be traced. γ is applied on the edges of outcomes, once per step.
      spec: actions discrete.
      outcomes: C.
      keep_tree: return the tree in `info.tree`.
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

    def plan(key: Key, model: ChanceModel, state: State, warm: Tree) -> tuple[Array, Tree, SearchInfo]:
        drawn = jax.random.uniform(
            key, (2 + noise_rows(), num_actions), minval=jnp.finfo(jnp.float32).tiny, dtype=jnp.float32
        )
        evaluate = partial(
            step_edge, model=model, gamma=cfg.gamma, num_actions=num_actions, outcomes=outcomes, edges=edges
        )
        afterstate = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(model.decide, state, jnp.int32(0))[0]
        )
        prior = with_noise(
            drawn[2:], legal_prior(model, state, num_actions), cfg.dirichlet_fraction, cfg.dirichlet_alpha
        )
        value = model.value(state)
        need_shape("value", value, (), "a scalar")
        row = tree.new_node(edges, node_prior(prior, edges, decision=True), root_value(value))
        ties = jnp.concatenate([cfg.tie_noise * drawn[0], jnp.zeros(edges - num_actions, jnp.float32)])
        weights = prior_weights(cfg.simulations + 1, cfg.c1, cfg.c2)
        start = tree.new_tree(row, NodeState(state, afterstate, jnp.ones((), bool)), cfg.simulations + 1)

        def simulate(i: Array, t: tree.Tree) -> tree.Tree:
            def score(node: tree.Node) -> Array:
                decision = node.prior[..., -1:] > 0.0
                node = node._replace(prior=node.prior[..., :-1])
                scaled = by_siblings(node) if cfg.normalise == "siblings" else by_tree(node, t.low, t.high)
                decided = scaled + exploration(node, weights) + ties
                return jnp.where(decision, decided, node.prior / (1.0 + node.visits))

            rule = tree.by_score(edges, score)._replace(all_break=is_chance)
            first = tree.first_max(score(tree.unpack(t.rows[:1], edges)))
            t, leaf = tree.descend(t, first, jnp.ones(1, bool), rule, max_depth)
            t, out, values = tree.expand(t, leaf, i + 1, rule, jax.vmap(evaluate), 1.0)
            return back_up(t, leaf, i + 1, rule, out, values, cfg.normalise == "tree")

        t = jax.lax.fori_loop(0, cfg.simulations, simulate, tree.with_paths(start, max_depth))
        root = tree.unpack(t.rows[0], edges)
        visits, q, chances = root.visits[:num_actions], root.q[:num_actions], root.prior[:num_actions]
        root = root._replace(visits=visits, q=q)
        policy, q = shares(root, chances >= 0.0), shown_q(root)
        info = summary(t, edges, policy, q, keep_tree)._replace(visits=visits.astype(jnp.int32))
        return draw(drawn[1], policy, cfg.temperature), warm, info

    return Planner(lambda: (), plan)  # pyright: ignore[reportArgumentType]  # plan takes a ChanceModel


def legal_prior(model: ChanceModel, state: State, num_actions: int) -> Array:
    """The probabilities [A] of the model's prior over actions; minus infinity for illegal ones.

    Args:
      model: without `legal`, all actions are legal.
      state: of a decision node.
      num_actions: A.
    """
    legal = jnp.ones(num_actions, bool) if model.legal is None else model.legal(state)
    logits = model.prior(state)
    need_shape("prior", logits, (num_actions,), "logits of all actions")
    return probabilities(usable_logits(logits, model.legal is not None), legal)


def is_chance(rows: Array) -> Array:
    """[k] whether rows [k, R] are chance nodes. One broken outcome breaks such a node: its value is their mean."""
    return rows[:, -tree.SCALARS - 1] <= 0.0


def node_prior(prior: Array, edges: int, *, decision: bool) -> Array:
    """What a node keeps, [E + 1]: probabilities of its edges, minus infinity where it has none, and its kind.

    Args:
      prior: probabilities of its actions or outcomes.
      edges: E, the larger number of actions and outcomes.
      decision: whether it is a decision node.
    """
    missing = jnp.full(edges - prior.shape[0], -jnp.inf, prior.dtype)
    return jnp.concatenate([prior, missing, jnp.full(1, 1.0 if decision else 0.0, prior.dtype)])


def step_edge(
    node: NodeState,
    edge: Array,
    *,
    model: ChanceModel,
    gamma: Array | float,
    num_actions: int,
    outcomes: int,
    edges: int,
) -> tuple[StepOut, Array, Array]:
    """Follows one edge of a node of either kind: both halves of the dynamics are computed, and one is kept.

    Args:
      node: where the edge begins.
      edge: [] action or outcome.
      model: the dynamics.
      gamma: discount per step.
      num_actions, outcomes, edges: A, C and the larger of them.
    Returns:
      StepOut with a `NodeState`, γ in its discount; the new node's prior [E + 1] and value [].
    """
    decided, afterstate_value, logits = model.decide(node.state, jnp.minimum(edge, num_actions - 1))
    need_shape("decide", logits, (outcomes,), "logits of all outcomes")
    out = checked_step(model.happen(node.afterstate, jnp.minimum(edge, outcomes - 1)), "happen")
    yes, no = jnp.ones((), bool), jnp.zeros((), bool)
    to_chance = StepOut(NodeState(node.state, decided, no), jnp.zeros_like(out.reward), jnp.ones_like(out.reward))
    to_state = StepOut(NodeState(out.state, node.afterstate, yes), out.reward, gamma * out.discount)
    prior = jnp.where(
        node.decision,
        node_prior(jax.nn.softmax(usable_logits(logits, False)), edges, decision=False),
        node_prior(legal_prior(model, out.state, num_actions), edges, decision=True),
    )
    step = trees.where(node.decision, to_chance, to_state)
    return step, prior, jnp.where(node.decision, afterstate_value, model.value(out.state))
