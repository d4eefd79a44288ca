"""UCT: Monte Carlo tree search by upper confidence bounds (Kocsis & Szepesvári 2006; Browne et al. 2012, section 3.3).

    selection: an action never tried, in random order; else argmax_a  Q(s, a) + c √( ln N(s) / N(s, a) )
    expansion of one child; its value: the return of a random rollout, or the model's `value` if it has one
    action: the most visited

With `normalise`, Q is scaled to [0, 1] by the smallest and largest Q in the tree: c = √2 is meant for that range. N(s)
counts the visit that made the node.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Array, Key, Model, Planner, Spec, State, Tree
from mbrl_jax.planners.mcts import search, tree
from mbrl_jax.planners.mcts.backup import back_up
from mbrl_jax.planners.mcts.puct import by_tree
from mbrl_jax.planners.mcts.search import SearchInfo
from mbrl_jax.planners.mcts.tree import onward
from mbrl_jax.planners.mcts.vmap_rules import any_in_batch


@config
class UCT:
    """Settings of UCT."""

    simulations: int = setting(default=50, low=1, help="model steps per search, each adds a node")
    max_depth: int = setting(default=0, low=0, help="largest depth of the tree in steps; 0 for no limit")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount factor per step")
    c: float = setting(default=2**0.5, low=0, help="weight of the exploration bonus")
    normalise: bool = setting(default=True, help="scaling of values to [0, 1] by those in the tree")
    rollout_depth: int = setting(default=50, low=0, help="largest number of steps of a random rollout")
    rollouts: int = setting(default=1, low=1, help="random rollouts per new node; their mean is its value")
    reuse: bool = setting(default=False, help="reuse of the subtree below the action taken in the next search")


def uct(cfg: UCT, spec: Spec, state: State = None, *, keep_tree: bool = False) -> Planner:
    """UCT over discrete actions. Runs on any model with one member; a prior is not used.

    A new node keeps the one state that the model gave. Where the model is stochastic, the search plans for the outcomes
    it drew: see `chance` for nodes over outcomes.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete.
      state: with `reuse`, an example of the model's states. The planner's memory is then the subtree below the action
        it chose; the next search takes that subtree's root for its own state. Start an episode with `init`.
      keep_tree: return the tree in `info.tree`.
    Returns:
      the planner; info is `SearchInfo`, its policy shares of visits; q of an action never tried is the root's value.
    Raises:
      ValueError: a setting out of its range, continuous actions, or `reuse` without a state.
    """
    check(cfg)
    num_actions = spec.num_actions
    keep = search.rows_kept(cfg.reuse, cfg.simulations, state)
    max_depth = min(cfg.max_depth or cfg.simulations + keep, cfg.simulations + keep)

    def plan(key: Key, model: Model, state: State, warm: Tree) -> tuple[Array, Tree, SearchInfo]:
        search.need_one_member(model)
        key_order, key_value = jax.random.split(jax.random.fold_in(key, cfg.simulations))

        def order(key: Key, state: State) -> Array:
            """[A] in [0, 1), the largest is tried first; -1 for an illegal action."""
            drawn = jax.random.uniform(key, (num_actions,), jnp.float32)
            return jnp.where(search.legal_at(model, state, num_actions), drawn, -1.0)

        def value(key: Key, state: State) -> Array:
            if model.value is not None:
                return search.value_at(model, key, state)
            one = lambda key: rollout(model, key, state, num_actions, cfg.gamma, cfg.rollout_depth)  # noqa: E731
            return jnp.mean(jax.vmap(one)(jax.random.split(key, cfg.rollouts)))

        start_value = search.root_value(value(key_value, state))
        row = tree.new_node(num_actions, order(key_order, state), start_value)
        start = search.begin(tree.new_tree(row, state, cfg.simulations + keep + 1), warm, num_actions)

        def simulate(i: Array, t: tree.Tree) -> tree.Tree:
            def score(node: tree.Node) -> Array:
                q = by_tree(node, t.low, t.high) if cfg.normalise else node.q
                return upper_bounds(node, q, cfg.c)

            rule = tree.by_score(num_actions, score)
            first = tree.first_max(score(tree.unpack(t.rows[:1], num_actions)))
            t, leaf = tree.descend(t, first, jnp.ones(1, bool), rule, max_depth)
            evaluate = search.evaluator(model, jax.random.fold_in(key, i), order, value)
            t, out, values = tree.expand(t, leaf, keep + i + 1, rule, evaluate, cfg.gamma)
            return back_up(t, leaf, keep + i + 1, rule, out, values, cfg.normalise)

        t = jax.lax.fori_loop(0, cfg.simulations, simulate, tree.with_paths(start, max_depth))
        root = tree.unpack(t.rows[0], num_actions)
        q = search.shown_q(root)
        policy = search.shares(root, root.prior >= 0.0)
        action = search.most_shared(policy, q)
        warm = search.remember(t, action, num_actions, keep)
        return action, warm, search.summary(t, num_actions, policy, q, keep_tree)

    return narrow_planner(Planner(lambda: search.memory(keep, num_actions, state), plan))


def upper_bounds(node: tree.Node, q: Array, c: Array | float) -> Array:
    """The scores [..., A] of actions: upper confidence bounds, or the order of the untried actions while there are any.

    Args:
      node: whose prior is the order of its untried actions, in [0, 1), below 0 for an illegal action.
      q: [..., A] values of tried actions.
      c: weight of the exploration bonus.
    """
    legal = node.prior >= 0.0
    untried = legal & (node.visits == 0.0)
    bonus = c * jnp.sqrt(jnp.log(node.total)[..., None] / jnp.maximum(node.visits, 1.0))
    score = jnp.where(jnp.any(untried, -1, keepdims=True), jnp.where(untried, node.prior, -1.0), q + bonus)
    return jnp.where(legal, score, -jnp.inf)


def rollout(model: Model, key: Key, state: State, num_actions: int, gamma: Array | float, depth: int) -> Array:
    """The discounted return [] of uniformly random legal actions until termination, or for `depth` steps.

    The model's `value`, if it has one, is not used.

    Args:
      model: any with one member; without `legal`, all actions are legal.
      key: used once.
      state: the state to start from.
      num_actions: A.
      gamma: discount factor per step, in [0, 1].
      depth: largest number of steps, at least 0; with 0 the return is 0.
    """

    def step(at: tuple[Array, State, Array, Array]) -> tuple[Array, State, Array, Array]:
        t, state, weight, total = at
        key_action, key_step = jax.random.split(jax.random.fold_in(key, t))
        if model.legal is None:
            action = jax.random.randint(key_action, (), 0, num_actions, jnp.int32)
        else:
            drawn = jax.random.uniform(key_action, (num_actions,), jnp.float32)
            action = tree.first_max(jnp.where(search.legal_at(model, state, num_actions), drawn, -1.0))
        out = search.checked_step(model.step(key_step, state, action))
        total = total + onward(weight, out.reward)
        return t + 1, out.state, weight * gamma * out.discount, total

    def going(at: tuple[Array, State, Array, Array]) -> Array:
        t, _, weight, _ = at
        return (t < depth) & any_in_batch(weight != 0.0)

    start = (jnp.zeros((), jnp.int32), state, jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32))
    return jax.lax.while_loop(going, step, start)[3]
