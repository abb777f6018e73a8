"""Shows what was measured, as tables and charts."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.payload_cases import AS_MODEL, BARE, CONFLUENT, OVERHEAD
from benchmarks.payload_cases import OURS as PIPELINE

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
FIGURES = "<!-- figures -->", "<!-- end of figures -->"
EVERYDAY = "<!-- everyday load -->", "<!-- end of everyday load -->"
GOALS = ("| figure | goal | wanted | measured | |", "|---|---|---|---|---|")
PACKAGES = (
    "fastapi-athomic",
    "aiokafka",
    "faststream",
    "kstreams",
    "fastapi",
    "uvicorn",
    "pydantic",
    "opentelemetry-sdk",
)
FORMATS = {
    "messages/s": "{:,.0f}",
    "consumed/s": "{:,.0f}",
    "CPU per message": "{:.1f} µs",
    "round trips per batch": "{:.2f}",
    "p50": "{:.2f} ms",
    "p99": "{:.2f} ms",
    "p99.9": "{:.2f} ms",
    "longest": "{:.1f} ms",
    "import": "{:.0f} ms",
    "memory, most": "{:.0f} MB",
    "memory, last half": "{:+.1f} MB",
    **dict.fromkeys((PIPELINE, BARE, CONFLUENT, AS_MODEL), "{:.1f} µs"),
    OVERHEAD: "{:.2f}",
    "CPU of a core": "{:.1f} %",
    "ready": "{:.2f} s",
    "ready, first start": "{:.2f} s",
    **dict.fromkeys(("connections", "lost", "repeated", "out of order"), "{:.0f}"),
}
MORE_IS_BETTER = {"messages/s", "consumed/s"}

Measured = Mapping[str, float]
"""One run: a number for each column."""


class NoFigureError(Exception):
    """A run failed, or lost, repeated or misordered messages."""


@dataclass(frozen=True)
class Goal:
    """A figure to reach, computed from the contenders' columns.

    It is computed for each round, because the machine's pace changes from minute to minute but is the same for all
    within a round. The median of the rounds counts.
    """

    text: str
    compute: Callable[[Mapping[str, Measured]], float]
    wanted: float
    at_most: bool = False

    def line(self, rounds: Sequence[Mapping[str, Measured]]) -> str:
        sign = "≤" if self.at_most else "≥"
        try:
            found = median(map(self.compute, rounds))
        except KeyError as missing:
            return f"| {self.text} | {sign} {self.wanted:g} | no figure of {missing.args[0]} | |"
        reached = found <= self.wanted if self.at_most else found >= self.wanted
        return f"| {self.text} | {sign} {self.wanted:g} | {found:.2f} | {'reached' if reached else 'missed'} |"


@dataclass(frozen=True)
class NoWorse:
    """A goal that lies in the other build: to be as good as its median, or at least as its worst round."""

    name: str
    twin: str
    column: str

    def line(self, rounds: Sequence[Mapping[str, Measured]]) -> str:
        text = f"{self.column}: {self.name} / {self.twin}"
        try:
            here, there = ([measured[name][self.column] for measured in rounds] for name in (self.name, self.twin))
        except KeyError as missing:
            return f"| {text} | within the spread | no figure of {missing.args[0]} | |"
        found = median(here) / median(there)
        if self.column in MORE_IS_BETTER:
            sign, bound = "≥", min(there) / median(there)
            reached = found >= bound
        else:
            sign, bound = "≤", max(there) / median(there)
            reached = found <= bound
        return f"| {text} | {sign} {bound:.2f}, the spread | {found:.2f} | {'reached' if reached else 'missed'} |"


@dataclass
class Table:
    """One figure on one broker."""

    name: str  # begins the names of its files
    title: str
    setting: str
    columns: Sequence[str]
    goals: Sequence[Goal | NoWorse] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    chart: Callable[[Path], None] | None = None  # default: bars of the first column

    def medians(self) -> dict[str, Measured]:
        """The medians of the contenders that have a figure: one failed run takes the figure away."""
        return {
            name: {column: median(run[column] for run in runs) for column in self.columns}
            for name, runs in self.runs.items()
            if runs and name not in self.problems
        }

    def rounds(self) -> list[Mapping[str, Measured]]:
        """For each round, what was measured of the contenders that have a figure."""
        names = self.medians()
        return [dict(zip(names, runs, strict=True)) for runs in zip(*(self.runs[name] for name in names), strict=True)]

    def goal_lines(self) -> list[str]:
        rounds = self.rounds() or [{}]
        return [goal.line(rounds) for goal in self.goals]

    def markdown(self) -> str:
        first = self.columns[0]
        head = ["", *self.columns, f"{first}, spread"]
        lines = [f"## {self.title}", "", self.setting, ""]
        lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        medians = self.medians()
        for name, runs in self.runs.items():
            label = f"{name} ({self.notes[name]})" if name in self.notes else name
            if name not in medians:
                lines.append(
                    f"| {label} | no figure: {self.problems.get(name, 'not run')} |" + " |" * len(self.columns)
                )
                continue
            cells = [_cell(column, medians[name][column]) for column in self.columns]
            every = [run[first] for run in runs]
            spread = " to ".join(FORMATS[first].format(value) for value in (min(every), max(every)))
            lines.append(f"| {label} | {' | '.join(cells)} | {spread} |")
        if self.goals:
            lines += ["", "| goal | wanted | measured | |", "|---|---|---|---|"]
            lines += self.goal_lines()
        return "\n".join(lines) + "\n"

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.name}.md").write_text(f"{self.markdown()}\n{machine()}\n")
        (self.chart or self._bars)(directory / f"{self.name}.svg")

    def _bars(self, path: Path) -> None:
        """Draws the medians of the first column, with their spread."""
        medians, column = self.medians(), self.columns[0]
        if not medians:
            return
        names = list(reversed(medians))
        values = [medians[name][column] for name in names]
        low = [medians[name][column] - min(run[column] for run in self.runs[name]) for name in names]
        high = [max(run[column] for run in self.runs[name]) - medians[name][column] for name in names]
        with figure(path, (8, 0.8 + 0.42 * len(names))) as (axes,):
            colours = ["#0b7285" if name.startswith("fastapi-athomic") else "#adb5bd" for name in names]
            bars = axes.barh(names, values, xerr=[low, high], color=colours, ecolor="#495057", capsize=2)
            axes.bar_label(bars, [FORMATS[column].format(value) for value in values], padding=6, fontsize=8)
            axes.margins(x=0.18)
            axes.set_title(f"{self.title}: {column}", fontsize=10)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)


def _cell(column: str, value: float) -> str:
    """Empty if the contender of this column does not do what this row is about."""
    return "" if isnan(value) else FORMATS[column].format(value)


@contextmanager
def figure(path: Path, size: tuple[float, float], *, rows: int = 1) -> Iterator[Sequence[Any]]:
    """Yields axes to draw in, one below the other, and writes the file at the end. `size` in inches."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fastapi-athomic"})
    drawn, axes = pyplot.subplots(rows, figsize=size, layout="constrained", squeeze=False)
    yield list(axes[:, 0])
    drawn.savefig(path, metadata={"Date": None})
    pyplot.close(drawn)


