"""Small exact problems for tree searches, mctx bound to them, and a plain search in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np

from mbrl_jax.core import Discrete, Model, Spec, StepOut

GAMMA = 0.95


class Problem(NamedTuple):
    """A deterministic process with a prior and values, as tables."""

    following: jax.Array  # [S, A]
    rewards: jax.Array  # [S, A]
    discounts: jax.Array  # [S, A] 0 at an end, -1 where the other player moves next
    logits: jax.Array  # [S, A]
    values: jax.Array  # [S]
    legal: jax.Array  # [S, A] at least one in each row


def problems(key, count, actions, states=40, all_legal=False):
    """`count` of them, [count, ...]."""
    keys = jax.random.split(key, 6)
    shape = (count, states, actions)
    legal = jax.random.bernoulli(keys[5], 1.0 if all_legal else 0.6, shape)
    return Problem(
        jax.random.randint(keys[0], shape, 0, states),
        jax.random.normal(keys[1], shape),
        jax.random.choice(keys[2], jnp.array([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0]), shape),
        jax.random.normal(keys[3], shape),
        jax.random.normal(keys[4], shape[:2]),
        legal.at[:, :, 0].set(legal[:, :, 0] | ~legal.any(-1)),
    )


def model(p, masked=True):
    return Model(
        lambda key, s, a: StepOut(p.following[s, a], p.rewards[s, a], p.discounts[s, a]),
        value=lambda key, s: p.values[s],
        prior=lambda key, s: p.logits[s],
        legal=(lambda s: p.legal[s]) if masked else None,
    )


def spec(actions):
    return Spec(Discrete(40), Discrete(actions), name="problem")


def searched(planner, masked=True):
    """keys [N], problems [N, ...] -> actions [N] and infos, from state 0 of each; compiled."""

    def one(key, p):
        action, _, info = planner.plan(key, model(p, masked), jnp.int32(0), planner.init())
        return action, info

    return jax.jit(jax.vmap(one))


def with_mctx(policy, p, simulations, max_depth, **settings):
    """The same searches in mctx, problems [N, ...]."""
    many = jnp.arange(p.values.shape[0])
    least = jnp.finfo(jnp.float32).min

    def recurrent(params, key, action, s):
        t = p.following[many, s, action]
        logits = jnp.where(p.legal[many, t], p.logits[many, t], least)
        return mctx.RecurrentFnOutput(
            reward=p.rewards[many, s, action],
            discount=GAMMA * p.discounts[many, s, action],
            prior_logits=logits,
            value=p.values[many, t],
        ), t

    root = mctx.RootFnOutput(prior_logits=p.logits[:, 0], value=p.values[:, 0], embedding=jnp.zeros_like(many))
    return policy(
        (), jax.random.key(0), root, recurrent, simulations, invalid_actions=(~p.legal[:, 0]).astype(jnp.float32),
        max_depth=max_depth or None, **settings,
    )  # fmt: skip


class Plain:
    """A node of a search in NumPy, one object each, in float64. Terminal edges get no descendants."""

    def __init__(self, p, state):
        self.state, self.raw = state, float(p.values[state])
        self.value, self.total, self.children, self.legal = self.raw, 1, {}, np.asarray(p.legal[state], bool)
        shown = np.where(self.legal, np.asarray(p.logits[state], float), -np.inf)
        self.logits = shown - np.log(np.exp(shown).sum())
        actions = len(shown)
        self.visits, self.q = np.zeros(actions), np.zeros(actions)

    def simulate(self, p, choose, first=None, depth=1, max_depth=0):
        """One simulation from here: its return."""
        a = choose(self) if first is None else first
        discount = GAMMA * float(p.discounts[self.state, a])
        if a in self.children and depth != max_depth and discount != 0.0:
            returned = self.children[a].simulate(p, choose, None, depth + 1, max_depth)
        else:
            child = self.children.setdefault(a, Plain(p, int(p.following[self.state, a])))
            returned = child.raw
        self.visits[a] += 1
        self.q[a] = float(p.rewards[self.state, a]) + discount * self.children[a].value
        back = float(p.rewards[self.state, a]) + discount * returned
        self.value = (self.value * self.total + back) / (self.total + 1)
        self.total += 1
        return back

    def all_q(self):
        """Q of every visited edge below."""
        own = [self.q[a] for a in self.children]
        return own + [q for child in self.children.values() for q in child.all_q()]


def one_of(tree, i):
    """Entry i of every leaf, as NumPy."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[i]), tree)
