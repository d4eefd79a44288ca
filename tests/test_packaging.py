"""A wheel, installed in an empty folder away from the checkout, trains, plots and loads."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mbrl_jax

ROOT = Path(__file__).parent.parent

TRAIN = (
    "train q_learning --env FrozenLake --steps 4 --out run --loop.inner 2 --loop.cycles 1 --loop.eval-episodes 1"
    " --devices 1 --quiet"
)
LOAD = """
import mbrl_jax as mbrl
loaded = mbrl.load("run")
print(mbrl.__file__, loaded.algo, loaded.chunk, loaded.state.learner.q.shape)
"""


def _major(library: str) -> int:
    try:
        return int(importlib.metadata.version(library).split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def copy_sources(folder: Path) -> None:
    for name in ("mbrl_jax", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff",
                 "CONTRIBUTING.md", "constraints.txt"):  # fmt: skip
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy_sources(source)
    how = ["--no-build-isolation"] if _major("setuptools") >= 77 else []  # else pip brings one for the build
    words = ["wheel", "--no-deps", *how, "--wheel-dir", str(out), str(source), "--quiet"]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = ["install", "--no-deps", "--no-index", "--target", str(out), str(wheel), "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)
    return out


def test_the_wheel_holds_types_stubs_version_and_entry_point(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        said, entry = archive.read(metadata).decode(), archive.read(points).decode()
    assert f"\nVersion: {mbrl_jax.__version__}\n" in said
    assert "mbrl-jax = mbrl_jax.cli:main" in entry
    assert "mbrl_jax/py.typed" in names
    package = ROOT / "mbrl_jax"
    for path in (*package.rglob("*.pyi"), *package.rglob("*.py"), *package.rglob("*.jinja"), *package.rglob("*.csv")):
        assert str(path.relative_to(ROOT)) in names
    assert not any(name.startswith(("tests", "scripts", "results")) for name in names)


def test_installed_elsewhere_it_trains_plots_and_loads(site, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def ran(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    console = "import sys; from mbrl_jax.cli import main; sys.exit(main(sys.argv[1:]))"  # as the script of the wheel
    assert ran("-c", console, "--version").split() == ["mbrl-jax", mbrl_jax.__version__]
    assert ran("-m", "mbrl_jax", "--version").split() == ["mbrl-jax", mbrl_jax.__version__]
    ran("-c", console, *TRAIN.split())
    assert "median" in ran("-c", console, "plot", "curves", "run", "--out", "a.png", "--threshold", "0.5")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    where, *rest = ran("-c", LOAD).split(maxsplit=1)
    assert Path(where).is_relative_to(site)
    assert rest == ["q_learning 2 (16, 4)\n"]
    if (script := site / "bin" / "mbrl-jax").exists():
        said = subprocess.run([str(script), "--help"], env=env, capture_output=True, text=True, cwd=tmp_path)
        assert "train an agent" in said.stdout


@pytest.mark.skipif(_major("setuptools") < 77, reason="setuptools is older than the build needs")
def test_the_source_distribution_holds_what_a_wheel_is_built_from(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    copy_sources(source)
    build = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(source / "dist" / done.stdout.split()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    package = ROOT / "mbrl_jax"
    kinds = ("*.py", "*.pyi", "*.jinja", "*.csv", "py.typed")
    assert {str(path.relative_to(ROOT)) for kind in kinds for path in package.rglob(kind)} <= names
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml"} <= names
    assert not any(name.startswith(("tests", "results")) for name in names)


ACT = """
import numpy as np
import mbrl_jax as mbrl

run = mbrl.load("runs/mbpo-Pendulum-v1-0")
action, carry = run.policy([1.0, 0.0, 0.0])
action, carry = run.policy([1.0, 0.0, 0.0], carry)
assert action.shape == (1,) and isinstance(action, np.ndarray) and abs(action[0]) <= 1
print(mbrl.__file__)
"""
PLAN = """
import jax
import mbrl_jax as mbrl
from mbrl_jax.planners import CEM, cem

run = mbrl.load("runs/mbpo-Pendulum-v1-0")
planner = cem(CEM(horizon=5, population=32, elites=4, iterations=2, particles=5), run.env.spec)
start = run.encode([1.0, 0.0, 0.0])
plan = jax.jit(lambda key, at: planner.plan(key, run.model, at, planner.init()))
action, _, info = plan(jax.random.key(0), start)
assert action.shape == (1,) and abs(action[0]) <= 1
"""


@pytest.mark.slow
def test_a_stranger_trains_evaluates_acts_plans_and_reports(wheel, tmp_path):
    """Only the wheel, an empty environment and the versions of `constraints.txt`: nothing of the checkout."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs, folder = tmp_path / "venv" / "bin", tmp_path / "work"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG") or "PIP" in name}
    env = {**kept, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def ran(program: str, *words: str) -> str:
        done = subprocess.run([programs / program, *words], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ran("pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheel}[report,export]")
    ran("mbrl-jax", "train", "mbpo", "--env", "Pendulum-v1", "--steps", "600", "--quiet")
    said = ran("mbrl-jax", "evaluate", "runs/mbpo-Pendulum-v1-0", "--episodes", "5", "--video", "film.gif")
    assert "mean return" in said
    assert (folder / "film.gif").read_bytes().startswith(b"GIF89a")
    assert Path(ran("python", "-c", ACT).strip()).is_relative_to(tmp_path / "venv")
    ran("python", "-c", PLAN)
    ran("mbrl-jax", "report", "runs/mbpo-Pendulum-v1-0")
    page = (folder / "report.html").read_text()
    assert "Imagination against truth" in page
    assert "Calibration" in page
    ran("mbrl-jax", "export", "runs/mbpo-Pendulum-v1-0", "policy.stablehlo")
    assert (folder / "policy.stablehlo").stat().st_size > 1000
