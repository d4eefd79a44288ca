"""The matrix products that the library is made of, in several forms, and the same under options of XLA.

    python scripts/benchmark.py products [--rounds 9] [--csv FILE]
    python scripts/benchmark.py products --flags --csv FILE

Without `--flags`, each product in each form, forward and with its gradients, as GFLOP/s and as a share of the fastest
form; what a form computes in vain does not count. With it, the usual form and two whole steps under each option, every
option in processes of its own that take turns. Seconds are those of the processor, the least of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SCRIPTS = Path(__file__).parents[1]
Fn = Callable[[Any, Any], Any]


class Product(NamedTuple):
    """One product [G, m, k] x [G, k, n] of the library, G groups side by side."""

    groups: int
    m: int
    k: int
    n: int
    where: str  # it is used

    @property
    def flops(self) -> float:
        """Operations of one forward product."""
        return 2.0 * self.groups * self.m * self.k * self.n


PRODUCTS: dict[str, Product] = {
    "ensemble": Product(7, 256, 200, 200, "a hidden layer of seven members, 256 rows each"),
    "sac": Product(1, 256, 256, 256, "a hidden layer of SAC"),
    "twins": Product(2, 256, 256, 256, "a hidden layer of SAC's twin critics"),
    "gates": Product(8, 1024, 64, 192, "the gates of DreamerV3 1m in imagination, eight blocks"),
    "gates_window": Product(8, 16, 64, 192, "the same along a window, 16 rows"),
    "head": Product(1, 1024, 512, 64, "the first layer of a head of DreamerV3 1m"),
}


class Form(NamedTuple):
    """One way to write a product."""

    name: str
    x: Sequence[int]  # permutation of [G, m, k] in which the inputs lie
    w: Sequence[int]  # of [G, k, n] for the weights
    multiply: Callable[[Any, Any], Any]


def _loop(x: Any, w: Any) -> Any:
    return jax.lax.map(lambda pair: pair[0] @ pair[1], (x, w))


def _unrolled(x: Any, w: Any) -> Any:
    return jnp.stack([one @ other for one, other in zip(x, w, strict=True)])


def _block(x: Any, w: Any) -> Any:
    """All rows times all weights in one product, of which the diagonal blocks are kept."""
    groups, m, k = x.shape
    whole = (x.reshape(groups * m, k) @ w.transpose(1, 0, 2).reshape(k, -1)).reshape(groups, m, groups, -1)
    index = jnp.arange(groups)
    return whole[index, :, index]


FORMS = (
    Form("x @ w", (0, 1, 2), (0, 1, 2), jnp.matmul),
    Form("weights [n, k]", (0, 1, 2), (0, 2, 1), partial(jnp.einsum, "gmk,gnk->gmn")),
    Form("inputs [k, m]", (0, 2, 1), (0, 1, 2), partial(jnp.einsum, "gkm,gkn->gmn")),
    Form("both, result [n, m]", (0, 2, 1), (0, 2, 1), partial(jnp.einsum, "gkm,gnk->gnm")),
    Form("groups within rows", (1, 0, 2), (0, 1, 2), partial(jnp.einsum, "mgk,gkn->mgn")),
    Form("loop of 2-D products", (0, 1, 2), (0, 1, 2), _loop),
    Form("unrolled 2-D products", (0, 1, 2), (0, 1, 2), _unrolled),
    Form("one product, blocks kept", (0, 1, 2), (0, 1, 2), _block),
)
ALONE = {"groups within rows", "loop of 2-D products", "unrolled 2-D products", "one product, blocks kept"}
"""Forms that say nothing of a product without groups."""

FLAGS: dict[str, str] = {
    "default": "",
    "no Eigen threads": "--xla_cpu_multi_thread_eigen=false",
    "oneDNN": "--xla_cpu_use_onednn=true",
    "oneDNN fusions": "--xla_cpu_experimental_onednn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
    "XNNPACK": "--xla_cpu_use_xnnpack=true",
    "XNNPACK fusions": "--xla_cpu_experimental_xnn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
    "YNNPACK fusions": "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    "fast math": "--xla_cpu_enable_fast_math=true",
    "vectors of 512 bits": "--xla_cpu_prefer_vector_width=512",
    "AVX2": "--xla_cpu_max_isa=AVX2",
    "old fusions": "--xla_cpu_use_fusion_emitters=false",
}


def operands(product: Product, form: Form) -> tuple[Any, Any]:
    """Inputs and weights of a product as a form wants them."""
    x = jax.random.normal(jax.random.key(0), (product.groups, product.m, product.k))
    w = jax.random.normal(jax.random.key(1), (product.groups, product.k, product.n)) / product.k**0.5
    return jnp.transpose(x, form.x), jnp.transpose(w, form.w)


def forward(multiply: Fn) -> Fn:
    """The product alone."""
    return multiply


def backward(multiply: Fn) -> Fn:
    """The product with the gradients of both operands, three products in all."""

    def fn(x: Any, w: Any) -> Any:
        y, pull = jax.vjp(multiply, x, w)
        return pull(y)

    return fn


def repeated(fn: Fn, x: Any, w: Any) -> Callable[[int], Any]:
    """`fn` so many times in one compiled loop, none of which is left out or moved out of it."""

    def run(x: Any, w: Any, n: Any) -> Any:
        def once(_: Any, at: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            x, w, _ = jax.lax.optimization_barrier(at)
            return x, w, fn(x, w)

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fn, x, w))
        return jax.lax.fori_loop(0, n, once, (x, w, nothing))[2]

    compiled = jax.jit(run).lower(x, w, jnp.int32(1)).compile()
    return lambda n: jax.block_until_ready(compiled(x, w, jnp.int32(n)))


def least(runs: dict[str, Callable[[int], Any]], rounds: int, seconds: float) -> dict[str, float]:
    """Seconds of the processor that each takes once, the least of some rounds in turns.

    Args:
      runs: (n) -> None, when the work is done `n` times.
      rounds: of each.
      seconds: approximate length of a round.
    """
    times, best = {}, dict.fromkeys(runs, float("inf"))
    for name, run in runs.items():
        run(1)
        began = time.process_time()
        run(3)
        times[name] = max(1, int(seconds / max((time.process_time() - began) / 3, 1e-7)))
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run(times[name])
            best[name] = min(best[name], (time.process_time() - began) / times[name])
    return best


def of_forms(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each product in each form, forward and backward."""
    for name in given.products:
        product = PRODUCTS[name]
        forms = [form for form in FORMS if product.groups > 1 or form.name not in ALONE]
        for way, count in ((forward, 1), (backward, 3)):
            runs = {form.name: repeated(way(form.multiply), *operands(product, form)) for form in forms}
            best = least(runs, given.rounds, given.seconds)
            for form, seconds in best.items():
                shape = f"{product.groups} x [{product.m}, {product.k}] x [{product.k}, {product.n}]"
                yield {
                    "product": name, "shape": shape,
                    "form": form, "way": way.__name__, "us": round(1e6 * seconds, 1),
                    "gflops": round(count * product.flops / seconds / 1e9, 1),
                    "share": round(min(best.values()) / seconds, 3),
                }  # fmt: skip


