"""Copies of the parameters on every device: the same gradient, which passes between devices once."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.sharding import mean_of_shares, vmap_shares

CODE = """
import jax; jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
import numpy as np
from mbrl_jax.analysis.collectives import collectives
from mbrl_jax.core.sharding import make_mesh, mean_of_shares, on_all, over_data, using, vmap_shares

def window(w, x):
    \"\"\"The states [T, 4] of a recurrent cell along a window [T, 4].\"\"\"
    def one(h, x):
        h = jnp.tanh(w @ h + x)
        return h, h
    return jax.lax.scan(one, jnp.zeros(4), x)[1]

def plain(w, x):
    return jnp.mean(jax.vmap(lambda x: window(w, x), 1, 1)(x) ** 2)

def copied(w, x):
    return jnp.mean(vmap_shares(window, w, (x,), (1,), 1) ** 2)

def shared(w, x):
    return mean_of_shares(jax.grad(plain), w, (x,), (1,))

w, x = jax.random.normal(jax.random.key(0), (4, 4)), jax.random.normal(jax.random.key(1), (7, 16, 4))
passed = {}
for text in ("data=8", "data=4,model=2"):
    mesh = make_mesh(text)
    for name, grad in (("plain", jax.grad(plain)), ("copied", jax.grad(copied)), ("shared", shared)):
        def meshed(w, x):
            with using(mesh):
                return on_all(grad(on_all(w), over_data(x, 1)))
        program = jax.jit(meshed).lower(w, x).compile()
        np.testing.assert_allclose(program(w, x), jax.grad(plain)(w, x), rtol=1e-5, atol=1e-7)
        passed[name] = sum(one.times for kind, one in collectives(program).items() if kind == "all-reduce")
    assert passed["plain"] >= 7, passed
    assert passed["copied"] == passed["shared"] == 1, passed

with using(make_mesh("data=8")):  # arrays without entries; 6 do not divide by 8
    assert vmap_shares(lambda w, x: x, w, (jnp.zeros((16, 0, 2)),), (0,)).shape == (16, 0, 2)
    np.testing.assert_allclose(jax.grad(copied)(w, x[:, :6]), jax.grad(plain)(w, x[:, :6]), rtol=1e-5, atol=1e-7)
"""


def test_the_gradient_of_a_loop_over_time_passes_between_devices_once():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_a_mesh_they_are_vmap_and_the_function_itself():
    w, x = jnp.float32(3), jnp.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(vmap_shares(lambda w, x: w * x, w, (x,), (1,), 1), 3 * x)
    np.testing.assert_array_equal(mean_of_shares(lambda w, x: w * jnp.sum(x), w, (x,), (1,)), 84)
