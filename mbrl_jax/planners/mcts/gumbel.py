"""Gumbel MuZero's search: Sequential Halving at the root (Danihelka et al. 2022, "Policy improvement by planning with
Gumbel").

The root draws g ~ Gumbel(0) for each action and considers the m allowed ones of largest g + logits. Sequential Halving
(Karnin et al. 2013) spreads n simulations over them: ⌈log₂ m⌉ phases, each with ⌊n / (phases · considered)⌋ visits, at
least 1, to every action still considered, of which the better half by g + logits + σ(q̂) goes on, never fewer than 2.

    q̂(a) = Q(a), for actions never tried v_mix = [ v + ΣN · Σ_b∈tried P(b) Q(b) / Σ_b∈tried P(b) ] / (1 + ΣN)
    σ(q̂) = (c_visit + max_b N(b)) c_scale q̂,   q̂ scaled to [0, 1] by its smallest and largest
    action = argmax of g + logits + σ(q̂) among the most visited,   policy = softmax(logits + σ(q̂))
    below the root: argmax_a  softmax(logits + σ(q̂))_a - N(a) / (1 + Σ_b N(b))

Schedule "parallel": the actions of one round of a phase are independent, so all of them walk, expand and back up at
once, and the model is asked for all of them together. "serial": one after the other, as in mctx, which ranks anew
before each visit; the two differ where a phase gives fewer visits than it has actions, or is cut short.

Differs from the paper in: c_scale is 0.1 (there 1.0), as in mctx.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Array, Key, Model, Planner, Spec, State, Tree
from mbrl_jax.planners.mcts import search, tree
from mbrl_jax.planners.mcts.backup import back_up
from mbrl_jax.planners.mcts.search import SearchInfo
from mbrl_jax.planners.mcts.vmap_rules import in_any_lane, together

EPSILON = 1e-8  # the least range of values that is scaled to [0, 1]
LEAST = 1e-30  # probability of an allowed action in a node
FORBIDDEN = -1e9  # logits of an action that is not allowed


@config
class Gumbel:
    """Settings of Gumbel MuZero's search."""

    simulations: int = setting(default=50, low=1, help="model steps per plan")
    max_depth: int = setting(default=0, low=0, help="most steps looked ahead; 0 for no limit")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount per step")
    considered: int = setting(default=16, low=1, help="most actions tried at the root")
    c_visit: float = setting(default=50.0, low=0, help="σ's part that does not grow with visits")
    c_scale: float = setting(default=0.1, above=0, help="weight of values against logits")
    schedule: str = setting(default="parallel", choices=("parallel", "serial"), help="walks of a phase at once, or not")
    gumbel_scale: float = setting(default=1.0, low=0, help="of the noise at the root; 0 in evaluation")
    reuse: bool = setting(default=False, help="keep what lies below the action taken for the next plan")
    keep_tree: bool = setting(default=False, help="hand the tree out in info.tree")


