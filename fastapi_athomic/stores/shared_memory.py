"""Shared documents in the process's memory, for `memory://` and for tests. They behave as those in Redis do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from weakref import WeakValueDictionary

_shared: WeakValueDictionary[str, MemorySharedState] = WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_named(name: str) -> MemorySharedState:
    """Those shared by all apps whose broker is `memory://name`; new ones if the name is empty."""
    if not name:
        return MemorySharedState()
    with _shared_lock:
        state = _shared.get(name)
        if state is None:
            state = _shared[name] = MemorySharedState(has_others=True)
        return state


class MemorySharedState:
    """A `SharedState`. `clock` gives seconds, for what expires."""

    def __init__(self, clock: Callable[[], float] | None = None, *, has_others: bool = False) -> None:
        self._clock = clock or monotonic
        self.has_others = has_others
        self._sections: dict[str, dict[str, tuple[bytes, float]]] = {}  # documents, each with the time of its end
        self._lock = threading.Lock()  # apps that share them may run in different threads

    async def put(self, section: str, name: str, document: bytes, *, ttl: float | None = None) -> None:
        await asyncio.sleep(0)  # other tasks get a turn, as they do while a network answers
        ends_at = self._clock() + ttl if ttl is not None else float("inf")
        with self._lock:
            self._sections.setdefault(section, {})[name] = (document, ends_at)

    async def remove(self, section: str, name: str) -> None:
        await asyncio.sleep(0)
        with self._lock:
            self._sections.get(section, {}).pop(name, None)

    async def all(self, section: str) -> Mapping[str, bytes]:
        await asyncio.sleep(0)
        now = self._clock()
        with self._lock:
            living = {name: kept for name, kept in self._sections.get(section, {}).items() if kept[1] > now}
            self._sections[section] = living
            return {name: document for name, (document, _) in living.items()}

    async def close(self) -> None:
        """Keeps everything: what is known outlives one run of the app."""
