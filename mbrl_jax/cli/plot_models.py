"""`mbrl-jax plot error | calibration | trust | compare`: how far the models of runs can be relied on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = ("error", "calibration", "trust", "compare")
MOST = {"episodes": 1_000, "steps": 100_000, "starts": 10_000, "horizon": 10_000, "draws": 10_000, "context": 100_000}


TOLD = {
    "error": "errors of a model's open-loop predictions by steps ahead, beside baselines",
    "calibration": "whether what happens lies in a model's predicted intervals as often as it should",
    "trust": "where a model's members disagree, and where it is wrong",
    "compare": "the errors of several runs' models in one picture",
}
"""What each kind draws."""


def add_parsers(kinds: Any) -> None:
    """Adds the four kinds of pictures to the parser of `plot`.

    Args:
      kinds: what `add_subparsers` has returned.
    """
    for name, text in TOLD.items():
        kind = kinds.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        several = name == "compare"
        about = "folder of a run of an agent with a learned model"
        if several:
            kind.add_argument("runs", nargs="+", metavar="RUN", type=Path, help=about)
            kind.add_argument("--labels", nargs="+", metavar="LABEL", help="one name for each run (default: its agent)")
        else:
            kind.add_argument("run", metavar="RUN", type=Path, help=about)
            kind.add_argument("--checkpoint", metavar="NAME", help="a kept checkpoint, by its folder's name")
        kind.add_argument(
            "--out", metavar="FILE.png", type=Path,
            help="the picture to write, and FILE.csv beside it "
            f"(default: model_{name}.png in {'the first RUN' if several else 'RUN'})",
        )  # fmt: skip
        _add_numbers(kind, name)


def _add_numbers(kind: Any, name: str) -> None:
    """Adds what says which episodes and predictions are measured."""
    ahead = 1 if name == "trust" else 20
    if name != "trust":
        kind.add_argument(
            "--actions", default="policy", metavar="KIND",
            help="policy: those of evaluation; sampled: those of training; random (default: policy)",
        )  # fmt: skip
    helps = {
        "seed": (0, "I", "which of a run's seeds"),
        "key": (0, "K", "of episodes and draws"),
        "episodes": (8, "N", "real episodes"),
        "steps": (200, "T", "steps of each at most"),
        "starts": (16, "S", "predictions from each"),
        "horizon": (ahead, "H", "steps ahead"),
    }
    for flag, (default, letter, text) in helps.items():
        kind.add_argument(f"--{flag}", type=int, default=default, metavar=letter, help=f"{text} (default: {default})")
    kind.add_argument("--draws", type=int, metavar="D", help="rollouts of each member (default: enough)")
    kind.add_argument(
        "--context", type=int, metavar="C", help="observations seen first (default: 1, models with memory 5)"
    )


def draw(args: Any) -> int:
    """Draws what a parsed command line asks for; returns the exit code.

    Raises:
      ValueError: a value out of range, or a run whose model has nothing of the kind.
    """
    _check(args)
    return _compare(args) if args.kind == "compare" else _one(args)


def _check(args: Any) -> None:
    if args.out is not None and args.out.suffix != ".png":
        raise ValueError(f"--out must end in .png, got {args.out}")
    actions = getattr(args, "actions", "policy")
    if actions not in ("policy", "sampled", "random"):
        raise ValueError(f"--actions must be policy, sampled or random, got {actions!r}")
    for name, most in MOST.items():
        value = getattr(args, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"--{name} must be from 1 to {most:,}, got {value}")
    if not 0 <= args.key < 2**32:
        raise ValueError(f"--key must be at least 0 and below 2**32, got {args.key}")
    if args.kind == "compare" and args.labels and len(args.labels) != len(args.runs):
        raise ValueError(f"--labels must name each of the {len(args.runs)} runs, got {len(args.labels)}")


def _plan(args: Any) -> Any:
    from mbrl_jax.presets.measure import Plan

    plan = Plan(
        getattr(args, "actions", "policy"), args.episodes, args.steps, args.starts, args.horizon, context=args.context
    )
    return plan._replace(draws=args.draws or (16 if args.kind == "trust" else plan.draws))


def _one(args: Any) -> int:
    import jax

    from mbrl_jax.analysis import model_error, model_pictures, text
    from mbrl_jax.envs import own
    from mbrl_jax.presets import measure
    from mbrl_jax.presets.api import load

    run = load(args.run, args.seed, args.checkpoint)
    key, plan = jax.random.key(args.key), _plan(args)
    who = f"{run.algo} on {own.title(run.name)}, seed {args.seed}, after {run.env_steps:,} steps"
    if args.kind == "error":
        found = measure.errors(run, key, plan)
        image = model_pictures.errors_picture(found, f"{who}, actions: {plan.actions}")
        table = [("kind", "steps_ahead", "what", "error"), *model_error.rows(found)]
        shown = _error_table(found)
    elif args.kind == "calibration":
        calibrated = measure.calibrate(run, key, plan)
        image = model_pictures.calibration_picture(
            {label: one.calibration for label, one in calibrated.items()},
            {label: one.bins for label, one in calibrated.items()},
            f"{who}, actions: {plan.actions}",
        )
        table, shown = _calibration_rows(calibrated), _calibration_table(calibrated)
    else:
        trusted = measure.trusted(run, key, plan)
        steps = f"{trusted.ahead} step{'s' if trusted.ahead > 1 else ''} ahead"
        image = model_pictures.trust_picture(trusted.trust, trusted.distance, title=f"{who}, {trusted.kind} {steps}")
        table, shown = _trust_rows(trusted), _trust_table(trusted)
    print("\n".join(text.aligned(shown)))
    _write(args, image, table, args.run)
    return 0


def _compare(args: Any) -> int:
    import jax

    from mbrl_jax.analysis import model_error, model_pictures, text
    from mbrl_jax.analysis.labels import check_labels
    from mbrl_jax.presets import measure
    from mbrl_jax.presets.api import load

    check_labels(args.labels or [])
    runs = [load(folder, args.seed) for folder in args.runs]
    labels = args.labels or _distinct([run.algo for run in runs], args.runs)
    found: dict[str, Any] = {}
    shown: list[tuple[str, ...]] = [
        ("run", "environment", "prediction", "1 step", f"{args.horizon} steps", "persistence")
    ]
    for label, run in zip(labels, runs, strict=True):
        found[label] = measure.errors(run, jax.random.key(args.key), _plan(args))
        for kind, one in found[label].items():
            cells = (one.rollouts[0], one.rollouts[-1], one.baselines["persistence"][-1])
            shown.append((label, run.name, kind, *map(_shown, cells)))
    table = [("run", "kind", "steps_ahead", "what", "error")]
    table += [(label, *row) for label, errors in found.items() for row in model_error.rows(errors)]
    print("\n".join(text.aligned(shown)))
    image = model_pictures.compared_picture(found, f"errors of open-loop predictions, actions: {args.actions}")
    _write(args, image, table, args.runs[0])
    return 0


def _distinct(labels: Sequence[str], folders: Sequence[Path]) -> list[str]:
    named = [
        f"{label} ({folder.name})" if labels.count(label) > 1 else label
        for label, folder in zip(labels, folders, strict=True)
    ]
    return [f"{name} {i + 1}" if named.count(name) > 1 else name for i, name in enumerate(named)]


def _write(args: Any, image: bytes, table: Sequence[Sequence[Any]], folder: Path) -> None:
    from mbrl_jax.train.log import write_atomic

    out = folder / f"model_{args.kind}.png" if args.out is None else args.out
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(
        [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in table
    )
    write_atomic(out, image)
    write_atomic(out.with_suffix(".csv"), file.getvalue())
    print(f"picture in {out}, table in {out.with_suffix('.csv')}")


# Tables --------------------------------------------------------------------------------------------------------------


def _error_table(found: Any) -> list[tuple[str, ...]]:
    horizon = len(next(iter(found.values())).rollouts)
    marks = sorted({h for h in (1, 2, 5, 10, 20, 50, 100) if h < horizon} | {horizon})
    shown: list[tuple[str, ...]] = [("error / spread", "steps ahead:", *map(str, marks))]
    for kind, one in found.items():
        lines = {"model": one.rollouts, "mean of rollouts": one.mean} | one.baselines
        for name, values in lines.items():
            shown.append((kind, name, *(_shown(values[h - 1]) for h in marks)))
    return shown


def _shown(value: float) -> str:
    """A number, or a dash where no start lasts so long."""
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _calibration_table(found: Any) -> list[tuple[str, ...]]:
    shown: list[tuple[str, ...]] = [
        ("prediction", "rows", "50 % interval", "90 % interval", "sharpness", "error", "NLL per entry")
    ]
    for label, (one, _) in found.items():
        inside = [f"{100 * one.coverage[list(one.levels.round(2)).index(level)]:.0f} %" for level in (0.5, 0.9)]
        nll = "-" if one.nll is None else f"{one.nll:.3g}"
        shown.append((label, str(one.rows), *inside, f"{one.sharpness:.3g}", f"{one.error:.3g}", nll))
    return shown


def _calibration_rows(found: Any) -> list[tuple[Any, ...]]:
    table: list[tuple[Any, ...]] = [("prediction", "what", "at", "value")]
    for label, (one, bins) in found.items():
        table += [(label, "coverage", float(a), float(b)) for a, b in zip(one.levels, one.coverage, strict=True)]
        table += [(label, "error by predicted std", float(a), float(b)) for a, b in zip(*bins, strict=True)]
        numbers = {"sharpness": one.sharpness, "error": one.error, "nll": one.nll}
        table += [(label, name, "", float(value)) for name, value in numbers.items() if value is not None]
    return table


def _trust_table(found: Any) -> list[tuple[str, ...]]:
    from mbrl_jax.analysis import trust

    shown: list[tuple[str, ...]] = [("predictions", "rows", "disagreement", "error", "rank correlation")]
    one = found.trust
    for i, name in enumerate(one.sources):
        mine = one.source == i
        if mine.any():
            cells = (one.disagreement[mine].mean(), (one.error[mine] ** 2).mean() ** 0.5)
            related = trust.rank_correlation(one.disagreement[mine], one.error[mine])
            shown.append((f"{name} actions", str(mine.sum()), *(f"{x:.3g}" for x in cells), f"{related:.2f}"))
    apart, off, rows = trust.by_quantile(one.disagreement, one.error, 4)
    names = ("least", "second", "third", "most")[: len(rows)]
    for name, a, b, n in zip(names, apart, off, rows, strict=True):
        shown.append((f"quarter with the {name} disagreement", str(n), f"{a:.3g}", f"{b:.3g}", ""))
    whole = (one.disagreement.mean(), (one.error**2).mean() ** 0.5)
    shown.append(("all", str(len(one.error)), *(f"{x:.3g}" for x in whole), f"{one.correlation:.2f}"))
    if found.distance is not None:
        related = trust.rank_correlation(found.distance, one.error)
        shown.append(("distance to the data against error", "", "", "", f"{related:.2f}"))
    return shown


def _trust_rows(found: Any) -> list[tuple[Any, ...]]:
    one, near = found.trust, found.distance
    entries = [f"o[{i}]" for i in range(min(one.place.shape[1], 64))]
    distance = ["distance_to_data"] if near is not None else []
    table: list[tuple[Any, ...]] = [("actions", "disagreement", "error", *distance, *entries)]
    for i in range(len(one.error)):
        far = [float(near[i])] if near is not None else []
        place = [float(x) for x in one.place[i, : len(entries)]]
        table.append((one.sources[one.source[i]], float(one.disagreement[i]), float(one.error[i]), *far, *place))
    return table
