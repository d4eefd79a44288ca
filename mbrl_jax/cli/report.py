"""`mbrl-jax report`: one HTML page on one run or several."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mbrl_jax.cli.guard import program
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax report"


def _report(words: list[str], prog: str) -> int:
    parser = Parser(prog=prog, description="Writes one HTML page on one run or several, with all it needs in it.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="one name for each run (default: its algorithm)")
    parser.add_argument("--out", default="report.html", metavar="FILE.html", type=Path, help="(default: report.html)")
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: what the runs have in common)")
    parser.add_argument("--threshold", type=float, metavar="X", help="count the steps to this return")
    parser.add_argument("--no-models", action="store_true", help="look into no model, which takes a minute for each")
    parser.add_argument("--key", type=int, default=0, metavar="K", help="of imagined episodes (default: 0)")
    args = parser.parsed(words)
    if isinstance(args, int):
        return args
    _check(args)
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ValueError("report needs jinja2: pip install 'mbrl_jax[report]'") from error
    return _write(args)


def _check(args: Any) -> None:
    if args.out.suffix != ".html":
        raise ValueError(f"--out must end in .html, got {args.out}")
    if not args.out.absolute().parent.is_dir():
        raise ValueError(f"--out: there is no folder {args.out.parent}")
    if args.labels and len(args.labels) != len(args.runs):
        raise ValueError(f"--labels must name each of the {len(args.runs)} runs, got {len(args.labels)}")
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise ValueError(f"--threshold must be finite, got {args.threshold}")
    if not 0 <= args.key < 2**32:
        raise ValueError(f"--key must be at least 0 and below 2**32, got {args.key}")


def _write(args: Any) -> int:
    from mbrl_jax.analysis import report
    from mbrl_jax.analysis.curves import title
    from mbrl_jax.analysis.labels import check_labels
    from mbrl_jax.train.log import write_atomic

    check_labels(args.labels or [])
    runs = report.unique(
        [report.read(folder, args.labels[i] if args.labels else None) for i, folder in enumerate(args.runs)]
    )
    looked = []
    if not args.no_models:
        from mbrl_jax.presets.look import look

        looked = [look(run.folder, run.label, key=args.key)._replace(colour=run.colour) for run in runs]
        looked = [found for found in looked if found.anything]
    name = args.title or title([run.curve for run in runs])
    write_atomic(args.out, report.page(runs, looked, args.threshold, name))
    print(f"report in {args.out}")
    return 0


main = program(_report, PROG)
