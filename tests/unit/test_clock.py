"""The package reads its clocks by names that can be replaced, in one place each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import fastapi_athomic
from fastapi_athomic import clock
from tests.support.sources import parsed

PACKAGE = Path(fastapi_athomic.__file__).parent
CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "time.time", "time.monotonic"}


def test_the_moment_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(datetime.now(UTC) - clock.utc_now()) < timedelta(minutes=1)
    monkeypatch.setattr(clock, "time", lambda: 86_400.0)
    assert clock.utc_now() == datetime(1970, 1, 2, tzinfo=UTC)


def test_no_module_reads_a_clock_that_cannot_be_put_forward() -> None:
    found = [f"{path.relative_to(PACKAGE)}: {name}" for path in PACKAGE.rglob("*.py") for name in _read_in(path)]
    assert found == []


def _read_in(path: Path) -> Iterator[str]:
    """What is called by the name of a module or class, and what a default value has taken before a test can come."""
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (name := f"{node.value.id}.{node.attr}") in CLOCKS:
                yield name
        elif isinstance(node, ast.arguments):
            for default in (*node.defaults, *node.kw_defaults):
                if isinstance(default, ast.Name) and default.id in ("monotonic", "time"):
                    yield f"a default value {default.id}"