def usual(given: argparse.Namespace) -> dict[str, float]:
    """Seconds of each product in its usual form with its gradients, and of two steps, in this process."""
    from benchmarks import steps
    from mbrl_jax.models.dynamics.fit import FitConfig
    from mbrl_jax.models.dynamics.gaussian import GaussianConfig

    plain = FORMS[0]
    runs = {name: repeated(backward(plain.multiply), *operands(PRODUCTS[name], plain)) for name in given.products}
    if not given.bare:
        runs["sac_update"] = steps.sac_update("", 256, 256, 10_000).run
        wide = GaussianConfig(hidden=(200, 200, 200, 200))
        fit = FitConfig(members=7, elites=1, batch=256)
        runs["ensemble_steps"] = steps.ensemble_step("", fit, wide, 1025).run  # an epoch of four
    return least(runs, given.rounds, given.seconds)


def of_flags(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The usual form and two steps under each option, relative to none; the processes take turns."""
    best: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    words = [sys.executable, str(SCRIPTS / "benchmark.py"), "products", "--child", "--rounds", str(given.rounds)]
    words += ["--seconds", str(given.seconds), "--products", *given.products, *(["--bare"] if given.bare else [])]
    for _ in range(given.passes):
        for name, flag in FLAGS.items():
            if name in failed or name not in ("default", *given.options):
                continue
            flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
            path = os.pathsep.join(filter(None, [str(SCRIPTS.parent), os.environ.get("PYTHONPATH")]))
            child = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path}
            done = subprocess.run(words, env=child, capture_output=True, text=True)
            line = done.stdout.strip().rpartition("\n")[2]
            if done.returncode or not line.startswith("{"):
                failed[name] = (done.stderr.strip() or "no output").rpartition("\n")[2][:120]
                continue
            for case, seconds in json.loads(line).items():
                kept = best.setdefault(name, {})
                kept[case] = min(kept.get(case, seconds), seconds)
    for name, flag in FLAGS.items():
        for case, seconds in best.get(name, {}).items():
            ratio = round(seconds / best["default"][case], 3)
            yield {"option": name, "flag": flag, "case": case, "us": round(1e6 * seconds, 1), "time_ratio": ratio}
        if name in failed:
            print(f"{name}: {failed[name]}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    from benchmarks.timing import count, emit

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flags", action="store_true", help="options of XLA, instead of forms")
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS), metavar="NAME")
    parser.add_argument("--rounds", type=count, default=9, help="rounds of each case")
    parser.add_argument("--seconds", type=float, default=0.02, help="of a round")
    parser.add_argument("--options", nargs="+", choices=FLAGS, default=list(FLAGS), metavar="NAME", help="with --flags")
    parser.add_argument("--passes", type=count, default=2, help="with --flags: processes of each option, in turns")
    parser.add_argument("--bare", action="store_true", help="with --flags: no whole steps")
    parser.add_argument("--csv", default="", metavar="FILE", help="rows are added to it")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        print(json.dumps(usual(given)))
        return 0
    emit(of_flags(given) if given.flags else of_forms(given), given.csv)
    return 0
