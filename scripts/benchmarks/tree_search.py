"""Benchmark of the tree searches: whole searches with an MLP model of 64 x 64, beside mctx where it is installed.

Trees in this model are very deep: with PUCT half of the simulations follow one line of play. A row's `time over` is its
time divided by mctx's on the same inputs, timed alternately; `_lanes` rows are the same searches under two `vmap`s,
divided by the time under one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.steps import case
from benchmarks.timing import Case
from mbrl_jax.core import tree as trees
from mbrl_jax.core.types import Array, Box, Discrete, Key, Model, Planner, Spec, StepOut
from mbrl_jax.planners.mcts import PUCT, Gumbel, gumbel, puct

MCTX = importlib.util.find_spec("mctx") is not None
WIDTH, GAMMA = 64, 0.997
Params = dict[str, Array]

PLANNERS: dict[str, Callable[[int, Spec, bool], Planner]] = {
    "puct": lambda n, spec, keep: puct(PUCT(simulations=n, gamma=GAMMA), spec, keep_tree=keep),
    "gumbel": lambda n, spec, keep: gumbel(Gumbel(simulations=n, gamma=GAMMA), spec, keep_tree=keep),
}


def params(key: Key, actions: int) -> Params:
    """Weights of a latent model."""
    shapes = {"s": WIDTH, "a": WIDTH, "h": WIDTH, "r": 1, "v": 1, "p": actions}
    keys = jax.random.split(key, len(shapes))
    rows = {"a": actions}
    return {
        name: jax.random.normal(k, (rows.get(name, WIDTH), out)) / rows.get(name, WIDTH) ** 0.5
        for k, (name, out) in zip(keys, shapes.items(), strict=True)
    }


def step(p: Params, state: Array, action: Array) -> tuple[Array, Array]:
    """The next state [..., 64] and the reward [...]."""
    hidden = jnp.tanh(state @ p["s"] + jax.nn.one_hot(action, p["a"].shape[0]) @ p["a"])
    new = jnp.tanh(hidden @ p["h"])
    return new, (new @ p["r"])[..., 0]


def model(p: Params) -> Model:
    """The model in the planners' form."""
    return Model(
        lambda key, state, action: StepOut(*step(p, state, action), jnp.ones(())),
        value=lambda key, state: (state @ p["v"])[..., 0],
        prior=lambda key, state: state @ p["p"],
    )


def ours(kind: str, actions: int, simulations: int) -> Callable[[Params, Key, Array], tuple[Array, Array]]:
    """(params, keys [B], states [B, 64]) -> actions and policies."""
    planner = PLANNERS[kind](simulations, Spec(Box((WIDTH,)), Discrete(actions)), False)

    def plan(p: Params, key: Key, state: Array) -> tuple[Array, Array]:
        action, _, info = planner.plan(key, model(p), state, ())
        return action, info.policy

    return jax.vmap(plan, (None, 0, 0))


def mctxs(kind: str, simulations: int) -> Callable[[Params, Key, Array], tuple[Array, Array]]:
    """The same in mctx."""
    mctx: Any = importlib.import_module("mctx")

    def recurrent(p: Params, key: Key, action: Array, state: Array) -> Any:
        new, reward = step(p, state, action)
        out = mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.full_like(reward, GAMMA),
            prior_logits=new @ p["p"],
            value=(new @ p["v"])[..., 0],
        )
        return out, new

    policy = mctx.muzero_policy if kind == "puct" else mctx.gumbel_muzero_policy

    def plan(p: Params, keys: Key, states: Array) -> tuple[Array, Array]:
        root = mctx.RootFnOutput(prior_logits=states @ p["p"], value=(states @ p["v"])[:, 0], embedding=states)
        out = policy(p, keys[0], root, recurrent, simulations)
        return out.action, out.action_weights

    return plan


def search(
    batches: Sequence[int] = (1, 32, 256),
    simulations: Sequence[int] = (16, 50, 200),
    actions: Sequence[int] = (4, 18),
    kinds: Sequence[str] = ("puct", "gumbel"),
) -> Iterator[list[Case]]:
    """Tree searches: groups of cases that are timed alternately. The unit is one search from one root."""
    for kind in kinds:
        for many in actions:
            for n in simulations:
                for batch in batches:
                    name = f"{kind}_{many}x{n}x{batch}"
                    yield _group(name, kind, many, n, batch)


def _group(name: str, kind: str, actions: int, simulations: int, batch: int) -> list[Case]:
    p, states = params(jax.random.key(0), actions), jax.random.normal(jax.random.key(1), (batch, WIDTH))
    fns = {name: ours(kind, actions, simulations)}
    if MCTX:
        fns[f"{name}_mctx"] = mctxs(kind, simulations)
    made = [_repeated(it, fn, p, states, f"{name}_mctx" if MCTX else "") for it, fn in fns.items()]
    if batch % 4 == 0:
        inner = ours(kind, actions, simulations)
        square = jax.vmap(inner, (None, 0, 0))

        def both(p: Params, keys: Key, states: Array) -> tuple[Array, Array]:
            split = lambda leaf: leaf.reshape(4, batch // 4, *leaf.shape[1:])  # noqa: E731
            return trees.flatten_dims(square(p, split(keys), split(states)), 2)

        made.append(_repeated(f"{name}_lanes", both, p, states, name))
    return made


def _repeated(name: str, fn: Callable[..., tuple[Array, Array]], p: Params, states: Array, versus: str) -> Case:
    """`n` batches of searches, each from states that depend on the searches before."""
    batch = states.shape[0]

    def run(p: Params, states: Array, n: Array) -> Array:
        def one(i: Array, states: Array) -> Array:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(2), i), batch)
            _, policy = fn(p, keys, states)
            return states + 1e-3 * policy[:, :1]

        return jax.lax.fori_loop(0, n, one, states)

    library = "mctx" if name.endswith("_mctx") else "jax"
    return case(name, "plan", run, (p, states), units=batch, versus=versus)._replace(library=library)


def tree_bytes(kind: str, actions: int, simulations: int) -> int:
    """Bytes of one tree with its states."""
    planner = PLANNERS[kind](simulations, Spec(Box((WIDTH,)), Discrete(actions)), True)
    state, p = jnp.zeros(WIDTH), params(jax.random.key(0), actions)
    info = jax.eval_shape(lambda: planner.plan(jax.random.key(0), model(p), state, ())[2])
    return trees.num_bytes(info.tree)


def mctx_bytes(actions: int, simulations: int) -> int:
    """The same of mctx: six numbers an edge, five a node."""
    return (simulations + 1) * 4 * (6 * actions + 5 + WIDTH) + 4 * actions
