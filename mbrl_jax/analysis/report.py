"""A report on runs: one HTML page that needs nothing else, readable on light and dark, wide and narrow screens.

Pictures are inline SVG, whose text and axes take the colour of the page.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl_jax.analysis.authors import Published, beside
from mbrl_jax.analysis.calibration import Calibration
from mbrl_jax.analysis.curves import DASHES, Curve, load
from mbrl_jax.analysis.statistics import (
    bootstrap_interval,
    interquartile_mean,
    median_steps,
    probability_of_improvement,
    steps_to_threshold,
)
from mbrl_jax.envs import own
from mbrl_jax.train.run_files import read_json

COLOURS = ("#2b83ba", "#d7602c", "#1a9e77", "#c46aa3", "#c8951a", "#56a8d8", "#8a8a8a")
"""Of curves: they can be told apart, on white and on black, by colour-blind readers too."""
INK = "#010203"
"""What matplotlib draws text and axes in; the page's own colour takes its place."""
ELSEWHERE = ("seed", "env_steps", "updates", "wall_seconds", "return", "episodes", "eval_return")


class Looked(NamedTuple):
    """What the model of a run was found to do."""

    label: str
    picture: bytes | None  # a PNG of an imagined episode beside the real one
    errors: Any | None  # [H] root mean square error of open-loop predictions, in spreads, by steps ahead
    calibration: Calibration | None
    note: str = ""  # why something is missing
    colour: str = COLOURS[0]  # of its curves
    kind: str = "observation"  # what the errors are of
    persistence: Any | None = None  # [H] errors of the prediction that nothing changes

    @property
    def anything(self) -> bool:
        """Whether there is something to show."""
        return bool(self.picture or self.note) or self.errors is not None or self.calibration is not None


class Run(NamedTuple):
    """What the files of a run say."""

    folder: Path
    curve: Curve
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: dict[str, tuple[Any, Any]]  # name -> steps [T], mean over seeds [T], of columns that are no return
    label: str
    colour: str = COLOURS[0]


def read(folder: Path | str, label: str | None = None) -> Run:
    """Reads a run's files for a report.

    Args:
      folder: of the run.
      label: its name in the report; the algorithm's if None.
    Raises:
      ValueError: the folder holds no run, one without results, or a file that is not as a run writes it.
    """
    folder = Path(folder)
    curve = load(folder, label)
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else {}
    return Run(folder, curve, read_json(folder / "config.json"), summary, _metrics(folder), curve.label)


def _metrics(folder: Path) -> dict[str, tuple[Any, Any]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, tuple[Any, Any]] = {}
    for name in (name for name in (rows[0] if rows else {}) if name not in ELSEWHERE):
        by_steps: dict[int, list[float]] = {}
        for row in rows:
            if row.get(name):
                by_steps.setdefault(int(row["env_steps"]), []).append(float(row[name]))
        steps = sorted(by_steps)
        means = np.array([np.mean(by_steps[at]) for at in steps])
        if len(steps) and np.isfinite(means).any():
            found[name] = np.array(steps), means
    return found


def unique(runs: Sequence[Run]) -> list[Run]:
    """The runs with labels that differ, the folder's name after those that do not, and a colour for each."""
    labels = [run.label for run in runs]
    named = [f"{run.label} ({run.folder.name})" if labels.count(run.label) > 1 else run.label for run in runs]
    named = [f"{name} {i + 1}" if named.count(name) > 1 else name for i, name in enumerate(named)]
    return [
        run._replace(label=name, curve=run.curve._replace(label=name), colour=COLOURS[i % len(COLOURS)])
        for i, (run, name) in enumerate(zip(runs, named, strict=True))
    ]


# Tables --------------------------------------------------------------------------------------------------------------


def results(runs: Sequence[Run], threshold: float | None = None) -> list[dict[str, str]]:
    """A row for each run: seeds, steps, the final interquartile mean with its interval, and steps to the threshold.

    Args:
      runs: to compare.
      threshold: a return; each run's own if None.
    """
    rows = []
    for run in runs:
        curve, last = run.curve, run.curve.finite[:, -1]
        total = len(curve.scores)
        low, high = bootstrap_interval(last) if len(last) > 1 else (np.nan, np.nan)
        limit = threshold if threshold is not None else curve.threshold
        reached = [] if limit is None else steps_to_threshold(curve.steps, curve.scores, limit)
        middle = median_steps(reached) if reached else np.inf
        rows.append(
            {
                "run": run.label,
                "environment": curve.env,
                "seeds": str(total) if len(last) == total else f"{len(last)} of {total}, the others diverged",
                "steps": f"{curve.steps[-1]:,}",
                "IQM at the end": f"{interquartile_mean(last):.4g}" if len(last) else "diverged",
                "95% interval": f"{low:.4g} to {high:.4g}" if len(last) > 1 else "-",
                "median steps to threshold": "-"
                if limit is None
                else f"{f'{middle:,.0f}' if np.isfinite(middle) else 'not reached'} ({limit:g})",
            }
        )
    return rows


