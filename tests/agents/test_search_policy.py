"""The search policy: every setting of the search that acts takes effect."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents.search_policy import SearchConfig, make_search, random_action
from mbrl_jax.core import Discrete, Model, Spec, StepOut
from mbrl_jax.core.config import flat, replace

SPEC = Spec(Discrete(5), Discrete(3))
MODEL = Model(lambda key, s, a: StepOut((s + a) % 5, 0.1 * a, jnp.ones(())), prior=lambda key, s: jnp.arange(3.0))


def program(cfg: SearchConfig, gamma: float = 0.9) -> str:
    """The program of a search that explores, after one update."""

    def run(key):
        search = make_search(cfg, SPEC, gamma=gamma, updates=jnp.int32(1), explore=True)
        return search(key, MODEL, jnp.int32(0))

    return str(jax.make_jaxpr(run)(jax.random.key(0)))


@pytest.mark.parametrize("kind", ["gumbel", "puct"])
def test_every_setting_and_the_discount_change_the_search(kind):
    small = {"kind": kind, "gumbel.simulations": 6, "puct.simulations": 6, "gumbel.considered": 2}
    base = replace(SearchConfig(), small)
    plain = program(base)
    assert program(base) == plain
    assert program(base, gamma=0.8) != plain
    schedule = ("first_temperature", "temperature", "decay_updates") if kind == "puct" else ()
    for name, value in flat(base).items():
        if not name.startswith(f"{kind}.") and name not in (*schedule, "random"):
            continue
        other = {"schedule": "serial", "normalise": "tree"}.get(name.split(".")[-1])
        if other is None:
            other = value + 1 if isinstance(value, int) else 0.5 * value + 0.1
        assert program(replace(base, {name: other})) != plain, name


def test_random_actions_by_their_share():
    legal, keys = jnp.array([True, False, True]), jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda key: random_action(key, jnp.int32(1), legal, share=0.25)))
    action, from_search = map(np.asarray, draw(keys))
    np.testing.assert_array_equal(action[from_search], 1)
    assert from_search.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(
        np.bincount(action[~from_search], minlength=3) / (~from_search).sum(), [0.5, 0, 0.5], atol=0.06
    )
