"""P13 on Apache Kafka: what only a broker can do to a consumer turns the right probe with the right code, and back."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, RetryPolicy, subscribe_to
from fastapi_athomic.broker import NOTICED_SECONDS
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import Gate, Record, eventually, new_app, owned, running
from tests.support.causes import comes, goes, manager_of, provokes
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

C = ReasonCode
Kafka = KafkaBroker | ExternalKafka
SLOW = 60.0
"""Seconds that a broker may take to come back, and a group to agree."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def topic() -> str:
    return f"causes-{uuid4().hex[:12]}"


def settings(broker: Kafka, *ready_includes: Any, **kafka: Any) -> AthomicSettings:
    return AthomicSettings(
        broker_url=f"kafka://{broker.bootstrap}",
        restart_backoff=0.1,
        restart_backoff_max=0.5,
        kafka=KafkaSettings(**kafka),
        health=HealthSettings(ready_includes=ready_includes or None),
    )


def app_of(topic: str, record: Record, given: AthomicSettings) -> Athomic:
    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(message: str) -> None:
        record.note(message)
        if message.startswith("bad"):
            raise RuntimeError("no")

    return new_app(given, handle)


@provokes(C.BROKER_UNREACHABLE)
@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_p13_a_broker_that_goes_away_and_comes_back(mortal_kafka: KafkaBroker, topic: str, how: str) -> None:
    record = Record()
    athomic = app_of(topic, record, settings(mortal_kafka))
    asked = app_of(topic, record, settings(mortal_kafka, "broker"))
    async with running(athomic), running(asked):
        assert manager_of(asked).why_not_ready() == []
        if how == "stopped":
            mortal_kafka.stop()
        else:
            mortal_kafka.process.freeze()
        reason = await comes(athomic, C.BROKER_UNREACHABLE, NOTICED_SECONDS + 30)
        assert reason.limit_seconds == NOTICED_SECONDS
        await eventually(lambda: manager_of(asked).why_not_ready() == [C.BROKER_UNREACHABLE])
        assert manager_of(athomic).why_not_ready() == [], "no web instance goes out of service for it"
        assert manager_of(athomic).why_not_live() == manager_of(asked).why_not_live() == []
        if how == "stopped":
            mortal_kafka.start()
        else:
            mortal_kafka.process.thaw()
        for each in (athomic, asked):
            await goes(each, C.BROKER_UNREACHABLE, SLOW)
            await eventually(lambda each=each: manager_of(each).consumes, SLOW)  # type: ignore[misc]
        await athomic.publish(topic, "after")
        await record.until(lambda seen: "after" in seen)


@provokes(C.MEMBERSHIP_LOST)
async def test_p13_a_member_that_the_group_put_out_says_so_until_it_is_in_again(
    apache_kafka: Kafka, topic: str
) -> None:
    """It joins again, which takes as long as another member drains."""
    record, begun, gate = Record(), Record(), Gate()

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def slow(message: str) -> None:
        begun.note(message)
        await gate.wait()

    other = new_app(settings(apache_kafka, session_timeout=6, heartbeat_interval=0.5), slow)
    athomic = app_of(topic, record, settings(apache_kafka, session_timeout=30, heartbeat_interval=8))
    async with running(athomic), running(other):
        await eventually(lambda: owned(athomic, topic) and owned(other, topic), SLOW)
        for number in range(3):
            await athomic.publish(topic, "before", partition=number)
        await begun.count(1)
        session: Any = manager_of(athomic).consumers["h"].life.session
        coordinator = session.client()._member._coordinator
        await coordinator._send_req(LeaveGroupRequest(topic, coordinator.member_id))  # as if its session had timed out
        session._assignment.trusted_until = 0.0  # as if it had stood still for as long
        await comes(athomic, C.MEMBERSHIP_LOST)
        gate.set()
        await goes(athomic, C.MEMBERSHIP_LOST, SLOW)
        await athomic.publish(topic, "after")
        await record.until(lambda seen: "after" in [*seen, *begun.seen], SLOW)
        assert athomic.consumers()[0].restarts == 0


@provokes(C.TOPIC_MISSING)
async def test_p13_a_topic_that_is_deleted_and_made_again(
    apache_kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.consumption.placement.TOPICS_SECONDS", 0.2)
    record = Record()
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    athomic = app_of(topic, record, settings(apache_kafka))
    async with running(athomic):
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result, SLOW)
        reason = await comes(athomic, C.TOPIC_MISSING)
        assert reason.since is not None
        await eventually(lambda: topic not in admin.list_topics(timeout=10).topics, SLOW)
        await asyncio.to_thread(admin.create_topics([NewTopic(topic, 1, 1)])[topic].result, SLOW)
        await goes(athomic, C.TOPIC_MISSING, SLOW)
        await athomic.publish(topic, "again")
        await record.until(lambda seen: "again" in seen, SLOW)


@provokes(C.DEAD_LETTER_UNWRITABLE)
async def test_p13_a_dead_letter_that_the_topic_does_not_take(
    apache_kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.failures.dlq.MAX_WRITE_DELAY", 0.5)
    record, dlq = Record(), f"{topic}.{topic}.dlq"
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    await asyncio.to_thread(
        admin.create_topics([NewTopic(dlq, 1, 1, config={"max.message.bytes": "100"})])[dlq].result, SLOW
    )
    athomic = app_of(topic, record, settings(apache_kafka))
    async with running(athomic):
        await athomic.publish(topic, "bad" + "x" * 5_000)
        reason = await comes(athomic, C.DEAD_LETTER_UNWRITABLE)
        assert f"waits: dead letter to {dlq} refused" in reason.message
        entry = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, dlq, incremental_configs=[entry])
        await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, SLOW)
        await goes(athomic, C.DEAD_LETTER_UNWRITABLE)
        await athomic.drain()
        assert len(record.seen) == 1
