"""docs/timers.md names every timer, limit and back-off above 5 seconds, and for each a test that crosses it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fastapi_athomic

PACKAGE = Path(fastapi_athomic.__file__).parent
ROOT = PACKAGE.parent
TABLE = ROOT / "docs" / "timers.md"
SHORT = 5.0
"""Seconds; what is no longer is crossed by any test that uses it."""
TIMES = {"age", "after", "backoff", "delay", "interval", "lease", "pause", "seconds", "ttl", "timeout", "wait"}
"""Words that make the name of a number one of a time."""


class Row(NamedTuple):
    seconds: float
    test: str


def rows() -> dict[str, Row]:
    """The first table's rows by name. A row begins with the name in backticks; the last cell is the test."""
    found = {}
    for line in TABLE.read_text().partition("\n## ")[0].splitlines():
        if line.startswith("| `"):
            name, value, *_, test = (cell.strip(" `") for cell in line.strip("|").split("|"))
            found[name] = Row(float(value.removesuffix(" s")), test)
    return found


def timers() -> dict[str, float]:
    """Every timer of the package above `SHORT`, by its name in the table."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found.update({name: seconds for name, seconds in _timers_of(module, path) if seconds > SHORT})
    return found


def _timers_of(module: str, path: Path) -> Iterator[tuple[str, float]]:
    """Constants, defaults of fields and defaults of parameters."""
    for owner, node in _scopes(ast.parse(path.read_text()), module):
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _parameters(f"{owner}.{node.name}", node.args)
            continue
        else:
            continue
        for target, value in pairs:
            if isinstance(target, ast.Name):
                yield from _timer(f"{owner}.{target.id}", target.id, value, ast.unparse(node))


def _scopes(body: ast.Module | ast.ClassDef, owner: str) -> Iterator[tuple[str, ast.stmt]]:
    for node in body.body:
        yield owner, node
        if isinstance(node, ast.ClassDef):
            yield from _scopes(node, f"{owner}.{node.name}")


def _parameters(owner: str, arguments: ast.arguments) -> Iterator[tuple[str, float]]:
    places = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(reversed(places), reversed(arguments.defaults), strict=False)]
    for argument, default in [*pairs, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
        if default is not None:
            yield from _timer(f"{owner}({argument.arg})", argument.arg, default, "")


def _timer(name: str, word: str, value: ast.expr, statement: str) -> Iterator[tuple[str, float]]:
    words = word.lower().strip("_").split("_")
    number = value.value if isinstance(value, ast.Constant) else None
    if isinstance(number, int | float) and (TIMES.intersection(words) or "Seconds" in statement):
        yield name, number / 1000 if words[-1] == "ms" else number


def test_p18_every_timer_above_five_seconds_is_in_the_table_with_its_value() -> None:
    ours = {name: row.seconds for name, row in rows().items() if not name.startswith("aiokafka ")}
    assert ours == timers()


@pytest.mark.parametrize("name", rows())
def test_p18_the_test_that_crosses_a_timer_exists(name: str) -> None:
    path, _, test = rows()[name].test.partition("::")
    assert re.search(rf"^ *(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path} has no {test}"
