"""Partitions whose next message cannot be read: a damaged batch, an unknown codec, a topic we are not authorized for.

Such a partition is held alone, and tried again: a bit may have flipped on the way, another replica may be sound, the
topic may be authorized again. docs/damaged-batches.md says what to do about a batch that stays damaged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from ...messages import TopicPartition
from .prefetch import Unreadable

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds before a place is tried again after its second failure in a row, doubled with each further one."""


class Held(NamedTuple):
    """A place at which a partition is held."""

    place: Unreadable
    failures: int  # in a row, at this place

    @property
    def pause(self) -> float:
        """Seconds until it is tried again. After the first failure: at once."""
        return min(FIRST_PAUSE * 2 ** (self.failures - 2), LONGEST_PAUSE) if self.failures > 1 else 0.0

    def __str__(self) -> str:
        place = self.place
        beyond = f"; the next batch begins at offset {place.beyond}" if place.beyond is not None else ""
        return (
            f"is held at offset {place.offset}: {place.cause}{beyond}. It is tried again, see docs/damaged-batches.md"
        )


class UnreadablePartitions:
    """The held partitions of one group member.

    `position` returns where a partition would be read next, None if it is not ours. A new try calls `read_otherwise`,
    which returns whether it could read the batch; if it could not, `refetch`, which fetches it again as usual.
    """

    def __init__(
        self,
        name: str,
        position: Callable[[TopicPartition], int | None],
        read_otherwise: Callable[[TopicPartition, int], Awaitable[bool]],
        refetch: Callable[[TopicPartition], None],
    ) -> None:
        self._name = name
        self._position = position
        self._read_otherwise = read_otherwise
        self._refetch = refetch
        self._held: dict[TopicPartition, Held] = {}
        self._trying: dict[TopicPartition, asyncio.Task[None]] = {}
        self.reasons: Mapping[TopicPartition, str] = {}  # why partitions are held; may be read from another thread

    def note(self, partition: TopicPartition, place: Unreadable) -> None:
        """A place could not be read: hold the partition there, and try again."""
        before = self._held.get(partition)
        again = before is not None and before.place.offset == place.offset
        held = Held(place=place, failures=before.failures + 1 if before is not None and again else 1)
        self._held[partition] = held
        if held.failures <= 2:  # the first may be chance, or only aiokafka's parser
            level = logging.ERROR if held.failures == 2 else logging.WARNING if place.damaged else logging.INFO
            logger.log(level, "%s: %s %s", self._name, partition, held)
        self._say()
        if (trying := self._trying.get(partition)) is not None:
            trying.cancel()
        self._trying[partition] = asyncio.create_task(self._try_again(partition, held), name=f"{self._name}-unreadable")

    @property
    def holds(self) -> bool:
        """Some partition is held."""
        return bool(self._held)

    def look(self) -> None:
        """Forgets partitions that are read again, were sought past, or are no longer ours."""
        for partition, held in list(self._held.items()):
            if self._position(partition) != held.place.offset:
                self._forget(partition)
                if held.failures > 1:
                    logger.warning("%s: %s is no longer held", self._name, partition)

    def close(self) -> None:
        """Forgets all held partitions, and stops trying them again."""
        for partition in list(self._held):
            self._forget(partition)

    def _forget(self, partition: TopicPartition) -> None:
        del self._held[partition]
        self._say()
        if (trying := self._trying.pop(partition, None)) is not None:
            trying.cancel()

    def _say(self) -> None:
        lasting = {partition: held for partition, held in self._held.items() if held.failures > 1}
        self.reasons = {partition: str(held) for partition, held in lasting.items()}

    async def _try_again(self, partition: TopicPartition, held: Held) -> None:
        await asyncio.sleep(held.pause)
        offset = held.place.offset
        if self._position(partition) == offset and not await self._read_otherwise(partition, offset):
            self._refetch(partition)
