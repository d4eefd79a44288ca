"""Population-based training (Jaderberg et al. 2017): members train side by side, and the worst follow the best.

Between chunks, members are ranked by their last evaluation. Each of the worst share takes the whole state of a member
drawn from the best share, and perturbs its settings. All of it is a pure function of the stacked states, so a
population is one program, and one that was stopped goes on bitwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Key, Tree
from mbrl_jax.train.driver import Around, CompiledDriver, Started, Work
from mbrl_jax.train.loop import Report
from mbrl_jax.train.sweep import place


class Row(NamedTuple):
    """One seed of one trial."""

    values: dict[str, Array]  # [] each: the settings that are swept
    state: Tree  # of the loop; before `init` a random key


class Span(NamedTuple):
    """Where a setting may be, and how it is perturbed."""

    low: float
    high: float
    log: bool  # perturbed by a factor; else by a part of `high - low`


class Evolution(NamedTuple):
    """How a population evolves."""

    spans: Mapping[str, Span]  # of each setting that is perturbed
    every: int = 1  # chunks from one exchange to the next
    share: float = 0.25  # of the members, who take the state of a member of the best share
    factor: float = 1.25  # by which a logarithmic setting is multiplied or divided
    part: float = 0.1  # of its span, which is added to or taken from a linear setting


class Population(NamedTuple):
    """What a population needs to continue."""

    rows: Row  # [R, ...] R = members x seeds, the seeds of a member follow each other
    parents: Array  # [R] int32: the member whose state the row took before this chunk; itself where it kept its own
    chunks: Array  # [] int32, done


def parents(key: Key, scores: Array, share: float) -> Array:
    """Whose state each member goes on with: the worst take that of one of the best, the others keep theirs.

    Args:
      key: used once.
      scores: [M] the higher the better; NaN is the worst.
      share: in (0, 0.5], of the members that are the worst, and as many the best; at least one.
    Returns:
      [M] int32 indices of members.
    """
    members = scores.shape[0]
    count = max(1, int(members * share))
    order = jnp.argsort(jnp.where(jnp.isnan(scores), -jnp.inf, scores), descending=True)  # stable: best first
    drawn = order[jax.random.randint(key, (count,), 0, count)]
    return jnp.arange(members, dtype=jnp.int32).at[order[members - count :]].set(drawn.astype(jnp.int32))


def perturbed(key: Key, values: Mapping[str, Array], evolution: Evolution) -> dict[str, Array]:
    """Settings a step up or down, with equal chance, and within their spans.

    Args:
      key: used once.
      values: names to [].
      evolution: how far, and within what.
    """
    found = dict(values)
    for key_up, (name, span) in zip(
        jax.random.split(key, len(evolution.spans)), sorted(evolution.spans.items()), strict=True
    ):
        up = jax.random.bernoulli(key_up)
        if span.log:
            new = jnp.where(up, values[name] * evolution.factor, values[name] / evolution.factor)
        else:
            step = evolution.part * (span.high - span.low)
            new = jnp.where(up, values[name] + step, values[name] - step)
        found[name] = jnp.clip(new, span.low, span.high).astype(values[name].dtype)
    return found


def evolve(key: Key, rows: Row, scores: Array, evolution: Evolution) -> tuple[Row, Array]:
    """Ranks the members of one population, copies states from the best to the worst and perturbs their settings.

    A copy keeps the random key of the member it replaces, so that it does not repeat what its parent does.

    Args:
      key: used once.
      rows: [M, ...] the members; their states have a field `key`.
      scores: [M] the higher the better; NaN is the worst.
      evolution: how.
    Returns:
      the members; [M] int32, whose state each has.
    """
    key_parents, key_values = jax.random.split(key)
    taken = parents(key_parents, scores, evolution.share)
    moved = taken != jnp.arange(taken.shape[0])
    copied = tree.take(rows, taken)
    new = jax.vmap(lambda key, values: perturbed(key, values, evolution))(
        jax.random.split(key_values, taken.shape[0]), copied.values
    )
    values = {name: jnp.where(moved, new[name], copied.values[name]) for name in copied.values}
    return Row(values, copied.state._replace(key=rows.state.key)), taken


class PopulationDriver(Around):
    """Drives a population: each seed is one of its own, whose members are the trials.

    The score of a member is the mean of the chunk's evaluation, or without evaluation its training return.

    Args:
      inner: drives the rows, those of a trial following each other.
      evolution: how the population evolves.
      members: trials.
      key: of the exchanges; that of each is folded in from the chunks done.
    """

    def __init__(self, inner: CompiledDriver, evolution: Evolution, members: int, key: Key):
        super().__init__(inner)
        self.evolution, self.members, self.key = evolution, members, key
        self._exchange = jax.jit(self.exchange, donate_argnums=0)

    def exchange(self, population: Population, scores: Array) -> Population:
        """The population after a chunk at whose end states are copied.

        Args:
          population: at the end of the chunk, M members of S seeds.
          scores: [M S] of its rows.
        """
        chunks = population.chunks + 1
        seeds = scores.shape[0] // self.members
        split = lambda leaf: leaf.reshape(self.members, seeds, *leaf.shape[1:])  # noqa: E731
        keys = jax.random.split(jax.random.fold_in(self.key, chunks), seeds)
        one = lambda key, rows, scores: evolve(key, rows, scores, self.evolution)  # noqa: E731
        rows, taken = jax.vmap(one, in_axes=(0, 1, 1), out_axes=1)(
            keys, jax.tree.map(split, population.rows), split(scores)
        )
        return Population(tree.flatten_dims(rows, 2), taken.reshape(-1), chunks)

    def _own(self) -> Array:
        """[R] every member its own parent."""
        rows = jax.tree.leaves(self.inner.keys)[0].shape[0]
        return jnp.repeat(jnp.arange(self.members, dtype=jnp.int32), rows // self.members)

    def shapes(self) -> Work:
        inner = self.inner.shapes()
        return inner._replace(state=Population(inner.state, *jax.eval_shape(lambda: (self._own(), jnp.int32(0)))))

    def start(self, work: Work | None) -> Started:
        began = None if work is None else work._replace(state=work.state.rows)
        kept = (self._own(), jnp.int32(0)) if work is None else work.state[1:]
        started = self.inner.start(began)
        return started._replace(work=started.work._replace(state=Population(started.work.state, *kept)))

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        population: Population = work.state
        inner, report = self.inner.piece(work._replace(state=population.rows))
        population = population._replace(rows=inner.state)
        if report is None:
            return inner._replace(state=population), None
        used = {name: jnp.array(value, copy=True) for name, value in population.rows.values.items()}
        shown: dict[str, Any] = {**report.metrics, **used, "copied_from": population.parents}
        if (int(population.chunks) + 1) % self.evolution.every:
            population = population._replace(parents=self._own(), chunks=population.chunks + 1)
        else:
            scores = report.returns.mean(axis=1) if report.returns.shape[1] else report.metrics["return"]
            population = self._exchange(population, scores)
            population = population._replace(rows=place(population.rows, self.inner.devices))
        return inner._replace(state=population), report._replace(metrics=shown)
