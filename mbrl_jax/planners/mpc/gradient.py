"""First-order trajectory optimisation: gradient ascent on a plan's return, through the model.

    J(a_0..a_{H-1}) = E_members,noise[ Σ_t γ^t (Π_{i<t} d_i) r_t  +  γ^H (Π_{i<H} d_i) V(s_H) ]
    a <- clip(a + ½ (high - low) Adam(½ (high - low) ∂J/∂a), low, high)

Several sequences are improved side by side: the last plan, shifted by a step, and random ones. The plan is the sequence
of highest J over all iterations. Projection, rather than a tanh, keeps actions in their box, so that a plan can lie on
a bound and leave it again.

The noise of a probabilistic model is drawn once per plan and shared by all sequences, so J is one smooth function. The
gradient flows through `model.step`, whatever that consists of. Jumps have none: where the reward is 1 until the true
environment terminates, the planner only chooses among its initial sequences. A long horizon through chaotic dynamics
gives a steep gradient, which is clipped by its norm.

Mean returns with the true model, horizon 25, 4 restarts and 10 iterations (1,100 model steps per plan): Pendulum-v1
-144 over 8 seeds (-132 at horizon 20), cartpole swing-up 179 of 200 steps over 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.precision import narrow_planner
from mbrl_jax.core.rollout import discounted_return, unroll
from mbrl_jax.core.types import Action, Array, Key, Model, Planner, Spec, State, StepOut
from mbrl_jax.planners.mpc.common import Bounds, bounds, shift


@config
class Gradient:
    """Settings of the gradient planner."""

    horizon: int = setting(default=25, low=1, help="planning horizon in steps")
    restarts: int = setting(default=4, low=1, help="sequences improved side by side, the last plan among them")
    iterations: int = setting(default=10, low=1, help="gradient steps per plan")
    particles: int = setting(default=1, low=1, help="noise draws per ensemble member; 1 for deterministic models")
    lr: float = setting(default=0.1, above=0, help="Adam's learning rate, in half ranges of the action")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")
    clip_norm: float = setting(default=10.0, above=0, help="largest gradient norm of a sequence")
    smoothness: float = setting(
        default=0.8, low=0, below=1, help="correlation of successive actions in random sequences"
    )


class Info(NamedTuple):
    """Information about one plan."""

    actions: Array  # [H, *A] the plan, whose first action is executed
    score: Array  # [] its J; minus infinity if no sequence had a finite one
    scores: Array  # [restarts] the best J that each initial sequence led to


class Ascent(NamedTuple):
    """The state of the optimisation of R sequences."""

    actions: Array  # [R, H, *A]
    opt: optax.OptState
    best_actions: Array  # [R, H, *A] the best sequences so far
    best_scores: Array  # [R] their J
    finite: Array  # [R] bool: the last iteration had a finite score and gradient


def objective(model: Model, key: Key, state: State, actions: Array, gamma: Array | float, particles: int = 1) -> Array:
    """J of several action sequences from one state: the mean discounted return over the model's members and its noise.

    All sequences meet the same noise. The reward of a terminating step counts; later rewards do not.

    Args:
      model: its `value`, if there is one, counts at the end of the horizon.
      key: used once.
      state: the state to plan from.
      actions: [R, H, ...].
      gamma: discount per step, in [0, 1].
      particles: noise draws per member.
    Returns:
      [R] scores.
    """
    sequences, horizon = actions.shape[:2]
    key_steps, key_value = jax.random.split(key)

    # Members outside, sequences inside: each member's weights meet all of its sequences in one matrix product.
    def member_returns(i: Array) -> Array:
        member = model if model.at is None else model.at(i)

        def step(key: Key, states: State, now: Action) -> StepOut:
            keys = jax.random.split(jax.random.fold_in(key, i), particles)
            return jax.vmap(jax.vmap(member.step, (None, 0, 0)), (0, 0, None))(keys, states, now)

        start = tree.tile(tree.tile(state, sequences), particles)
        ends, out = unroll(step, key_steps, start, jnp.swapaxes(actions, 0, 1))
        weights = jnp.concatenate([jnp.ones_like(out.discounts[:1]), jnp.cumprod(out.discounts, axis=0)])
        rewards = jnp.where(weights[:horizon] == 0.0, 0.0, out.rewards)  # after termination they may be NaN
        if member.value is None:
            bootstraps = jnp.zeros((particles, sequences), jnp.float32)
        else:
            keys = jax.random.split(jax.random.fold_in(key_value, i), particles)
            bootstraps = jax.vmap(jax.vmap(member.value, (None, 0)))(keys, ends)
            bootstraps = jnp.where(weights[horizon] == 0.0, 0.0, bootstraps)
        returns = jax.vmap(jax.vmap(discounted_return, (1, 1, 0)), (1, 1, 0))
        return jnp.mean(returns(rewards, gamma * out.discounts, bootstraps), axis=0)

    members = 1 if model.at is None else model.members
    return jnp.mean(jax.vmap(member_returns)(jnp.arange(members)), axis=0)


def random_sequences(key: Key, box: Bounds, count: int, horizon: int, smoothness: Array | float) -> Array:
    """Random action sequences, each action uniform in the box.

        e_0 = n_0,  e_t = c e_{t-1} + √(1 - c²) n_t,  n ~ N(0, 1),   a_t = low + (high - low) Φ(e_t)

    Args:
      key: used once.
      box: the bounds of an action [*A].
      count: number of sequences.
      horizon: their length.
      smoothness: c, in [0, 1); with 0 actions are independent, near 1 they hardly change over time.
    Returns:
      [count, horizon, *A].
    """
    noise = jax.random.normal(key, (horizon, count, *box.low.shape), jnp.float32)
    fresh = jnp.sqrt(1.0 - jnp.square(smoothness))

    def one(last: Array, new: Array) -> tuple[Array, Array]:
        now = smoothness * last + fresh * new
        return now, now

    _, later = jax.lax.scan(one, noise[0], noise[1:])
    uniform = jax.scipy.stats.norm.cdf(jnp.concatenate([noise[:1], later]))
    return jnp.swapaxes(box.low + (box.high - box.low) * uniform, 0, 1)


def keep_best(at: Ascent, finite: Array, scores: Array) -> tuple[Array, Array]:
    """The best sequences and scores so far, with the current ones.

    Args:
      at: R sequences [R, H, *A], and the best before.
      finite: [R] bool, whether the current sequences count.
      scores: [R] J of the current sequences.
    Returns:
      sequences [R, H, *A] and scores [R].
    """
    better = finite & (scores > at.best_scores)
    return tree.where(better, at.actions, at.best_actions), jnp.where(better, scores, at.best_scores)


def ascend(
    at: Ascent, score: Callable[[Array], Array], box: Bounds, optimizer: optax.GradientTransformation,
    clip_norm: Array | float,
) -> Ascent:  # fmt: skip
    """One gradient step of every sequence.

    A sequence whose score or gradient is not finite moves half the way to its best predecessor instead.

    Args:
      at: R sequences [R, H, *A].
      score: (actions [R, H, *A]) -> J [R], differentiable.
      box: the bounds of an action [*A].
      optimizer: gives steps in half ranges of the action.
      clip_norm: largest gradient norm of a sequence.
    """
    restarts = at.actions.shape[0]
    scores, pullback = jax.vjp(score, at.actions)
    (slope,) = pullback(jnp.ones_like(scores))
    flat = jnp.reshape(slope * box.half, (restarts, -1))  # of each sequence by itself
    finite = jnp.isfinite(scores) & jnp.all(jnp.isfinite(flat), axis=1)
    best_actions, best_scores = keep_best(at, finite, scores)
    norm = jnp.linalg.norm(jnp.where(finite[:, None], flat, 0.0), axis=1)
    flat = jnp.where(finite[:, None], flat, 0.0) / jnp.maximum(1.0, norm / clip_norm)[:, None]
    updates, opt = optimizer.update(-jnp.reshape(flat, slope.shape), at.opt)
    moved = box.clip(at.actions + box.half * jnp.asarray(updates)).astype(at.actions.dtype)
    actions = tree.where(finite, moved, (at.actions + best_actions) / 2)
    return Ascent(actions, opt, best_actions, best_scores, finite)


def gradient(cfg: Gradient, spec: Spec) -> Planner:
    """The gradient planner, for a differentiable model and continuous actions.

    A plan takes members x particles x restarts x horizon x (iterations + 1) steps of the model, all but the last
    iteration's with their gradients.

    Args:
      cfg: settings; floats may be traced.
      spec: actions a bounded box.
    Returns:
      the planner; its memory is the last plan [H, *A], at first the centre of the box, and `plan`'s info an `Info`.
    Raises:
      ValueError: a setting out of its range, or actions that are discrete or unbounded.
    """
    check(cfg)
    box, dtype = bounds(spec), spec.action.dtype
    adam = optax.adam(cfg.lr)

    def init() -> Array:
        return jnp.broadcast_to(box.centre, (cfg.horizon, *spec.action.shape)).astype(dtype)

    def plan(key: Key, model: Model, state: State, warm: Array) -> tuple[Array, Array, Info]:
        key_restarts, key_noise = jax.random.split(key)

        def score(actions: Array) -> Array:
            # The same noise in every iteration, on purpose: `clone` says so to the check for reused keys.
            return objective(model, jax.random.clone(key_noise), state, actions, cfg.gamma, cfg.particles)

        def one(at: Ascent, _: None) -> tuple[Ascent, None]:
            return ascend(at, score, box, adam, cfg.clip_norm), None

        others = random_sequences(key_restarts, box, cfg.restarts - 1, cfg.horizon, cfg.smoothness)
        first = jnp.concatenate([shift(warm, warm[-1])[None], others.astype(dtype)])
        blank = jnp.full(cfg.restarts, -jnp.inf, jnp.float32)
        start = Ascent(first, adam.init(first), first, blank, jnp.ones(cfg.restarts, bool))
        end, _ = jax.lax.scan(one, start, None, cfg.iterations)
        scores = score(end.actions)
        best_actions, best_scores = keep_best(end, end.finite & jnp.isfinite(scores), scores)
        winner = jnp.argmax(best_scores)
        chosen = best_actions[winner]
        return chosen[0], chosen, Info(chosen, best_scores[winner], best_scores)

    return narrow_planner(Planner(init, plan))
