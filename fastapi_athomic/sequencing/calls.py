"""The next call to the state store: who is part of it, when it leaves, and what it asks.

While one call is on its way, the next one accumulates. A call leaves as soon as there is nothing else to do, and at
the latest after `linger` seconds; so a backlog costs less than a round trip per fetched batch, and a lone message
waits for nobody.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ..stores.base import Call, Drop, Park, Take, Write
from .aggregates import Aggregate, Item
from .packing import pack


class Agenda:
    """Aggregates that have something for the store, and when the next call leaves."""

    def __init__(self, linger: float) -> None:
        self.linger = linger
        self.lanes = 0  # with a worker, or waiting for one
        self.batches = 0  # of messages that are still to be sorted in
        self.dirty: dict[Aggregate, None] = {}  # to be part of the next call
        self._woken = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def mark(self, aggregate: Aggregate) -> None:
        """It has something for the store."""
        self.dirty[aggregate] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.linger, self._woken.set)

    def hurry(self) -> None:
        """The store is told at once when there is nothing else to do."""
        if self.dirty and not (self.lanes or self.batches):
            self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Written(NamedTuple):
    """What a write tells the store of an aggregate, which goes on meanwhile."""

    aggregate: Aggregate
    last: int
    handled: int  # so many of its unwritten ones
    buried: int
    released: bool


class PendingCall:
    """A call, and whom it is about, in its order."""

    __slots__ = ("call", "claimed", "parked", "written")

    def __init__(self) -> None:
        self.call = Call()
        self.written: list[Written] = []
        self.claimed: list[Aggregate] = []
        self.parked: list[tuple[Aggregate, Item]] = []

    def write(self, aggregate: Aggregate, take: Take, *, release: bool) -> None:
        assert aggregate.token is not None
        last = aggregate.last if aggregate.last > aggregate.acknowledged else None
        self.call.writes.append(Write(aggregate.key, aggregate.token, last, aggregate.known, take, release))
        self.call.drops += [Drop(aggregate.key, number) for number in aggregate.buried]
        self.written.append(
            Written(aggregate, aggregate.last, len(aggregate.unwritten), len(aggregate.buried), release)
        )

    def claim(self, aggregate: Aggregate) -> None:
        self.call.claims.append(aggregate.key)
        self.claimed.append(aggregate)

    def park(self, aggregate: Aggregate) -> int:
        """Gives the bytes."""
        size = 0
        for item in aggregate.early_items():
            packed = pack(item.message)
            size += len(packed)
            self.call.parks.append(Park(aggregate.key, item.sequence, packed))
            self.parked.append((aggregate, item))
        return size

    def about(self) -> list[Aggregate]:
        """Each once."""
        found = dict.fromkeys(written.aggregate for written in self.written)
        found.update(dict.fromkeys(self.claimed))
        found.update(dict.fromkeys(aggregate for aggregate, _ in self.parked))
        return list(found)
