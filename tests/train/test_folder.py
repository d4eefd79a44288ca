"""One writer, whole files, and nothing touched outside a run's folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mbrl_jax.train.folder import claimed, new_folder, remove_real, write_real

HOLD = """
import sys
from mbrl_jax.train.folder import claimed
with claimed(sys.argv[1]):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_by_name_until_the_first_is_gone(tmp_path):
    out = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], text=True, **pipes) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match=rf"run is in use by process {first.pid} on host "), claimed(out):
            pass
        first.kill()
        first.wait()
    with claimed(out) as folder:  # death released it
        assert folder == out
        with pytest.raises(ValueError, match="in use"), claimed(out):
            pass
    with claimed(out):
        pass


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file must be a folder"), claimed(tmp_path / "file"):
        pass


def test_new_folders_are_never_shared(tmp_path):
    base = tmp_path / "runs" / "sac-X-0"
    assert [new_folder(base).name for _ in range(3)] == ["sac-X-0", "sac-X-0-2", "sac-X-0-3"]


def test_a_link_beside_a_file_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".metrics.csv.tmp").symlink_to(precious)
    (run / "metrics.csv").symlink_to(precious)
    write_real(run / "metrics.csv", b"rows")
    assert precious.read_text() == "keep"
    assert not (run / "metrics.csv").is_symlink()
    assert (run / "metrics.csv").read_text() == "rows"
    assert sorted(path.name for path in run.iterdir()) == ["metrics.csv"]


def test_a_file_that_cannot_be_written_is_named_and_stays(tmp_path):
    folder = tmp_path / "metrics.csv"
    folder.mkdir()
    (folder / "x").write_text("")
    with pytest.raises(OSError, match=r"metrics\.csv"):
        write_real(folder, b"rows")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_only_real_folders_within_are_removed(tmp_path):
    outside, within = tmp_path / "outside", tmp_path / "checkpoints"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    within.mkdir()
    (within / "1").symlink_to(outside)
    with pytest.raises(ValueError, match="real folder"):
        remove_real(within / "1", within)
    with pytest.raises(ValueError, match="real folder"):
        remove_real(outside, within)
    assert (outside / "precious").read_text() == "keep"
    (within / "2").mkdir()
    remove_real(within / "2", within)
    assert not (within / "2").exists()
