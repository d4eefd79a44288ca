"""Every buffer keeps what was added; and a buffer with a fault is found out."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from mbrl_jax.buffers.latest import latest
from mbrl_jax.buffers.prioritized import prioritized
from mbrl_jax.buffers.sequence import sequence
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.testing.buffers import LENGTH, STEPS, check_buffer, find_faults

BUFFERS = {
    "uniform": (lambda capacity, envs: uniform(capacity), "transitions"),
    "latest": (lambda capacity, envs: latest(STEPS, envs), "latest"),
    "sequence": (lambda capacity, envs: sequence(capacity, LENGTH, envs), "windows"),
    "prioritized": (lambda capacity, envs: prioritized(capacity, LENGTH, envs), "windows"),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_every_buffer_keeps_its_contract(name):
    check_buffer(*BUFFERS[name])


def always_at_the_tail(capacity, envs):
    """Writes every trajectory over the one before."""
    right = uniform(capacity)
    add = lambda data, rows: right.add(data, rows)._replace(head=jnp.int32(0))  # noqa: E731
    return right._replace(add=add)


def mixes_fields(capacity, envs):
    right = uniform(capacity)
    turned = lambda rows: rows._replace(action=jnp.roll(rows.action, 1))  # noqa: E731
    return right._replace(sample=lambda key, data, n: turned(right.sample(key, data, n)))


def reads_what_was_never_written(capacity, envs):
    right = uniform(capacity)
    full = lambda data: data._replace(size=jnp.int32(capacity))  # noqa: E731
    return right._replace(sample=lambda key, data, n: right.sample(key, full(data), n))


def turns_windows_round(capacity, envs):
    right = sequence(capacity, LENGTH, envs)

    def sample(key, data, n):
        window = right.sample(key, data, n)
        return window._replace(steps=window.steps._replace(obs=window.steps.obs[::-1]))

    return right._replace(sample=sample)


def gives_an_older_trajectory(capacity, envs):
    right = latest(STEPS, envs)
    return right._replace(sample=lambda key, data, n: data._replace(reward=data.reward - 1))


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (always_at_the_tail, "transitions", "size must be 24 after 36 rows, got 6"),
        (mixes_fields, "transitions", "fields of a row must be those of one transition"),
        (reads_what_was_never_written, "transitions", "never written"),
        (turns_windows_round, "windows", "consecutive rows of one environment"),
        (gives_an_older_trajectory, "latest", "the trajectory added last, reward differs"),
    ],
)
def test_faults_are_found(make, kind, said):
    faults = find_faults(make, kind)
    assert any(said in fault for fault in faults), faults
    with pytest.raises(ValueError, match="the buffer breaks its contract"):
        check_buffer(make, kind)
