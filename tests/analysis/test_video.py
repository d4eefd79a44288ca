"""Films: what was written is what is read."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from mbrl_jax.analysis.video import write_film, write_gif


def frames(count=5):
    out = np.zeros((count, 8, 12, 3), np.uint8)
    for t in range(count):
        out[t, 2, t] = (255, 10 * t, 0)
    return out


def test_a_film_has_all_frames_their_pixels_and_their_time(tmp_path):
    path = tmp_path / "film.gif"
    write_gif(path, frames(), fps=20)
    with Image.open(path) as film:
        assert (film.n_frames, film.size, film.info["duration"], film.info["loop"]) == (5, (12, 8), 50, 0)
        for t in range(5):
            film.seek(t)
            np.testing.assert_array_equal(np.asarray(film.convert("RGB")), frames()[t])


def test_equal_frames_become_a_longer_one(tmp_path):
    write_gif(tmp_path / "film.gif", [frames()[0]] * 3 + [frames()[1]], fps=10)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.info["duration"]) == (2, 300)


def test_an_mp4_has_all_frames_and_an_even_size(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    path = tmp_path / "film.mp4"
    made = np.zeros((4, 33, 47, 3), np.uint8)
    for t in range(4):
        made[t, :, : 12 * t] = 255
    write_film(path, made, fps=10)
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(words, capture_output=True, check=True)
    assert re.search(r"Stream #0:0.*Video: h264.*, 48x34[ ,].*, 10 fps", read.stderr.decode())
    seen = np.frombuffer(read.stdout, np.uint8).reshape(-1, 34, 48, 3)
    assert len(seen) == 4
    for t, frame in enumerate(seen):  # the format loses detail, not shapes
        assert np.abs(frame[:33, :47].astype(int) - made[t]).mean() < 12
    assert [found.name for found in tmp_path.iterdir()] == ["film.mp4"]


def test_other_endings_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end in \.gif or \.mp4, got .*film\.avi"):
        write_film(tmp_path / "film.avi", frames())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs imageio-ffmpeg: pip install"):
        write_film(tmp_path / "film.mp4", frames())


@pytest.mark.parametrize(
    ("made", "fps", "message"),
    [
        (frames(0), 10, "at least one frame"),
        (frames(2) * 1.0, 10, r"frames must be uint8 \[H, W, 3\] of one size, got float64\[8, 12, 3\]"),
        ([frames(1)[0], frames(1)[0][:4]], 10, r"of one size, got uint8\[4, 12, 3\]"),
        (frames(2), 0, "fps must be above 0 and at most 50, got 0"),
        (frames(2), 60, "fps must be above 0 and at most 50, got 60"),
    ],
)
def test_what_is_no_film_is_refused(made, fps, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_gif(tmp_path / "film.gif", made, fps)
    assert not (tmp_path / "film.gif").exists()
