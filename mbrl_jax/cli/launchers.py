"""Who starts the workers of a sweep: this machine, SLURM through submitit, or a Ray cluster.

A worker is the sweep's own command with `--worker-index`. Workers share nothing but the sweep's folder, in which each
claims one program after the other, so any number of them may be started, lost and started again.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from mbrl_jax.presets.sweep import Sweep
    from mbrl_jax.presets.sweep_run import How, Outcome

Commands: TypeAlias = Sequence[Sequence[str]]
Worker: TypeAlias = Callable[[Sequence[str]], int]

ATTEMPTS = 3
"""How often workers are started for what lost ones left."""

OWN = ("--launcher", "--workers", "--launcher-args", "--worker-index", "--out", "--resume")
"""Flags of the command that a worker's own replace."""


def launch(sweep: Sweep, out: Path, words: Sequence[str], options: Any, how: How, worker: Worker) -> Outcome:
    """Begins a sweep, starts workers on its programs and waits for them.

    Args:
      sweep: what to run.
      out: its folder.
      words: of the command.
      options: its parsed options.
      how: to run it.
      worker: runs the command of a worker.
    Returns:
      how far it has come.
    Raises:
      ValueError: the folder cannot be used, a setting is wrong, or an extra is not installed.
    """
    from mbrl_jax.presets.sweep_run import Outcome, begin
    from mbrl_jax.train.run_files import read_json
    from mbrl_jax.train.swept import finished

    start = LAUNCHERS[options.launcher]
    given = read_args(options.launcher_args)
    if given and options.launcher == "local":
        raise ValueError(f"--launcher-args must not be given with --launcher local, got {', '.join(given)}")
    check_installed(options.launcher)
    if not sweep.together:  # every worker has something to do
        groups = sweep.groups()
        each = -(-options.workers // len(groups))
        sweep = sweep._replace(together=-(-max(map(len, groups)) // each))
    begin(sweep, out, options.resume, how)
    programs = read_json(out / "sweep.json")["programs"]

    def left() -> int:
        return sum(not all(finished(sweep.job(i), out / sweep.name(i)) for i in group) for group in programs)

    waiting = left()
    if not how.quiet:
        print(f"{len(sweep.trials)} trials in {len(programs)} programs for {options.workers} workers", flush=True)
    for _ in range(ATTEMPTS):
        if not waiting:
            break
        codes = start([worker_words(words, out, i) for i in range(min(options.workers, waiting))], out, given, worker)
        waiting = left()
        if 130 in codes or 2 in codes:
            break
        if waiting:
            print(f"{waiting} programs have not come to their end: workers were lost", file=sys.stderr)
    return Outcome(not waiting, stopped=bool(waiting))


def worker_words(words: Sequence[str], out: Path, index: int) -> list[str]:
    """The command line of a worker, after `sweep`.

    Args:
      words: of the command that starts it.
      out: the sweep's folder.
      index: of the worker.
    """
    kept: list[str] = []
    rest = list(words)
    while rest:
        word, rest = rest[0], rest[1:]
        flag, equals, _ = word.replace("_", "-").partition("=")
        if flag in OWN:
            rest = rest if equals or flag == "--resume" else rest[1:]
        else:
            kept.append(word)
    return [*kept, "--out", str(out.absolute()), "--worker-index", str(index)]


def read_args(text: str) -> dict[str, Any]:
    """What `--launcher-args` says: `partition=gpu,gpus_per_node=1`; whole numbers are read as such.

    Args:
      text: the flag's value.
    Raises:
      ValueError: it is not of that form.
    """
    found: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--launcher-args needs key=value,key=value, got {word!r}")
        found[name] = int(value) if value.isdecimal() else value
    return found


def check_installed(launcher: str) -> None:
    """Checks that a launcher's library can be imported.

    Args:
      launcher: "local", "slurm" or "ray".
    Raises:
      ValueError: it cannot; names the extra.
    """
    library = {"slurm": "submitit", "ray": "ray"}.get(launcher)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ValueError(f'--launcher {launcher} needs the extra {launcher}: pip install "mbrl_jax[{launcher}]"')


def start_local(commands: Commands, out: Path, given: Mapping[str, Any], worker: Worker) -> list[int]:
    """Runs workers as processes of this machine; SIGINT and SIGTERM are passed on to them.

    Args:
      commands: of the workers.
      out: the sweep's folder.
      given: nothing.
      worker: runs a command; a function that can be imported.
    Returns:
      their exit codes; negative for those that a signal ended.
    """
    from mbrl_jax.train.interrupt import Stop

    del out, given
    code = f"import sys; from {worker.__module__} import {worker.__name__} as run; sys.exit(run(sys.argv[1:]))"
    with Stop(lambda text: None) as stop:
        running = [subprocess.Popen([sys.executable, "-c", code, *words], start_new_session=True) for words in commands]
        passed = False
        while any(process.poll() is None for process in running):
            if stop.asked and not passed:
                passed = True
                for process in running:
                    process.terminate()
            for process in running:
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
    return [process.returncode for process in running]


class Checkpointed:
    """A worker that submitit starts again where SLURM has taken its machine away.

    Args:
      worker: runs a command.
    """

    def __init__(self, worker: Worker):
        self.worker = worker

    def __call__(self, words: Sequence[str]) -> int:
        return self.worker(words)

    def checkpoint(self, words: Sequence[str]) -> Any:
        """What follows on a timeout or a preemption: the same worker, which goes on from the last checkpoint."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        return DelayedSubmission(self, words)


def start_slurm(commands: Commands, out: Path, given: Mapping[str, Any], worker: Worker) -> list[int]:
    """Submits workers as a job array, and waits for them; their logs go to `slurm/` in the sweep's folder.

    Args:
      commands: of the workers.
      out: the sweep's folder, on a file system that all machines share.
      given: parameters of `submitit.AutoExecutor`: `slurm_partition`, `timeout_min`, `gpus_per_node`, ...; `cluster`
        "local" runs them as processes of this machine.
      worker: runs a command; a function that can be imported.
    Returns:
      their exit codes; 1 for a worker that was lost.
    """
    import submitit  # pyright: ignore[reportMissingImports]

    given = dict(given)
    executor = submitit.AutoExecutor(out / "slurm", cluster=given.pop("cluster", None))
    executor.update_parameters(**{"name": "mbrl-jax-sweep", **given})
    jobs = executor.map_array(Checkpointed(worker), [list(words) for words in commands])
    print(f"submitted jobs {', '.join(job.job_id for job in jobs)}; logs in {out / 'slurm'}", flush=True)
    return [_code(job.result, submitit.core.utils.UncompletedJobError) for job in jobs]


def start_ray(commands: Commands, out: Path, given: Mapping[str, Any], worker: Worker) -> list[int]:
    """Runs workers as tasks of the Ray cluster at `RAY_ADDRESS`, or of one on this machine.

    Args:
      commands: of the workers.
      out: the sweep's folder, on a file system that all machines share.
      given: options of a Ray task: `num_cpus`, `num_gpus`, `memory`, ...
      worker: runs a command; a function that can be imported.
    Returns:
      their exit codes; 1 for a worker that was lost three times.
    """
    import ray  # pyright: ignore[reportMissingImports]

    del out
    begun = not ray.is_initialized()
    with warnings.catch_warnings():  # Ray's forks run other programs at once, which JAX's threads do not harm
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        if begun:
            ray.init(log_to_driver=False, include_dashboard=False)
        try:
            task = ray.remote(worker).options(**{"max_retries": ATTEMPTS, **given})
            tasks = [task.remote(list(words)) for words in commands]
            return [_code(lambda task=task: ray.get(task), ray.exceptions.WorkerCrashedError) for task in tasks]
        finally:
            if begun:
                ray.shutdown()


def _code(result: Callable[[], int], lost: type[Exception]) -> int:
    """A worker's exit code, 1 where it was lost."""
    try:
        return result()
    except lost as error:
        print(f"a worker was lost: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return 1


LAUNCHERS: dict[str, Callable[[Commands, Path, Mapping[str, Any], Worker], list[int]]] = {
    "local": start_local,
    "slurm": start_slurm,
    "ray": start_ray,
}
