"""docs/timers.md names every timer, limit and back-off above 5 seconds, and for each a test that crosses it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

import fastapi_athomic
from tests.life.timers import BUSY, CONSTANTS
from tests.support.sources import parsed

PACKAGE = Path(fastapi_athomic.__file__).parent
ROOT = PACKAGE.parent
TABLE = ROOT / "docs" / "timers.md"
SHORT = 5.0
"""Seconds; what is no longer is crossed by any test that uses it."""
TIMES = {"age", "after", "backoff", "delay", "interval", "lease", "pause", "seconds", "ttl", "timeout", "wait"}
"""Words that make the name of a number one of a time."""
NO_TIMERS = {"failures.return_topics.CLOCKS_APART", "decorators.ordered_consumer(gap_timeout)"}
"""Durations that nobody waits for, and the second place of one that is in the table (test_decorators.py)."""
WAITING = {"call_later", "join", "result", "sleep", "timeout", "wait", "wait_for"}
"""Functions whose arguments are times, perhaps among other things."""


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
    assert found.keys() >= NO_TIMERS
    return {name: seconds for name, seconds in found.items() if name not in NO_TIMERS}


def _timers_of(module: str, path: Path) -> Iterator[tuple[str, float]]:
    """Constants, defaults of fields and parameters, and what is written in the arguments of a call."""
    tree = parsed(path.read_text())
    for owner, node, comment in _scopes(tree, module):
        if isinstance(node, ast.Assign):
            pairs = [pair for target in node.targets for pair in _unpacked(target, node.value)]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _parameters(f"{owner}.{node.name}", node.args)
            continue
        else:
            continue
        for target, value in pairs:
            if isinstance(target, ast.Name):
                yield from _timer(f"{owner}.{target.id}", target.id, value, ast.unparse(node) + comment)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            yield from _arguments(f"{module}, line {call.lineno}", call)


def _unpacked(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return [*zip(target.elts, value.elts, strict=True)]
    return [(target, value)]


def _arguments(owner: str, call: ast.Call) -> Iterator[tuple[str, float]]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    for value in call.args if function in WAITING else ():
        yield from _timer(owner, "wait", value, "")
    for keyword in call.keywords:
        yield from _timer(owner, keyword.arg or "", keyword.value, "")


def _scopes(body: ast.Module | ast.ClassDef, owner: str) -> Iterator[tuple[str, ast.stmt, str]]:
    """Each statement with the string that stands behind it, which says in what unit a constant is."""
    for node, behind in zip_longest(body.body, body.body[1:]):
        comment = getattr(behind.value, "value", "") if isinstance(behind, ast.Expr) else ""
        yield owner, node, comment if isinstance(comment, str) else ""
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


def test_p18_the_life_harness_knows_every_constant_of_the_table() -> None:
    found = {f"fastapi_athomic.{name}" for name in rows() if re.fullmatch(r"[a-z_.]+\.[A-Z_]+", name)}
    assert found == found & (CONSTANTS.keys() | BUSY.keys())
