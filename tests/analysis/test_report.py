"""The report: its tables against numbers computed here, and its page in a browser, light and dark, wide and narrow."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from mbrl_jax.analysis import authors, report
from mbrl_jax.analysis.statistics import probability_of_improvement
from mbrl_jax.cli import main

SCORES = {"a": [[1.0, 5.0], [2.0, 7.0], [0.0, 6.0], [3.0, 9.0]], "b": [[1.0, 4.0], [2.0, 6.0], [0.0, 3.0], [1.0, 2.0]]}


def write_run(folder, algo, scores, lr=0.1, env="Task", **changes):
    folder.mkdir()
    config = {"algo": algo, "env": env, "seed": 0, "seeds": len(scores), "steps": 200, "threshold": 6.0,
              "agent": {"lr": lr, "hidden": [8, 8]}, "loop": {"inner": 5}, "versions": {"jax": "1"}, "device": "cpu",
              "command": f"mbrl-jax train {algo} --out '<b>'"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    summary = {"updates": 40, "wall_seconds": 12.5, "compile_seconds": 3.25, "env_steps_per_second": 64.0,
               "seconds": {"steps": 3.0, "updates": 1.0}}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    with open(folder / "metrics.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seed", "env_steps", "updates", "wall_seconds", "return", "episodes", "loss",
                       "model/train_loss", "eval_return"])  # fmt: skip
        for t in range(2):
            for seed, row in enumerate(scores):
                loss = seed if t else ""
                rows.writerow([seed, 100 * (t + 1), 20 * (t + 1), t, 0, 1, loss, 10.0 / (t + 1), row[t]])
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    folders = [write_run(base / "first", "mbpo", SCORES["a"]), write_run(base / "second", "sac", SCORES["b"], lr=0.2),
               write_run(base / "third", "sac", SCORES["b"], env="Other", loop={"inner": 5, "cycles": 2})]  # fmt: skip
    return report.unique([report.read(folder) for folder in folders])


def test_tables_hold_the_numbers_of_the_files(runs):
    assert [run.label for run in runs] == ["mbpo", "sac (second)", "sac (third)"]
    first, second, _ = report.results(runs)
    assert first["IQM at the end"] == "6.5"  # of 5, 6, 7, 9
    assert (first["seeds"], first["steps"]) == ("4", "200")
    assert first["median steps to threshold"] == "200 (6)"
    assert second["median steps to threshold"] == "not reached (6)"  # one seed of four
    low, high = (float(word) for word in first["95% interval"].split(" to "))
    assert 5.0 <= low <= 6.5 <= high <= 9.0
    (group,) = report.improvements(runs)
    assert group["labels"] == ["mbpo", "sac (second)"]
    pairs = [(x > y) + 0.5 * (x == y) for x in (5, 7, 6, 9) for y in (4, 6, 3, 2)]
    assert group["cells"] == [["", f"{np.mean(pairs):.2f}"], [f"{1 - np.mean(pairs):.2f}", ""]]
    assert dict(report.differences(runs))["agent.lr"] == ["0.1", "0.2", "0.1"]
    assert dict(report.differences(runs, shared=False))["loop.cycles"] == ["-", "-", "2"]
    assert "loop.cycles" not in dict(report.differences(runs))
    assert "agent.hidden" not in dict(report.differences(runs))
    row = report.times(runs)[0]
    assert row["steps per second, all seeds"] == "64"
    assert row["training"] == "12 s"
    assert row["where the time went"] == "steps 75%, updates 25%"
    steps, means = runs[0].metrics["loss"]
    np.testing.assert_array_equal(steps, [200])
    np.testing.assert_array_equal(means, [1.5])


def test_probability_of_improvement_is_the_share_of_pairs():
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.integers(0, 5, 7), rng.integers(0, 5, 4)
        pairs = (x[:, None] > y).mean() + 0.5 * (x[:, None] == y).mean()
        assert probability_of_improvement(x, y) == pytest.approx(pairs)
    with pytest.raises(ValueError, match="both groups must have scores"):
        probability_of_improvement([], [1])


def looked():
    levels = np.linspace(0.1, 0.9, 9)
    png = b"\x89PNG\r\n\x1a\n"
    return [report.Looked("mbpo", png, np.linspace(0.1, 1.2, 20), report.Calibration(levels, levels**2, 400)),
            report.Looked("sac (second)", None, None, None, "its folder has no checkpoint")]  # fmt: skip


def test_errors_without_a_picture_are_shown_with_what_they_are_of():
    value = report.Looked("muzero", None, np.ones(3), None, kind="value", persistence=np.full(3, 2.0))
    assert value.anything
    assert not report.Looked("sac", None, None, None).anything
    assert "muzero, value" in report.error_svg([value], "errors")


class Tags(HTMLParser):
    """Identifiers and links within a page, and whether its tags are balanced."""

    EMPTY = ("meta", "link", "img", "br", "path", "use", "rect", "circle")

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.sources = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[key][1:] for key in ("href", "xlink:href") if named.get(key, "").startswith("#")]
        self.sources += [named[key] for key in ("src", "href") if named.get(key, "") and not named[key].startswith("#")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(runs):
    text = report.page(runs, looked(), title="A <b>title</b>")
    tags = Tags(text)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert set(tags.links) <= set(tags.ids)
    assert all(source.startswith("data:") for source in tags.sources)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<h1>A &lt;b&gt;title&lt;/b&gt;</h1>" in text
    assert "--out &#39;&lt;b&gt;&#39;" in text
    for heading in ("Learning curves", "Results", "Settings that differ", "Time", "The model",
                    "Imagination against truth", "Calibration", "Other metrics", "All settings"):  # fmt: skip
        assert f">{heading}</h" in text
    assert report.INK not in text
    assert text == report.page(runs, looked(), title="A <b>title</b>"), "the same runs make the same page"
    alone = report.page(runs[:1])
    assert "Settings that differ" not in alone
    assert "Imagination" not in alone


MEASURE = """<script>
const shade = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((x) => x / 255)
  .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
