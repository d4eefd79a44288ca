"""What the benchmarks of products, memory and starts multiply, count and add up; no test depends on a time."""

from __future__ import annotations

import argparse
import csv
import time

import numpy as np
import pytest
from benchmarks import compiling, memory, products
from benchmarks.timing import emit


@pytest.mark.parametrize("form", products.FORMS, ids=lambda form: form.name)
def test_each_form_is_the_same_product(form):
    product = products.Product(3, 4, 5, 6, "")
    x, w = products.operands(product, form)
    plain_x, plain_w = products.operands(product, products.FORMS[0])
    exact = np.matmul(np.asarray(plain_x, np.float64), np.asarray(plain_w, np.float64))
    got = np.asarray(form.multiply(x, w))
    if got.shape != exact.shape or form.name == "both, result [n, m]":
        got = np.transpose(got, {"groups within rows": (1, 0, 2), "both, result [n, m]": (0, 2, 1)}[form.name])
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
    dx, dw = products.backward(form.multiply)(x, w)
    assert (dx.shape, dw.shape) == (x.shape, w.shape)


def test_work_is_repeated_in_a_loop_that_keeps_its_product():
    product = products.Product(2, 3, 4, 4, "")
    x, w = products.operands(product, products.FORMS[0])
    run = products.repeated(products.forward(products.FORMS[0].multiply), x, w)
    np.testing.assert_allclose(run(3), x @ w, rtol=1e-5)
    assert not np.any(run(0))


def test_least_of_rounds_in_turns(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    takes = {"a": iter([1, 3, 5.0, 2.0]), "b": iter([1, 3, 1.0, 4.0])}

    def work(name: str, n: int) -> None:
        calls.append((name, n))
        clock[0] += next(takes[name])

    runs = {name: lambda n, name=name: work(name, n) for name in takes}
    assert products.least(runs, 2, 2.0) == {"a": 1.0, "b": 0.5}
    assert calls == [("a", 1), ("a", 3), ("b", 1), ("b", 3), ("a", 2), ("b", 2), ("a", 2), ("b", 2)]


def test_forms_are_compared_with_the_fastest(monkeypatch):
    some = {"one": products.Product(1, 4, 4, 4, ""), "two": products.Product(2, 4, 4, 4, "")}
    monkeypatch.setattr(products, "PRODUCTS", some)
    monkeypatch.setattr(products, "repeated", lambda fn, x, w: None)
    monkeypatch.setattr(products, "least", lambda runs, *how: {name: 1e-6 * (i + 1) for i, name in enumerate(runs)})
    given = argparse.Namespace(products=["one", "two"], rounds=1, seconds=1.0)
    rows = list(products.of_forms(given))
    assert len(rows) == 2 * (len(products.FORMS) - len(products.ALONE)) + 2 * len(products.FORMS)
    assert [row["share"] for row in rows[:3]] == [1.0, 0.5, 0.333]
    assert next(row["gflops"] for row in rows if row["product"] == "two") == pytest.approx(0.3)  # 2 x 2 x 64 in 1 us
    assert {row["way"] for row in rows} == {"forward", "backward"}


def test_memory_of_a_table():
    (row,) = memory.rows("q_learning", argparse.Namespace(seeds=2))
    assert row["algo"] == "q_learning"
    assert row["learner"] > 0
    assert row["arguments"] >= 2 * (row["learner"] + row["replay"] + row["environments"])
    assert row["peak"] >= row["arguments"] + row["temporary"]
    assert row["aliased"] > 0


@pytest.mark.slow
def test_parts_of_a_start_add_up(tmp_path):
    rows = list(compiling.rows("q_learning:FrozenLake"))
    assert [row["cache"] for row in rows] == ["cold", "warm"]
    for row in rows:
        parts = [row[name] for name in ("import_s", "trace_s", "lower_s", "compile_s", "first_s")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["cpu_s"], abs=0.05)
        assert row["wall_s"] > 0
    assert rows[1]["compile_s"] < rows[0]["compile_s"]
    with pytest.raises(ValueError, match=r"q_learning made no update: .*env must be"):
        compiling.run("q_learning", "Nowhere", tmp_path)


def test_what_cannot_be_asked_for_is_refused(capsys):
    with pytest.raises(SystemExit):
        compiling.main(["--runs", "sacc"])
    assert "--runs must be of" in capsys.readouterr().err
    for main, words in ((memory.main, ["--seeds", "0"]), (products.main, ["--rounds", "x"])):
        with pytest.raises(SystemExit):
            main(words)
        assert "must be a whole number of at least 1, got" in capsys.readouterr().err


def test_rows_are_added_to_a_table(tmp_path):
    file = tmp_path / "a.csv"
    emit([{"a": 1, "b": 2}], file)
    emit([{"a": 3, "b": 4}], str(file))
    emit([{"a": 5, "b": 6}], "")
    with file.open() as opened:
        assert list(csv.DictReader(opened)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
