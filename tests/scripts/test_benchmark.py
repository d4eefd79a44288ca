"""The benchmark runs at tiny sizes, and its counts equal hand-computed ones; no test depends on a time."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    module = importlib.import_module("benchmarks.suite")
    monkeypatch.setattr(module, "TORCH", False)
    yield module
    for name in ("benchmarks.suite", "benchmarks.steps", "benchmarks.timing"):
        sys.modules.pop(name, None)


def test_rows_and_counts(benchmark, tmp_path, capsys):
    out = tmp_path / "new" / "benchmark.csv"
    assert benchmark.main(["--quick", "--out", str(out), "--rows", "matmul", "sac", "ensemble", "rollout", "plan"]) == 0
    assert "torch is not installed" in capsys.readouterr().out
    with out.open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    # Multiplications and additions of the tiny sizes: 2 x 32 networks on 32 rows; 3 members of 2 x 20; 500 rollouts;
    # plans of 20 candidates, 3 steps, 2 iterations and 4 particles, half of them in each of 2 members.
    hidden, thin = 16 * 32 * 32, (9 + 8) * 32 + 2 * (17 + 6) * 32
    model = 4 * 20 + 20 * 20 + 20 * 8
    counts = {
        "matmul_64": 2 * 64**3,
        "matmul_32x32": 2 * 32**3,
        "sac_update": 2 * 32 * (hidden + thin),
        "matmul_3x32x20": 3 * 2 * 32 * 20 * 20,
        "ensemble_step": 3 * 2 * 32 * (3 * model - 4 * 20),
        "matmul_2x250x20": 2 * 2 * 250 * 20 * 20,
        "rollout_step": 2 * 500 * (3 * 32 + 32 * 32 + 32 * 2 + model),
        "matmul_2x40x20": 2 * 2 * 40 * 20 * 20,
        "cem_plan_20x3x2x4": 2 * 20 * 3 * 2 * 4 * model,
    }
    assert set(rows) == set(counts)
    for name, count in counts.items():
        assert float(rows[name]["mflop"]) == pytest.approx(count / 1e6, rel=1e-5), name
        rate = count / float(rows[name]["best_us"]) / 1e3
        assert float(rows[name]["gflops"]) == pytest.approx(rate, rel=1e-3), name
        assert float(rows[name]["median_us"]) >= float(rows[name]["best_us"]), name
        assert float(rows[name]["compile_seconds"]) > 0, name
    for step, matrix in (
        ("sac_update", "matmul_32x32"), ("ensemble_step", "matmul_3x32x20"), ("cem_plan_20x3x2x4", "matmul_2x40x20"),
    ):  # fmt: skip
        share = float(rows[step]["gflops"]) / float(rows[matrix]["gflops"])
        assert float(rows[step]["fraction"]) == pytest.approx(share, rel=1e-3)


def test_rounds_alternate_after_one_untimed(benchmark):
    timing = importlib.import_module("benchmarks.timing")
    calls = []
    cases = [
        timing.Case("a", "jax", lambda n: calls.append(("a", n)), "unit", flops=10.0, times=2),
        timing.Case(
            "b", "jax", lambda n: calls.append(("b", n)) or 60.0, "unit", units=3, times=1, matrix="a", versus="a"
        ),
    ]
    a, b = timing.measure(cases, rounds=2, seconds=0.0)
    assert calls == [("a", 2), ("b", 1)] * 3
    assert (a.mflop, b.mflop) == (10e-6, 20e-6)  # 60 operations in 3 units
    assert b.fraction == pytest.approx((20 / b.best_us) / (10 / a.best_us))
    assert b.time_ratio == pytest.approx(b.best_us / a.best_us)
    assert (a.fraction, a.time_ratio) == (None, None)
