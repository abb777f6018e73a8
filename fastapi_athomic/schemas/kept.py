"""What is made or asked once for each schema, and kept. A topic may name any number of schemas, so there is a bound."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MAX_SCHEMAS = 1_000
"""So many are kept."""


class Kept(Generic[T]):
    """The newest ones. Event loops in several threads may share them."""

    def __init__(self) -> None:
        self._kept: dict[Any, T] = {}
        self._lock = Lock()
        self.get: Callable[[Any], T | None] = self._kept.get

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Any, value: T) -> None:
        """Adds it, in place of the oldest if there are too many."""
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = value
            while len(self._kept) > MAX_SCHEMAS:
                del self._kept[next(iter(self._kept))]

    def drop(self, key: Any) -> None:
        """Takes it away, if it is there."""
        with self._lock:
            self._kept.pop(key, None)
