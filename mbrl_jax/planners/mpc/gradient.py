"""First-order trajectory optimisation: a plan improved along the gradient of its return through the model.

    J(a_0..a_{H-1}) = E_worlds,noise[ Σ_t γ^t (Π_{i<t} d_i) r_t  +  γ^H (Π_{i<H} d_i) V(s_H) ]
    a <- clip(a + ½ (high - low) Adam(½ (high - low) ∂J/∂a), low, high)

from several first guesses at once: the last plan, shifted by the step that was taken, and random sequences. Every
sequence met on the way counts, and the one of the highest J is the plan. Projection, rather than a tanh, keeps actions
in their box, so that a plan can lie on a bound and come away from it.

The noise of a probabilistic model is drawn once a plan and shared by all sequences, so J is one smooth function. The
gradient goes through `model.step` whatever that is made of. A jump gives none: where the reward is 1 until the true
environment terminates, the planner only chooses among its first guesses. A long horizon through chaotic dynamics gives
a steep one, which is clipped by its norm.

Mean returns with the true model, horizon 25, 4 restarts and 10 iterations (1,100 model steps a plan): Pendulum-v1 -144
over 8 seeds (-132 at horizon 20), cartpole swing-up 179 of 200 steps over 4.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.rollout import discounted_return, unroll
from mbrl_jax.core.types import Action, Array, Key, Model, Planner, Spec, State, StepOut
from mbrl_jax.planners.mpc.common import Bounds, bounds, shift


@config
class Gradient:
    """Settings of the gradient planner."""

    horizon: int = setting(default=25, low=1, help="H, steps of a plan")
    restarts: int = setting(default=4, low=1, help="sequences improved side by side: the last plan and random ones")
    iterations: int = setting(default=10, low=1, help="gradient steps per plan")
    particles: int = setting(default=1, low=1, help="draws of the model's noise per world, for probabilistic models")
    lr: float = setting(default=0.1, above=0, help="Adam's rate, in halves of the actions' range")
    gamma: float = setting(default=1.0, low=0, high=1, help="discount per step")
    clip_norm: float = setting(default=10.0, above=0, help="largest norm of a sequence's gradient")
    smoothness: float = setting(
        default=0.8, low=0, below=1, help="correlation of successive actions in random sequences; 0 for none"
    )


class Info(NamedTuple):
    """What a plan leaves to look at."""

    actions: Array  # [H, *A] the plan whose first action is executed
    score: Array  # [] J of it; minus infinity where no sequence had a finite one
    scores: Array  # [restarts] the best J of each first guess


class Climb(NamedTuple):
    """What a gradient step hands to the next."""

    actions: Array  # [R, H, *A]
    opt: optax.OptState
    kept: Array  # [R, H, *A] the best sequences so far
    best: Array  # [R] their scores
    moved: Array  # [R] bool, whether the last step had a finite score and gradient to go by


def objective(model: Model, key: Key, state: State, actions: Array, gamma: Array | float, particles: int = 1) -> Array:
    """J of several action sequences from one state: the mean discounted return over the model's worlds and its noise.

    Every sequence meets the same noise. Members are outside and sequences inside, so that a member's weights meet all
    of its lanes in one product. The reward of a terminating step counts, and whatever comes after it does not.

    Args:
      model: its `value`, if there is one, counts at the end of the horizon.
      key: used once.
      state: the state to plan from.
      actions: [R, H, ...].
      gamma: discount per step, in [0, 1].
      particles: draws of the noise per world.
    Returns:
      [R] scores.
    """
    sequences, horizon = actions.shape[:2]
    key_steps, key_value = jax.random.split(key)

    def world(w: Array) -> Array:
        one = model if model.at is None else model.at(w)

        def step(key: Key, states: State, now: Action) -> StepOut:
            keys = jax.random.split(jax.random.fold_in(key, w), particles)
            return jax.vmap(jax.vmap(one.step, (None, 0, 0)), (0, 0, None))(keys, states, now)

        start = tree.tile(tree.tile(state, sequences), particles)
        ends, out = unroll(step, key_steps, start, jnp.swapaxes(actions, 0, 1))
        lived = jnp.concatenate([jnp.ones_like(out.discounts[:1]), jnp.cumprod(out.discounts, axis=0)])
        rewards = jnp.where(lived[:horizon] == 0.0, 0.0, out.rewards)  # whatever comes after the end, NaN too
        if one.value is None:
            bootstraps = jnp.zeros((particles, sequences))
        else:
            keys = jax.random.split(jax.random.fold_in(key_value, w), particles)
            bootstraps = jax.vmap(jax.vmap(one.value, (None, 0)))(keys, ends)
            bootstraps = jnp.where(lived[horizon] == 0.0, 0.0, bootstraps)
        returns = jax.vmap(jax.vmap(discounted_return, (1, 1, 0)), (1, 1, 0))
        return jnp.mean(returns(rewards, gamma * out.discounts, bootstraps), axis=0)

    worlds = 1 if model.at is None else model.members
    return jnp.mean(jax.vmap(world)(jnp.arange(worlds)), axis=0)


def random_sequences(key: Key, box: Bounds, count: int, horizon: int, smoothness: Array | float) -> Array:
    """Random action sequences, each action uniform in the box.

        e_0 = n_0,  e_t = c e_{t-1} + √(1 - c²) n_t,  n ~ N(0, 1),   a_t = low + (high - low) Φ(e_t)

    Args:
      key: used once.
      box: the bounds of an action [*A].
      count: how many.
      horizon: their length.
      smoothness: c, in [0, 1); 0 draws every action anew, near 1 they hardly change in time.
    Returns:
      [count, horizon, *A].
    """
    noise = jax.random.normal(key, (horizon, count, *box.low.shape))
    fresh = jnp.sqrt(1.0 - jnp.square(smoothness))

    def one(last: Array, new: Array) -> tuple[Array, Array]:
        now = smoothness * last + fresh * new
        return now, now

    _, later = jax.lax.scan(one, noise[0], noise[1:])
    uniform = jax.scipy.stats.norm.cdf(jnp.concatenate([noise[:1], later]))
    return jnp.swapaxes(box.low + (box.high - box.low) * uniform, 0, 1)


def gradient(cfg: Gradient, spec: Spec) -> Planner:
    """The gradient planner, for a differentiable model.

    A plan takes worlds x particles x restarts x horizon x (iterations + 1) steps of the model, all but the last round
    of them with their gradient. A sequence whose score or gradient is not finite counts as the worst there is, and the
    search goes back from it half the way to the best that its first guess has led to so far.

    Args:
      cfg: its settings; floats may be traced.
      spec: actions a bounded box.
    Returns:
      the planner. Its warm start is the last plan [H, *A], and `init` gives the centre of the box; `plan`'s info is an
      `Info`.
    Raises:
      ValueError: a setting out of its range, or actions that are discrete or unbounded.
    """
    check(cfg)
    box, dtype = bounds(spec), spec.action.dtype
    adam = optax.adam(cfg.lr)

    def init() -> Array:
        return jnp.broadcast_to(box.centre, (cfg.horizon, *spec.action.shape)).astype(dtype)

    def first_guesses(key: Key, warm: Array) -> Array:
        others = random_sequences(key, box, cfg.restarts - 1, cfg.horizon, cfg.smoothness)
        return jnp.concatenate([shift(warm, warm[-1])[None], others.astype(dtype)])

    def plan(key: Key, model: Model, state: State, warm: Array) -> tuple[Array, Array, Info]:
        key_restarts, key_noise = jax.random.split(key)

        def score(actions: Array) -> Array:
            # The same noise in every round, on purpose: `clone` says so to the check for reused keys.
            return objective(model, jax.random.clone(key_noise), state, actions, cfg.gamma, cfg.particles)

        def climb(at: Climb, _: None) -> tuple[Climb, None]:
            scores, pull = jax.vjp(score, at.actions)
            (slope,) = pull(jnp.ones_like(scores))
            flat = jnp.reshape(slope * box.half, (cfg.restarts, -1))  # of each sequence by itself
            finite = jnp.isfinite(scores) & jnp.all(jnp.isfinite(flat), axis=1)
            kept, best = keep(at, finite, scores)
            norm = jnp.linalg.norm(jnp.where(finite[:, None], flat, 0.0), axis=1)
            flat = jnp.where(finite[:, None], flat, 0.0) / jnp.maximum(1.0, norm / cfg.clip_norm)[:, None]
            updates, opt = adam.update(-jnp.reshape(flat, slope.shape), at.opt)
            moved = box.clip(at.actions + box.half * jnp.asarray(updates)).astype(dtype)
            return Climb(tree.where(finite, moved, (at.actions + kept) / 2), opt, kept, best, finite), None

        def keep(at: Climb, finite: Array, scores: Array) -> tuple[Array, Array]:
            better = finite & (scores > at.best)
            return tree.where(better, at.actions, at.kept), jnp.where(better, scores, at.best)

        guesses = first_guesses(key_restarts, warm)
        blank = jnp.full(cfg.restarts, -jnp.inf)
        start = Climb(guesses, adam.init(guesses), guesses, blank, jnp.ones(cfg.restarts, bool))
        end, _ = jax.lax.scan(climb, start, None, cfg.iterations)
        scores = score(end.actions)
        kept, best = keep(end, end.moved & jnp.isfinite(scores), scores)
        winner = jnp.argmax(best)
        chosen = kept[winner]
        return chosen[0], chosen, Info(chosen, best[winner], best)

    return Planner(init, plan)