def gumbel(cfg: Gumbel, spec: Spec, state: State = None) -> Planner:
    """Gumbel MuZero's search over discrete actions. Runs on any model of one world; without `prior` it is uniform,
    without `value` 0.

    A new node keeps the one state that the model gave. Where the model is random, the search plans for the outcomes it
    drew: see `chance` for nodes over outcomes.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete.
      state: with `reuse`, an example of the model's states. The planner's memory is then the tree below the action it
        chose, which the next plan takes to begin at its state: start an episode with `init`.
    Returns:
      the planner; info is `SearchInfo`, with q̂ as q, not scaled.
    Raises:
      ValueError: a setting out of its range, continuous actions, or `reuse` without a state.
    """
    check(cfg)
    num_actions = spec.num_actions
    keep = search.rows_kept(cfg.reuse, cfg.simulations, state)
    max_depth = min(cfg.max_depth or cfg.simulations + keep, cfg.simulations + keep)
    most = min(cfg.considered, num_actions, cfg.simulations)
    serial = cfg.schedule == "serial"

    def sigma(node: tree.Node) -> Array:
        return scaled(completed(node), node.visits, cfg.c_visit, cfg.c_scale)

    def plan(key: Key, model: Model, state: State, warm: Tree) -> tuple[Array, Tree, SearchInfo]:
        search.one_step(model)
        key_gumbel, key_model = jax.random.split(key)
        key_prior, key_value = jax.random.split(jax.random.fold_in(key_model, cfg.simulations))

        def logits(key: Key, state: State) -> Array:
            """[A] log-probabilities."""
            legal = search.legal_at(model, state, num_actions)
            raw = search.logits_at(model, key, state, num_actions)
            return jnp.where(legal, jax.nn.log_softmax(jnp.where(legal, raw, FORBIDDEN)), FORBIDDEN)

        def value(key: Key, state: State) -> Array:
            return search.value_at(model, key, state)

        prior = logits(key_prior, state)
        noise = cfg.gumbel_scale * jax.random.gumbel(key_gumbel, (num_actions,))
        legal = prior > 0.5 * FORBIDDEN
        row = tree.fresh(num_actions, chances(prior), value(key_value, state))
        start = search.begin(tree.new_tree(row, state, cfg.simulations + keep + 1), warm, num_actions)
        before = tree.unpack(start.rows[0], num_actions).visits

        def ranked(root: tree.Node, visits: Array | int) -> Array:
            """[A] g + logits + σ(q̂), minus infinity but for allowed actions visited that often in this search."""
            score = jnp.maximum(FORBIDDEN, noise + prior + sigma(root))
            return jnp.where(legal & (root.visits - before == visits), score, -jnp.inf)

        def best(rows: Array, room: int) -> tuple[Array, Array]:
            constants = (jnp.broadcast_to(jnp.float32(c), rows.shape[:1]) for c in (cfg.c_visit, cfg.c_scale))
            return together(partial(best_below, num_actions, room, model.legal is not None), rows, *constants)

        rule = tree.Rule(num_actions, best)

        def root_of(t: tree.Tree) -> tree.Node:
            return tree.unpack(t.rows[0], num_actions)

        def visit(t: tree.Tree, turn: Array | int, first: Array, walking: Array, at: Array | int) -> tree.Tree:
            t, leaf = tree.descend(t, first, walking, rule, max_depth)
            ask = search.asker(model, jax.random.fold_in(key_model, turn), lambda *at: chances(logits(*at)), value)
            t, out, values = tree.expand(t, leaf, at, rule, ask, cfg.gamma)
            return back_up(t, leaf, at, rule, out, values)

        def one_by_one(t: tree.Tree) -> tree.Tree:
            table = jnp.asarray(considered_visits(cfg.considered, cfg.simulations), jnp.float32)
            table = table[jnp.minimum(cfg.considered, jnp.sum(legal))]

            def turn(i: Array, t: tree.Tree) -> tree.Tree:
                first = tree.first_max(ranked(root_of(t), table[i]))
                return visit(t, i, first[None], jnp.ones(1, bool), keep + i + 1)

            return jax.lax.fori_loop(0, cfg.simulations, turn, tree.with_room(t, max_depth))

        def all_allowed(t: tree.Tree) -> tree.Tree:
            """Every lane has the same schedule: runs of turns of one width."""
            begun, turns = 0, 0
            for width, count in runs(widths(most, cfg.simulations)):
                # Those ranked best as the run begins are visited in all of its turns: no other keeps up with them.
                every = jnp.arange(num_actions, dtype=jnp.int32)
                best = every if width == num_actions else jax.lax.top_k(ranked(root_of(t), turns), width)[1]

                def turn(
                    i: Array, t: tree.Tree, best: Array = best, turns: int = turns, begun: int = begun
                ) -> tree.Tree:
                    width = best.shape[0]
                    return visit(t, turns + i, best, jnp.ones(width, bool), keep + begun + 1 + i * width)

                # After so many turns no walk can be longer: each lengthens a path by one.
                t = tree.with_room(t, min(keep + turns + count, max_depth), width)
                t = jax.lax.fori_loop(0, count, turn, t)
                begun, turns = begun + count * width, turns + count
            return t

        def some_allowed(t: tree.Tree) -> tree.Tree:
            """The schedule is that of the lane's number of allowed actions, in turns wide enough for all."""
            table, bounds = schedules(most, cfg.simulations)
            mine = jnp.asarray(table)[jnp.clip(jnp.sum(legal), 1, most)]
            at = (t, jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))
            end = 0
            for width, count in runs(bounds):
                end += count

                def turn(at: tuple[tree.Tree, Array, Array], width: int = width) -> tuple[tree.Tree, Array, Array]:
                    t, i, row = at
                    _, first = jax.lax.top_k(ranked(root_of(t), i), width)
                    walker = jnp.arange(width, dtype=jnp.int32)
                    walking = walker < mine[i]
                    t = visit(t, i, first, walking, jnp.where(walking, keep + row + walker, keep + cfg.simulations + 1))
                    return t, i + 1, row + mine[i]

                def more(at: tuple[tree.Tree, Array, Array], end: int = end) -> Array:
                    _, i, row = at
                    return (i < end) & in_any_lane(row <= cfg.simulations)

                at = (tree.with_room(at[0], min(keep + end, max_depth), width), *at[1:])
                at = jax.lax.while_loop(more, turn, at)
            return at[0]

        t = one_by_one(start) if serial else (all_allowed if model.legal is None else some_allowed)(start)
        root = root_of(t)
        action = tree.first_max(ranked(root, jnp.max(jnp.where(legal, root.visits - before, 0.0))))
        policy = jax.nn.softmax(prior + sigma(root))
        warm = search.remember(t, action, num_actions, keep)
        return action, warm, search.summary(t, num_actions, policy, completed(root), cfg.keep_tree)

    return Planner(lambda: search.memory(keep, num_actions, state), plan)


