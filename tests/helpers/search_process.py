"""Tree searches compiled in a process of their own, which a fault of the compiler would end; for `faults/test_search`.

Reads one case a line, as JSON, and prints `done` for each whose action is legal.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core import Box, Discrete, Model, Planner, Spec, StepOut
from mbrl_jax.planners.mcts import PUCT, UCT, Gumbel, gumbel, puct, uct

STATES: dict[str, Any] = {
    "number": lambda: jnp.int32(0),
    "vector": lambda: jnp.zeros(4),
    "tuple": lambda: (jnp.int32(0), {"x": jnp.zeros((2, 3))}),
}


def model_of(case: dict[str, Any]) -> Model:
    """A model whose state counts steps and whose reward is the action's number; its last action may be illegal."""
    actions = case["actions"]

    def step(key: Any, state: Any, action: Any) -> StepOut:
        return StepOut(jax.tree.map(lambda leaf: leaf + 1, state), action.astype(jnp.float32), jnp.float32(1))

    return Model(
        step,
        value=None if case["search"] == "uct" else lambda key, state: jnp.float32(0),
        legal=(lambda state: jnp.arange(actions) < max(1, actions - 1)) if case["masked"] else None,
    )


def planner_of(case: dict[str, Any], spec: Spec, state: Any) -> Planner:
    """The search of a case."""
    sizes = {"simulations": case["simulations"], "max_depth": case["depth"], "reuse": case["reuse"]}
    example = state if case["reuse"] else None
    if case["search"] == "gumbel":
        return gumbel(Gumbel(schedule=case["schedule"], **sizes), spec, example)
    if case["search"] == "puct":
        return puct(PUCT(**sizes), spec, example)
    return uct(UCT(rollout_depth=3, **sizes), spec, example)


def main() -> None:
    """Runs every case of the standard input."""
    for line in sys.stdin:
        case = json.loads(line)
        spec, state = Spec(Box((1,)), Discrete(case["actions"]), 10), STATES[case["state"]]()
        model = model_of(case)
        planner = planner_of(case, spec, state)

        def plan(key: Any, planner: Planner = planner, model: Model = model, state: Any = state) -> Any:
            return planner.plan(key, model, state, planner.init())[0]

        key, roots = jax.random.key(0), case["roots"]
        action = jax.jit(plan)(key) if roots is None else jax.jit(jax.vmap(plan))(jax.random.split(key, roots))
        legal = max(1, case["actions"] - 1) if case["masked"] else case["actions"]
        assert 0 <= int(jnp.min(action)) <= int(jnp.max(action)) < legal, (case, action)
        print("done", flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
