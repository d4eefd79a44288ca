"""Times the steps of training, against the machine's own rate of matrix products and against torch.

    python scripts/benchmark.py --out results/benchmark.csv [--quick] [--rows NAME ...]

The cases of a group are timed alternately, in rounds. A time is that of the best round, beside the median of all
rounds; a rate counts the operations of matrix products alone (`mbrl_jax.analysis.flops`); the fraction is that rate
divided by the rate of bare products of the step's main shape, in the same library and the same rounds. Torch is
optional: `pip install "mbrl_jax[benchmark]"`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import dreamer as benchmark_dreamer
from benchmarks import steps as cases
from benchmarks import tdmpc2 as benchmark_tdmpc
from benchmarks import tree_search as benchmark_search
from benchmarks.timing import Case, Row, measure
from mbrl_jax.analysis import flops
from mbrl_jax.models.dynamics.fit import FitConfig
from mbrl_jax.models.dynamics.gaussian import GaussianConfig
from mbrl_jax.planners.mpc.cem import CEM

TORCH = importlib.util.find_spec("torch") is not None


class Size(NamedTuple):
    """The sizes of everything that is timed, and for how long."""

    squares: tuple[int, ...] = (256, 1024)
    width: int = 256  # of SAC's two hidden layers
    batch: int = 256
    rows: int = 10_000  # in the buffer
    members: int = 7
    elites: int = 5
    model: tuple[int, ...] = (200, 200, 200, 200)
    rollouts: int = 10_000  # branched at once
    plan_members: int = 5
    plans: tuple[tuple[int, int, int, int], ...] = ((500, 15, 5, 20), (100, 15, 3, 5))
    """Candidates, horizon, iterations and particles per candidate of plans."""
    search: tuple[tuple[int, ...], ...] = ((1, 32, 256), (16, 50, 200), (4, 18))
    """Batches, simulations and actions of tree searches."""
    dreamer: tuple[str, int, int, int] = ("1m", 16, 64, 15)
    """Size, windows, their length and imagined steps of DreamerV3."""
    tdmpc: tuple[str, int] = ("1m", 256)  # size and batch of TD-MPC2
    seeds: tuple[int, ...] = (1, 4, 16)
    waves: tuple[int, ...] = (1, 4, 16)
    many: tuple[tuple[int, int], ...] = ((256, 256), (64, 64))  # widths and batches of the many seeds
    loop: tuple[tuple[str, int], ...] = ()  # changes to the presets' loops
    rounds: int = 7
    long_rounds: int = 2  # of whole chunks
    seconds: float = 0.3  # of one round


QUICK = Size(
    squares=(64,),
    width=32,
    batch=32,
    rows=512,
    members=3,
    elites=2,
    model=(20, 20),
    rollouts=500,
    plan_members=2,
    plans=((20, 3, 2, 4),),
    search=((4,), (4,), (3,)),
    dreamer=("nano", 2, 4, 2),
    tdmpc=("nano", 8),
    seeds=(1, 2),
    waves=(1, 2),
    many=((16, 16),),
    loop=(("inner", 2), ("cycles", 1), ("updates", 2), ("warmup", 20), ("eval_episodes", 1)),
    rounds=2,
    long_rounds=1,
    seconds=0.005,
)


def matmul(size: Size) -> Iterable[Case]:
    """The machine's own rate of matrix products."""
    for n in size.squares:
        yield from _products(f"matmul_{n}", (n, n), (n, n))


def sac(size: Size) -> Iterable[Case]:
    """One update of soft actor-critic."""
    shape = f"matmul_{size.batch}x{size.width}"
    yield from _products(shape, (size.batch, size.width), (size.width, size.width))
    yield cases.sac_update("sac_update", size.width, size.batch, size.rows, matrix=shape)
    if TORCH:
        from benchmarks import torch_steps as benchmark_torch

        rows, hidden = benchmark_torch.tensors(*_rows(size.rows)), (size.width, size.width)
        count = flops.sac_update(3, 1, hidden, size.batch)
        for stacked, name in ((True, "sac_update_torch_stacked"), (False, "sac_update_torch_modules")):
            run = benchmark_torch.sac(rows, hidden, size.batch, stacked)
            yield Case(name, "torch", run, "update", count, f"{shape}_torch", "sac_update")


def ensemble(size: Size) -> Iterable[Case]:
    """One gradient step of the ensemble."""
    width = size.model[1]
    shape = f"matmul_{size.members}x{size.batch}x{width}"
    yield from _products(shape, (size.members, size.batch, width), (size.members, width, width))
    fit, model = FitConfig(members=size.members, elites=1, batch=size.batch), GaussianConfig(hidden=size.model)
    yield cases.ensemble_step("ensemble_step", fit, model, size.rows, matrix=shape)
    if TORCH:
        from benchmarks import torch_steps as benchmark_torch

        rows = benchmark_torch.tensors(*_rows(size.rows))
        run = benchmark_torch.ensemble(rows, size.model, size.members, size.batch)
        count = flops.ensemble_step((4, *size.model, 8), size.batch, size.members)
        yield Case("ensemble_step_torch", "torch", run, "step", count, f"{shape}_torch", "ensemble_step")