def chances(logits: Array) -> Array:
    """What a node keeps: probabilities [..., A] of normalised logits, none of an allowed action 0."""
    return jnp.where(logits > 0.5 * FORBIDDEN, jnp.maximum(jnp.exp(logits), LEAST), 0.0)


def best_below(
    num_actions: int, room: int, masked: bool, rows: Array, c_visit: Array, c_scale: Array
) -> tuple[Array, Array]:
    """The actions [k] of the rule below the root, and the rows [k] behind them.

    Actions are laid first and nodes last: sums over twenty actions side by side suit a processor's vectors.

    Args:
      num_actions: A.
      room: M, all rows.
      masked: whether some actions may not be allowed.
      rows: [k, R] nodes whose prior is from `chances`.
      c_visit, c_scale: [k] of σ.
    """
    node = jax.tree.map(jnp.transpose, tree.unpack(rows, num_actions))
    weights = improved(node, c_visit, c_scale, masked)
    # The rule's scores times the sum of the weights, which changes no order.
    scores = weights - node.visits * (jnp.sum(weights, 0) / node.total)
    return tree.first_best(scores, node.child, room, 0)


def improved(node: tree.Node, c_visit: Array | float, c_scale: Array | float, masked: bool = True) -> Array:
    """The policy softmax(logits + σ(q̂)) but for a factor, [A, ...]; from probabilities, with one exponential.

    Args:
      node: fields [A, ...] and [...], its prior from `chances`.
      c_visit, c_scale: of σ.
      masked: whether some actions may not be allowed, whose σ then does not count.
    """
    q = completed(node)
    low, high = jnp.min(q, 0), jnp.max(q, 0)
    scale = (c_visit + jnp.max(node.visits, 0)) * c_scale / jnp.maximum(high - low, EPSILON)
    best = jnp.max(jnp.where(node.prior > 0.0, q, low), 0) if masked else high
    sigma = scale * (q - best)
    return node.prior * jnp.exp(jnp.minimum(sigma, 0.0) if masked else sigma)


def completed(node: tree.Node) -> Array:
    """q̂ [A, ...]: Q where tried, v_mix where not; the node's fields are [A, ...] and [...]."""
    tried = node.visits > 0
    weights = jnp.where(tried, node.prior, 0.0)
    total = jnp.sum(weights, 0)
    mean = jnp.sum(weights * node.q, 0) / jnp.where(total > 0.0, total, 1.0)
    visits = node.total - 1.0
    return jnp.where(tried, node.q, (node.raw + visits * mean) / (visits + 1.0))


def scaled(q: Array, visits: Array, c_visit: Array | float, c_scale: Array | float) -> Array:
    """σ(q̂) [A, ...] with q̂ scaled to [0, 1]."""
    low, high = jnp.min(q, 0), jnp.max(q, 0)
    return (c_visit + jnp.max(visits, 0)) * c_scale * (q - low) / jnp.maximum(high - low, EPSILON)


def widths(considered: int, simulations: int) -> list[int]:
    """How many actions each turn of Sequential Halving visits, every action once; they sum to `simulations`."""
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
    """[most + 1, simulations]: for each number of considered actions, how often those have been visited that the
    simulation chooses from."""
    rows = [[turn for turn, width in enumerate(widths(m, simulations)) for _ in range(width)] for m in range(most + 1)]
    return np.array(rows, np.int32)


def schedules(most: int, simulations: int) -> tuple[np.ndarray, list[int]]:
    """For each number of allowed actions, [most + 1, turns] widths of turns, 0 behind the last; and a width for each
    turn that is enough for all of them, of few different values."""
    rows = [widths(m, simulations) for m in range(most + 1)]
    turns = max(len(row) for row in rows)
    table = np.array([row + [0] * (turns - len(row)) for row in rows], np.int32)
    steps = [most]
    while steps[-1] > 2:
        steps.append(max(2, (steps[-1] + 1) // 2))
    need = np.maximum.accumulate(table.max(0)[::-1])[::-1]
    return table, [min(s for s in steps if s >= n) for n in need.tolist()]


def runs(values: list[int]) -> list[tuple[int, int]]:
    """Equal neighbours counted: (value, how often)."""
    out: list[tuple[int, int]] = []
    for value in values:
        out[-1:] = [(value, out[-1][1] + 1)] if out and out[-1][0] == value else [*out[-1:], (value, 1)]
    return out