window.addEventListener("load", () => {
  const paper = shade(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll("h1,h2,h3,p,td,th,figcaption,li,summary")];
  const inks = [...document.querySelectorAll("svg text")];
  document.documentElement.dataset.measured = JSON.stringify({
    width: window.innerWidth, wide: document.documentElement.scrollWidth, dark: paper < 0.5,
    least: Math.min(...texts.map((x) => contrast(paper, shade(getComputedStyle(x).color)))),
    ink: Math.min(...inks.map((x) => contrast(paper, shade(getComputedStyle(x).fill)))),
    pictures: [...document.querySelectorAll("figure > svg")].map((x) => Math.round(x.getBoundingClientRect().height)),
    texts: inks.length,
  });
});
</script></body>"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, True)])
def test_a_browser_shows_it_without_an_error_and_all_of_it_can_be_read(width, dark, runs, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(report.page(runs, looked()[1:]).replace("</body>", MEASURE))
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             f"--window-size={width},900", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000",
             *(["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]),
             "--dump-dom", file.as_uri()]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search(r'data-measured="([^"]+)"', done.stdout)
    assert found, done.stdout[:500]
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert seen["width"] == width
    assert seen["wide"] <= width, "nothing is wider than the screen"
    assert seen["dark"] == dark
    assert seen["least"] > 4.5
    assert seen["ink"] > 4.5, "text in pictures has the page's colour"
    assert seen["texts"] > 20
    assert len(seen["pictures"]) >= 4
    assert min(seen["pictures"]) > 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "error: nowhere holds no results of a run"),
        (["RUN", "--out", "page.txt"], "error: --out must end in .html, got page.txt"),
        (["RUN", "--out", "no/page.html"], "error: --out: there is no folder no"),
        (["RUN", "--labels", "a", "b"], "error: --labels must name each of the 1 runs, got 2"),
        ([], "error: the following arguments are required: RUN"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, message, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(str(runs[0].folder) if word == "RUN" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message), said
    assert said.count("\n") == 1


def test_the_command_writes_the_page(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    folders = [str(run.folder) for run in runs]
    assert main(["report", *folders, "--labels", "one", "two", "three", "--title", "Three", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report in {out}\n"
    text = out.read_text()
    assert all(f">{word}<" in text for word in ("one", "two", "three", "Three"))
    assert "its folder has no checkpoint" in text, "mbpo has a model, which is not there to look at"


def test_the_authors_scores_stand_beside_a_run_of_theirs(tmp_path):
    """Frames are steps times the repetition of actions; scores are shown as far as the run goes."""
    run = report.read(write_run(tmp_path / "a", "tdmpc2", SCORES["a"], env="dm_control:walker-walk-x2"))
    run = run._replace(curve=run.curve._replace(steps=np.array([50_000, 60_000])))
    found = report.published_of(run)
    assert found is not None
    with open(authors.FILE) as file:
        rows = [row for row in csv.DictReader(file) if (row["agent"], row["task"]) == ("tdmpc2", "walker-walk")]
    assert [row["frames"] for row in rows[:2]] == ["100000", "200000"]
    np.testing.assert_array_equal(found.frames, [50_000, 100_000])  # the second is the first behind the run's end
    np.testing.assert_array_equal(found.means, [float(row["mean"]) for row in rows[:2]])
    text = report.page([run])
    assert "tdmpc2: Hansen et al. 2024, 3 seeds" in text
    assert "tdmpc2, its authors" in text
    for algo, env in (("mbpo", "dm_control:walker-walk-x2"), ("tdmpc2", "Pendulum-v1"), ("sac", "dm_control:no-task")):
        assert authors.beside(algo, env) is None
    whole = authors.beside("sac", "dm_control:cartpole-swingup")
    assert whole is not None
    assert whole.frames[0] == 100_000
