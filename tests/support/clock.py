"""A clock for the package that tests set, so that they need not wait."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

SESSION = tuple(f"consumption.{module}" for module in ("session", "assignment", "membership", "intake", "commits"))
"""The rooms of a session that look at the clock."""
EVERYWHERE = ("consumption.account", *SESSION, "transports.kafka.coordinator")
"""The rooms of a consumer that compare their times with each other."""


class Clock:
    """Stands still until a test sets `now`, in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def set_clock(monkeypatch: pytest.MonkeyPatch, monotonic: Callable[[], float], *rooms: str) -> None:
    """Replaces `time.monotonic` in all modules of these rooms. A room is a folder of the package, or a module."""
    for room in rooms:
        place = f"fastapi_athomic.{room}"
        import_room(room)
        names = [name for name in sys.modules if name == place or name.startswith(f"{place}.")]
        told = [name for name in names if hasattr(sys.modules[name], "monotonic")]
        assert told, f"nothing in {place} looks at the clock"
        for name in told:
            monkeypatch.setattr(sys.modules[name], "monotonic", monotonic)


def import_room(room: str) -> None:
    """Imports all modules of a room. Some are imported only when they are used, after a test has set the clock."""
    place = f"fastapi_athomic.{room}"
    for found in pkgutil.walk_packages(getattr(import_module(place), "__path__", ()), f"{place}."):
        import_module(found.name)