def summarize(tables: Sequence[Table]) -> str:
    """All goals of one run, with links to the tables and charts."""
    lines = ["# Figures of one run", "", machine(), ""]
    lines += GOALS
    for table in tables:
        lines += [f"| [{table.title}]({table.name}.md) {line}" for line in table.goal_lines()]
    lines += [""]
    for table in tables:
        lines += [f"## {table.title}", "", f"![{table.title}]({table.name}.svg)", ""]
    return "\n".join(lines)


def publish(tables: Sequence[Table]) -> None:
    """Writes the goals into docs/performance.md: those with uniform keys, on Apache Kafka where there is a choice.

    README has some of them in a sentence, and a test that says when they are no longer these.
    """
    rows = [
        f"| [{table.title}](../benchmarks/results/{table.name}.md) {line}"
        for table in tables
        if table.name.startswith("f") and not table.name.endswith(("-mock", "-zipf-kafka"))
        for line in table.goal_lines()
    ]
    PAGE.write_text(filled(PAGE.read_text(), FIGURES, [machine(), "", *GOALS, *rows]))


def publish_everyday(names: Sequence[str]) -> None:
    """Writes what the results say of everyday load into docs/performance.md, whichever run each of them is of."""
    pages = {name: path.read_text() for name in names if (path := RESULTS / f"{name}.md").exists()}
    PAGE.write_text(filled(PAGE.read_text(), EVERYDAY, everyday_lines(pages)))


def everyday_lines(pages: Mapping[str, str]) -> list[str]:
    """The tables and the goals of results, one below the other; where they were measured is said once."""
    rows, measured = [], []
    for name, page in pages.items():
        title, *_ = (line.removeprefix("## ") for line in page.splitlines() if line.startswith("## "))
        _, _, goals = page.partition("\n| goal | wanted | measured | |\n|---|---|---|---|\n")
        lines = goals.splitlines()
        rows += [f"| [{title}](../benchmarks/results/{name}.md) {line}" for line in lines if line.startswith("|")]
        measured += [line for line in lines if line.startswith("Measured on ")]
    return [*dict.fromkeys(measured), "", *GOALS, *rows]


def filled(page: str, marks: tuple[str, str], lines: Sequence[str]) -> str:
    """The page with other lines between two marks."""
    begin, end = marks
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])


def versions(packages: Sequence[str]) -> str:
    """Of those that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def machine() -> str:
    today = datetime.now(UTC).date()
    return (
        f"Measured on {today} on {_processor()}, {os.cpu_count()} cores shared by broker, producer and consumer, "
        f"{platform.system()}, Python {platform.python_version()}: {versions(PACKAGES)}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
