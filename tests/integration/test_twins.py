"""Two members with one `group_instance_id` on Apache Kafka: a copied setting, `{pid}` in two containers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, subscribe_to
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.transports.kafka.coordinator import GroupMembership
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.apps import Record, eventually, new_app, owned, running, sentences
from tests.support.causes import comes, goes, provokes, told
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka
MESSAGES = 600


@pytest.fixture
def topic() -> str:
    return f"twins-{uuid4().hex[:12]}"


def settings(broker: Kafka, instance: str = "copied") -> AthomicSettings:
    kafka = KafkaSettings(group_instance_id=instance, session_timeout=6, heartbeat_interval=0.5)
    return AthomicSettings(broker_url=f"kafka://{broker.bootstrap}", kafka=kafka)


def reasons(athomic: Athomic) -> dict[str, list[str]]:
    report = athomic.health()
    assert report is not None
    return {name: sentences(health) for name, health in report.consumers.items()}


async def test_p21_fault_09_twins_are_noticed_and_both_work(apache_kafka: Kafka, topic: str) -> None:
    foreign, record, beside = Foreign(apache_kafka.bootstrap), Record(), Record()
    await foreign.create_topic(topic, 4)
    other = f"{topic}-other"
    await foreign.create_topic(other, 1)

    def build(name: str) -> Athomic:
        @subscribe_to(topic, group_id=topic, handler_id="h")
        async def handle(number: int) -> None:
            record.note((name, number))
            await asyncio.sleep(0.001)

        @subscribe_to(other, group_id=other, handler_id="neighbour")
        async def neighbour(number: int) -> None:
            beside.note(number)

        return new_app(settings(apache_kafka), handle, *([neighbour] if name == "first" else []))

    first, second = build("first"), build("second")
    async with running(first), running(second):
        for number in range(MESSAGES):
            await first.publish(topic, number, key=str(number))
            if number % 60 == 0:
                await first.publish(other, number)
        await record.until(lambda seen: {number for _, number in seen} == set(range(MESSAGES)))
        await eventually(lambda: owned(first, topic) and owned(second, topic))
        named = [text for app in (first, second) for text in reasons(app)["h"]]
        healthy = [app for app in (first, second) if not reasons(app)["h"]]
        assert len(healthy) == 1, named
        assert [text for text in named if "copied-" in text and "group_instance_id" in text] == named
        await beside.count(10)
        assert reasons(first)["neighbour"] == []
        assert first.consumers()[1].restarts == second.consumers()[0].restarts == 0
        assert owned(first, topic) | owned(second, topic) == set(range(4))
    again = Counter(number for _, number in record.seen)
    assert sum(again.values()) <= MESSAGES + 20, "no more than what was in hand comes twice"
    assert sorted(beside.seen) == list(range(0, MESSAGES, 60))


async def test_p21_fault_09_who_was_only_thrown_out_is_no_twin(apache_kafka: Kafka, topic: str) -> None:
    """The session timed out, say; nobody else has joined with the id."""
    foreign, record = Foreign(apache_kafka.bootstrap), Record()
    await foreign.create_topic(topic, 1)

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    athomic = new_app(settings(apache_kafka), handle)
    async with running(athomic):
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        coordinator = session.client()._member._coordinator
        assert isinstance(coordinator, GroupMembership)
        before = coordinator.member_id
        await coordinator._send_req(LeaveGroupRequest(topic, before))  # as if its session had timed out
        rebalances = athomic.consumers()[0].counters.rebalances
        await athomic.publish(topic, 1)
        await eventually(lambda: athomic.consumers()[0].counters.rebalances > rebalances)
        await eventually(lambda: reasons(athomic)["h"] == [])  # that there is a twin would stay
        assert coordinator.member_id != before
        assert coordinator._group_instance_id is not None


@provokes(ReasonCode.STATIC_ID_TWICE)
async def test_p13_the_twin_that_was_there_first_says_so_until_it_is_restarted_alone(
    apache_kafka: Kafka, topic: str
) -> None:
    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(number: int) -> None: ...

    await Foreign(apache_kafka.bootstrap).create_topic(topic, 2)
    first, second, next_process = (new_app(settings(apache_kafka, f"id-{topic}"), handle) for _ in range(3))
    async with running(first), running(second):
        await comes(first, ReasonCode.STATIC_ID_TWICE)
        assert ReasonCode.STATIC_ID_TWICE not in told(second)
    async with running(next_process):
        await goes(next_process, ReasonCode.STATIC_ID_TWICE)
