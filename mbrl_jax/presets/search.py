"""Search: trials are asked of Optuna a round at a time, run as one wave, and their results given back to it.

`pruned.py` is a search that ends trials on their way. The study is `study.log` in the sweep's folder, which Optuna's
own tools read. Whatever a round asks for is a function of the sweep's seed and of the results before it, so a search
that was killed goes on to the same trials.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrl_jax.analysis import sweeps as tables
from mbrl_jax.presets.sweep import Range, Sweep, planned
from mbrl_jax.presets.sweep_run import PATIENCE, How, Outcome, check, work, write
from mbrl_jax.train.folder import claimed
from mbrl_jax.train.run_files import read_json
from mbrl_jax.train.swept import text

STUDY = "study.log"


def check_installed() -> None:
    """Checks that Optuna can be imported.

    Raises:
      ValueError: it cannot.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ValueError('search "optuna" needs the extra optuna: pip install "mbrl_jax[optuna]"')


def run(
    sweep: Sweep,
    grid: Mapping[str, Sequence[Any]],
    ranges: Mapping[str, Range],
    out: Path,
    at_once: int,
    *,
    resume: bool = False,
    how: How | None = None,
) -> Outcome:
    """Searches for the best settings: `at_once` trials a round, `sweep.total` in all.

    The score of a trial is the interquartile mean of its seeds, as in the sweep's table; one with diverged seeds
    has failed.

    Args:
      sweep: without trials.
      grid: settings to the values among which to choose.
      ranges: settings to the span in which to choose.
      out: the sweep's folder.
      at_once: trials of a round.
      resume: go on with the search there.
      how: to run it.
    Returns:
      how far it has come.
    Raises:
      ValueError: the folder cannot be used, or a setting is wrong.
    """
    how = how or How()
    check(sweep, out, resume)
    with claimed(out, wait=PATIENCE if resume else 0.0):
        check(sweep, out, resume)
        if not resume:
            write(sweep, out, [], {"asked_as": []})
        study = _study(out)
        while True:
            told = read_json(out / "sweep.json")
            sweep = sweep._replace(trials=[as_read(values) for values in told["trials"].values()])
            outcome = work(sweep, out, range(len(told["programs"])), told["programs"], how)
            if not outcome.done:
                return outcome
            _tell(study, told["asked_as"], out, told["trials"])
            tables.report(out)
            left = sweep.total - len(sweep.trials)
            if left <= 0:
                return outcome
            _ask(study, sweep, grid, ranges, out, min(at_once, left), told, how)


def _study(out: Path, pruner: Any = None) -> Any:
    """The study in a sweep's folder, made where there is none."""
    import optuna  # pyright: ignore[reportMissingImports]
    from optuna.storages import JournalStorage  # pyright: ignore[reportMissingImports]
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(out / STUDY)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    return optuna.create_study(
        storage=storage, study_name="sweep", direction="maximize", load_if_exists=True, pruner=pruner
    )


def _sampler(sweep: Sweep) -> Any:
    """What suggests the next trials of a sweep; its random numbers depend on how many there are."""
    import optuna  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        seed = (sweep.base.seed + 1_000_003 * len(sweep.trials)) % 2**32
        return optuna.samplers.TPESampler(
            seed=seed, constant_liar=True, multivariate=True, n_startup_trials=startup(sweep)
        )


