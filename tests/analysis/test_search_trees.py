"""Search trees drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from mbrl_jax.analysis.search_trees import draw_tree, layout, most_visited


class Laid(NamedTuple):
    """A root with two children; the first has two of its own, the second one."""

    parent: np.ndarray = np.array([-1, 0, 0, 1, 1, 2])
    action: np.ndarray = np.array([-1, 0, 1, 0, 1, 0])
    depth: np.ndarray = np.array([0, 1, 1, 2, 2, 2])
    visits: np.ndarray = np.array([9, 5, 3, 2, 2, 1])
    q: np.ndarray = np.array([0.1, 0.5, -0.2, 0.7, 0.3, -0.4])
    prior: np.ndarray = np.array([1.0, 0.6, 0.4, 0.5, 0.5, 1.0])


def test_parents_stand_above_the_middle_of_their_children():
    at = layout(Laid().parent, Laid().depth)
    np.testing.assert_array_equal(at[:, 1], [0, -1, -1, -2, -2, -2])
    np.testing.assert_array_equal(at[:, 0], [1.25, 0.5, 2, 0, 1, 2])


def test_the_most_visited_nodes_hang_together():
    np.testing.assert_array_equal(most_visited(Laid(), 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(most_visited(Laid(), 99), np.arange(6))


def test_the_picture_shows_each_value_in_its_colour(tmp_path):
    draw_tree(tmp_path / "tree.png", Laid(), actions=["left", "right"], title="a tree")
    picture = np.asarray(Image.open(tmp_path / "tree.png").convert("RGB")).reshape(-1, 3).astype(int)
    yellow, violet = (np.abs(picture - colour).sum(1).min() for colour in ((253, 231, 37), (68, 1, 84)))
    assert yellow < 6, "the largest value, 0.7"
    assert violet < 6, "the smallest, -0.4"


def test_there_must_be_something_to_draw(tmp_path):
    with pytest.raises(ValueError, match="must be at least 2, got 1 and 6"):
        draw_tree(tmp_path / "tree.png", Laid(), most=1)
