"""One assigned partition: what was received, what runs, what is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import itemgetter

from .messages import RawMessage, TopicPartition
from .offsets import OffsetTracker

_offset = itemgetter(RawMessage._fields.index("offset"))


class PartitionState:
    """Belongs to one assignment.

    When the partition goes, the state goes with it: what finishes later is fenced, it commits nothing.
    """

    __slots__ = (
        "_done",
        "_drained",
        "average_size",
        "buffered",
        "delay",
        "has_room",
        "high_offset",
        "low_mark",
        "open",
        "paused",
        "revoked",
        "running",
        "skip",
        "topic_partition",
        "tracker",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        committed: int | None,
        *,
        low_mark: int,
        has_room: Callable[[], None],
        skip: frozenset[int] = frozenset(),
        delay: Callable[[RawMessage], float] | None = None,
    ) -> None:
        self.topic_partition = topic_partition
        self.low_mark = low_mark
        self.has_room = has_room  # called when no more than `low_mark` messages are buffered again
        self.tracker = OffsetTracker(committed)
        self._done = self.tracker.done
        self.skip = skip  # done before, by whoever had the partition (noted in the commit)
        self.delay = delay  # of a retry topic: seconds until a message is due
        self.open = True  # new work may start
        self.paused = False  # by an operator
        self.revoked = False
        self.buffered = 0  # received, and not yet concluded
        self.running = 0  # in a handler now
        self.high_offset = -1  # the last offset received
        self.average_size = 0.0  # bytes per message, of the last fetch
        self._drained: asyncio.Future[None] | None = None

    def receive(self, messages: Sequence[RawMessage]) -> Sequence[RawMessage]:
        """Takes in what was fetched; gives back what is to be handled."""
        self.tracker.received(map(_offset, messages))
        self.high_offset = messages[-1].offset
        self.average_size = sum(len(message.value or b"") for message in messages) / len(messages)
        if self.skip:
            messages = self._without_done(messages)
        self.buffered += len(messages)
        return messages

    def _without_done(self, messages: Sequence[RawMessage]) -> Sequence[RawMessage]:
        kept = []
        for message in messages:
            if message.offset in self.skip:
                self.tracker.done(message.offset)
            else:
                kept.append(message)
        if self.high_offset >= max(self.skip):
            self.skip = frozenset()
        return kept

    def concluded(self, offset: int) -> None:
        """This message is handled, dead-lettered or skipped by a rule."""
        self.buffered = buffered = self.buffered - 1
        if buffered == self.low_mark:
            self.has_room()
        self._done(offset)

    def finished_running(self, count: int = 1) -> None:
        self.running -= count
        if self._drained is not None and not self.running and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Returns when nothing of this partition runs any more. Set `open` to False before."""
        if self.running:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
