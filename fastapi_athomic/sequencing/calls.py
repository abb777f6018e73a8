"""The next call to the state store: who is part of it, when it is sent, and what it asks.

While one call is under way, the next one collects. It is sent as soon as there is nothing else to do, and after
`linger` seconds at the latest. So a backlog costs less than one round trip per fetched batch, and a single message
does not wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import NamedTuple

from ..stores.base import Call, Drop, Park, Take, Write
from .aggregates import Aggregate, Item
from .packing import pack

PATIENCE = 0.05
"""Seconds that a call to the store may take before no more messages start until it has answered.

What is handled meanwhile is not written, and is handled again if this process is killed, or if its leases end first. A
worker that catches up handles hundreds of messages in a tenth of a second.
"""


class Agenda:
    """Collects the aggregates that have something for the store, and knows when the next call is due."""

    def __init__(self, linger: float) -> None:
        self._linger = linger  # seconds
        self.lanes = 0  # lanes with a worker, or waiting for one; counted by `Serving`
        self.batches = 0  # batches of messages not yet sorted in; counted by `Intake`
        self.dirty: dict[Aggregate, None] = {}
        """Aggregates that take part in the next call, in this order.

        `mark` puts one in. The ledger takes them out, and `Holdings` those that it forgets. The ledger and
        `Holdings.renew` also put some in directly, when no timer is needed because a call is about to be sent.
        """
        self.silent_from = math.inf  # monotonic; from then on no message starts, as the store does not answer
        self.hindered: dict[Aggregate, None] = {}
        """Aggregates with a message that has not started for that reason. `Serving` puts them in, `Holdings` takes out
        those that it forgets."""
        self._woken = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def mark(self, aggregate: Aggregate) -> None:
        """The aggregate has something for the store: a call is sent within `linger` seconds."""
        self.dirty[aggregate] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._woken.set)

    def hurry(self) -> None:
        """Called whenever some work has ended: if there is nothing else to do, the call is sent at once."""
        if self.dirty and not (self.lanes or self.batches):
            self._woken.set()

    def wake(self) -> None:
        """The call is sent at once."""
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Returns when a call is due, and after `seconds` at the latest."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    def asked(self, now: float) -> None:
        """A call is sent. `now` is on the monotonic clock."""
        self.silent_from = min(self.silent_from, now + PATIENCE)

    def failed(self) -> None:
        """The call failed: no message starts until another one is answered."""
        self.silent_from = -math.inf

    def answered(self) -> Iterable[Aggregate]:
        """The call was answered. Returns the aggregates that have waited for that."""
        hindered, self.hindered, self.silent_from = self.hindered, {}, math.inf
        return hindered

    def stop_timer(self) -> None:
        """Cancels the timer. Called before each look for something to send, and at the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Written(NamedTuple):
    """What one write tells the store: how far the aggregate was. The aggregate may advance meanwhile."""

    aggregate: Aggregate
    last: int
    handled: int  # this many, from the start of `Aggregate.unwritten`
    buried: int  # this many, from the start of `Aggregate.buried`
    released: bool  # the lease is given back


class PendingCall:
    """A call, and which aggregates its parts are about: the reply answers in the same order."""

    __slots__ = ("call", "claimed", "parked", "written")

    def __init__(self) -> None:
        self.call = Call()
        self.written: list[Written] = []
        self.claimed: list[Aggregate] = []
        self.parked: list[tuple[Aggregate, Item]] = []

    def write(self, aggregate: Aggregate, take: Take, *, release: bool) -> None:
        """Tells the store how far the aggregate is, and renews its lease or gives it back. It must have a token."""
        assert aggregate.token is not None
        last = aggregate.last if aggregate.last > aggregate.acknowledged else None
        self.call.writes.append(Write(aggregate.key, aggregate.token, last, aggregate.known, take, release))
        self.call.drops += [Drop(aggregate.key, number) for number in aggregate.buried]
        self.written.append(
            Written(aggregate, aggregate.last, len(aggregate.unwritten), len(aggregate.buried), release)
        )

    def claim(self, aggregate: Aggregate) -> None:
        """Asks for the lease."""
        self.call.claims.append(aggregate.key)
        self.claimed.append(aggregate)

    def park(self, aggregate: Aggregate) -> int:
        """Puts its early messages into the waiting room. Returns their size in bytes."""
        size = 0
        for item in aggregate.early_items():
            packed = pack(item.message)
            size += len(packed)
            self.call.parks.append(Park(aggregate.key, item.sequence, packed))
            self.parked.append((aggregate, item))
        return size

    def about(self) -> list[Aggregate]:
        """All aggregates of the call, each once."""
        found = dict.fromkeys(written.aggregate for written in self.written)
        found.update(dict.fromkeys(self.claimed))
        found.update(dict.fromkeys(aggregate for aggregate, _ in self.parked))
        return list(found)
