"""When a place that cannot be read is tried again, and what is said of it."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition as KafkaPartition

from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.kafka import unreadable as kafka_unreadable
from fastapi_athomic.transports.kafka.prefetch import Unreadable
from fastapi_athomic.transports.kafka.unreadable import Held, UnreadablePartitions
from tests.support.apps import Record

PARTITION = KafkaPartition("orders", 3)
PLACE = Unreadable(7, "a batch has the wrong checksum", 9)


class Member:
    """Reads otherwise if it `can`; each attempt as usual fails again."""

    def __init__(self, can: bool) -> None:
        self.position: int | None = PLACE.offset
        self.record = Record()
        self._can = can
        self.unreadable = UnreadablePartitions("g", lambda _: self.position, self._read_otherwise, self._refetch)

    async def _read_otherwise(self, partition: KafkaPartition, offset: int) -> bool:
        self.record.note(("otherwise", offset))
        return self._can

    def _refetch(self, partition: KafkaPartition) -> None:
        self.record.note("as usual")
        asyncio.get_running_loop().call_soon(self.unreadable.note, partition, PLACE)


def test_p21_fault_06_pauses_grow() -> None:
    pauses = [Held(place=PLACE, failures=failures).pause for failures in range(1, 10)]
    assert pauses == [0, 0.25, 0.5, 1, 2, 4, 8, 10, 10]


async def test_p21_fault_06_chance_is_not_spoken_of() -> None:
    member = Member(can=True)
    member.unreadable.note(PARTITION, PLACE)
    assert await member.record.count(1) == [("otherwise", 7)]
    assert member.unreadable.reasons == {}


async def test_p21_fault_06_what_lasts_is_tried_in_both_ways_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_unreadable, "LONGEST_PAUSE", 0.0)
    member = Member(can=False)
    member.unreadable.note(PARTITION, PLACE)
    assert await member.record.count(6) == [("otherwise", 7), "as usual"] * 3
    (reason,) = member.unreadable.reasons.values()
    assert reason.startswith("is held at offset 7: a batch has the wrong checksum; the next batch begins at offset 9.")
    member.position = 9
    member.unreadable.look()
    assert member.unreadable.reasons == {}
    member.unreadable.close()


async def test_p21_fault_06_after_a_rebalance_nothing_of_another_member_is_touched() -> None:
    member = Member(can=True)
    member.unreadable.note(PARTITION, PLACE)
    member.position = None
    member.unreadable.note(KafkaPartition("orders", 4), PLACE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert member.record.seen == []
    assert TopicPartition(*PARTITION) not in member.unreadable.reasons
    member.unreadable.close()