def startup(sweep: Sweep) -> int:
    """Trials before which a search suggests at random.

    Args:
      sweep: of the trials.
    """
    return min(10, max(1, sweep.total // 4))


class Study:
    """The study of a search that prunes: trial i of the sweep is number i there.

    Args:
      out: the sweep's folder.
      kind: of the pruner, "median" or "halving".
      first: chunks after which it may prune first.
      trials: that must have ended before the median is asked.
    """

    def __init__(self, out: Path, kind: str, first: int, trials: int):
        import optuna  # pyright: ignore[reportMissingImports]

        pruners = {
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=trials, n_warmup_steps=first),
            "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=first),
        }
        self.study: Any = _study(out, pruners[kind]())

    def _trial(self, number: int) -> Any:
        """A trial that was asked for, by this process or another."""
        import optuna  # pyright: ignore[reportMissingImports]

        return optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)

    def ask(self, sweep: Sweep, grid: Mapping[str, Sequence[Any]], ranges: Mapping[str, Range]) -> dict[str, Any]:
        """The settings of the next trial.

        Args:
          sweep: with the trials before it.
          grid, ranges: as in `run`.
        """
        self.study.sampler = _sampler(sweep)
        return _suggested(self.study.ask(), grid, ranges)

    def report(self, number: int, chunks: int, score: float) -> None:
        """Gives a trial's score after so many chunks.

        Args:
          number: of the trial.
          chunks: done.
          score: the higher the better.
        """
        self._trial(number).report(score, chunks)

    def prune(self, number: int) -> bool:
        """Whether a trial is to end, by the last score reported of it; if so, the study has it as pruned.

        Args:
          number: of the trial.
        """
        import optuna  # pyright: ignore[reportMissingImports]

        if not self._trial(number).should_prune():
            return False
        self.study.tell(number, state=optuna.trial.TrialState.PRUNED)
        return True

    def tell(self, number: int, score: float) -> None:
        """Gives the score of a trial that has come to its end.

        Args:
          number: of the trial.
          score: the higher the better; NaN for one that has failed.
        """
        import optuna  # pyright: ignore[reportMissingImports]

        if math.isfinite(score):
            self.study.tell(number, score)
        else:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)


def _ask(
    study: Any,
    sweep: Sweep,
    grid: Mapping[str, Sequence[Any]],
    ranges: Mapping[str, Range],
    out: Path,
    count: int,
    told: dict[str, Any],
    how: How,
) -> None:
    """Asks for the trials of a round and adds them to `sweep.json`."""
    import optuna  # pyright: ignore[reportMissingImports]

    known = set(told["asked_as"])
    for trial in study.get_trials(deepcopy=False):  # asked by a process that was killed before it wrote them down
        if not trial.state.is_finished() and trial.number not in known:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    study.sampler = _sampler(sweep)
    asked = [study.ask() for _ in range(count)]
    trials = [_suggested(trial, grid, ranges) for trial in asked]
    wave = sweep._replace(trials=[*sweep.trials, *trials])
    part = wave._replace(trials=trials)
    first = len(sweep.trials)
    groups = [[first + i for i in group] for group in planned(part, how.env_workers)[0]]
    numbers = [*told["asked_as"], *(trial.number for trial in asked)]
    write(wave, out, [*told["programs"], *groups], {"asked_as": numbers})


def _suggested(trial: Any, grid: Mapping[str, Sequence[Any]], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """The settings that Optuna suggests for a trial."""
    found: dict[str, Any] = {}
    for name, values in grid.items():
        words = [text(value) for value in values]
        found[name] = values[words.index(trial.suggest_categorical(name, words))]
    for name, span in ranges.items():
        if span.whole:
            found[name] = trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
        else:
            found[name] = trial.suggest_float(name, span.low, span.high, log=span.log)
    return found


def _tell(study: Any, numbers: Sequence[int], out: Path, names: Sequence[str] | Mapping[str, Any]) -> None:
    """Gives Optuna the scores of all trials that have come to their end and that it does not know yet."""
    import optuna  # pyright: ignore[reportMissingImports]

    scored = {trial.name: trial for trial in tables.read(out)}
    states = {trial.number: trial.state for trial in study.get_trials(deepcopy=False)}
    for number, name in zip(numbers, names, strict=True):
        if states[number].is_finished():
            continue
        trial = scored[name]
        if len(trial.scores) < trial.seeds or not math.isfinite(trial.middle):
            study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(number, trial.middle)


def as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings as JSON has them, with tuples in place of lists.

    Args:
      values: by their names.
    """
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
