"""P13 on Apache Kafka: what only a broker can do to a consumer turns the right probe with the right code, and back.

Twins are in test_twins.py, damaged batches in test_damaged_batches.py, rights in test_rights.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, RetryPolicy, subscribe_to
from fastapi_athomic.broker import NOTICED_SECONDS
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import Gate, Record, eventually, new_app, owned, running
from tests.support.causes import comes, goes, manager_of, provokes, session_of, shorten_intervals, stand_still
from tests.support.grounds import BOTH, SLOW, KafkaGround
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

C = ReasonCode
Kafka = KafkaBroker | ExternalKafka

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_intervals(monkeypatch)
    monkeypatch.setattr("fastapi_athomic.broker.PING_SECONDS", 1.0)
    monkeypatch.setattr("fastapi_athomic.broker.CONNECT_SECONDS", 2.0)


@pytest.fixture
def topic() -> str:
    return f"causes-{uuid4().hex[:12]}"


@pytest.fixture
def awake(mortal_kafka: KafkaBroker) -> Iterator[KafkaBroker]:
    """A broker that is not frozen after the test."""
    yield mortal_kafka
    mortal_kafka.process.thaw()


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
async def test_p13_a_broker_that_goes_away_and_comes_back(awake: KafkaBroker, topic: str, how: str) -> None:
    record = Record()
    athomic = app_of(topic, record, settings(awake))
    asked = app_of(topic, record, settings(awake, "broker"))
    async with running(athomic), running(asked):
        assert manager_of(asked).why_not_ready() == []
        if how == "stopped":
            awake.stop()
        else:
            awake.process.freeze()
        reason = await comes(athomic, C.BROKER_UNREACHABLE, NOTICED_SECONDS + 30)
        assert reason.limit_seconds == NOTICED_SECONDS
        await eventually(lambda: manager_of(asked).why_not_ready() == [C.BROKER_UNREACHABLE])
        assert manager_of(athomic).why_not_ready() == [], "no web instance goes out of service for it"
        assert manager_of(athomic).why_not_live() == manager_of(asked).why_not_live() == []
        if how == "stopped":
            awake.start()
        else:
            awake.process.thaw()
        for each in (athomic, asked):
            await goes(each, C.BROKER_UNREACHABLE, SLOW)
            await eventually(lambda each=each: manager_of(each).consumes, SLOW)  # type: ignore[misc]
        await athomic.publish(topic, "after")
        await record.until(lambda seen: "after" in seen)


@provokes(C.BROKER_CONNECTING, C.BROKER_UNREACHABLE, C.STARTING)
async def test_p13_a_broker_that_does_not_answer_when_the_app_starts(awake: KafkaBroker) -> None:
    ground = KafkaGround(awake.bootstrap)
    await ground.create(ground.topic, f"{ground.topic}.beside")
    athomic = ground.app(ground.handler())
    awake.process.freeze()
    async with athomic.app.router.lifespan_context(athomic.app):
        await comes(athomic, C.BROKER_CONNECTING)
        await comes(athomic, C.STARTING, of=BOTH)
        await comes(athomic, C.BROKER_UNREACHABLE)
        assert not manager_of(athomic).has_come_up
        awake.process.thaw()
        for code in (C.BROKER_CONNECTING, C.BROKER_UNREACHABLE, C.STARTING):
            await goes(athomic, code, SLOW)
        await eventually(lambda: manager_of(athomic).has_come_up)


@provokes(C.COMMIT_FAILING, C.MEMBERSHIP_IN_DOUBT)
async def test_p13_a_broker_that_confirms_neither_commits_nor_a_membership(awake: KafkaBroker) -> None:
    gate, begun, ground = Gate(), Record(), KafkaGround(awake.bootstrap)

    async def slow(message: str) -> None:
        begun.note(message)
        await gate.wait()

    await ground.create(ground.topic, f"{ground.topic}.beside")
    athomic = ground.app(ground.handler(slow), settings=ground.settings(request_timeout=1.0))
    async with running(athomic):
        await athomic.publish(ground.topic, "m")
        await begun.count(1)
        awake.process.freeze()
        gate.set()
        reason = await comes(athomic, C.COMMIT_FAILING)
        assert reason.message.startswith("commit failed, it will be tried again")
        stand_still(session_of(athomic))  # as if the process had stood still
        await comes(athomic, C.MEMBERSHIP_IN_DOUBT)
        awake.process.thaw()
        await goes(athomic, C.MEMBERSHIP_IN_DOUBT, SLOW)
        await goes(athomic, C.COMMIT_FAILING, SLOW)


async def unanswered() -> bool:
    """A heartbeat that says nothing of the group."""
    return True


@provokes(C.MEMBERSHIP_LOST)
async def test_p13_a_member_that_the_group_put_out_says_so_until_it_is_in_again(
    apache_kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It joins again, which takes as long as another member drains."""
    record, begun, gate = Record(), Record(), Gate()

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def slow(message: str) -> None:
        begun.note(message)
        await gate.wait()
        record.note(message)

    other = new_app(settings(apache_kafka, session_timeout=6, heartbeat_interval=0.5), slow)
    athomic = app_of(topic, record, settings(apache_kafka, session_timeout=30, heartbeat_interval=0.5))
    async with running(athomic), running(other):
        await eventually(lambda: owned(athomic, topic) and owned(other, topic), SLOW)
        for number in range(3):
            await athomic.publish(topic, "before", partition=number)
        await begun.count(1)
        await athomic.drain()  # no commit is to come
        session: Any = manager_of(athomic).consumers["h"].life.session
        coordinator = session.client()._member._coordinator
        monkeypatch.setattr(coordinator, "_do_heartbeat", unanswered)  # its doubt is to find out
        await coordinator._send_req(LeaveGroupRequest(topic, coordinator.member_id))  # as if its session had timed out
        stand_still(session)  # as if it had stood still for as long
        await comes(athomic, C.MEMBERSHIP_LOST)
        gate.set()
        await goes(athomic, C.MEMBERSHIP_LOST, SLOW)
        await athomic.publish(topic, "after")
        await record.until(lambda seen: "after" in seen, SLOW)
        assert athomic.consumers()[0].restarts == 0
