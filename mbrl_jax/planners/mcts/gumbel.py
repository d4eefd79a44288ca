"""Gumbel MuZero's search: Sequential Halving at the root (Danihelka et al. 2022, "Policy improvement by planning with
Gumbel").

The root draws g ~ Gumbel(0) for each action and considers the m legal ones of largest g + logits. Sequential Halving
(Karnin et al. 2013) spreads n simulations over them in ⌈log₂ m⌉ phases. A phase makes ⌊n / (phases · considered)⌋
rounds, at least 1; a round visits every action still considered once. The better half by g + logits + σ(q̂) goes on to
the next phase, never fewer than 2.

    q̂(a) = Q(a), for actions never tried v_mix = [ v + ΣN · Σ_b∈tried P(b) Q(b) / Σ_b∈tried P(b) ] / (1 + ΣN)
    σ(q̂) = (c_visit + max_b N(b)) c_scale (q̂ - min_b q̂) / max(max_b q̂ - min_b q̂, least_range)
    action = argmax of g + logits + σ(q̂) among the most visited,   policy = softmax(logits + σ(q̂))
    below the root: argmax_a  softmax(logits + σ(q̂))_a - N(a) / (1 + Σ_b N(b))

Schedule "parallel": the simulations of one round are independent, so all of them descend, expand and back up at once,
and the model evaluates all their leaves together. "serial": one simulation after the other, as in mctx, which ranks the
actions anew before each; the two differ where a phase gives fewer visits than it has actions, or is cut short.

A node's values seldom differ by exactly nothing: scaled by their own range, errors of a network weigh as much as
differences that matter. `least_range` bounds that: values closer than this are scaled by it instead.

Differs from the paper in: c_scale is 0.1 (there 1.0), and q̂ is scaled by the range of a node's values (there of the
tree's), both as in mctx.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Array, Key, Model, Planner, Spec, State, Tree
from mbrl_jax.planners.mcts import search, tree
from mbrl_jax.planners.mcts.backup import back_up
from mbrl_jax.planners.mcts.search import FORBIDDEN, SearchInfo
from mbrl_jax.planners.mcts.vmap_rules import any_in_batch, on_flat_batch

LEAST = 1e-30  # smallest probability that a node keeps of a legal action
SHUNNED = 1e-35  # largest prior of a broken edge where a node chooses


@config
class Gumbel:
    """Settings of Gumbel MuZero's search."""

    simulations: int = setting(default=50, low=1, high=100_000, help="model steps per search")
    max_depth: int = setting(default=0, low=0, help="largest depth of the tree in steps; 0 for no limit")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount factor per step")
    considered: int = setting(default=16, low=1, help="largest number of root actions that are searched")
    c_visit: float = setting(default=50.0, low=0, help="visit-independent part of the weight σ of values")
    c_scale: float = setting(default=0.1, above=0, help="weight of values against logits")
    least_range: float = setting(
        default=1e-8, above=0, help="smallest range of a node's values that is scaled to [0, 1], in units of value"
    )
    schedule: str = setting(
        default="parallel", choices=("parallel", "serial"), help="simulations of a halving round: at once or in turn"
    )
    gumbel_scale: float = setting(default=1.0, low=0, help="scale of the Gumbel noise at the root; 0 in evaluation")
    reuse: bool = setting(default=False, help="reuse of the subtree below the action taken in the next search")


class Weight(NamedTuple):
    """The weight of values against logits in σ; floats or arrays of one shape."""

    c_visit: Array | float  # visit-independent part, at least 0
    c_scale: Array | float  # above 0
    least_range: Array | float  # smallest range of values that is scaled to [0, 1], above 0


def weight_of(cfg: Gumbel) -> Weight:
    """The settings of σ."""
    return Weight(cfg.c_visit, cfg.c_scale, cfg.least_range)


