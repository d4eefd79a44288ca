"""What can happen to a run's folder, and to its numbers: each is noticed, and named in one line."""

from __future__ import annotations

import gc
import json
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ordered
from helpers.walk import CHUNK, WARMUP, make_job, make_loop

from mbrl_jax.analysis import curves
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.presets.checks import checked
from mbrl_jax.train import checkpoint
from mbrl_jax.train.folder import claimed
from mbrl_jax.train.loop import make_loop as compiled_loop
from mbrl_jax.train.run import run

SHORT = WARMUP + 3 * CHUNK

# Readers of damaged files leave tasks of their event loop behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def earlier_objects():
    """Sets what other files left in this process aside: looking through it takes a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_left_behind(earlier_objects):
    """Lets what readers of damaged files left behind speak within its own test."""
    yield
    time.sleep(0.1)
    gc.collect()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of three chunks with checkpoints after the last two, and what its longer continuation gives."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    run(make_loop(), make_job(steps=SHORT), out, quiet=True, checkpoint_seconds=0)
    whole = out.with_name("whole")
    result = run(make_loop(), make_job(), whole, quiet=True, checkpoint_seconds=0)
    return out, whole, result


@pytest.fixture
def copy(stopped, tmp_path) -> Path:
    return Path(shutil.copytree(stopped[0], tmp_path / "run"))


def resumed(folder, **changes):
    return run(make_loop(), make_job(**changes), folder, resume=True, quiet=changes.pop("quiet", True))


def rows(folder, name):
    """Rows without the wall-clock."""
    lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    wall = lines[0].index("wall_seconds") if "wall_seconds" in lines[0] else None
    return [[cell for i, cell in enumerate(line) if i != wall] for line in lines]


def data_files(checkpoint_folder: Path) -> list[Path]:
    return sorted(path for path in checkpoint_folder.rglob("*") if path.is_file() and path.stat().st_size > 0)


def test_any_flipped_bit_is_noticed_or_changes_nothing(stopped, copy):
    """A flip in each tenth of each file of the newest checkpoint: the state is the saved one, or is refused."""
    like = jax.eval_shape(lambda keys: jax.vmap(make_loop().init)(keys), jax.vmap(jax.random.key)(jnp.arange(2)))
    saves = copy / "checkpoints"
    good = checkpoint.restore(saves, 3, like)
    refused = tried = 0
    for path in data_files(saves / "3"):
        whole = path.read_bytes()
        for at in sorted({len(whole) * i // 10 for i in range(10)}):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at % 8)
            path.write_bytes(damaged)
            tried += 1
            try:
                back = checkpoint.restore(saves, 3, like)
            except checkpoint.DamagedError:
                refused += 1
            else:
                for x, y in zip(jax.tree.leaves(good), jax.tree.leaves(back), strict=True):
                    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                        np.testing.assert_array_equal(x, y)
        path.write_bytes(whole)
    assert tried >= 100
    assert refused >= 20  # the other bytes are not read


def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped, copy, capsys):
    largest = max(data_files(copy / "checkpoints" / "3"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-20])
    result = run(make_loop(), make_job(), copy, resume=True)
    said = capsys.readouterr().out
    assert "3 is damaged" in said
    assert f"resuming from the checkpoint before, at {WARMUP + 2 * CHUNK} steps" in said
    whole = stopped[1]
    for name in ("metrics.csv", "eval.csv"):
        assert rows(copy, name) == rows(whole, name)
    np.testing.assert_array_equal(result.state.x, stopped[2].state.x)


def test_no_whole_checkpoint_is_one_line(copy):
    for path in data_files(copy / "checkpoints"):
        path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: checkpoint .*3 is damaged"):
        resumed(copy)


def test_an_empty_folder_is_no_checkpoint(copy):
    (copy / "checkpoints" / "999").mkdir()
    assert checkpoint.latest(copy / "checkpoints") == 3
    assert resumed(copy).finished


@pytest.mark.parametrize("name", ["metrics", "eval"])
@pytest.mark.parametrize("how", ["cell", "row", "order"])
def test_edited_rows_are_refused_by_file(copy, name, how):
    path = copy / f"{name}.csv"
    header, *lines = path.read_text().splitlines()
    if how == "cell":
        lines[1] = lines[1].rsplit(",", 1)[0] + ",7"
    elif how == "row":
        del lines[1]
    else:
        lines[0], lines[1] = lines[1], lines[0]
    path.write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(ValueError, match=rf"{name}\.csv"):
        resumed(copy)


def test_rows_cut_short_count_as_later_and_odd_lines_are_named(stopped, copy):
    path = copy / "metrics.csv"
    good = path.read_text()
    path.write_text(good + "3,999,12")
    resumed(copy)
    assert rows(copy, "metrics.csv") == rows(stopped[1], "metrics.csv")
    path.write_text(good.replace("\n", "\n\n", 1))
    with pytest.raises(ValueError, match=r"metrics\.csv, line 2: 1 cells, not the 8 of the first"):
        resumed(copy)
    path.write_bytes(b"\xff\xfe" + good.encode())
    with pytest.raises(ValueError, match=r"metrics\.csv is no text: byte 0"):
        resumed(copy)


def test_a_checkpoint_of_another_run_is_refused(copy, tmp_path):
    other = tmp_path / "other"
    run(make_loop(), make_job(steps=SHORT), other, quiet=True, checkpoint_seconds=0)
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(other / "checkpoints", copy / "checkpoints")
    with pytest.raises(ValueError, match="of another run than its config"):
        resumed(copy)


def test_links_out_of_the_folder_are_not_followed(copy, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    for name in (".metrics.csv.tmp", ".eval.csv.tmp", ".config.json.tmp", ".summary.json.tmp"):
        (copy / name).symlink_to(outside / "precious")
    resumed(copy)
    assert (outside / "precious").read_text() == "keep"
    shutil.move(copy / "checkpoints", tmp_path / "elsewhere")
    (copy / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="must be a real folder"):
        resumed(copy, steps=WARMUP + 6 * CHUNK)


def test_one_writer(copy):
    with claimed(copy), pytest.raises(ValueError, match="is in use by process"):
        resumed(copy)
    assert resumed(copy).finished


def test_formats_and_settings_of_other_versions(copy, capsys):
    path = copy / "config.json"
    saved = json.loads(path.read_text())
    assert saved["format"] == 1
    older = {key: value for key, value in saved.items() if key not in ("format", "run")}
    path.write_text(json.dumps(older | {"loop": {k: v for k, v in saved["loop"].items() if k != "hold"}}))
    run(make_loop(), make_job(), copy, resume=True)
    assert "settings added since the run in" in capsys.readouterr().out
    path.write_text(json.dumps(saved | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, of a newer version"):
        resumed(copy)
    path.write_text(json.dumps(saved | {"agent": saved["agent"] | {"gone": 1}}))
    with pytest.raises(ValueError, match=r"agent\.gone of the run .* is no setting of this version"):
        resumed(copy)


# Numbers that are none ------------------------------------------------------------------------------------------------


def diverging(first: int):
    """The walk, whose seeds 3 and 4 lose their loss from the chunk `first` on if their position is negative."""
    good = make_loop()

    def chunk(state):
        state, report = good.chunk(state)
        bad = (state.count >= first) & (state.x[2] < 0)
        loss = jnp.where(bad, jnp.nan, report.metrics["loss"])
        returns = jnp.where(bad, jnp.nan, report.returns)
        return state, report._replace(metrics={**report.metrics, "loss": loss}, returns=returns)

    return good._replace(chunk=chunk)


def test_a_diverged_seed_is_named_and_the_others_go_on(tmp_path, capsys):
    out = tmp_path / "run"
    job = make_job(seeds=6)
    result = run(diverging(2), job, out)
    said = capsys.readouterr().out
    fates = result.summary["diverged"]
    lost = [3 + i for i, fate in enumerate(fates) if fate is not None]
    assert 0 < len(lost) < 6
    assert all(fate["first"] == "loss" for fate in fates if fate is not None)
    assert "diverged (not finite) at step" in said
    assert f"over {6 - len(lost)} of 6 seeds; {len(lost)} diverged" in said
    assert not result.diverged
    curve = curves.load(out)
    assert curve.diverged is not None
    assert [3 + i for i in np.flatnonzero(curve.diverged)] == lost
    assert len(curve.finite) == 6 - len(lost)
    assert np.isfinite(curve.finite).all()
    assert f"{6 - len(lost)} of 6" in curves.table([curve])
    assert curves.picture([curve])[:4] == b"\x89PNG"


@pytest.mark.parametrize("wave", [1, 2])
def test_diverged_seeds_are_trained_no_further(tmp_path, wave):
    """A wave stands still once all its seeds diverged; the rows of these seeds are nan from then on, in any wave."""
    started, job = diverging(2), make_job(seeds=6, wave=wave)
    plain = run(started, job, tmp_path / "plain", quiet=True)
    stopped = run(started, job._replace(stop_diverged=True), tmp_path / "stopped", quiet=True)
    fates = stopped.summary["diverged"]
    assert fates == plain.summary["diverged"]
    lost = [i for i, fate in enumerate(fates) if fate is not None]
    assert 0 < len(lost) < 6
    before, after = rows(tmp_path / "plain", "metrics.csv"), rows(tmp_path / "stopped", "metrics.csv")
    for old, new in zip(before[1:], after[1:], strict=True):
        fate = fates[int(new[0]) - 3]
        late = fate is not None and int(new[1]) > fate["env_steps"]
        assert new == ([*old[:3], *["nan"] * 4] if late else old)
    if wave == 1:
        counts = np.asarray(stopped.state.count)
        ended = [4 if fate is None else (fate["env_steps"] - WARMUP) // CHUNK for fate in fates]
        assert counts.tolist() == ended


def test_a_run_ends_when_every_seed_diverged(tmp_path, capsys):
    good = make_loop()

    def chunk(state):
        state, report = good.chunk(state)
        return state, report._replace(metrics={**report.metrics, "loss": jnp.where(state.count < 2, 1.0, jnp.inf)})

    job = make_job(stop_diverged=True)
    result = run(good._replace(chunk=chunk), job, tmp_path / "run")
    assert result.diverged
    assert result.summary["env_steps"] == WARMUP + 2 * CHUNK
    assert "done after 144 steps of 2 seeds" in capsys.readouterr().out
    again = run(good._replace(chunk=chunk), job, tmp_path / "run", resume=True, quiet=True)
    assert again.diverged
    assert again.summary == result.summary


def spoiled(what: str, at: int = 4):
    """A loop of two environments; a step of every episode of five spoils a number, or every reset does.

    The warm-up takes two steps of each, so that iteration i of the first chunk is step 2 + i of both.
    """
    agent, env = ordered.agent_and_env()

    def step(key, state, action):
        state, obs, reward, discount, last = env.step(key, state, action)
        if what == "reward":
            reward = jnp.where(state["count"][0] == at, jnp.nan, reward)
        if what == "observation":
            obs = jnp.where(state["count"] == at, jnp.nan, obs)
        return state, obs, reward, discount, last

    def reset(key):
        state, obs = env.reset(key)
        return state, obs * jnp.nan if what == "reset" else obs

    return compiled_loop(agent, env._replace(step=step, reset=reset), uniform(64), ordered.CFG)


@pytest.mark.parametrize(
    ("what", "at", "row", "first"),
    [
        ("reward", 4, 28, "the environment's reward at step 8"),  # 4 of each
        ("observation", 4, 28, "the environment's observation at step 8"),
        ("reward", 2, 4, "the environment's reward at step 4"),  # in the warm-up
        ("observation", 1, 4, "the environment's observation at step 2"),
        ("reset", 0, 4, "the environment's observation at step 2"),  # what the first step is taken from
    ],
)
def test_a_nan_of_the_environment_is_named_with_its_step(tmp_path, capsys, what, at, row, first):
    """Also where its episode has ended before the chunk does."""
    result = run(spoiled(what, at), ordered.job_of(1, seeds=1), tmp_path / "run")
    (fate,) = result.summary["diverged"]
    assert fate == {"env_steps": row, "first": first}
    assert capsys.readouterr().out.count(f"seed 3 diverged (not finite) at step {row}: {first} first") == 1


def test_a_nan_of_the_warm_up_ends_a_run_that_stops_diverged_seeds(tmp_path):
    """Also one that is checked before it starts, as from the command line; and it is still known after a resume."""
    job = ordered.job_of(2, seeds=1)
    loop, _ = checked(spoiled("reward", 2), job)
    halted = run(loop, job._replace(stop_diverged=True), tmp_path / "halted", quiet=True)
    assert halted.diverged
    assert halted.summary["env_steps"] == 4
    run(loop, job._replace(steps=ordered.job_of(1).steps), tmp_path / "run", quiet=True, checkpoint_seconds=0)
    again = run(loop, job, tmp_path / "run", resume=True, quiet=True)
    assert again.summary["diverged"] == [{"env_steps": 4, "first": "the environment's reward at step 4"}]


def test_a_nan_that_the_agent_never_learns_from_changes_no_other_number():
    """Observations are watched beside the learning."""
    fine, lost = jax.jit(spoiled("nothing").chunk), jax.jit(spoiled("observation").chunk)
    state = spoiled("nothing").init(jax.random.key(0))
    (a, good), (b, bad) = fine(state), lost(state)
    np.testing.assert_array_equal(a.learner, b.learner)
    assert {name: int(value) for name, value in good.not_finite.items()} == {
        "observation": 0,
        "reward": 0,
        "learner": 0,
    }
    assert {name: int(value) for name, value in bad.not_finite.items()} == {"observation": 2, "reward": 0, "learner": 0}
    assert set(good.metrics) == {"return", "episodes", "first", "fit"}


def test_a_run_without_a_seed_left_fails(tmp_path, capsys):
    good = make_loop()

    def chunk(state):
        state, report = good.chunk(state)
        return state, report._replace(metrics={**report.metrics, "loss": jnp.float32(jnp.inf)})

    result = run(good._replace(chunk=chunk), make_job(), tmp_path / "run")
    assert result.diverged
    assert "every seed diverged" in capsys.readouterr().out
    again = run(good._replace(chunk=chunk), make_job(), tmp_path / "run", resume=True, quiet=True)
    assert again.diverged
    assert again.summary["diverged"] == result.summary["diverged"]
