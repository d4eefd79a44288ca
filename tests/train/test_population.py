"""Population-based training equals a loop over its members that is written out here."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.train.driver import Work
from mbrl_jax.train.loop import Loop, LoopConfig, Report
from mbrl_jax.train.population import Evolution, Population, Row, Span, evolve, parents, perturbed
from mbrl_jax.train.run import Job
from mbrl_jax.train.swept import Swept

SPANS = {"lr": Span(0.01, 1.0, True), "gamma": Span(0.5, 0.9, False)}


class State(NamedTuple):
    key: Any
    weight: Any  # [] float32
    memory: Any  # [3] int32


def made(values: dict[str, Any]) -> Loop:
    """A loop whose score grows with the rate times the discount, and depends on its random numbers."""

    def init(key: Any) -> State:
        key, key_weight = jax.random.split(key)
        return State(key, jax.random.normal(key_weight), jnp.zeros(3, jnp.int32))

    def chunk(state: State) -> tuple[State, Report]:
        key, key_draw = jax.random.split(state.key)
        weight = state.weight + values["lr"] * values["gamma"] + 0.1 * jax.random.normal(key_draw)
        new = State(key, weight, state.memory.at[0].add(1))
        return new, Report(
            {"return": weight, "episodes": jnp.float32(1)}, jnp.stack([weight, weight]), jnp.ones(2, int)
        )

    return Loop(init, chunk, lambda key, n: None)  # pyright: ignore[reportArgumentType]


def population(members: int, seeds: int, every: int = 2) -> Any:
    values = {"lr": np.geomspace(0.011, 0.9, members), "gamma": np.linspace(0.52, 0.88, members)[::-1]}
    return Swept(made, values, 3, seeds, Evolution(SPANS, every, 0.3)).driver(
        Job("x", "y", None, LoopConfig(), 1, 3, members * seeds, wave=members * seeds)
    )


def by_hand(members: int, seed: int, column: int, seeds: int, chunks: int, every: int) -> list[dict[str, Any]]:
    """One population, member by member: what each is after every chunk."""
    lrs, gammas = np.geomspace(0.011, 0.9, members), np.linspace(0.52, 0.88, members)[::-1]
    values = [{"lr": np.float32(a), "gamma": np.float32(b)} for a, b in zip(lrs, gammas, strict=True)]
    states = [jax.jit(made(v).init)(jax.random.key(seed + column)) for v in values]
    history = []
    for chunk in range(1, chunks + 1):
        scores = []
        for i in range(members):
            states[i], report = jax.jit(lambda v, s: made(v).chunk(s))(values[i], states[i])
            scores.append(float(report.returns.mean()))
        if chunk % every == 0:
            key = jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), seeds)[column]
            key_parents, key_values = jax.random.split(key)
            ranking = sorted(range(members), key=lambda i: -scores[i])
            count = max(1, int(members * 0.3))
            drawn = [int(x) for x in jax.random.randint(key_parents, (count,), 0, count)]
            old_states, old_values = list(states), list(values)
            for worst, best in zip(ranking[members - count :], drawn, strict=True):
                parent = ranking[best]
                up_gamma, up_lr = [
                    bool(jax.random.bernoulli(k))
                    for k in jax.random.split(jax.random.split(key_values, members)[worst], 2)
                ]
                lr, gamma = old_values[parent]["lr"], old_values[parent]["gamma"]
                lr = lr * np.float32(1.25) if up_lr else lr / np.float32(1.25)
                gamma = gamma + np.float32(0.04) if up_gamma else gamma - np.float32(0.04)
                values[worst] = {
                    "lr": np.clip(lr, np.float32(0.01), np.float32(1.0)),
                    "gamma": np.clip(gamma, np.float32(0.5), np.float32(0.9)),
                }
                states[worst] = old_states[parent]._replace(key=old_states[worst].key)
        history.append({"values": list(values), "weights": [float(s.weight) for s in states]})
    return history


@pytest.mark.parametrize(("members", "seeds", "every"), [(7, 2, 2), pytest.param(4, 1, 1, marks=pytest.mark.slow)])
def test_a_population_equals_a_loop_over_its_members(members, seeds, every):
    driver = population(members, seeds, every)
    work = driver.start(None).work
    expected = [by_hand(members, 3, column, seeds, 6, every) for column in range(seeds)]
    copies = 0
    for chunk in range(6):
        work, report = driver.piece(work)
        assert report is not None
        got: Population = work.state
        for column in range(seeds):
            now = expected[column][chunk]
            at = slice(column, None, seeds)
            np.testing.assert_allclose(got.rows.state.weight[at], now["weights"], rtol=1e-6)
            for name in SPANS:
                np.testing.assert_allclose(got.rows.values[name][at], [v[name] for v in now["values"]], rtol=1e-6)
        own = np.repeat(np.arange(members), seeds)
        copies += int((np.asarray(got.parents) != own).sum())
        assert (chunk + 1) % every == 0 or (np.asarray(got.parents) == own).all()
    assert copies >= seeds * 6 // every - 2, "states were copied"


def test_a_population_that_was_stopped_goes_on_bitwise_and_reports_its_settings():
    whole, first, second = (population(5, 2) for _ in range(3))
    work, reports = whole.start(None).work, []
    for _ in range(5):
        work, report = whole.piece(work)
        reports.append(jax.device_get(report))
    part = first.start(None).work
    for _ in range(3):
        part, _ = first.piece(part)
    saved = jax.device_get(jax.tree.map(lambda leaf: leaf, part.state._replace(rows=_bits(part.state.rows))))
    rows = saved.rows._replace(state=saved.rows.state._replace(key=jax.random.wrap_key_data(saved.rows.state.key)))
    part = second.start(Work(jax.tree.map(jnp.array, saved._replace(rows=rows)))).work
    for i in range(3, 5):
        part, report = second.piece(part)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(report), reports[i])
    assert {"lr", "gamma", "copied_from"} <= set(reports[-1].metrics)
    copied = reports[2].metrics["copied_from"] != np.repeat(np.arange(5), 2)
    assert copied.any()
    for name in SPANS:
        before, after = reports[1].metrics[name], reports[2].metrics[name]
        assert (before[~copied] == after[~copied]).all()


def _bits(rows: Row) -> Row:
    return rows._replace(state=rows.state._replace(key=jax.random.key_data(rows.state.key)))


def test_members_that_are_no_number_are_the_worst():
    found = np.asarray(parents(jax.random.key(0), jnp.array([jnp.nan, 5.0, -9.0, 7.0]), 0.25))
    assert found.tolist() == [3, 1, 2, 3]
    drawn = {tuple(np.asarray(parents(jax.random.key(i), jnp.arange(8.0), 0.5))) for i in range(20)}
    assert all(set(one[:4]) <= {4, 5, 6, 7} and one[4:] == (4, 5, 6, 7) for one in drawn)
    assert len(drawn) > 10


def test_settings_stay_within_their_spans_and_move_by_one_step():
    seen = {name: set() for name in SPANS}
    for i in range(16):
        new = perturbed(jax.random.key(i), {"lr": jnp.float32(0.9), "gamma": jnp.float32(0.6)}, Evolution(SPANS))
        for name in SPANS:
            seen[name].add(round(float(new[name]), 6))
    assert seen == {"lr": {0.72, 1.0}, "gamma": {0.56, 0.64}}


def test_evolution_copies_every_field_but_the_random_key():
    keys = jax.random.split(jax.random.key(1), 4)
    rows = Row({"lr": jnp.full(4, 0.1)}, State(keys, jnp.arange(4.0), jnp.arange(12).reshape(4, 3)))
    new, taken = evolve(jax.random.key(0), rows, jnp.array([1.0, 0.0, 9.0, 5.0]), Evolution({"lr": SPANS["lr"]}))
    assert np.asarray(taken).tolist() == [0, 2, 2, 3]
    assert new.state.memory.tolist() == [[0, 1, 2], [6, 7, 8], [6, 7, 8], [9, 10, 11]]
    np.testing.assert_array_equal(jax.random.key_data(new.state.key), jax.random.key_data(keys))
    np.testing.assert_allclose(new.values["lr"][jnp.array([0, 2, 3])], 0.1)
    assert float(new.values["lr"][1]) != pytest.approx(0.1)
