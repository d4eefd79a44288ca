"""The suite for a GPU runs at tiny sizes here, and says what it leaves out; the kept numbers are compared with care."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks import golden, gpu, tree_search

ROOT = Path(__file__).parents[2]


def rows_of(part: str, size: gpu.Size = gpu.TINY, peaks: dict[str, float] | None = None) -> list[dict]:
    found: list[dict] = []
    gpu.one_part(part, size, lambda: peaks or {}, found.append)
    json.dumps(found)  # as they pass from one process to the other
    assert found[0]["name"] == ""
    return found[1:]


def test_products_give_a_rate_and_their_error():
    rows = rows_of("products")
    assert [row["name"] for row in rows] == [
        f"product 64 {kind}" for kind in ("bfloat16", "float32", "float32 highest")
    ]
    for row in rows:
        assert row["gflop"] == pytest.approx(2 * 64**3 / 1e9)
        assert row["tflops"] == pytest.approx(row["gflop"] / row["best_ms"])
        assert row["note"].startswith("relative error")
        assert row["jax"]


def test_random_bits_and_a_table_agree_with_the_kept_numbers():
    rows = rows_of("golden")
    assert [row["name"] for row in rows] == ["golden random", "golden dyna_q"]
    assert not any(row["note"].startswith("FAILED") for row in rows)
    assert "equal bits" in rows[0]["note"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", golden.AGENTS)
def test_numbers_of_each_agent_agree_with_the_kept_ones(algo):
    verdict = golden.checked(algo)
    assert verdict.agrees, golden.described(algo, verdict)
    assert verdict.total > 5


def test_comparison_finds_what_differs():
    kept = {"a": 1.0, "b": 0.0, "c": -2.0}
    near = {"a": 1.0 + 5e-4, "b": 1e-5, "c": -2.0}
    assert golden.compared(near, kept).agrees
    assert golden.compared(near, kept).largest == pytest.approx(5e-4 / 5.2e-4)
    for wrong in ({"a": 1.0006}, {"b": 3e-5}, {"c": 2.0}, {"a": math.nan}, {"a": math.inf}):
        verdict = golden.compared(near | wrong, kept)
        assert not verdict.agrees
        assert verdict.where == next(iter(wrong))
    assert not golden.compared({"a": 1.0, "b": 0.0}, kept).agrees
    assert golden.compared({"a": 1.0, "b": 0.0}, kept).missing == ("c",)
    assert not golden.compared({}, {}).agrees
    assert not golden.compared({"a": 1.0 + 1e-6}, {"a": 1.0}, exact=True).agrees
    assert golden.compared(kept, kept, exact=True).agrees


def test_share_is_of_the_peak_of_the_same_precision():
    from benchmarks.timing import Case

    case = Case("x", "jax", lambda n: None, "step", flops=3e9, times=1)
    (row,) = gpu.of_cases([case], gpu.TINY, "bfloat16", 50.0)
    assert row["gflop"] == 3.0
    assert row["share"] == pytest.approx(row["tflops"] / 50.0)
    (row,) = gpu.of_cases([case], gpu.TINY, "bfloat16", None)
    assert row["share"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("dreamer", [("dreamer_v3 nano step", "float32"), ("dreamer_v3 nano step", "bfloat16")]),
        ("tdmpc2", [("tdmpc2_nano_plan", "float32"), ("tdmpc2_nano_update", "float32")]),
        ("muzero", [(f"muzero {kind} 3 actions 4 simulations 8 roots", "float32") for kind in ("gumbel", "puct")]),
        ("mbpo", [("loop mbpo Pendulum-v1 2 seeds", "float32")]),
        ("ppo", [("loop ppo CartPole-v1", "float32")]),
        ("loops", [("loop dqn CartPole-v1", "float32")]),
    ],
)
def test_each_part_gives_its_rows(part, expected):
    rows = rows_of(part, peaks={"float32": 10.0, "bfloat16": 20.0})
    assert [(row["name"], row["precision"]) for row in rows] == expected
    for row in rows:
        assert row["best_ms"] > 0
        assert row["median_ms"] >= row["best_ms"]
        assert row["compile_s"] > 0
        if part in ("dreamer", "tdmpc2", "muzero"):
            assert row["peak_tflops"] == {"float32": 10.0, "bfloat16": 20.0}[row["precision"]]
            assert row["share"] == pytest.approx(row["tflops"] / row["peak_tflops"])


def test_search_without_mctx_says_so(monkeypatch):
    monkeypatch.setattr(tree_search, "MCTX", False)
    monkeypatch.setattr(tree_search, "search", lambda *sizes: iter(()))
    (row,) = rows_of("search")
    assert row["note"].startswith("left out: mctx is not installed")


def test_what_is_not_compiled_in_time_is_left_out_and_the_csv_says_so(tmp_path):
    suite = gpu.Suite(tmp_path / "new" / "gpu.csv", 0.05, tiny=True)
    suite.about = {"device": "cpu", "platform": "cpu", "jax": "1", "jaxlib": "1"}
    assert suite.run(["dreamer", "ppo"]) == ""
    with (tmp_path / "new" / "gpu.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["dreamer", "ppo"]
    assert {row["note"] for row in rows} == {"left out: it was not compiled in time"}
    assert not suite.failed
    assert not suite.children


CHILD = r"""
import json, sys, time
name = sys.argv[sys.argv.index("--part") + 1]
def emit(**row):
    print(json.dumps({"part": name, **row}), flush=True)
