"""Host environments seen as pictures: what the camera shows is the observation, stacked, grey and of another size."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mbrl_jax.core import Box
from mbrl_jax.envs import cameras, host
from mbrl_jax.envs.cameras import View
from mbrl_jax.envs.host import One
from mbrl_jax.envs.registry import make_env

CLOCK = "gymnasium:helpers.host_envs:Clock-v0"


def seeds(*values):
    return np.array([[0, value] for value in values], np.uint32)


@pytest.mark.parametrize(
    ("name", "base", "view"),
    [
        ("Hopper-v5", "Hopper-v5", None),
        ("Hopper-v5-pixels", "Hopper-v5", View(64)),
        ("Hopper-v5-pixels-84", "Hopper-v5", View(84)),
        ("Hopper-v5-pixels-32-grey", "Hopper-v5", View(32, True)),
        ("Hopper-v5-pixels-grey", "Hopper-v5", View(64, True)),
    ],
)
def test_names_say_how_an_environment_is_seen(name, base, view):
    assert cameras.viewed(name) == (base, view)
    assert base + ("" if view is None else view.suffix) == name


def test_a_size_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"env must have pictures of 8 to 1024 pixels a side, got 'x-pixels-4'"):
        cameras.viewed("x-pixels-4")


@pytest.mark.parametrize("view", [View(24), View(24, True), View(40), View(48, True)])
def test_a_pixel_is_the_mean_of_the_area_that_it_covers(view):
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    have = cameras.seen(image, view)
    spread = image.astype(np.float64)
    if view.grey:
        spread = np.rint(spread @ np.array([0.299, 0.587, 0.114]))[..., None]
    n = view.size  # the mean over an area, by repeating every pixel n times along both axes
    tiles = np.repeat(np.repeat(spread, n, axis=0), n, axis=1).reshape(n, 48, n, 96, -1)
    want = tiles.mean(axis=(1, 3))
    assert (have.dtype, have.shape) == (np.uint8, want.shape)
    assert np.abs(have - want).max() <= (1.01 if view.grey else 0.51)  # rounded, in grey twice
    assert cameras.seen(have, view).tolist() == have.tolist()
    with pytest.raises(ValueError, match=r"a picture must be uint8 .* got float64\[2, 2\]"):
        cameras.seen(np.zeros((2, 2)), view)


class Lamp:
    """Counts its pictures; the grey level is the step, and an episode has 4 steps."""

    def __init__(self):
        self.time, self.drawn = 0, 0

    def reset(self, seed):
        self.time = 10 * seed
        return np.zeros(2)

    def step(self, action):
        self.time += 1
        return np.zeros(2), 1.0, 1.0, self.time % 10 == 4

    def render(self):
        self.drawn += 1
        return np.full((16, 16, 3), self.time, np.uint8)

    def one(self):
        return One(self.reset, self.step, lambda: None, self.render)


def test_a_camera_draws_once_for_a_repeated_action():
    lamp = Lamp()
    spec = make_env(CLOCK).spec._replace(obs=cameras.space_of(View(8)))
    envs = host.host_env(spec, lambda: cameras.through(lamp.one, View(8), False), 3).make(1)
    assert envs.reset(seeds(1)).shape == (1, 8, 8, 3)
    out = envs.step(np.zeros((1, 1)), seeds(2), None)
    assert (lamp.drawn, float(out.reward[0]), int(out.obs[0, 0, 0, 0])) == (2, 3.0, 13)
    out = envs.step(np.zeros((1, 1)), seeds(2), None)  # the episode ends within
    assert (float(out.reward[0]), bool(out.last[0])) == (1.0, True)
    assert (int(out.next_obs[0, 0, 0, 0]), int(out.obs[0, 0, 0, 0])) == (14, 20)


@pytest.mark.parametrize("workers", [0, pytest.param(2, id="2-processes")])
def test_frames_are_stacked(workers):
    env = make_env(f"{CLOCK}-pixels-8-grey-stack3")
    assert env.spec.name == f"{CLOCK}-pixels-8-grey-stack3"
    assert env.spec.obs == Box((8, 8, 3), 0, 255, np.uint8)
    assert env.drawable
    alone, single = env.make(2, workers), make_env(f"{CLOCK}-pixels-8-grey").make(2)
    first = single.reset(seeds(5, 6))
    frames = [first] * 3
    np.testing.assert_array_equal(alone.reset(seeds(5, 6)), np.concatenate(frames, axis=3))
    for t in range(9):
        out, want = (envs.step(np.zeros((2, 1)), seeds(t, t + 40), None) for envs in (alone, single))
        frames = [*frames[1:], want.next_obs]
        np.testing.assert_array_equal(out.next_obs, np.concatenate(frames, axis=3))
        if want.last.any():  # both end together
            assert t in (3, 7)
            frames = [want.obs] * 3
        np.testing.assert_array_equal(out.obs, np.concatenate(frames, axis=3))
    assert t == 8
    alone.close()
    single.close()


def test_what_cannot_be_stacked_or_drawn_is_refused():
    with pytest.raises(ValueError, match=r"frame_stack needs images \[height, width, channels\], .*Clock-v0 has Box"):
        make_env(f"{CLOCK}-stack2")
    with pytest.raises(ValueError, match=r"env must stack from 1 frame to 4, an episode of .*Clock-v0-pixels, got 5"):
        make_env(f"{CLOCK}-pixels-stack5")
    with pytest.raises(ValueError, match=r"Hostile-v0 cannot be seen in pictures: its render modes are \[\]"):
        make_env("gymnasium:helpers.host_envs:Hostile-v0-pixels")
    dark = Lamp().one()._replace(render=lambda: None)
    with pytest.raises(ValueError, match=r"env dark cannot be drawn: ValueError: a picture must be uint8"):
        cameras.check_drawn(lambda: cameras.through(lambda: dark, View(8), False), "dark")


def test_pictures_of_the_environment_itself_are_resized():
    env = make_env("gymnasium:helpers.host_envs:Parts-v0-pixels-16-grey", obs="image", action="vector")
    whole = make_env("gymnasium:helpers.host_envs:Parts-v0", obs="image", action="vector").make(1)
    envs = env.make(1)
    np.testing.assert_array_equal(envs.reset(seeds(0))[0], cameras.seen(whole.reset(seeds(0))[0], View(16, True)))
    have, want = (both.step(np.zeros((1, 2)), seeds(0), None).next_obs[0] for both in (envs, whole))
    np.testing.assert_array_equal(have, cameras.seen(want, View(16, True)))
    assert not env.drawable


def need_egl() -> None:
    pytest.importorskip("mujoco", reason="mujoco is an extra")
    if sys.platform != "linux":
        pytest.skip("EGL is of Linux")
    from mbrl_jax.envs.offscreen import offscreen

    offscreen()
    try:
        import mujoco.egl

        mujoco.egl.GLContext(8, 8).free()
    except Exception as error:
        pytest.skip(f"MuJoCo cannot draw through EGL here: {error}")


@pytest.mark.parametrize("library", ["gymnasium", "dm_control"])
def test_mujoco_is_seen_through_its_camera(library):
    pytest.importorskip(library, reason=f"{library} is an extra")
    need_egl()
    name = {"gymnasium": "gymnasium:InvertedPendulum-v5", "dm_control": "dm_control:cartpole-swingup"}[library]
    env = make_env(f"{name}-pixels-32-x2-stack2")
    assert (env.spec.obs.shape, env.spec.obs.dtype) == ((32, 32, 6), np.uint8)
    assert env.spec.time_limit == 500
    envs = env.make(2)
    first = envs.reset(seeds(3, 3))
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[..., :3], first[..., 3:])
    assert first.std() > 10
    for _ in range(5):
        out = envs.step(np.ones((2, 1)), seeds(0, 1), None)
    assert np.abs(out.next_obs[0].astype(int) - first[0]).max() > 20  # the cart moves
    assert envs.render(0).shape[2] == 3
    envs.close()


def test_atari_is_seen_small_grey_and_stacked():
    pytest.importorskip("ale_py", reason="ale-py is an extra")
    import gymnasium

    name = "gymnasium:ALE/Pong-v5-pixels-84-grey-stack4"
    env = make_env(name, repeat_action_probability=0.0)
    assert (env.spec.name, env.spec.obs.shape, env.spec.time_limit) == (name, (84, 84, 4), 27_000)
    assert (env.spec.action.n, env.drawable) == (6, True)
    envs = env.make(1)
    inner = gymnasium.make("ALE/Pong-v5", repeat_action_probability=0.0)
    frames = [cameras.seen(inner.reset(seed=7)[0], View(84, True))] * 4
    np.testing.assert_array_equal(envs.reset(seeds(7))[0], np.concatenate(frames, axis=2))
    for action in (2, 3, 3, 0, 1):
        out = envs.step(np.array([action]), seeds(8), None)
        obs, reward, *_ = inner.step(action)
        frames = [*frames[1:], cameras.seen(obs, View(84, True))]
        np.testing.assert_array_equal(out.next_obs[0], np.concatenate(frames, axis=2))
        assert float(out.reward[0]) == reward
    inner.close()
    envs.close()
