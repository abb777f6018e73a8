"""A clock for the package that tests set, so that they need not wait."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

SESSION = tuple(f"consumption.{module}" for module in ("session", "assignment", "membership", "commits"))
"""The rooms of a session that look at the clock."""


def set_clock(monkeypatch: pytest.MonkeyPatch, monotonic: Callable[[], float], *rooms: str) -> None:
    """Replaces `time.monotonic` in all modules of these rooms. A room is a folder of the package, or a module."""
    for room in rooms:
        place = f"fastapi_athomic.{room}"
        names = [name for name in sys.modules if name == place or name.startswith(f"{place}.")]
        told = [name for name in names if hasattr(sys.modules[name], "monotonic")]
        assert told, f"nothing in {place} looks at the clock"
        for name in told:
            monkeypatch.setattr(sys.modules[name], "monotonic", monotonic)
