"""Pictures of imagination: colours, shapes, frames."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mbrl_jax.analysis.imagination import PLANES, animation, picture, rgb


def test_planes_lie_on_white_and_bytes_are_colours():
    planes = np.zeros((2, 2, 2))
    planes[0, 0, 1] = 1
    planes[1, 1, 0] = 0.5
    got = rgb(planes, image=False)
    np.testing.assert_allclose(got[0, 0], PLANES[1])
    np.testing.assert_allclose(got[0, 1], 1)
    np.testing.assert_allclose(got[1, 1], (1 + PLANES[0]) / 2)
    mixed = rgb(np.random.default_rng(0).uniform(size=(100, 100, 4)).astype(np.float32) * 1e-6, image=False)
    assert mixed.max() <= 1, "rounding leaves no colour outside, of which the plotting library would warn"
    np.testing.assert_allclose(rgb(np.full((1, 1, 1), 51), image=True), 0.2 * np.ones((1, 1, 3)))


@pytest.mark.parametrize("shape", [pytest.param((3,), marks=pytest.mark.slow), (4, 4, 2)])
def test_a_picture_is_a_png_and_an_animation_has_a_frame_per_step(shape, tmp_path):
    rng = np.random.default_rng(0)
    real, rebuilt, imagined = (rng.uniform(size=(*n, *shape)) for n in ((6,), (6,), (2, 4)))
    png = Image.open(io.BytesIO(picture(real, rebuilt, imagined, "title")))
    assert png.format == "PNG"
    colours = np.asarray(png.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 20
    again, other = (picture(real, rebuilt, guess, "title") for guess in (imagined, 1 - imagined))
    assert picture(real, rebuilt, imagined, "title") == again != other, "what is imagined is drawn"
    assert again not in (picture(1 - real, rebuilt, imagined, "title"), picture(real, 1 - rebuilt, imagined, "title"))
    animation(str(tmp_path / "a.gif"), real, rebuilt, imagined)
    with Image.open(tmp_path / "a.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 6


def test_what_does_not_fit_is_refused():
    fine = np.zeros((5, 3))
    with pytest.raises(ValueError, match="real, rebuilt and imagined"):
        picture(fine, np.zeros((4, 3)), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="imagined steps must be from 1 to 4"):
        picture(fine, fine, np.zeros((2, 5, 3)))
