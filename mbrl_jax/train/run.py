"""A run: a Python loop over pieces of work, with logs, checkpoints and a clean stop between them.

Its numbers equal those of `Loop.train` bitwise, also where it was killed and resumed. What works is a `Driver`
(`train/driver.py`): the compiled loop, or any other.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.config import flat
from mbrl_jax.core.types import EnvironmentFailed, Key, Tree
from mbrl_jax.train import checkpoint
from mbrl_jax.train.compilation import notice
from mbrl_jax.train.driver import CompiledDriver, Driver, Work
from mbrl_jax.train.folder import DiskError, claimed
from mbrl_jax.train.interrupt import Stop, aside
from mbrl_jax.train.log import RECENT, Progress, Record, clock, plain, write_json
from mbrl_jax.train.loop import Loop, LoopConfig, chunks_for, env_steps, updates
from mbrl_jax.train.run_files import read_json

ALONGSIDE = "learning alongside"
"""Of a driver's seconds, those of another thread, which pass while the others do."""

FORMAT = 1  # of a run's folder; a run of an older one is resumed, of a newer one refused

LIBRARIES = (
    "mbrl_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "distrax",
    "gymnax",
    "orbax-checkpoint",
    "numpy",
    "gymnasium",
    "dm-control",
    "mujoco",
)


class Job(NamedTuple):
    """What to run, and all that is needed to reproduce it."""

    algo: str
    env: str
    agent: Any  # the agent's config
    loop: LoopConfig
    steps: int  # environment steps of one seed; the run ends with the first chunk that reaches them
    seed: int = 0  # seed i of the run is `jax.random.key(seed + i)`
    seeds: int = 1
    wave: int = 1  # seeds under one vmap, on each device
    devices: int = 1  # devices that share the seeds
    groups: int = 0  # equal shares of the seeds, each with waves of its own; 0: as many as devices
    threshold: float | None = None  # evaluation return that counts as solved
    command: str = ""  # the command line that started it
    agent_module: str | None = None  # imported before the agent's name is looked up
    stop_diverged: bool = False  # seeds whose numbers are none are not trained further
    env_args: Mapping[str, Any] = {}  # arguments of the environment; never written to
    init_from: Mapping[str, Any] | None = None  # the run whose parameters it began with, for `config.json`
    data: str = ""  # the data set that it learns from, or begins with
    data_digest: str = ""  # of that data set
    offline: bool = False  # whether it learns from the data set alone; its steps are then updates


class Drivable(Protocol):
    """What can be run besides a `Loop`."""

    def driver(self, job: Job) -> Driver:
        """What drives all seeds of a job."""
        ...


class Event(NamedTuple):
    """What a run reports after a chunk, of all S seeds."""

    folder: Path  # of the run
    chunk: int  # chunks done
    env_steps: int  # of one seed
    updates: int  # of one seed
    wall_seconds: float  # of the run, without compilation
    seeds: tuple[int, ...]  # S
    metrics: Mapping[str, Any]  # names to NumPy arrays [S]
    returns: Any  # [S, E] evaluation returns
    lengths: Any  # [S, E] their lengths, in steps
    state: Tree  # [S, ...] of the loop; its memory is used up by the next chunk: copy what is to be kept


Watcher: TypeAlias = Callable[[Event], "bool | None"]
"""Called after every chunk, and True ends the run, to be resumed. It may have a `close()`, called once at the end."""


class Result(NamedTuple):
    """The outcome of a run."""

    state: Tree  # [seeds, ...] the loop's state, where it was stopped
    summary: dict[str, Any]  # as in `summary.json`
    finished: bool  # False: stopped by a signal, and may be resumed
    diverged: bool = False  # every seed ended in numbers that are none


def seed_keys(seed: int, seeds: int) -> Key:
    """The keys of a run, [seeds]: row i is `jax.random.key(seed + i)`."""
    return jax.vmap(jax.random.key)(jnp.asarray(np.arange(seed, seed + seeds, dtype=np.uint32)))