class Context(NamedTuple):
    """What all simulations of one search share."""

    cfg: Gumbel
    model: Model
    key: Key  # one is folded from it for each round
    keep: int  # nodes below the root reused from the search before; new ones have the rows behind them
    max_depth: int  # edges of a path
    rule: tree.Rule  # below the root
    prior: Array  # [A] log-probabilities at the root
    noise: Array  # [A] g
    legal: Array  # [A] bool, at the root
    visits_before: Array  # [A] root visits of earlier searches, with `reuse`

    @property
    def num_actions(self) -> int:
        return self.rule.num_actions


def gumbel(cfg: Gumbel, spec: Spec, state: State = None, *, keep_tree: bool = False) -> Planner:
    """Gumbel MuZero's search over discrete actions. Runs on any model with one member; without `prior` it is uniform,
    without `value` 0.

    A new node keeps the one state that the model gave. Where the model is stochastic, the search plans for the outcomes
    it drew: see `chance` for nodes over outcomes.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete.
      state: with `reuse`, an example of the model's states. The planner's memory is then the subtree below the action
        it chose; the next search takes that subtree's root for its own state. Start an episode with `init`.
      keep_tree: return the tree in `info.tree`.
    Returns:
      the planner; info is `SearchInfo`, with q̂ as q, not scaled.
    Raises:
      ValueError: a setting out of its range, continuous actions, or `reuse` without a state.
    """
    check(cfg)
    num_actions = spec.num_actions
    keep = search.rows_kept(cfg.reuse, cfg.simulations, state)
    max_depth = min(cfg.max_depth or cfg.simulations + keep, cfg.simulations + keep)

    def plan(key: Key, model: Model, state: State, warm: Tree) -> tuple[Array, Tree, SearchInfo]:
        search.need_one_member(model)
        key_gumbel, key_model = jax.random.split(key)
        key_prior, key_value = jax.random.split(jax.random.fold_in(key_model, cfg.simulations))
        prior = log_prior(model, key_prior, state, num_actions)
        noise = cfg.gumbel_scale * jax.random.gumbel(key_gumbel, (num_actions,), jnp.float32)
        legal = prior > 0.5 * FORBIDDEN
        start_value = search.root_value(search.value_at(model, key_value, state))
        row = tree.new_node(num_actions, probabilities(prior), start_value)
        t = search.begin(tree.new_tree(row, state, cfg.simulations + keep + 1), warm, num_actions)
        before = root_of(t, num_actions).visits
        rule = improved_policy_rule(cfg, num_actions, model.legal is not None)
        context = Context(cfg, model, key_model, keep, max_depth, rule, prior, noise, legal, before)

        if cfg.schedule == "serial":
            t = serial_rounds(context, t)
        else:
            t = (parallel_rounds if model.legal is None else masked_parallel_rounds)(context, t)
        root = root_of(t, num_actions)
        able = search.playable(root, legal)
        action = tree.first_max(rank(context, root, jnp.max(jnp.where(able, root.visits - before, 0.0)), able))
        policy = jax.nn.softmax(jnp.where(legal & ~able, FORBIDDEN, prior) + sigma(root, weight_of(cfg)))
        warm = search.remember(t, action, num_actions, keep)
        return action, warm, search.summary(t, num_actions, policy, shown_q(root), keep_tree)

    return narrow_planner(Planner(lambda: search.memory(keep, num_actions, state), plan))


# The rounds of a search ---------------------------------------------------------------------------------------------


def serial_rounds(context: Context, t: tree.Tree) -> tree.Tree:
    """All simulations, one after the other."""
    cfg = context.cfg
    table = jnp.asarray(considered_visits(cfg.considered, cfg.simulations), jnp.float32)
    table = table[jnp.minimum(cfg.considered, jnp.sum(context.legal))]

    def simulate(i: Array, t: tree.Tree) -> tree.Tree:
        first = tree.first_max(rank(context, root_of(t, context.num_actions), table[i]))
        return visit(context, t, i, first[None], jnp.ones(1, bool), context.keep + i + 1)

    return jax.lax.fori_loop(0, cfg.simulations, simulate, tree.with_paths(t, context.max_depth))