def rollout(size: Size) -> Iterable[Case]:
    """One step of the branched rollouts."""
    width, batch = size.model[1], size.rollouts // size.elites
    shape = f"matmul_{size.elites}x{batch}x{width}"
    yield cases.products(shape, (size.elites, batch, width), (size.elites, width, width))
    model = GaussianConfig(hidden=size.model)
    yield cases.rollout_step("rollout_step", size.rollouts, size.elites, size.width, model, matrix=shape)


def plan(size: Size) -> Iterable[Case]:
    """Plans of the cross-entropy method with an ensemble, each particle in one member (TS-infinity)."""
    members, width, model = size.plan_members, size.model[1], GaussianConfig(hidden=size.model)
    for candidates, horizon, iterations, particles in size.plans:
        batch = candidates * particles // members
        shape = f"matmul_{members}x{batch}x{width}"
        yield cases.products(shape, (members, batch, width), (members, width, width))
        cfg = CEM(
            population=candidates, elites=candidates // 10, horizon=horizon, iterations=iterations, particles=particles
        )
        name = f"cem_plan_{candidates}x{horizon}x{iterations}x{particles}"
        yield cases.cem_plan(name, cfg, members, model, matrix=shape)


def search(size: Size) -> Iterable[Case]:
    """Tree searches in a latent model, beside mctx where it is installed; one plan of one root."""
    batches, simulations, actions = size.search
    for group in benchmark_search.search(batches, simulations, actions):
        yield from group


def loop(size: Size) -> Iterable[Case]:
    """The training loops of the presets on Pendulum."""
    width = 64  # of the presets
    yield cases.products("matmul_256x64", (256, width), (width, width))
    small = {"fit.max_epochs": 2, "rollouts": size.rollouts} if size.loop else {}
    yield cases.env_step("mbpo_env_step", "mbpo", small, dict(size.loop), matrix="matmul_256x64")
    yield cases.env_step("sac_env_step", "sac", {}, dict(size.loop), matrix="matmul_256x64")


def seeds(size: Size) -> Iterable[Case]:
    """Updates of soft actor-critic for many seeds, in waves."""
    for width, batch in size.many:
        shape = f"matmul_{batch}x{width}"
        yield cases.products(shape, (batch, width), (width, width))
        yield from cases.seeds(width, batch, size.rows, size.seeds, size.waves, shape)


def dreamer(size: Size) -> Iterable[Case]:
    """One gradient step of DreamerV3 (model, imagined rollouts, actor and critic), and one loop iteration with it."""
    yield from benchmark_dreamer.rows(*size.dreamer)


def tdmpc(size: Size) -> Iterable[Case]:
    """One plan and one update of TD-MPC2."""
    yield from benchmark_tdmpc.rows(*size.tdmpc)


GROUPS: dict[str, Callable[[Size], Iterable[Case]]] = {
    "matmul": matmul,
    "sac": sac,
    "ensemble": ensemble,
    "rollout": rollout,
    "plan": plan,
    "search": search,
    "dreamer": dreamer,
    "tdmpc": tdmpc,
    "loop": loop,
    "seeds": seeds,
}


def _products(name: str, left: tuple[int, ...], right: tuple[int, ...]) -> Iterable[Case]:
    """Bare products of one shape, in both libraries."""
    made = cases.products(name, left, right)
    yield made
    if TORCH:
        from benchmarks import torch_steps as benchmark_torch

        run = benchmark_torch.products(left, right)
        yield Case(f"{name}_torch", "torch", run, "product", made.flops, versus=name)


def _rows(count: int) -> list[np.ndarray]:
    data = cases.filled(count)[1].rows
    return [np.array(column) for column in (data.obs, data.action, data.reward, data.discount, data.next_obs)]


def table(rows: list[Row], title: str) -> Table:
    """The rows as a table for the terminal."""
    out = Table(title=title)
    out.add_column("row", no_wrap=True)
    for name in ("best us", "median us", "per s", "MFLOP", "GFLOP/s", "matrix", "share", "compile s", "time over"):
        out.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ratio = f"{row.time_ratio:.2f} x {row.versus}" if row.time_ratio and row.versus != row.name else ""
        values = (row.best_us, row.median_us, row.per_second, row.mflop, row.gflops, row.matrix_gflops)
        share = f"{row.fraction:.0%}" if row.fraction else ""
        seconds = f"{row.compile_seconds:.1f}" if row.compile_seconds else ""
        out.add_row(row.name, *(f"{v:,.1f}" if v else "" for v in values), share, seconds, ratio)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmark.csv"), help="CSV to write")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME", help="which groups")
    options = parser.parse_args(argv)
    size = QUICK if options.quick else Size()
    with contextlib.suppress(RuntimeError):  # the devices of this process are settled already
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    console = Console(width=160)
    if TORCH:
        from benchmarks import torch_steps as benchmark_torch

        console.print(f"torch {benchmark_torch.torch.__version__} on {benchmark_torch.use_all_cores()} threads")
    else:
        console.print("torch is not installed: its rows are left out (pip install torch)")

    rows: list[Row] = []
    for group in options.rows:
        built = list(GROUPS[group](size))
        done = measure(built, size.long_rounds if group == "loop" else size.rounds, size.seconds)
        console.print(table(done, f"{group}: {GROUPS[group].__doc__}"))
        rows += done
        _write(options.out, rows)
    console.print(f"wrote {options.out}")
    return 0


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in row])