emit(name="", platform_name="cpu", device="d", platform="p", jax="1", jaxlib="1")
if name == "golden":
    time.sleep(1.0)
    sys.exit("boom\n--------------------\nFor simplicity: set JAX_TRACEBACK_FILTERING=off")
print(json.dumps({"ready": True}), flush=True)
peaks = json.loads(sys.stdin.readline())
if name == "mbpo":
    time.sleep(60.0)
emit(name="a", precision="float32", tflops=3.0, best_ms=1.0, per_second=1.0, note=json.dumps(peaks))
emit(name="b", precision="float32", note=str(time.monotonic()))
"""


def test_parts_are_measured_one_by_one_after_all_have_compiled(tmp_path, monkeypatch):
    (tmp_path / "benchmark.py").write_text(CHILD)
    monkeypatch.setattr(gpu, "SCRIPTS", tmp_path)
    monkeypatch.setattr(gpu, "PARTS", {name: (fn, 0.1) for name, (fn, _) in gpu.PARTS.items()})
    suite, began = gpu.Suite(tmp_path / "gpu.csv", 8.0, tiny=True), time.monotonic()
    assert suite.run(["products", "golden", "ppo", "mbpo", "search"]) == ""
    rows = {(row["part"], row["name"]): row["note"] for row in suite.rows}
    assert list(rows) == [
        ("golden", "golden"), ("products", "a"), ("products", "b"), ("ppo", "a"), ("ppo", "b"), ("mbpo", "mbpo"),
        ("search", "search"),
    ]  # fmt: skip
    assert rows["golden", "golden"] == "FAILED: boom"
    assert suite.failed
    assert rows["products", "a"] == "{}"
    assert rows["ppo", "a"] == '{"float32": 3.0}'
    assert began + 1.0 < float(rows["products", "b"]) < float(rows["ppo", "b"])
    assert rows["mbpo", "mbpo"] == rows["search", "search"] == "left out: the rest would have passed the budget"


def test_the_last_words_of_a_traceback_are_its_error():
    notice = "--------------------\nFor simplicity, JAX has removed frames. Set JAX_TRACEBACK_FILTERING=off to see\n"
    assert gpu.last_words(f"Traceback:\n  File x\nValueError: a\n{notice}") == "ValueError: a"
    assert gpu.last_words("ValueError: b\n\n") == "ValueError: b"
    assert gpu.last_words("\n") == ""


def test_a_device_that_is_no_gpu_is_named(tmp_path):
    suite = gpu.Suite(tmp_path / "gpu.csv", 100.0, tiny=False)
    head = {"part": "products", "name": "", "platform_name": "cpu", "device": "cpu", "platform": "x", "jax": "9"}
    assert suite.take({**head, "jaxlib": "9"}) == "jax 9 sees no GPU, only cpu"
    assert suite.take({**head, "jaxlib": "9", "platform_name": "gpu", "device": "H"}) == ""


@pytest.mark.slow
def test_whole_suite_as_a_command(tmp_path):
    words = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--suite", "gpu", "--out", str(tmp_path / "a.csv")]
    refused = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2
    assert refused.stderr.strip().startswith("jax ")
    assert len(refused.stderr.strip().splitlines()) == 1
    done = subprocess.run([*words, "--tiny"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr + done.stdout
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == set(gpu.PARTS)
    assert not any(row["note"].startswith(("FAILED", "left out: it was", "left out: the rest")) for row in rows)
    assert [float(row["share"]) for row in rows if row["name"] == "dreamer_v3 nano step"]