def parallel_rounds(context: Context, t: tree.Tree) -> tree.Tree:
    """All rounds where every action is legal: one schedule for the whole batch."""
    cfg, num_actions, keep = context.cfg, context.num_actions, context.keep
    most = min(cfg.considered, num_actions, cfg.simulations)
    nodes, rounds = 0, 0  # so far
    for width, count in runs(round_widths(most, cfg.simulations)):
        # Those ranked best as the run begins are visited in all of its rounds: no other keeps up with them.
        every = jnp.arange(num_actions, dtype=jnp.int32)
        best = every
        if width < num_actions:
            best = jax.lax.top_k(rank(context, root_of(t, num_actions), rounds), width)[1]

        def one_round(
            i: Array, t: tree.Tree, best: Array = best, rounds: int = rounds, nodes: int = nodes
        ) -> tree.Tree:
            width = best.shape[0]
            return visit(context, t, rounds + i, best, jnp.ones(width, bool), keep + nodes + 1 + i * width)

        # After so many rounds no path can be longer: each lengthens it by one.
        t = tree.with_paths(t, min(keep + rounds + count, context.max_depth), width)
        t = jax.lax.fori_loop(0, count, one_round, t)
        nodes, rounds = nodes + count * width, rounds + count
    return t


def masked_parallel_rounds(context: Context, t: tree.Tree) -> tree.Tree:
    """All rounds where roots of a batch differ in their number of legal actions, and so in their schedules.

    Rounds are wide enough for every root; where a root's own round is narrower, the simulations left over are inactive.
    """
    cfg, num_actions, keep = context.cfg, context.num_actions, context.keep
    most = min(cfg.considered, num_actions, cfg.simulations)
    table, bounds = schedules(most, cfg.simulations)
    mine = jnp.asarray(table)[jnp.clip(jnp.sum(context.legal), 1, most)]
    at = (t, jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))  # the tree, rounds so far, nodes so far + 1
    end = 0
    for width, count in runs(bounds):
        end += count

        def one_round(at: tuple[tree.Tree, Array, Array], width: int = width) -> tuple[tree.Tree, Array, Array]:
            t, i, row = at
            _, first = jax.lax.top_k(rank(context, root_of(t, num_actions), i), width)
            number = jnp.arange(width, dtype=jnp.int32)
            active = number < mine[i]
            rows = jnp.where(active, keep + row + number, keep + cfg.simulations + 1)
            return visit(context, t, i, first, active, rows), i + 1, row + mine[i]

        def more(at: tuple[tree.Tree, Array, Array], end: int = end) -> Array:
            _, i, row = at
            return (i < end) & any_in_batch(row <= cfg.simulations)

        at = (tree.with_paths(at[0], min(keep + end, context.max_depth), width), *at[1:])
        at = jax.lax.while_loop(more, one_round, at)
    return at[0]


def visit(
    context: Context, t: tree.Tree, number: Array | int, first: Array, active: Array, rows: Array | int
) -> tree.Tree:
    """One round: simulations that start with different root actions descend, expand and back up together.

    Args:
      context: of the search.
      t: the tree, with room for their paths.
      number: of the round, for its key.
      first: [k] root actions.
      active: [k] bool: False for a simulation that is left out.
      rows: of the new nodes, as for `tree.expand`.
    """

    def prior(key: Key, state: State) -> Array:
        return probabilities(log_prior(context.model, key, state, context.num_actions))

    t, leaf = tree.descend(t, first, active, context.rule, context.max_depth)
    evaluate = search.evaluator(
        context.model, jax.random.fold_in(context.key, number), prior, partial(search.value_at, context.model)
    )
    t, out, values = tree.expand(t, leaf, rows, context.rule, evaluate, context.cfg.gamma)
    return back_up(t, leaf, rows, context.rule, out, values)


def root_of(t: tree.Tree, num_actions: int) -> tree.Node:
    """The root's node."""
    return tree.unpack(t.rows[0], num_actions)