def improvements(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each environment with several runs, the probability that a seed of one run beats one of another."""
    found = []
    for env in dict.fromkeys(run.curve.env for run in runs):
        group = [run for run in runs if run.curve.env == env and len(run.curve.finite)]
        if len(group) < 2:
            continue
        last = [run.curve.finite[:, -1] for run in group]
        cells = [
            ["" if a is b else f"{probability_of_improvement(a, b):.2f}" for b in last]
            for a in last
        ]  # fmt: skip
        found.append({"env": env, "labels": [run.label for run in group], "cells": cells})
    return found


def differences(runs: Sequence[Run], shared: bool = True) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ, each with its value in every run; "-" where a run has no such setting.

    Args:
      runs: to compare.
      shared: those that all runs have; else those that only some have, as agents have settings of their own.
    """
    flat = [_settings(run.config) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    names = [name for name in names if shared == all(name in one for one in flat)]
    rows = [(name, [_shown(one.get(name)) if name in one else "-" for one in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    own_names = ("run", "format", "command", "versions", "agent", "loop", "device")
    found = {name: value for name, value in config.items() if name not in own_names}
    found |= {f"agent.{name}": value for name, value in config.get("agent", {}).items()}
    found |= {f"loop.{name}": value for name, value in config.get("loop", {}).items()}
    return found | {f"version of {name}": value for name, value in config.get("versions", {}).items()}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def times(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each run: throughput, wall and compile time, and where the time went where the run can tell."""
    rows = []
    for run in runs:
        made = run.summary
        shares = made.get("seconds") or {}
        whole = max(sum(value for name, value in shares.items() if name != "learning alongside"), 1e-9)
        rate = made.get("env_steps_per_second")
        rows.append(
            {
                "run": run.label,
                "device": str(run.config.get("device", "-")),
                "steps per second, all seeds": "-" if rate is None else f"{rate:,.0f}",
                "updates per seed": f"{made['updates']:,}" if "updates" in made else "-",
                "training": _seconds(made.get("wall_seconds")),
                "compiling": _seconds(made.get("compile_seconds")),
                "where the time went": ", ".join(f"{name} {100 * x / whole:.0f}%" for name, x in shares.items())
                or "one compiled program",
            }
        )
    return rows


def _seconds(value: Any) -> str:
    return "-" if value is None else f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s"


# Pictures ------------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.patch.set_alpha(0)
        panel.grid(alpha=0.2, color=INK)
        panel.spines[["top", "right"]].set_visible(False)
        for spine in panel.spines.values():
            spine.set_color(INK)
        panel.tick_params(colors=INK, labelsize=9)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    """The figure as an SVG element whose text and axes have the colour of the text around it."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # names within the picture: those of several pictures on one page must differ
    text = re.sub(r'\bid="([^"]+)"', lambda found: f'id="{name}-{found[1]}"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]+)"', lambda found: f'{found[1]}="#{name}-{found[2]}"', text)
    text = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{name}-{found[1]})", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def curves_svg(runs: Sequence[Run], name: str) -> str:
    """Learning curves of runs in one environment: the interquartile mean over seeds, with its 95% interval.

    Args:
      runs: at least one.
      name: of the picture, one word on the page.
    """
    figure, ((panel,),) = _figure(7.5, 4.0)
    for i, run in enumerate(runs):
        curve, colour = run.curve, run.colour
        kept = curve.finite
        if not len(kept):
            continue
        for scores in kept if len(kept) > 1 else ():
            panel.plot(curve.steps, scores, color=colour, linewidth=0.6, alpha=0.25)
        if len(kept) > 1:
            low, high = bootstrap_interval(kept)
            panel.fill_between(curve.steps, low, high, color=colour, alpha=0.22, linewidth=0)
        dash = DASHES[i // len(COLOURS) % len(DASHES)]
        marker = "o" if len(curve.steps) < 3 else None
        panel.plot(
            curve.steps, interquartile_mean(kept), dash, color=colour, linewidth=2.2, marker=marker, label=run.label
        )
    for run in runs:
        _draw_published(panel, run)
    limits = {run.curve.threshold for run in runs if run.curve.threshold is not None}
    for limit in sorted(limits):
        panel.axhline(limit, color=INK, linestyle="--", linewidth=0.9, alpha=0.6)
    panel.set_xlim(left=0)
    panel.set_xlabel("environment steps of a seed", color=INK)
    panel.set_ylabel("evaluation return" if all(run.curve.evaluated for run in runs) else "return", color=INK)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, name)


def published_of(run: Run) -> Published | None:
    """What the authors of the run's agent published on its task, None where it is not known.

    Scores are those until the first that lies at the run's end or behind it.
    """
    found = beside(run.config["algo"], run.curve.env)
    if found is None:
        return None
    last = int(np.searchsorted(found.frames, run.curve.steps[-1])) + 1
    return found._replace(frames=found.frames[:last], means=found.means[:last], deviations=found.deviations[:last])


def _draw_published(panel: Any, run: Run) -> None:
    found = published_of(run)
    if found is not None:
        bars = np.nan_to_num(found.deviations)
        panel.errorbar(
            found.frames, found.means, bars, fmt="o--", color=run.colour, markersize=4, linewidth=1, capsize=3,
            markerfacecolor="none", label=f"{run.label}, its authors",
        )  # fmt: skip


def metric_svgs(runs: Sequence[Run], names: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Small pictures of metrics, one for each: means over seeds of all runs that have it.

    Args:
      runs: at least one.
      names: of columns.
      name: of the pictures, one word on the page.
    Returns:
      pairs of a metric's name and its picture.
    """
    found = []
    for at, metric in enumerate(names):
        figure, ((panel,),) = _figure(4.0, 2.3)
        for run in runs:
            if metric in run.metrics:
                steps, values = run.metrics[metric]
                marker = "o" if len(steps) < 3 else None
                panel.plot(steps, values, color=run.colour, linewidth=1.6, label=run.label, marker=marker)
        spread = [values for run in runs if metric in run.metrics for values in run.metrics[metric][1]]
        positive = [value for value in spread if np.isfinite(value)]
        if positive and min(positive) > 0 and max(positive) > 50 * min(positive):
            panel.set_yscale("log")
        found.append((metric, _svg(figure, f"{name}-{at}")))
    return found


def error_svg(looked: Sequence[Looked], name: str) -> str:
    """Errors of open-loop predictions by the number of steps ahead."""
    figure, ((panel,),) = _figure(6.0, 3.0)
    for one in looked:
        if one.errors is not None:
            ahead = np.arange(1, len(one.errors) + 1)
            what = "" if one.kind == "observation" else f", {one.kind}"
            panel.plot(ahead, one.errors, color=one.colour, linewidth=2, label=f"{one.label}{what}")
            if one.persistence is not None:
                panel.plot(ahead, one.persistence, color=one.colour, linewidth=1, linestyle=":")
    panel.axhline(1.0, color=INK, linestyle="--", linewidth=0.9, alpha=0.6)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("steps ahead", color=INK)
    panel.set_ylabel("error / spread", color=INK)
    panel.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, name)


def calibration_svg(looked: Sequence[Looked], name: str) -> str:
    """The share of what happened that lies in a model's central intervals, against their level."""
    figure, ((panel,),) = _figure(4.2, 3.4)
    panel.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=0.9, alpha=0.6)
    for one in looked:
        if one.calibration is not None:
            panel.plot(
                one.calibration.levels, one.calibration.coverage, color=one.colour, linewidth=2,
                marker="o", markersize=3, label=one.label,
            )  # fmt: skip
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    panel.set_xlabel("interval of the model", color=INK)
    panel.set_ylabel("of what happened inside it", color=INK)
    panel.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, name)


# The page ------------------------------------------------------------------------------------------------------------


def sources(runs: Sequence[Run]) -> list[str]:
    """Where the authors' scores beside runs are from, a line for each agent.

    Args:
      runs: of the report.
    """
    found = [(run, published_of(run)) for run in runs]
    lines = [f"{run.config['algo']}: {one.source}, {one.seeds} seeds" for run, one in found if one is not None]
    return list(dict.fromkeys(lines))


def page(
    runs: Sequence[Run], looked: Sequence[Looked] = (), threshold: float | None = None, title: str = "Report"
) -> str:
    """The whole report as HTML.

    Args:
      runs: at least one, with labels that differ.
      looked: what their models were found to do; none where it was not looked for.
      threshold: a return to count steps to; each run's own if None.
      title: of the page.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("mbrl_jax.analysis", "templates"), autoescape=True)
    environment.filters["png"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode()
    envs = list(dict.fromkeys(run.curve.env for run in runs))
    model = list(dict.fromkeys(name for run in runs for name in run.metrics if name.startswith("model/")))
    rest = list(dict.fromkeys(name for run in runs for name in run.metrics if not name.startswith("model/")))
    with_errors = [one for one in looked if one.errors is not None]
    with_calibration = [one for one in looked if one.calibration is not None]
    return environment.get_template("report.html.jinja").render(
        title=title,
        runs=runs,
        curves=[
            (env, curves_svg([run for run in runs if run.curve.env == env], f"curves-{i}"))
            for i, env in enumerate(envs)
        ],
        published=sources(runs),
        results=results(runs, threshold),
        improvements=improvements(runs),
        differences=differences(runs) if len(runs) > 1 else [],
        partial=differences(runs, shared=False),
        settings=[(run, sorted(_settings(run.config).items())) for run in runs],
        times=times(runs),
        model_metrics=metric_svgs(runs, model, "model"),
        metrics=metric_svgs(runs, rest, "metric"),
        looked=looked,
        errors=error_svg(with_errors, "errors") if with_errors else None,
        calibration=calibration_svg(with_calibration, "calibration") if with_calibration else None,
        shown=_shown,
        title_of=own.title,
    )
