"""The devices that share a run's seeds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mbrl_jax.train.devices import devices_for

SCRIPT = """
import os
os.sched_getaffinity = lambda pid: {0, 1, 2}
from mbrl_jax.train.devices import devices_for, settle_devices
settle_devices(%r)
import jax
jax.numpy.zeros(1)  # an array, as importing gymnax makes, fixes the devices of the process
print(jax.device_count(), devices_for(0, 4), devices_for(0, 6), devices_for(1, 4))
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--quiet", "--seeds", "4"], "3 2 3 1"),
        (["--seeds=4"], "3 2 3 1"),
        (["--seeds", "1"], "1 1 1 1"),
        ([], "1 1 1 1"),
    ],
)
def test_cores_become_devices_before_jax_fixes_them(words, expected):
    done = subprocess.run([sys.executable, "-c", SCRIPT % words], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(expected)


def test_devices_must_exist_and_divide_the_seeds():
    with pytest.raises(ValueError, match=r"devices must be at most [0-9]+, got 99"):
        devices_for(99, 99)