def rank(context: Context, root: tree.Node, visits: Array | int, among: Array | None = None) -> Array:
    """[A] g + logits + σ(q̂) of the legal actions visited that often in this search; minus infinity for the others.

    Args:
      context: of the search.
      root: the root's node, fields [A] and [].
      visits: [] visits in this search, those of earlier searches not counted.
      among: [A] bool, the actions to rank; the legal ones if None.
    """
    score = jnp.maximum(FORBIDDEN, context.noise + context.prior + sigma(root, weight_of(context.cfg)))
    score = jnp.where(tree.broken(root.q), FORBIDDEN, score)
    among = context.legal if among is None else among
    return jnp.where(among & (root.visits - context.visits_before == visits), score, -jnp.inf)


def shown_q(root: tree.Node) -> Array:
    """[A] q̂ of the root's actions; of a broken edge the least of them."""
    q = completed(root)
    bad = tree.broken(root.q)
    return jnp.where(bad, jnp.minimum(root.value, jnp.min(jnp.where(bad, jnp.inf, q))), q)


# The equations ------------------------------------------------------------------------------------------------------


def log_prior(model: Model, key: Key, state: State, num_actions: int) -> Array:
    """[A] log-probabilities of the model's prior over the legal actions; `FORBIDDEN` for the others.

    Args:
      model: without `prior`, uniform; without `legal`, all actions are legal.
      key: for the model's prior; used once.
      state: of the model.
      num_actions: A.
    """
    legal = search.legal_at(model, state, num_actions)
    raw = search.logits_at(model, key, state, num_actions)
    return jnp.where(legal, jax.nn.log_softmax(jnp.where(legal, raw, FORBIDDEN)), FORBIDDEN)


def probabilities(logits: Array) -> Array:
    """A node's prior: probabilities [..., A] of normalised logits, above 0 for every legal action and 0 otherwise."""
    return jnp.where(logits > 0.5 * FORBIDDEN, jnp.maximum(jnp.exp(logits), LEAST), 0.0)


def improved_policy_rule(cfg: Gumbel, num_actions: int, masked: bool) -> tree.Rule:
    """The rule below the root, argmax_a  softmax(logits + σ(q̂))_a - N(a) / (1 + Σ_b N(b)).

    Args:
      cfg: for σ.
      num_actions: A.
      masked: whether some actions may be illegal.
    """

    def best(rows: Array, size: int) -> tuple[Array, Array]:
        constants = (jnp.broadcast_to(jnp.float32(c), rows.shape[:1]) for c in weight_of(cfg))
        return on_flat_batch(partial(best_below, num_actions, size, masked), rows, *constants)

    return tree.Rule(num_actions, best, lambda prior: prior > 0.0)


def best_below(num_actions: int, size: int, masked: bool, rows: Array, *weight: Array) -> tuple[Array, Array]:
    """The actions [k] that the rule below the root takes, and the rows [k] behind them.

    Arrays are laid out with actions first and nodes last: sums over few actions side by side suit vector units.

    Args:
      num_actions: A.
      size: M, rows of the tree.
      masked: whether some actions may be illegal.
      rows: [k, R] nodes whose prior is from `probabilities`.
      weight: [k] each, the fields of `Weight`.
    """
    node = jax.tree.map(jnp.transpose, tree.unpack(rows, num_actions))
    bad = tree.broken(node.q)
    node = node._replace(prior=jnp.where(bad, jnp.minimum(node.prior, SHUNNED), node.prior))
    weights = improved(node, Weight(*weight), masked)
    # The rule's scores times the sum of the weights, which changes no order.
    scores = weights - node.visits * (jnp.sum(weights, 0) / node.total)
    return tree.first_best(scores, node.child, size, 0)


