"""Where partitions end that are not fetched: paused ones, and those whose buffers are full.

The answer to each fetch says where its partition ends. Without fetches the lag would stay as it was, while more and
more messages wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

from ...exceptions import TransportError
from ...messages import TopicPartition

LOOK_SECONDS = 5.0
"""So often it is asked where they end, in one request to each leader."""


class UnfetchedEnds:
    """Has it asked where partitions end that were not wanted since the last look. `ask` notes what it learns."""

    def __init__(
        self,
        ask: Callable[[Collection[TopicPartition]], Coroutine[Any, Any, None]],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._ask = ask
        self._clock = clock or monotonic
        self._next_look = self._clock() + LOOK_SECONDS
        self._wanted: set[TopicPartition] = set()
        self._asking: asyncio.Task[None] | None = None

    def look(self, wanted: Collection[TopicPartition], placed: Collection[TopicPartition]) -> None:
        """Call it with each `poll`: which partitions are wanted, and which there are."""
        self._wanted.update(wanted)
        now = self._clock()
        if now < self._next_look or (self._asking is not None and not self._asking.done()):
            return
        self._next_look = now + LOOK_SECONDS
        unfetched = [place for place in placed if place not in self._wanted]
        self._wanted.clear()
        if unfetched:
            self._asking = asyncio.create_task(self._learn(unfetched), name="athomic-ends")

    async def _learn(self, places: Collection[TopicPartition]) -> None:
        with suppress(TransportError):  # the broker is away, which others tell: the next look asks again
            await self._ask(places)

    def close(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()