def settings(job: Job) -> dict[str, Any]:
    """A job's settings as `config.json` holds them, in types that JSON reads back unchanged."""
    return plain(
        {
            **{
                name: getattr(job, name)
                for name in ("algo", "env", "agent_module", "seed", "seeds", "steps", "wave", "threshold")
            },
            "devices": job.groups or job.devices,
            "stop_diverged": job.stop_diverged,
            "agent": flat(job.agent),
            "loop": flat(job.loop),
            "env_args": dict(job.env_args),
            **({"data": job.data, "data_digest": job.data_digest, "offline": job.offline} if job.data else {}),
        }
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries a run depends on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_folder(job: Job, out: Path | str, resume: bool) -> None:
    """Checks that a run can start or resume in a folder; writes nothing.

    Args:
      job: what is to run.
      out: its folder.
      resume: whether a run there is to be continued.
    Raises:
      ValueError: the folder holds another run and `resume` is off; or `resume` is on and the folder holds no run, a run
        with other settings, or one that is already longer.
    """
    out = Path(out)
    config = out / "config.json"
    if not resume:
        if config.exists():
            raise ValueError(f"--out {out} holds another run; choose a new folder, or add --resume to continue it")
        if out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
            raise ValueError(f"--out {out} must be a new or an empty folder")
        return
    if not config.exists():
        raise ValueError(f"--resume needs a run in --out {out}, and there is none (no config.json)")
    saved = read_json(config)
    if saved.get("format", 0) > FORMAT:
        raise ValueError(f"{config} has format {saved['format']}, of a newer version; this one knows up to {FORMAT}")
    old, new = _dotted(saved), _dotted(settings(job))
    differ = [
        f"{name} is {old[name]!r} there, {new[name]!r} here" for name in new if name in old and old[name] != new[name]
    ]
    # `divided` looks at the devices; a data set may lie elsewhere now.
    differ = [line for line in differ if not line.startswith(("steps ", "devices ", "data "))]
    if ("data" in old) != ("data" in new):
        differ.append(f"data is {old.get('data', '')!r} there, {new.get('data', '')!r} here")
    if differ:
        raise ValueError(f"--resume needs the settings of the run in {out}: {'; '.join(differ)}")
    gone = sorted(name for name in old if name.startswith(("agent.", "loop.")) and name not in new)
    if gone:
        raise ValueError(f"--resume: {gone[0]} of the run in {out} is no setting of this version; start a new run")
    chunk, position = checkpoint.latest_place(out / "checkpoints") or checkpoint.Place(0)
    reached = chunk + (position > 0)
    if chunks_for(job.loop, job.steps) < reached:
        raise ValueError(f"--steps must be at least {env_steps(job.loop, reached)}, which the run in {out} has reached")


def divided(job: Job, out: Path | str) -> Job:
    """A job whose seeds are divided as those of the run in a folder, on as many devices as that allows.

    Which seeds are computed side by side decides the rounding: a run that goes on with other devices keeps its groups.
    The same program on another number of devices may still round differently where several seeds run side by side.

    Args:
      job: what is to go on; `devices` is the most that may be used.
      out: the run's folder.
    """
    groups = read_json(Path(out) / "config.json").get("devices", 0)
    if type(groups) is not int or groups < 1 or job.seeds % groups:
        return job
    return job._replace(groups=groups, devices=math.gcd(groups, job.devices))


def added_settings(job: Job, out: Path | str) -> list[str]:
    """Settings that this version has and the run in a folder does not know, which take the values of the job.

    Args:
      job: what is to run.
      out: the run's folder.
    """
    old = _dotted(read_json(Path(out) / "config.json"))
    return sorted(name for name in _dotted(settings(job)) if name.startswith(("agent.", "loop.")) and name not in old)


def _dotted(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in a `config.json` under the names of the command line's flags."""
    nested = {f"{part}.{name}": value for part in ("agent", "loop") for name, value in config.get(part, {}).items()}
    return {**{name: value for name, value in config.items() if name not in ("agent", "loop")}, **nested}


def run(
    loop: Loop | Drivable,
    job: Job,
    out: Path | str,
    *,
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 30.0,
    draw: Callable[[Path], Any] | None = None,
    watchers: Sequence[Watcher] = (),
    progress: Progress | None = None,
) -> Result:
    """Trains all seeds of a job and writes its files to a folder.

    SIGINT or SIGTERM lets the call under way finish, saves a checkpoint, also in the midst of a chunk, and returns; a
    second one raises KeyboardInterrupt at once, and the last checkpoint stays.

    Args:
      loop: one seed's loop, or an object whose `driver(job)` returns what drives all seeds.
      job: what to run.
      out: the folder, created where it is missing.
      resume: continue from the newest checkpoint there, or from the start where there is none yet.
      quiet: print nothing.
      checkpoint_seconds: least time between checkpoints; 0 saves one after every chunk, and none in the midst of one.
      draw: (out) -> None, called at the end to draw the learning curve.
      watchers: called after every chunk; one that returns True ends the run. What one raises ends it too, with what was
        learned saved.
      progress: where the run shows how far it is; a line of its own if None.
    Returns:
      the state of all seeds, the summary, and whether the run reached its last chunk.
    Raises:
      ValueError: the folder cannot be used: see `check_folder`.
      DiskError: the folder cannot be written any more; what was written before stays.
    """
    check_folder(job, out, resume)
    with claimed(out) as folder:
        check_folder(job, folder, resume)  # again: another run may have begun and ended in between
        if resume:
            job = divided(job, folder)
        try:
            return _run(loop, job, folder, resume, quiet, checkpoint_seconds, draw, watchers, progress)
        except OSError as error:
            if isinstance(error.filename, str) and folder.absolute() in Path(error.filename).absolute().parents:
                raise DiskError(error, error.filename, _left(job, folder)) from error
            raise


def _left(job: Job, out: Path) -> str:
    """What a run can go on from, in words."""
    place = checkpoint.latest_place(out / "checkpoints")
    if place is None:
        return "there is no checkpoint yet"
    path = out / "checkpoints" / place.name
    return f"--resume goes on from the checkpoint {path}, at {env_steps(job.loop, place.chunk):,} steps"


def _run(
    loop: Loop | Drivable,
    job: Job,
    out: Path,
    resume: bool,
    quiet: bool,
    checkpoint_seconds: float,
    draw: Callable[[Path], Any] | None,
    watchers: Sequence[Watcher],
    progress: Progress | None = None,
) -> Result:
    # Long because it names each step of a run once, in order.
    chunks = chunks_for(job.loop, job.steps)
    record = Record(out, range(job.seed, job.seed + job.seeds))
    driver = driver_of(loop, job)
    progress = progress or Progress(f"{job.algo} {job.env}", env_steps(job.loop, chunks), job.seeds, quiet)
    found = _Begun(None, 0, uuid.uuid4().hex, 0.0)
    compiling = 0.0
    try:
        if resume:
            found = _resume(job, out, record, driver, progress.say)
            if job.groups > job.devices:
                progress.say(
                    f"the run began on {job.groups} devices and goes on with {job.devices}: rows may differ in the "
                    "last digits, but with --wave 1"
                )
        _write_config(job, out, resume, found.identity)
        work, done = found.work, found.done
        with Stop(progress.say) as stop:
            if done < chunks and not _given_up(job, record):
                if work is not None and driver.not_resumed():
                    progress.say(driver.not_resumed())
                progress.say(f"compiling {job.algo} on {job.env}, {job.seeds} seed{'s' * (job.seeds > 1)} ...")
                with notice(f"{job.algo} {job.env}", progress.say) as compiled:
                    work, compiling, running, lost = driver.start(work)
                    compiled(compiling)
                _watch_warm_up(job, record, lost, progress.say)
                _drop(job, driver, record)
                # Wall time counts this run and those it continues, without compilation.
                base = found.wall_seconds + running - time.monotonic()
                whole = getattr(driver, "whole", None)
                saver = _Saver(record, found.identity, base, checkpoint_seconds, (done, work.position), whole)
                work, done = _train(job, driver, work, (done, chunks), saver, stop, progress, watchers)
        summary = _summary(job, record, done, compiling, out, idle=done == found.done)
        if driver.seconds():
            summary |= {"seconds": {name: round(value, 3) for name, value in driver.seconds().items()}}
    finally:
        progress.close()
        driver.close()
        for watcher in watchers:
            getattr(watcher, "close", lambda: None)()
    finished = done >= chunks or _given_up(job, record)
    write_json(out / "summary.json", summary)
    if draw is not None and done:
        draw(out)
    if not quiet:
        _print_summary(job, out, summary, finished, draw is not None and done > 0)
    return Result(None if work is None else work.state, summary, finished, record.all_diverged())


def _watch_warm_up(job: Job, record: Record, lost: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Names the seeds whose environments gave a NaN in the warm-up."""
    per_iteration = job.loop.unroll * job.loop.num_envs
    for line in record.watch(env_steps(job.loop, 0), {}, (), lost, (0, per_iteration)):
        say(line)


def _drop(job: Job, driver: Driver, record: Record) -> None:
    """Leaves the seeds that diverged out of what follows, where the job asks for it and the driver can."""
    drop = getattr(driver, "drop", None)
    if job.stop_diverged and drop is not None and record.lost():
        drop(record.lost())


def _given_up(job: Job, record: Record) -> bool:
    """Whether there is nothing left to train because every seed diverged."""
    return job.stop_diverged and record.all_diverged()


def driver_of(loop: Loop | Drivable, job: Job) -> Driver:
    """What drives a job: that of a `Loop` over seeds, or the object's own.

    Args:
      loop: as `run` takes it.
      job: what to run.
    """
    if isinstance(loop, Loop):
        return CompiledDriver(loop, seed_keys(job.seed, job.seeds), job.wave, job.devices, job.groups or None)
    return loop.driver(job)


class _Begun(NamedTuple):
    """What a run goes on from."""

    work: Work | None
    done: int  # chunks
    identity: str  # of the run
    wall_seconds: float


def _resume(job: Job, out: Path, record: Record, driver: Driver, say: Callable[[str], None]) -> _Begun:
    """Takes up the run in a folder at its newest whole checkpoint.

    Raises:
      ValueError: no checkpoint can be read, or rows and checkpoint are not of this run.
    """
    saved = read_json(out / "config.json")
    identity = saved.get("run", "")
    added = added_settings(job, out)
    if added:
        say(f"settings added since the run in {out} began: {', '.join(added)}")
    if checkpoint.latest(out / "checkpoints") is None:
        if (out / "metrics.csv").exists():
            say(f"{out} has rows but no checkpoint: starting from the beginning")
        return _Begun(None, 0, identity or uuid.uuid4().hex, 0.0)
    like = driver.shapes()
    found = checkpoint.newest(out / "checkpoints", like.state, like.part)
    for line in found.damaged:
        say(line)
    if found.damaged:
        say(f"resuming from the checkpoint before, at {env_steps(job.loop, found.chunk):,} steps")
    identity = identity or found.about.get("run", "") or uuid.uuid4().hex  # runs from before format 1 have none
    if found.about.get("run", identity) != identity:
        raise ValueError(f"the checkpoints in {out / 'checkpoints'} are of another run than its config.json")
    record.load(env_steps(job.loop, found.chunk), found.chunk, found.about.get("rows"))
    record.diverged.update({int(seed): tuple(what) for seed, what in found.about.get("diverged", {}).items()})
    wall = float(found.about.get("wall_seconds", record.wall_seconds))
    return _Begun(Work(found.state, found.part, found.position), found.chunk, identity, wall)


class _Saver:
    """Writes rows and checkpoints, at most every so many seconds.

    Args:
      record: of the rows.
      identity: of the run, written into every checkpoint.
      base: wall seconds at time 0 of `time.monotonic`.
      every: least seconds between checkpoints; 0 saves after every chunk.
      at: chunks done and position of the newest checkpoint.
      whole: (work) -> that of all seeds, where a driver's own holds some of them alone.
    """

    def __init__(
        self,
        record: Record,
        identity: str,
        base: float,
        every: float,
        at: tuple[int, int],
        whole: Callable[[Work], Work] | None = None,
    ):
        self.record, self.identity, self.base, self.every, self.at = record, identity, base, every, at
        self.whole = whole or (lambda work: work)
        self.last = time.monotonic()

    def wall(self) -> float:
        """Seconds that the run has taken, those before it was resumed included."""
        return self.base + time.monotonic()

    def due(self, work: Work) -> bool:
        """Whether it is time for a checkpoint."""
        if self.every == 0:
            return work.position == 0
        return time.monotonic() - self.last >= self.every

    def save(self, done: int, work: Work) -> None:
        """Writes the rows first, so that a checkpoint is never ahead of them."""
        if (done, work.position) == self.at:
            return
        record, wall, work = self.record, self.wall(), self.whole(work)
        record.write()
        about = {"format": FORMAT, "run": self.identity, "rows": record.digests(), "diverged": record.diverged}
        folder, place = record.folder / "checkpoints", checkpoint.Place(done, work.position)
        checkpoint.save(folder, place, work.state, about=about | {"wall_seconds": round(wall, 3)}, part=work.part)
        self.at, self.last = (done, work.position), time.monotonic()


def _train(
    job: Job,
    driver: Driver,
    work: Work,
    span: tuple[int, int],
    saver: _Saver,
    stop: Stop,
    progress: Progress,
    watchers: Sequence[Watcher] = (),
) -> tuple[Work, int]:
    """Works up to the last chunk or a signal, and saves rows and checkpoints between the pieces.

    Args:
      job: what runs.
      driver: of all seeds.
      work: to begin with.
      span: chunks done before, and chunks at the end.
      saver: of rows and checkpoints.
      stop: set by a signal.
      progress: shown between the pieces, and within those that last.
      watchers: called after every chunk.
    Returns:
      what there is at the end, and the number of chunks done.
    """
    done, chunks = span
    rows, per_iteration = saver.record, job.loop.unroll * job.loop.num_envs
    stopping = getattr(driver, "stopping", lambda: False)

    def show() -> None:
        note = driver.note(work)
        progress.wait(env_steps(job.loop, done) + note.iterations * per_iteration, note.doing)

    progress.begin(env_steps(job.loop, done) + driver.note(work).iterations * per_iteration)
    while done < chunks and not stop.asked and not _given_up(job, rows):
        now = work
        try:
            work, report = aside(lambda: driver.piece(now), show)  # noqa: B023
        except EnvironmentFailed as error:
            if error.work is not None:
                saver.save(done, error.work)
                progress.say(f"what was learned is saved; resume with: {resume_command(job.command, rows.folder)}")
            raise
        if stopping() and not stop.asked:
            stop.asked = True
            progress.say("stopping: another process of the run was asked to")
        if report is not None:
            done += 1
            metrics, returns, lengths, faults = jax.device_get(tuple(report))
            at = env_steps(job.loop, done)
            if job.stop_diverged:
                metrics, returns, lengths = rows.blanked(metrics, returns, lengths)
            rows.add(at, updates(job.loop, done), saver.wall(), metrics, returns, lengths)
            for line in rows.watch(at, metrics, returns, faults, (env_steps(job.loop, done - 1), per_iteration)):
                progress.say(line)
            _drop(job, driver, rows)
            progress.show(at, mean_known(rows.trained), mean_known(rows.scores[-1][1]))
            if watchers:
                event = Event(
                    rows.folder, done, at, updates(job.loop, done), saver.wall(), tuple(rows.seeds), metrics, returns,
                    lengths, work.state,
                )  # fmt: skip
                _watch(watchers, event, stop, lambda: saver.save(done, work))  # noqa: B023
        if done < chunks and saver.due(work):
            saver.save(done, work)
    saver.save(done, work)
    return work, done


def _watch(watchers: Sequence[Watcher], event: Event, stop: Stop, save: Callable[[], None]) -> None:
    """Calls the watchers; one that returns True ends the run after this chunk."""
    try:
        stopping = [bool(watcher(event)) for watcher in watchers]
    except BaseException:
        save()
        raise
    stop.asked = stop.asked or any(stopping)


def _write_config(job: Job, out: Path, resume: bool, identity: str) -> None:
    path = out / "config.json"
    old = read_json(path) if resume else {}
    if resume and old.get("steps") == job.steps and old.get("run") == identity:
        return
    begun = old.get("init_from", job.init_from)
    device = jax.devices()[0].device_kind
    write_json(
        path,
        {
            "format": FORMAT,
            "run": identity,
            **settings(job),
            "versions": versions(),
            "device": device,
            "command": job.command,
            **({} if begun is None else {"init_from": dict(begun)}),
        },
    )


def _summary(job: Job, record: Record, done: int, compiling: float, out: Path, idle: bool) -> dict[str, Any]:
    steps, wall = env_steps(job.loop, done), record.wall_seconds
    if idle and (out / "summary.json").exists():
        old = read_json(out / "summary.json")
        if old["env_steps"] == steps:  # nothing was left to do: the old times stand
            return old
    summary = {
        "algo": job.algo,
        "env": job.env,
        "seeds": job.seeds,
        "env_steps": steps,
        "updates": updates(job.loop, done),
        "wall_seconds": round(wall, 3),
        "compile_seconds": round(compiling, 3),
        "env_steps_per_second": round(steps * job.seeds / wall, 3) if wall > 0 else None,
        "eval_return": record.scores[-1][1] if record.scores else [None] * job.seeds,
        "recent_eval_return": record.recent(),
        "training_return": record.training(),
        "threshold": job.threshold,
        "steps_to_threshold": record.reached(job.threshold),
        "diverged": record.fates(),
        "versions": versions(),
    }
    return plain(summary)


def _print_summary(job: Job, out: Path, summary: dict[str, Any], finished: bool, drawn: bool) -> None:
    scores = [score for score in summary["eval_return"] if score is not None]
    lost = [fate for fate in summary["diverged"] if fate is not None]
    mean = f"mean eval return {np.mean(scores):.1f}" if scores else "no evaluation"
    if scores and "recent_eval_return" in summary:
        mean += f" ({mean_known(summary['recent_eval_return']):.1f} over the last {RECENT})"
    if len(lost) == job.seeds:
        mean = "every seed diverged" if job.seeds > 1 else "the seed diverged"
    elif lost:
        mean += f" over {job.seeds - len(lost)} of {job.seeds} seeds; {len(lost)} diverged"
    verb = "done" if finished else "stopped"
    took = clock(summary["wall_seconds"])
    print(f"{verb} after {summary['env_steps']:,} steps of {job.seeds} seed{'s' * (job.seeds > 1)} in {took}: {mean}")
    if summary.get("seconds"):
        whole = max(sum(value for name, value in summary["seconds"].items() if name != ALONGSIDE), 1e-9)
        print("time: " + ", ".join(f"{name} {100 * value / whole:.0f} %" for name, value in summary["seconds"].items()))
    print(f"results in {out}" + (f", curve in {out / 'curve.png'}" if drawn else ""))
    if not finished:
        print(f"resume with: {resume_command(job.command, out)}")
    sys.stdout.flush()


NOT_SAVED = {"--env-workers": 1, "--checkpoint-seconds": 1, "--devices": 1, "--quiet": 0}
"""Flags that are no settings of a run, with the number of their values: a resumed one takes them from its command."""


def leave(
    job: Job, record: Record, done: int, state: Tree, compile_seconds: float, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes the files of a run that was computed elsewhere, as part of a larger one: it can be resumed from them.

    Args:
      job: what was run.
      record: its rows; they go to the record's folder.
      done: chunks.
      state: [seeds, ...] after them.
      compile_seconds: what compiling took.
      more: what else the summary is to say.
    Returns:
      the summary, which is written last.
    """
    identity, out = uuid.uuid4().hex, record.folder
    _write_config(job, out, False, identity)
    _Saver(record, identity, record.wall_seconds - time.monotonic(), 0, (0, 0)).save(done, Work(state))
    summary = _summary(job, record, done, compile_seconds, out, idle=False) | dict(more or {})
    write_json(out / "summary.json", summary)
    return summary


def resume_command(command: str, out: Path | str) -> str:
    """The command line that resumes a run; of several processes that share one, each has its own.

    Args:
      command: the one that started it; "" for a run that was started from Python.
      out: the run's folder.
    """
    words = shlex.split(command) or ["mbrl-jax", "train"]
    if any(word.partition("=")[0] == "--distributed" for word in words):  # whose settings do not come from the folder
        return shlex.join([*words, "--resume"])
    kept: list[str] = []
    for i, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if (values := NOT_SAVED.get(flag.replace("_", "-"))) is not None:
            kept += words[i : i + 1 + (0 if equals else values)]
    return shlex.join([*words[:2], "--resume", str(out), *kept])


def mean_known(values: Sequence[float | None]) -> float:
    """The mean of the numbers that are there and finite, NaN where there is none.

    Args:
      values: None for one that is missing.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