def improved(node: tree.Node, weight: Weight, masked: bool = True) -> Array:
    """The policy softmax(logits + σ(q̂)) up to a factor, [A, ...]; from probabilities, with one exponential.

    Args:
      node: fields [A, ...] and [...], its prior from `probabilities`.
      weight: of values against logits, in σ.
      masked: whether some actions may be illegal; their σ is then ignored.
    """
    q = completed(node)
    low, high = jnp.min(q, 0), jnp.max(q, 0)
    scale = (weight.c_visit + jnp.max(node.visits, 0)) * weight.c_scale / jnp.maximum(high - low, weight.least_range)
    best = jnp.max(jnp.where(node.prior > 0.0, q, low), 0) if masked else high
    shifted = scale * (q - best)
    return node.prior * jnp.exp(jnp.minimum(shifted, 0.0) if masked else shifted)


def completed(node: tree.Node) -> Array:
    """q̂ [A, ...]: Q where tried, v_mix where not or where broken; the node's fields are [A, ...] and [...]."""
    tried = (node.visits > 0) & ~tree.broken(node.q)
    weights = jnp.where(tried, node.prior, 0.0)
    total = jnp.sum(weights, 0)
    mean = jnp.sum(weights * node.q, 0) / jnp.where(total > 0.0, total, 1.0)
    visits = node.total - 1.0
    return jnp.where(tried, node.q, (node.raw + visits * mean) / (visits + 1.0))


def sigma(node: tree.Node, weight: Weight) -> Array:
    """σ(q̂) [A, ...] of a node, (c_visit + max_b N(b)) c_scale q̂ with q̂ scaled to [0, 1].

    Args:
      node: fields [A, ...] and [...].
      weight: of values against logits.
    """
    return scaled(completed(node), node.visits, weight)


def scaled(q: Array, visits: Array, weight: Weight) -> Array:
    """σ(q̂) [A, ...] with q̂ scaled to [0, 1] by its smallest and largest over the actions.

    Args:
      q: [A, ...] q̂, from `completed`.
      visits: [A, ...] N(a).
      weight: of values against logits.
    """
    low, high = jnp.min(q, 0), jnp.max(q, 0)
    size = (weight.c_visit + jnp.max(visits, 0)) * weight.c_scale
    return size * (q - low) / jnp.maximum(high - low, weight.least_range)


# The schedule of Sequential Halving ---------------------------------------------------------------------------------


def round_widths(considered: int, simulations: int) -> list[int]:
    """How many actions each round of Sequential Halving visits, each once; the sum is `simulations`."""
    if considered < 2:
        return [1] * simulations
    phases, left, out = math.ceil(math.log2(considered)), simulations, []
    while left:
        for _ in range(max(1, simulations // (phases * considered))):
            out.append(min(considered, left))
            left -= out[-1]
            if not left:
                break
        considered = max(2, considered // 2)
    return out


def considered_visits(most: int, simulations: int) -> np.ndarray:
    """[most + 1, simulations]: for each number of considered actions, how many visits the actions already have among
    which a simulation chooses."""
    rows = [
        [number for number, width in enumerate(round_widths(m, simulations)) for _ in range(width)]
        for m in range(most + 1)
    ]
    return np.array(rows, np.int32)


def schedules(most: int, simulations: int) -> tuple[np.ndarray, list[int]]:
    """The schedules for every number of legal actions.

    Returns:
      widths of the rounds [most + 1, rounds], 0 behind the last; and for each round a width that is enough for all of
      them, of few different values.
    """
    rows = [round_widths(m, simulations) for m in range(most + 1)]
    rounds = max(len(row) for row in rows)
    table = np.array([row + [0] * (rounds - len(row)) for row in rows], np.int32)
    steps = [most]
    while steps[-1] > 2:
        steps.append(max(2, (steps[-1] + 1) // 2))
    need = np.maximum.accumulate(table.max(0)[::-1])[::-1]
    return table, [min(s for s in steps if s >= n) for n in need.tolist()]


def runs(values: list[int]) -> list[tuple[int, int]]:
    """Run lengths of equal neighbours: (value, how often)."""
    out: list[tuple[int, int]] = []
    for value in values:
        out[-1:] = [(value, out[-1][1] + 1)] if out and out[-1][0] == value else [*out[-1:], (value, 1)]
    return out
