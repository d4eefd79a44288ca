"""One GPU: whether it computes the numbers of a CPU, and how near the library comes to its rate, in ten minutes.

    python scripts/benchmark.py --suite gpu [--out results/gpu.csv] [--budget 570] [--parts NAME ...] [--tiny]

Nothing is fetched from a network. Each part is a process of its own: all compile side by side, on all cores, which is
most of the time; then each is measured with the device for itself. Rows are in the CSV as soon as they are measured. A
part that is not compiled in time, or would pass the budget, is left out, and the CSV says so. A time is that
of the best round; a rate counts the operations of matrix products alone; the share is of the rate that the same device
reaches in large bare products of the same type and precision. Products in float32 run at jax's default precision, TF32
where the GPU has it, but for the comparison with the CPU's numbers.

`--tiny` runs all parts at tiny sizes on whatever device there is: it shows that they run, and measures nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

SCRIPTS = Path(__file__).parents[1]
COLUMNS = (
    "part", "name", "precision", "unit", "best_ms", "median_ms", "per_second", "gflop", "tflops", "peak_tflops",
    "share", "compile_s", "versus", "time_ratio", "note", "device", "platform", "jax", "jaxlib",
)  # fmt: skip
Row = dict[str, Any]
Peaks = dict[str, float]
Turn = Callable[[], Peaks]
"""Waits until the part, whose programs are compiled, has the device for itself; returns TFLOP/s of bare products."""


class Size(NamedTuple):
    """The sizes of everything that is timed, and for how long."""

    sides: tuple[int, ...] = (4096, 8192)  # of the bare products
    golden: tuple[str, ...] = ()  # agents to compare; all if empty
    dreamer: tuple[str, ...] = ("12m", "50m")
    windows: tuple[int, int, int] = (16, 64, 15)  # batch, length and imagined steps of DreamerV3
    tdmpc: tuple[str, int] = ("5m", 256)  # size and batch
    search: tuple[int, int, int] = (18, 50, 1024)  # actions, simulations and roots
    latent: int = 256  # width of the networks that MuZero searches with
    seeds: int = 64  # of MBPO
    envs: tuple[int, int] = (4096, 64)  # environments of PPO, and their steps in an iteration
    small: tuple[tuple[str, Any], ...] = ()  # changes to MBPO's settings
    loops: tuple[str, ...] = ("sac", "dreamer_v3", "muzero", "tdmpc2", "dqn")
    loop: tuple[tuple[str, Any], ...] = (("inner", 100), ("cycles", 1), ("eval_episodes", 0))
    rounds: int = 3
    seconds: float = 1.0  # of a round


TINY = Size(
    sides=(64,),
    golden=("dyna_q",),
    dreamer=("nano",),
    windows=(2, 4, 2),
    tdmpc=("nano", 8),
    search=(3, 4, 8),
    latent=8,
    seeds=2,
    envs=(8, 4),
    small=(
        ("policy.hidden", (8, 8)), ("policy.batch", 8), ("model.hidden", (8,)), ("fit.members", 3), ("fit.elites", 2),
        ("fit.max_epochs", 2), ("rollouts", 8), ("first_horizon", 1), ("last_horizon", 1), ("retain", 1),
    ),
    loops=("dqn",),
    loop=(("inner", 4), ("cycles", 1), ("eval_episodes", 0), ("warmup", 30), ("capacity", 500)),
    rounds=1,
    seconds=0.002,
)  # fmt: skip


def of_cases(cases: Sequence[Any], size: Size, precision: str, peak: float | None) -> Iterator[Row]:
    """The rows of some cases, timed alternately.

    Args:
      cases: of `benchmarks.timing`.
      size: how long.
      precision: of their products, in words.
      peak: TFLOP/s of bare products at that precision.
    """
    from benchmarks.timing import measure

    for row in measure(cases, size.rounds, size.seconds):
        rate = row.gflops / 1e3 if row.gflops else None
        yield {
            "name": row.name, "precision": precision, "unit": row.unit, "best_ms": row.best_us / 1e3,
            "median_ms": row.median_us / 1e3, "per_second": row.per_second, "tflops": rate, "peak_tflops": peak,
            "gflop": row.mflop / 1e3 if row.mflop else None, "share": rate / peak if rate and peak else None,
            "compile_s": row.compile_seconds, "versus": row.versus, "time_ratio": row.time_ratio,
        }  # fmt: skip


def products(size: Size, turn: Turn) -> Iterator[Row]:
    """The device's rate of large bare products, and their error against 64 bits on the host."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks.steps import case

    if jax.config.read("jax_enable_x64"):
        raise ValueError("JAX_ENABLE_X64 must be off")
    n = 256 if max(size.sides) >= 256 else 32
    left, right = np.random.default_rng(0).normal(size=(2, n, n)).astype(np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    ready = []
    for name, dtype, precision, allowed in (
        ("bfloat16", jnp.bfloat16, None, 2e-2),
        ("float32", jnp.float32, None, 2e-3),  # TF32 has the mantissa of half precision
        ("float32 highest", jnp.float32, "highest", 1e-5),
    ):

        def multiplied(x: Any, w: Any, precision: Any = precision) -> Any:
            return jnp.matmul(x, w, precision=precision)

        once = jax.jit(multiplied)(jnp.asarray(left, dtype), jnp.asarray(right, dtype))
        error = float(np.linalg.norm(np.asarray(once, np.float64) - exact) / np.linalg.norm(exact))
        note = f"relative error {error:.1e}, allowed {allowed:.0e}"
        if not error <= allowed:
            yield {"name": f"product {name}", "precision": name, "note": f"FAILED: {note}"}
        made = []
        for side in size.sides:
            x, w = jax.random.normal(jax.random.key(0), (2, side, side), dtype)

            def chain(x: Any, w: Any, n: Any, multiplied: Any = multiplied) -> Any:
                return jax.lax.fori_loop(0, n, lambda _, x: multiplied(x, w), x)

            args = x, w / side**0.5
            made.append(case(f"product {side} {name}", "product", chain, args, flops=2.0 * side**3))
        ready.append((name, made, note))
    turn()
    for name, made, note in ready:
        for row in of_cases(made, size, name, None):
            yield row | {"note": note}


def golden(size: Size, turn: Turn) -> Iterator[Row]:
    """Short runs of the agents, compared with the numbers of a CPU."""
    from benchmarks import golden as kept

    del turn  # nothing is timed
    made = kept.read()["made_with"]
    agents = ("random", *(size.golden or kept.AGENTS))
    for algo, verdict in zip(agents, at_once([partial(kept.checked, algo) for algo in agents]), strict=True):
        words = kept.described(algo, verdict)
        exact = "equal bits" if algo == "random" else f"within {kept.RELATIVE:g} |x| + {kept.ABSOLUTE:g}"
        note = f"{words}; {exact} of jax {made['jax']} on {made['device']}"
        yield {
            "name": f"golden {algo}", "precision": f"float32 {kept.PRECISION}",
            "note": note if verdict.agrees else f"FAILED: {note}",
        }  # fmt: skip


def dreamer(size: Size, turn: Turn) -> Iterator[Row]:
    """DreamerV3's gradient step in float32 and bfloat16."""
    from benchmarks import dreamer as steps
    from mbrl_jax.core.config import replace

    both = [(name, precision) for name in size.dreamer for precision in ("float32", "bfloat16")]

    def made(name: str, precision: str) -> Any:
        cfg = replace(steps.settings(name, *size.windows), {"bfloat16": precision == "bfloat16"})
        return steps.update(f"dreamer_v3 {name} step", cfg)

    cases = list(at_once([partial(made, *one) for one in both]))
    peaks = turn()
    for (_, precision), case in zip(both, cases, strict=True):
        for row in of_cases([case], size, precision, peaks.get(precision)):
            yield row | {"note": os.environ.get("XLA_FLAGS", "")}


def tdmpc2(size: Size, turn: Turn) -> Iterator[Row]:
    """TD-MPC2's plan and update."""
    from benchmarks import tdmpc2 as steps

    made = list(steps.rows(*size.tdmpc))[1:]  # the first are bare products at its shape
    yield from of_cases([one._replace(matrix="") for one in made], size, "float32", turn().get("float32"))


def muzero(size: Size, turn: Turn) -> Iterator[Row]:
    """MuZero's searches with both planners, from many roots at once."""
    import jax
    import jax.numpy as jnp

    from benchmarks.steps import case
    from mbrl_jax.agents import muzero as agents
    from mbrl_jax.analysis.flops import forward
    from mbrl_jax.core import tree
    from mbrl_jax.core.config import replace
    from mbrl_jax.core.types import Box, Discrete, Spec

    actions, simulations, roots = size.search
    width, inputs = size.latent, 128
    spec = Spec(Box((inputs,)), Discrete(actions), name="roots")

    def made(kind: str) -> Any:
        sizes = {f"search.{kind}.simulations": simulations, "net.latent": width, "net.hidden": (width,)}
        cfg = replace(agents.MuZeroConfig(), {"search.kind": kind, **sizes})
        agent = agents.make(cfg, spec)
        bins = 2 * cfg.net.support + 1
        predict = forward((width, width, actions), 1) + forward((width, width, bins), 1)
        advance = forward((width + actions, width, width), 1) + forward((width, width, bins), 1)
        count = forward((inputs, width, width), 1) + predict + simulations * (advance + predict)

        def searches(learner: Any, obs: Any, n: Any) -> Any:
            def one(i: Any, obs: Any) -> Any:
                keys = jax.random.split(jax.random.fold_in(jax.random.key(2), i), roots)
                action, *_ = jax.vmap(lambda key, obs: agent.act(key, learner, (), obs, True))(keys, obs)
                return obs + 1e-3 * action[:, None]

            return jax.lax.fori_loop(0, n, one, obs)

        learner = jax.jit(lambda key: tree.strip_weak_types(agent.init(key)))(jax.random.key(1))
        args = learner, jax.random.normal(jax.random.key(3), (roots, inputs), jnp.float32)
        name = f"muzero {kind} {actions} actions {simulations} simulations {roots} roots"
        return case(name, "search", searches, args, units=roots, flops=count)

    cases = list(at_once([partial(made, kind) for kind in ("gumbel", "puct")]))
    peak = turn().get("float32")
    for one in cases:
        yield from of_cases([one], size, "float32", peak)


def mbpo(size: Size, turn: Turn) -> Iterator[Row]:
    """MBPO's loop, many seeds under one `vmap`."""
    loop = dict(size.loop) | {"inner": min(25, dict(size.loop)["inner"])}
    yield from of_loops([loop_case("mbpo", "Pendulum-v1", dict(size.small), loop, seeds=size.seeds)], size, turn)


def ppo(size: Size, turn: Turn) -> Iterator[Row]:
    """PPO's loop with thousands of environments."""
    envs, unroll = size.envs
    loop = {"num_envs": envs, "unroll": unroll, "inner": 4, "cycles": 1, "eval_episodes": 0, "capacity": envs * unroll}
    yield from of_loops([loop_case("ppo", "CartPole-v1", {}, loop)], size, turn)


def search(size: Size, turn: Turn) -> Iterator[Row]:
    """Tree searches in a model of 64 units, beside mctx."""
    from benchmarks import tree_search

    if not tree_search.MCTX:
        yield {"name": "mctx", "note": "left out: mctx is not installed (extra `benchmark`, or pip install mctx)"}
    actions, simulations, roots = size.search
    groups = list(tree_search.search((roots,), (simulations,), (actions,)))
    turn()
    for group in groups:
        yield from of_cases([one for one in group if not one.name.endswith("_lanes")], size, "float32", None)


def loops(size: Size, turn: Turn) -> Iterator[Row]:
    """Whole loops of the presets: acting, storing and updating, one seed."""
    from mbrl_jax import presets

    made = [partial(loop_case, algo, presets.default_env(algo), {}, dict(size.loop)) for algo in size.loops]
    yield from of_loops(list(at_once(made)), size, turn)


def loop_case(algo: str, env: str, agent: dict[str, Any], loop: dict[str, Any], seeds: int = 1) -> tuple[Any, str]:
    """The case of a preset's loop, warmed up and compiled, and a note on it. Its unit is an environment step of a seed.

    Args:
      algo, env: an agent, and its environment.
      agent, loop: changes to the preset's settings.
      seeds: under one `vmap`.
    """
    import jax

    from benchmarks.timing import Case
    from mbrl_jax import presets
    from mbrl_jax.core import tree
    from mbrl_jax.core.config import replace
    from mbrl_jax.train.loop import env_steps, updates

    known = presets.preset(algo, env)
    cfg = replace(known.loop, loop)
    built = presets.build(algo, env, replace(known.agent, agent), cfg)
    keys = jax.random.split(jax.random.key(0), seeds)
    state = jax.jit(jax.vmap(lambda key: tree.strip_weak_types(built.init(key))))(keys)
    began = time.perf_counter()
    chunk = jax.jit(jax.vmap(built.chunk), donate_argnums=0).lower(state).compile()
    seconds = time.perf_counter() - began

    def run(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state, _ = jax.block_until_ready(chunk(state))

    count = env_steps(cfg, 1) - env_steps(cfg, 0)
    name = f"loop {algo} {env}" + (f" {seeds} seeds" if seeds > 1 else "")
    made = Case(name, "jax", run, "env step", units=seeds * count, times=1, compile_seconds=seconds)
    return made, f"{cfg.num_envs} environments, {updates(cfg, 1) / count:.4g} updates a step"


def of_loops(cases: Sequence[tuple[Any, str]], size: Size, turn: Turn) -> Iterator[Row]:
    """The rows of loops, with their notes: environment steps of all seeds per second, updates included."""
    turn()
    for case, note in cases:
        for row in of_cases([case], size, "float32", None):
            yield row | {"note": note}


def at_once(made: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    """What several functions return, in order; they compile side by side, for which a machine with a GPU has cores."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for found in [pool.submit(fn) for fn in made]:
            yield found.result()


PARTS: dict[str, tuple[Callable[[Size, Turn], Iterator[Row]], float]] = {
    "products": (products, 15.0),
    "golden": (golden, 0.0),
    "dreamer": (dreamer, 45.0),
    "tdmpc2": (tdmpc2, 20.0),
    "muzero": (muzero, 20.0),
    "mbpo": (mbpo, 30.0),
    "ppo": (ppo, 20.0),
    "search": (search, 30.0),
    "loops": (loops, 45.0),
}
"""Each part, in the order of the measurements, and the seconds kept free to measure it in."""

FLAGS = {"dreamer": "--xla_gpu_enable_triton_gemm=false"}
"""Options of XLA for a part: with Triton's products among the candidates, DreamerV3's steps compiled for over seven
minutes on six cores of an H200's machine; without, for two and a half."""


def one_part(name: str, size: Size, turn: Turn, emit: Callable[[Row], None]) -> None:
    """Runs a part in this process.

    Args:
      name: in `PARTS`.
      size: how large.
      turn: see `Turn`.
      emit: called with each row.
    """
    import jax

    device = jax.devices()[0]
    versions = {"platform": " ".join(device.client.platform_version.split()), "jax": jax.__version__}
    about = {"device": device.device_kind, **versions, "jaxlib": version("jaxlib")}
    emit({"part": name, "name": "", "platform_name": device.platform, **about})
    for row in PARTS[name][0](size, turn):
        emit({"part": name, **row, **about})


def as_child(name: str, size: Size) -> None:
    """Runs a part for `Suite`: rows go to the standard output, the turn is a line of rates on the standard input."""

    def emit(row: Row) -> None:
        print(json.dumps(row), flush=True)

    def turn() -> Peaks:
        emit({"ready": True})
        return json.loads(sys.stdin.readline())

    one_part(name, size, turn, emit)


class Child(NamedTuple):
    """The process of a part."""

    process: subprocess.Popen[str]
    errors: IO[str]
    reader: threading.Thread


class Suite:
    """The parts, each in a process: all compile side by side, then each is measured alone; within a budget.

    Args:
      out: the CSV.
      budget: seconds for all.
      tiny: whether at tiny sizes, on any device.
    """

    def __init__(self, out: Path, budget: float, tiny: bool):
        self.out, self.tiny = out, tiny
        self.end = time.monotonic() + budget
        self.rows: list[Row] = []
        self.peaks: Peaks = {}
        self.about: Row = {}
        self.failed = False
        self.children: dict[str, Child] = {}
        self.ready: list[str] = []
        self.measured = ""
        self.messages: queue.Queue[tuple[str, str | None]] = queue.Queue()

    @property
    def compiling(self) -> list[str]:
        """The parts that do not wait for their turn yet."""
        return [name for name in self.children if name not in (*self.ready, self.measured)]

    def take(self, row: Row) -> str:
        """Keeps a row; returns what is wrong with the device, "" if nothing."""
        if not row["name"]:
            self.about = {name: row[name] for name in ("device", "platform", "jax", "jaxlib")}
            if row["platform_name"] == "cpu" and not self.tiny:
                return f"jax {row['jax']} sees no GPU, only {row['device']}"
            return ""
        self.rows.append(row)
        if row["part"] == "products" and row.get("tflops"):
            best = self.peaks.get(row["precision"], 0.0)
            self.peaks[row["precision"]] = max(best, row["tflops"])
        self.failed |= str(row.get("note", "")).startswith("FAILED")
        write(self.out, self.rows)
        print(line(row), flush=True)
        return ""

    def leave(self, part: str, why: str, failed: bool = False) -> None:
        """Says that a part, or its rest, was left out."""
        word = "FAILED" if failed else "left out"
        self.take({"part": part, "name": part, "note": f"{word}: {why}", **self.about})

    def run(self, parts: Sequence[str]) -> str:
        """Runs parts, measured in this order; returns what is wrong with the device, "" if nothing."""
        try:
            for name in parts:
                self._start(name)
            while self.children:
                if not self.compiling and not self.measured:
                    self._measure(next(name for name in self.children if name in self.ready))
                spare = sum(PARTS[name][1] for name in self.ready) if self.compiling else 0.0
                try:
                    message = self.messages.get(timeout=max(0.0, self.end - spare - time.monotonic()))
                except queue.Empty:
                    self._out_of_time()
                    continue
                if wrong := self._heard(*message):
                    return wrong
        finally:
            for name in list(self.children):
                self._end(name)
        return ""

    def _start(self, name: str) -> None:
        words = [sys.executable, str(SCRIPTS / "benchmark.py"), "--suite", "gpu", "--part", name]
        path = os.pathsep.join(filter(None, [str(SCRIPTS.parent), os.environ.get("PYTHONPATH")]))
        # The parts share the device's memory while they compile.
        flags = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), FLAGS.get(name)]))
        given = {"PYTHONPATH": path} | ({"XLA_FLAGS": flags} if flags else {})
        env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | given
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with its process
        process = subprocess.Popen(
            [*words, *(["--tiny"] if self.tiny else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=env,
        )  # fmt: skip
        reader = threading.Thread(target=_read, args=(name, process.stdout, self.messages), daemon=True)
        reader.start()
        self.children[name] = Child(process, errors, reader)

    def _end(self, name: str) -> tuple[int, str]:
        """Ends a part's process; returns its exit code and its last words."""
        child = self.children.pop(name)
        self.ready = [other for other in self.ready if other != name]
        self.measured = "" if name == self.measured else self.measured
        child.process.kill()
        code = child.process.wait()
        child.reader.join()
        if child.process.stdin:
            child.process.stdin.close()
        with child.errors as errors:
            errors.seek(0)
            return code, last_words(errors.read()) or f"exit code {code}"

    def _measure(self, name: str) -> None:
        self.ready.remove(name)
        self.measured = name
        stdin = self.children[name].process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(self.peaks) + "\n")
            stdin.flush()
        except BrokenPipeError:
            return  # it has ended: its last message says how

    def _out_of_time(self) -> None:
        """Ends what is not compiled so late that the rest can still be measured, and all at the end."""
        late = self.compiling
        for name in late or list(self.children):
            why = "it was not compiled in time" if late else "the rest would have passed the budget"
            self._end(name)
            self.leave(name, why)

    def _heard(self, name: str, text: str | None) -> str:
        if name not in self.children:
            return ""
        if text is None:
            self.children[name].process.wait()
            code, told = self._end(name)
            if code and not self.about:
                return f"jax cannot use the device: {told}"
            if code:
                self.leave(name, told, failed=True)
        elif text.startswith('{"ready"'):
            self.ready.append(name)
        elif text.startswith("{"):
            return self.take(json.loads(text))
        return ""


def last_words(text: str) -> str:
    """The last line of a traceback, without what jax writes under it about its filtering.

    Args:
      text: what a process wrote to its standard error.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    notice = next((i for i, line in enumerate(lines) if "JAX_TRACEBACK_FILTERING" in line), len(lines))
    return next((line for line in reversed(lines[:notice]) if line.strip("- ")), "")


def _read(name: str, stream: IO[str], messages: queue.Queue[tuple[str, str | None]]) -> None:
    """Passes a part's lines on as they come, and None at their end."""
    with stream:
        for text in stream:
            messages.put((name, text))
    messages.put((name, None))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes all rows to a CSV.

    Args:
      path: of the file.
      rows: whose missing columns stay empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in rows:
            cells = [row.get(name) for name in COLUMNS]
            table.writerow([f"{v:.5g}" if isinstance(v, float) else "" if v is None else v for v in cells])


def line(row: Row) -> str:
    """A row for the terminal."""
    words = [f"{row['name']:<44}"]
    if row.get("best_ms") is not None:
        words += [f"{row['precision']:<16}", f"{row['best_ms']:10.4g} ms", f"{row['per_second']:10.4g} a second"]
    if row.get("tflops"):
        words.append(f"{row['tflops']:8.3g} TFLOP/s")
    if row.get("share"):
        words.append(f"{row['share']:.1%} of bare products")
    if row.get("time_ratio") and row.get("versus") != row["name"]:
        words.append(f"{row['time_ratio']:.3g} x {row['versus']}")
    return " ".join([*words, row.get("note") or ""]).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this suite; exit code 1 where numbers differ or a part fails, 2 without a usable device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("gpu",), help="this one")
    parser.add_argument("--out", type=Path, default=Path("results/gpu.csv"), help="CSV to write")
    parser.add_argument("--budget", type=float, default=570.0, metavar="S", help="seconds for all parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help="which parts")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on any device: shows that it runs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.part:
        as_child(given.part, TINY if given.tiny else Size())
        return 0
    if importlib.util.find_spec("jax") is None:
        parser.error("jax is not installed")
    suite, began = Suite(given.out, given.budget, given.tiny), time.monotonic()
    needed = "products"  # the rate that the other parts are compared with
    if wrong := suite.run(list(dict.fromkeys([needed, *given.parts]))):
        hint = 'pip install "mbrl_jax[cuda]", a driver for its CUDA (nvidia-smi), or --tiny to try it on a CPU'
        print(f"{wrong}; what helps: {hint}", file=sys.stderr)
        return 2
    print(f"wrote {given.out} after {time.monotonic() - began:.0f} s" + (", with failures" if suite.failed else ""))
    return int(suite.failed)
