"""PUCT: search guided by a prior and a value (AlphaZero, Silver et al. 2017; MuZero, Schrittwieser et al. 2020).

    a = argmax_a  q̄(s, a) + P(a|s) √N(s) / (1 + N(s, a)) · ( c₁ + log( (N(s) + c₂ + 1) / c₂ ) )

q̄ is Q scaled to [0, 1], and 0 for an action never tried. The range is that of V(s) and the tried actions' Q
("siblings"), or of all Q in the tree ("tree", MuZero's appendix B). At the root P is mixed with Dirichlet noise. The
policy is N(root, a) / Σ N; the action is drawn in proportion to N^(1/temperature).

Differs from the papers in: "siblings" is the default, as in mctx; visits and values equal those of mctx.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.types import Array, Key, Model, Planner, Spec, State, Tree
from mbrl_jax.planners.mcts import search, tree
from mbrl_jax.planners.mcts.backup import back_up
from mbrl_jax.planners.mcts.search import SearchInfo

EPSILON = 1e-8  # smallest range of values that is scaled to [0, 1]


@config
class PUCT:
    """Settings of PUCT."""

    simulations: int = setting(default=50, low=1, help="model steps per search")
    max_depth: int = setting(default=0, low=0, help="largest depth of the tree in steps; 0 for no limit")
    gamma: float = setting(default=0.997, low=0, high=1, help="discount factor per step")
    c1: float = setting(default=1.25, above=0, help="weight of the prior")
    c2: float = setting(
        default=19652.0, above=0, help="number of visits at which the prior's weight has grown by log 2"
    )
    normalise: str = setting(
        default="siblings", choices=("siblings", "tree"), help="set of values whose range is scaled to [0, 1]"
    )
    dirichlet_fraction: float = setting(
        default=0.25, low=0, high=1, help="share of Dirichlet noise in the root's prior; 0 in evaluation"
    )
    dirichlet_alpha: float = setting(
        default=0.3, above=0, help="concentration of the Dirichlet noise; about 10 / number of actions"
    )
    temperature: float = setting(
        default=1.0, low=0, help="temperature of the draw among visit counts; 0 for the most visited action"
    )
    tie_noise: float = setting(
        default=1e-7, low=0, help="largest random addition to a score; 0 takes the first of equal actions"
    )
    reuse: bool = setting(default=False, help="reuse of the subtree below the action taken in the next search")


def puct(cfg: PUCT, spec: Spec, state: State = None, *, keep_tree: bool = False) -> Planner:
    """PUCT over discrete actions. Runs on any model with one member; without `prior` it is uniform, without `value` 0.

    A new node keeps the one state that the model gave. Where the model is stochastic, the search plans for the outcomes
    it drew: see `chance` for nodes over outcomes.

    Args:
      cfg: settings; floats may be traced.
      spec: actions discrete.
      state: with `reuse`, an example of the model's states. The planner's memory is then the subtree below the action
        it chose; the next search takes that subtree's root for its own state. Start an episode with `init`.
      keep_tree: return the tree in `info.tree`.
    Returns:
      the planner; info is `SearchInfo`; q of an action never tried is the root's value.
    Raises:
      ValueError: a setting out of its range, continuous actions, or `reuse` without a state.
    """
    check(cfg)
    num_actions = spec.num_actions
    keep = search.rows_kept(cfg.reuse, cfg.simulations, state)
    max_depth = min(cfg.max_depth or cfg.simulations + keep, cfg.simulations + keep)

    def plan(key: Key, model: Model, state: State, warm: Tree) -> tuple[Array, Tree, SearchInfo]:
        search.need_one_member(model)
        key_noise, key_model = jax.random.split(key)
        key_prior, key_value = jax.random.split(jax.random.fold_in(key_model, cfg.simulations))
        # All random numbers of the root in one draw, which is cheaper than many small ones.
        drawn = jax.random.uniform(
            key_noise, (2 + noise_rows(), num_actions), minval=jnp.finfo(jnp.float32).tiny, dtype=jnp.float32
        )

        def prior_of(key: Key, state: State) -> Array:
            legal = search.legal_at(model, state, num_actions)
            return probabilities(search.logits_at(model, key, state, num_actions), legal)

        def value(key: Key, state: State) -> Array:
            return search.value_at(model, key, state)

        prior = with_noise(drawn[2:], prior_of(key_prior, state), cfg.dirichlet_fraction, cfg.dirichlet_alpha)
        ties = cfg.tie_noise * drawn[0]
        # With `reuse` visits add up over moves; beyond this many the weight stays constant.
        weights = prior_weights((50 if cfg.reuse else 1) * (cfg.simulations + 1), cfg.c1, cfg.c2)
        row = tree.new_node(num_actions, prior, search.root_value(value(key_value, state)))
        start = search.begin(tree.new_tree(row, state, cfg.simulations + keep + 1), warm, num_actions)

        def simulate(i: Array, t: tree.Tree) -> tree.Tree:
            def score(node: tree.Node) -> Array:
                scaled = by_siblings(node) if cfg.normalise == "siblings" else by_tree(node, t.low, t.high)
                return scaled + exploration(node, weights) + ties

            rule = tree.by_score(num_actions, score)
            first = tree.first_max(score(tree.unpack(t.rows[:1], num_actions)))
            t, leaf = tree.descend(t, first, jnp.ones(1, bool), rule, max_depth)
            evaluate = search.evaluator(model, jax.random.fold_in(key_model, i), prior_of, value)
            t, out, values = tree.expand(t, leaf, keep + i + 1, rule, evaluate, cfg.gamma)
            return back_up(t, leaf, keep + i + 1, rule, out, values, cfg.normalise == "tree")

        t = jax.lax.fori_loop(0, cfg.simulations, simulate, tree.with_paths(start, max_depth))
        root = tree.unpack(t.rows[0], num_actions)
        policy, q = search.shares(root, root.prior >= 0.0), search.shown_q(root)
        action = draw(drawn[1], policy, cfg.temperature)
        warm = search.remember(t, action, num_actions, keep)
        return action, warm, search.summary(t, num_actions, policy, q, keep_tree)

    return narrow_planner(Planner(lambda: search.memory(keep, num_actions, state), plan))


def probabilities(logits: Array, legal: Array) -> Array:
    """Softmax over the legal actions, [A]; minus infinity for illegal ones.

    Args:
      logits: [A].
      legal: [A] bool.
    """
    return jnp.where(legal, jax.nn.softmax(jnp.where(legal, logits, jnp.finfo(logits.dtype).min)), -jnp.inf)


def by_siblings(node: tree.Node) -> Array:
    """Q scaled by the smallest and largest of V(s) and the tried actions' Q; [..., A], 0 where never tried.

    That of a broken edge is not scaled.
    """
    bad = tree.broken(node.q)
    tried = (node.visits > 0) & ~bad
    known = jnp.where(tried, node.q, node.value[..., None])
    low = jnp.minimum(node.value, jnp.min(known, -1))[..., None]
    high = jnp.maximum(node.value, jnp.max(known, -1))[..., None]
    return jnp.where(bad, tree.WORST, (jnp.where(tried, node.q, low) - low) / jnp.maximum(high - low, EPSILON))


def by_tree(node: tree.Node, low: Array, high: Array) -> Array:
    """Q scaled by the smallest and largest Q in the tree; [..., A], 0 where never tried; not of a broken edge.

    Args:
      node: fields [..., A] and [...].
      low: [] smallest Q in the tree, as in `tree.Tree`.
      high: [] largest.
    """
    scaled = jnp.where(node.visits > 0, (node.q - low) / jnp.maximum(high - low, EPSILON), 0.0)
    return jnp.where(tree.broken(node.q), tree.WORST, scaled)


def prior_weights(visits: int, c1: Array | float, c2: Array | float) -> Array:
    """√N (c₁ + log((N + c₂ + 1) / c₂)) for N from 0 to `visits`, [visits + 1].

    Args:
      visits: largest N, at least 0.
      c1: c₁ above 0, weight of the prior.
      c2: c₂ above 0, number of visits at which that weight has grown by log 2.
    """
    total = jnp.arange(visits + 1, dtype=jnp.float32)
    return jnp.sqrt(total) * (c1 + jnp.log((total + c2 + 1.0) / c2))


def exploration(node: tree.Node, weights: Array) -> Array:
    """The prior's term of the score, [..., A]; minus infinity for an illegal action.

    Args:
      node: whose prior is from `probabilities`.
      weights: from `prior_weights`.
    """
    weight = jnp.take(weights, node.total.astype(jnp.int32), mode="clip")
    return weight[..., None] * node.prior / (node.visits + 1.0)


PROPOSALS = 5  # of a gamma draw; in less than one draw of a million none is accepted, and the last one is taken


def noise_rows() -> int:
    """How many uniform numbers per action `with_noise` needs."""
    return 2 * PROPOSALS + 1


def with_noise(drawn: Array, prior: Array, fraction: Array | float, alpha: Array | float) -> Array:
    """The prior mixed with Dirichlet noise over the legal actions: (1 - fraction) P + fraction η.

    η is made of gamma draws by rejection (Marsaglia & Tsang 2000) with a fixed number of proposals in parallel, which
    is many times faster than a loop for each.

    Args:
      drawn: [noise_rows(), A] uniform in (0, 1).
      prior: [A] from `probabilities`.
      fraction: in [0, 1].
      alpha: concentration per action, above 0.
    """
    legal = prior >= 0.0
    normal = jax.scipy.special.ndtri(drawn[:PROPOSALS])
    # A draw of shape α + 1, for which proposals are good, times U^(1/α) has shape α. In logarithms: draws of a small α
    # underflow in float32.
    d = alpha + 2.0 / 3.0
    root = jnp.maximum(1.0 + normal / jnp.sqrt(9.0 * d), 1e-6)
    log_v = 3.0 * jnp.log(root)
    accepted = jnp.log(drawn[PROPOSALS:-1]) < 0.5 * jnp.square(normal) + d * (1.0 - root**3 + log_v)
    which = tree.first_max(accepted.T.astype(jnp.float32))
    gamma = jnp.take_along_axis(log_v, which[None], 0)[0] + jnp.log(drawn[-1]) / alpha
    noise = jax.nn.softmax(jnp.where(legal, gamma, jnp.finfo(gamma.dtype).min))
    return jnp.where(legal, (1.0 - fraction) * prior + fraction * noise, prior)


def draw(drawn: Array, policy: Array, temperature: Array | float) -> Array:
    """An action [] int32 in proportion to policy^(1/temperature); at temperature 0 one of the most probable.

    Args:
      drawn: [A] uniform in (0, 1).
      policy: [A], at least 0.
      temperature: at least 0.
    """
    tiny = jnp.finfo(policy.dtype).tiny
    logits = jnp.log(jnp.maximum(policy, tiny))
    logits = (logits - jnp.max(logits)) / jnp.maximum(temperature, tiny)
    return tree.first_max(jnp.where(policy > 0.0, logits - jnp.log(-jnp.log(drawn)), -jnp.inf))
