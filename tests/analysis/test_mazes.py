"""Pictures of mazes: what is drawn where, read from the artists."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.quiver import Quiver
from PIL import Image

from mbrl_jax.analysis import mazes
from mbrl_jax.envs.maze import DYNA, Layout, grow, layout

UP, DOWN, LEFT, RIGHT = range(4)
SMALL = layout("""
    S.#
    ..G
""")
VALUES = np.array([1.0, 2.0, 99.0, 3.0, 5.0, -99.0])
Q = np.zeros((6, 4))
Q[0, [DOWN, RIGHT]] = 1.0  # a tie
Q[1, DOWN] = 2.0
Q[3] = 0.7  # no preference
Q[4, RIGHT], Q[4, LEFT] = 1.0, 1.0 - 1e-3
Q[2, UP] = Q[5, UP] = 9.0  # a wall and the goal


def arrows(axes):
    """{(row, column, down, right)} of the arrows, by the sign of their direction."""
    out = set()
    for quiver in (child for child in axes.get_children() if isinstance(child, Quiver)):
        middle = np.array([quiver.Y + quiver.V / 2, quiver.X + quiver.U / 2]).T
        cells = np.rint(middle).astype(int).tolist()
        signs = np.sign(np.round([quiver.V, quiver.U], 6)).astype(int).T.tolist()
        assert len(cells) == len({(*c, *s) for c, s in zip(cells, signs, strict=True)})
        out |= {(*c, *s) for c, s in zip(cells, signs, strict=True)}
        tips = np.array([quiver.Y + quiver.V, quiver.X + quiver.U]).T
        assert np.all(np.abs(tips - cells) < 0.5)  # inside their cells
    return out


def marks(axes):
    """{letter: (row, column)} of the letters, by the centre of their paths; {colour: (row, column)} of the squares."""
    letters, squares = {}, {}
    for patch in axes.patches:
        box = patch.get_path().get_extents(patch.get_patch_transform())
        cell = round((box.y0 + box.y1) / 2), round((box.x0 + box.x1) / 2)
        if isinstance(patch, PathPatch):
            letters[patch.get_gid()] = cell
        elif isinstance(patch, Rectangle):
            squares[patch.get_facecolor()[:3]] = cell
    return letters, squares


def test_greedy_moves():
    best = mazes.greedy_moves(Q)
    assert [np.flatnonzero(row).tolist() for row in best] == [[DOWN, RIGHT], [DOWN], [UP], [], [RIGHT], [UP]]
    assert np.flatnonzero(mazes.greedy_moves(Q, tolerance=0.01)[4]).tolist() == [LEFT, RIGHT]


def test_walls_values_arrows_and_letters():
    axes = mazes.draw_maze(*SMALL, values=VALUES, q=Q, title="small")
    walls, values = axes.images
    np.testing.assert_array_equal(walls.get_array(), [[0, 0, 1], [0, 0, 0]])
    ground = np.asarray(walls.get_cmap()(walls.norm([0, 1])))
    np.testing.assert_allclose(ground[:, :3], [to_rgb(mazes.FREE), to_rgb(mazes.WALL)])
    shown = values.get_array()
    np.testing.assert_array_equal(shown.mask, [[0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(shown.data, VALUES.reshape(2, 3))
    assert (values.norm.vmin, values.norm.vmax) == (1.0, 5.0)
    assert arrows(axes) == {(0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 0), (1, 1, 0, 1)}
    letters, squares = marks(axes)
    assert letters == {"S": (0, 0), "G": (1, 2)}
    assert squares == {to_rgb(mazes.START): (0, 0), to_rgb(mazes.GOAL): (1, 2)}
    assert axes.get_title() == "small"
    assert axes.get_xlim() == (-0.5, 2.5)
    assert axes.get_ylim() == (1.5, -0.5)  # row 0 at the top


def test_ink_contrasts_with_the_colour_under_it():
    everywhere = np.tile(np.eye(4)[RIGHT], (6, 1))
    axes = mazes.draw_maze(*SMALL, values=VALUES, q=everywhere)
    (quiver,) = (child for child in axes.get_children() if isinstance(child, Quiver))
    ink = np.asarray(quiver.get_facecolor())[:, :3].mean(1) > 0.5
    cells = np.rint(np.array([quiver.Y, quiver.X + quiver.U / 2]).T).astype(int).tolist()
    assert dict(zip(map(tuple, cells), ink.tolist(), strict=True)) == {
        (0, 0): True,  # on the start's blue
        (0, 1): False,
        (1, 0): False,
        (1, 1): True,  # the darkest colour
    }
    grey = mazes.colours()(np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(grey) < 0)  # readable without colours, and darker for more


def test_policies_as_actions_and_as_probabilities():
    actions = np.array([RIGHT, DOWN, UP, RIGHT, RIGHT, UP])
    want = {(0, 0, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 1, 0, 1)}
    assert arrows(mazes.draw_maze(*SMALL, policy=actions)) == want
    chances = np.eye(4)[actions]
    chances[0] = 0.25  # no preference
    chances[1] = [0, 0.5, 0.5, 0]
    axes = mazes.draw_maze(*SMALL, policy=chances)
    assert arrows(axes) == {(0, 1, 1, 0), (0, 1, 0, -1), (1, 0, 0, 1), (1, 1, 0, 1)}
    assert len(axes.images) == 1  # no values, no colours
    compass = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    axes = mazes.draw_maze(*SMALL, policy=np.zeros(6, int), moves=compass)
    assert {arrow[2:] for arrow in arrows(axes)} == {(0, 1)}
    assert arrows(mazes.draw_maze(*SMALL)) == arrows(mazes.draw_maze(*SMALL, q=np.zeros((6, 4)))) == set()


def test_a_path_runs_through_its_cells():
    axes = mazes.draw_maze(*SMALL, path=[0, 1, 4, 5])
    (line,) = axes.lines
    assert isinstance(line, Line2D)
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 1, 2])
    np.testing.assert_array_equal(line.get_ydata(), [0, 0, 1, 1])


def shot(monkeypatch, *args, **kwargs):
    """The axes of a picture, and the picture."""
    seen = []
    png = mazes._png
    monkeypatch.setattr(mazes, "_png", lambda figure: (seen.append(figure), png(figure))[1])
    data = mazes.draw_mazes(*args, **kwargs)
    return seen[0].axes, data


def test_panels_share_one_scale(monkeypatch):
    one = mazes.Panel(*SMALL, values=VALUES, title="one")
    other = one._replace(values=VALUES * 2, q=Q, title="other")
    bare = one._replace(values=None, policy=np.zeros(6, int), path=[0, 1], title="bare")
    axes, data = shot(monkeypatch, [one, other, bare], columns=2)
    assert [at.get_title() for at in axes[:3]] == ["one", "other", "bare"]
    assert [len(at.images) for at in axes[:3]] == [2, 2, 1]
    assert {(at.images[1].norm.vmin, at.images[1].norm.vmax) for at in axes[:2]} == {(1.0, 10.0)}
    assert [len(arrows(at)) for at in axes[:3]] == [0, 4, 4]
    assert [len(at.lines) for at in axes[:3]] == [0, 0, 1]
    assert not axes[3].axison  # the place left over
    assert axes[4].get_ylabel() == "value"
    assert axes[4].get_ylim() == (1.0, 10.0)
    rows = {round(at.get_subplotspec().rowspan.start) for at in axes[:2]}
    assert rows == {0}
    assert data.startswith(b"\x89PNG\r\n")
    assert len(shot(monkeypatch, [bare, bare])[0]) == 2  # no values, no bar
    assert len(shot(monkeypatch, [one], bar=None)[0]) == 1
    axes, _ = shot(monkeypatch, [one], limits=(0.0, 20.0))
    assert (axes[0].images[1].norm.vmin, axes[0].images[1].norm.vmax) == (0.0, 20.0)
    flat, _ = shot(monkeypatch, [one._replace(values=np.zeros(6))])
    assert (flat[0].images[1].norm.vmin, flat[0].images[1].norm.vmax) == (0.0, 1.0)


@pytest.mark.parametrize("grid", [DYNA, grow(DYNA, 4)])
def test_pictures_are_of_moderate_size_and_keep_their_colours(grid: Layout):
    distance = np.abs(np.indices(grid.walls.shape) - np.reshape(grid.goal, (2, 1, 1))).sum(0)
    values = 0.98 ** distance.reshape(-1)
    policy = np.where(np.arange(grid.walls.size) % 2, UP, RIGHT)
    data = mazes.draw_mazes([mazes.Panel(*grid, values=values, policy=policy)])
    assert len(data) < 150_000
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert 500 < image.shape[1] < 1700
    np.testing.assert_array_equal(image[0, 0], 255)
    # Paint of the marks and of the walls by what share of the cells they cover.
    for colour, cells, shortest in ((mazes.START, 1, 0.6), (mazes.GOAL, 1, 0.6), (mazes.WALL, grid.walls.sum(), 0.9)):
        share = (np.abs(image - np.round(255 * np.array(to_rgb(colour)))).max(-1) < 4).mean()
        assert shortest * 0.7 < share * grid.walls.size / cells < 1.4


def test_invalid_pictures_are_refused():
    with pytest.raises(ValueError, match=r"values must be \[6\] for this maze, got \[5\]"):
        mazes.draw_maze(*SMALL, values=np.zeros(5))
    with pytest.raises(ValueError, match=r"q must be \[6, 4\]"):
        mazes.draw_maze(*SMALL, q=np.zeros((6, 3)))
    with pytest.raises(ValueError, match=r"policy must be \[6\]"):
        mazes.draw_maze(*SMALL, policy=np.zeros(4, int))
    with pytest.raises(ValueError, match="policy or q, not both"):
        mazes.draw_maze(*SMALL, policy=np.zeros(6, int), q=Q)
    with pytest.raises(ValueError, match="at least one panel"):
        mazes.draw_mazes([])
    with pytest.raises(ValueError, match="columns must be at least 1"):
        mazes.draw_mazes([mazes.Panel(*SMALL)], columns=0)


def test_draws_on_given_axes():
    axes = Figure().add_subplot()
    assert mazes.draw_maze(*SMALL, axes=axes) is axes
    assert len(axes.images) == 1
