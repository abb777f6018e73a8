"""Whether schema registries answer, as far as somebody has asked them; one that did not is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Protocol

from ..exceptions import AthomicError
from .reasons import Reason, ReasonCode


class Registry(Protocol):
    """A schema registry."""

    trouble: tuple[str, datetime] | None  # why the last request failed, and since when they do

    async def check(self) -> None:
        """Asks it something. Raises one of our errors."""


class RegistryHealth:
    """Of the registries that payload steps use. `parts`: the steps of all pipelines that are open now.

    A registry is in trouble from the first request that fails to the first that does not. While somebody asks for
    health and it is in trouble it gets a request every `interval` seconds: else it would stay so until the next message
    with a new schema.
    """

    def __init__(self, parts: Callable[[], Iterable[object]], interval: float) -> None:
        self._parts = parts
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_at = float("-inf")  # on the monotonic clock
        self._asking: set[asyncio.Task[None]] = set()

    def _in_trouble(self) -> list[Registry]:
        found = {id(registry): registry for part in self._parts() if (registry := getattr(part, "registry", None))}
        return [registry for registry in found.values() if getattr(registry, "trouble", None) is not None]

    def reasons(self) -> Iterator[Reason]:
        """Those that do not answer. Has them asked again in the background."""
        for registry in (found := self._in_trouble()):
            if registry.trouble is not None:
                said, since = registry.trouble
                yield Reason(code=ReasonCode.REGISTRY_UNREACHABLE, message=said, since=since)
        if found and self._loop is not None and monotonic() - self._asked_at > self._interval:
            self._asked_at = monotonic()
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._ask, found)

    def _ask(self, registries: Iterable[Registry]) -> None:
        for registry in registries:
            task = asyncio.ensure_future(_ask(registry))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def begin(self) -> None:
        """Call it in the event loop of the routes, when the app starts."""
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """Call it there when the app stops."""
        self._loop = None
        for task in self._asking:
            task.cancel()


async def _ask(registry: Registry) -> None:
    with suppress(AthomicError):  # the registry notes it
        await registry.check()
