"""A process that was killed or frozen: what had it not committed by then? Only that may be repeated."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient

from fastapi_athomic.consumption.notes import decode_note
from tests.delivery.brokers import KafkaBroker


class Handling(NamedTuple):
    """One line of the record. Times are nanoseconds on the machine's monotonic clock, which all processes share."""

    began: int
    ended: int
    process: int
    key: str
    sequence: int

    @property
    def message(self) -> tuple[str, int]:
        return self.key, self.sequence


class Place(NamedTuple):
    """Where a message is in its topic."""

    partition: int
    offset: int


class Commits(NamedTuple):
    """What a group has done, as far as the broker knows."""

    offsets: Mapping[int, int]  # by partition
    above: frozenset[Place]  # done, above the offset of their partition

    def cover(self, place: Place) -> bool:
        return place.offset < self.offsets.get(place.partition, 0) or place in self.above


def commits(bootstrap: str, group: str) -> Commits:
    """What the broker knows now. Asked with aiokafka, as confluent-kafka 2.16 garbles the metadata of some commits."""
    return asyncio.run(_commits(bootstrap, group))


async def _commits(bootstrap: str, group: str) -> Commits:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    offsets = {place.partition: commit.offset for place, commit in found.items() if commit.offset >= 0}
    notes = {place.partition: decode_note(commit.offset, commit.metadata) for place, commit in found.items()}
    above = frozenset(Place(partition, offset) for partition, of_one in notes.items() for offset in of_one)
    return Commits(offsets, above)


def places(bootstrap: str, topic: str) -> dict[tuple[str, int], Place]:
    """Where each message is, by key and sequence number."""
    found = {}
    for message in asyncio.run(KafkaBroker(bootstrap).read(topic)):
        content = json.loads(message.value or b"")
        found[content["key"], content["sequence"]] = Place(message.partition, message.offset)
    return found


class Halt(NamedTuple):
    """A process stopped, for a while or for good. Times are those of `Handling`."""

    process: int
    asked: int  # until then it surely ran
    stopped: int  # from here on it did not
    commits: Commits  # soon afterwards, before others take over

    def excuses(self, handling: Handling, place: Place) -> bool:
        """Whether the message may be repeated: it was in flight when the process stopped, or done and not committed."""
        if handling.process != self.process or handling.began > self.stopped:
            return False
        return handling.ended >= self.asked or not self.commits.cover(place)

    def uncommitted(self, handlings: Iterable[Handling], where: Mapping[tuple[str, int], Place]) -> int:
        """How many messages the process had done, and not committed."""
        done = [each for each in handlings if each.process == self.process and each.ended < self.asked]
        return sum(not self.commits.cover(where[each.message]) for each in done)


def needless(handlings: Iterable[Handling], halts: Sequence[Halt], where: Mapping[tuple[str, int], Place]) -> int:
    """How many handlings are repeats that no halt excuses. Each excused handling is repeated once."""
    of_message: dict[tuple[str, int], list[Handling]] = defaultdict(list)
    for handling in handlings:
        of_message[handling.message].append(handling)
    return sum(
        max(0, len(of_one) - 1 - sum(any(halt.excuses(each, where[message]) for halt in halts) for each in of_one))
        for message, of_one in of_message.items()
        if len(of_one) > 1
    )
