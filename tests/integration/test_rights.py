"""An app whose user may not do everything: what is missing is named, and stops nothing but what needs it.

The broker has Kafka's own authorizer. An answer of it is never taken for "does not exist".
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    NotAuthorizedError,
    PublishError,
    RawMessage,
    RetryPolicy,
    subscribe_to,
)
from fastapi_athomic.consumption import membership
from fastapi_athomic.failures import dlq, topic_watch
from fastapi_athomic.observation.reasons import ReasonCode as C
from fastapi_athomic.operation_settings import HealthSettings
from fastapi_athomic.rights import Operation, ResourceType, Right, rights_of, rights_to_settle
from tests.support.apps import Record, eventually, new_app, owned, running
from tests.support.causes import comes, goes, provokes, session_of
from tests.support.clock import EVERYWHERE, set_clock
from tests.support.secure_kafka import SecureKafka

LATER = RetryPolicy(max_attempts=1, retry_topics=(0.05,), allow_reordering=True)


class Shop:
    """A user, the names of its topics, and a handler that fails for messages that begin with `bad`."""

    def __init__(self, broker: SecureKafka, **options: Any) -> None:
        self.broker, self.user = broker, broker.user()
        self.source = uuid4().hex[:12]
        self.group = f"group-{self.source}"
        self.retry = f"{self.source}.{self.group}.retry.0.05s"
        self.dlq = f"{self.source}.{self.group}.dlq"
        self.redrive = f"{self.source}.{self.group}.redrive"
        self.record = Record()
        self.options: dict[str, Any] = {"retry": LATER, **options}
        self.sound = False

    def app(self, **settings: Any) -> Athomic:
        @subscribe_to(self.source, group_id=self.group, handler_id="h", **self.options)
        async def handle(message: str, raw: RawMessage) -> None:
            self.record.note((message, raw.topic))
            if message.startswith("bad") and not self.sound:
                raise RuntimeError("broken")

        usual: dict[str, Any] = {
            "broker_url": f"kafka://{self.broker.sasl}",
            "kafka": self.user,
            "restart_backoff": 0.1,
            "restart_backoff_max": 0.2,
        }
        return new_app(AthomicSettings(**(usual | settings)), handle)

    def allow(self, kind: ResourceType, name: str, *operations: Operation) -> None:
        self.broker.allow(self.user, [Right(resource_type=kind, name=name, operations=operations, purpose="")])

    def allow_source(self) -> None:
        self.broker.make(self.source)
        self.allow("Topic", self.source, "Read", "Write")
        self.allow("Group", self.group, "Read")

    async def handled(self, *messages: tuple[str, str]) -> None:
        await self.record.until(lambda seen: set(messages) <= set(seen))


def missing(operation: str, kind: str, name: str) -> str:
    return f"not authorized: the right {operation} on {kind} {name} is missing"


def health(athomic: Athomic) -> str:
    return str(athomic.health())


async def healthy(athomic: Athomic) -> None:
    await eventually(lambda: (found := athomic.health()) is not None and found.status == "healthy")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_watch, "FOLLOW_SECONDS", 0.3)
    monkeypatch.setattr(membership, "PREPARE_SECONDS", 0.2)
    monkeypatch.setattr(dlq, "MAX_WRITE_DELAY", 0.3)


@pytest.mark.parametrize("create_topics", ["when_needed", "at_start", "never"])
async def test_exactly_the_rights_that_the_docs_name_are_enough(secure_kafka: SecureKafka, create_topics: str) -> None:
    shop = Shop(secure_kafka)
    own: dict[str, Any] = {"dlqs": [shop.dlq], "redrives": [shop.redrive], "create_topics": create_topics != "never"}
    at_start = create_topics == "at_start"
    rights = rights_of(group_id=shop.group, sources=[shop.source], retries=[shop.retry], at_start=at_start, **own)
    secure_kafka.allow(shop.user, rights)
    if create_topics != "at_start":  # else the redrive topic is there before there is anything to settle
        secure_kafka.allow(shop.user, rights_to_settle(sources=[shop.source], **own))
    if create_topics == "never":
        assert {operation for right in rights for operation in right.operations} == {"Read", "Write", "Describe"}
        secure_kafka.make(shop.source, shop.retry, shop.dlq, shop.redrive)
    async with running(shop.app(create_topics=create_topics)) as athomic:
        await healthy(athomic)
        made = {shop.source} if create_topics == "when_needed" else {shop.source, shop.retry, shop.dlq, shop.redrive}
        assert {topic for topic in secure_kafka.topics() if topic.startswith(shop.source)} == made
        if at_start:
            secure_kafka.allow(shop.user, rights_to_settle(sources=[shop.source], **(own | {"create_topics": False})))
        secure_kafka.write(shop.source, "bad")
        await shop.handled(("bad", shop.source), ("bad", shop.retry))
        await eventually(lambda: athomic.consumers()[0].counters.dead_lettered == 1)
        shop.sound = True
        report = await athomic.dead_letters("h").redrive()
        assert (report.settled, report.refused) == (1, {})
        await shop.handled(("bad", shop.redrive))
        assert await athomic.dead_letters("h").count() == 0
        await healthy(athomic)


async def test_who_may_only_read_consumes(secure_kafka: SecureKafka) -> None:
    shop = Shop(secure_kafka, retry=RetryPolicy(max_attempts=1), dlq=False)
    secure_kafka.make(shop.source)
    secure_kafka.allow(shop.user, rights_of(group_id=shop.group, sources=[shop.source], create_topics=False)[:2])
    async with running(shop.app()) as athomic:
        secure_kafka.write(shop.source, "good")
        await shop.handled(("good", shop.source))
        with pytest.raises(PublishError, match=r"IdempotentWrite on cluster kafka-cluster .*Write on any topic"):
            await athomic.publish(shop.source, "never")
        await healthy(athomic)


async def test_without_rights_the_start_says_which_are_missing_until_they_come(
    secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(secure_kafka)
    athomic = shop.app()
    async with athomic.app.router.lifespan_context(athomic.app):
        await eventually(lambda: missing("Read", "topic", shop.source) in health(athomic))
        assert "does not exist" not in caplog.text
        secure_kafka.make(shop.source)
        shop.allow("Topic", shop.source, "Read")
        await eventually(lambda: missing("Read", "group", shop.group) in health(athomic))
        shop.allow("Group", shop.group, "Read")
        await athomic.wait_until_ready(30)
        secure_kafka.write(shop.source, "good")
        await shop.handled(("good", shop.source))


async def test_side_topics_without_rights_stop_only_what_needs_them(secure_kafka: SecureKafka) -> None:
    shop = Shop(secure_kafka, ordering="key", concurrency=4)
    shop.allow_source()
    async with running(shop.app()) as athomic:
        await eventually(lambda: missing("Write", "topic", f"{shop.dlq}, {shop.retry}") in health(athomic))
        await athomic.publish(shop.source, "bad 1", key="a")
        await eventually(
            lambda: (
                f"to the retry topic {shop.retry} refused: {missing('Write', 'topic', shop.retry)}" in health(athomic)
            )
        )
        await athomic.publish(shop.source, "good 1", key="b")
        await shop.handled(("good 1", shop.source))
        assert athomic.consumers()[0].restarts == 0

        shop.allow("Topic", shop.retry, "Write", "Create")
        unread = f"what comes to {shop.retry} waits: {missing('Read', 'topic', shop.retry)}"
        await eventually(lambda: unread in health(athomic))
        assert ("bad 1", shop.retry) not in shop.record.seen
        await athomic.publish(shop.source, "good 2", key="c")
        await shop.handled(("good 2", shop.source))
        await eventually(lambda: committed(athomic, shop.source) == 3)

        shop.allow("Topic", shop.retry, "Read")
        await shop.handled(("bad 1", shop.retry))
        await eventually(lambda: f"to {shop.dlq} refused: {missing('Write', 'topic', shop.dlq)}" in health(athomic))
        with pytest.raises(NotAuthorizedError, match=f"Read on topic {shop.dlq}"):
            await athomic.dead_letters("h").count()
        shop.allow("Topic", shop.dlq, "Write", "Create")
        await eventually(lambda: athomic.consumers()[0].counters.dead_lettered == 1)
        await healthy(athomic)


async def test_p07_what_needs_a_topic_that_may_not_be_made_waits_until_it_may(secure_kafka: SecureKafka) -> None:
    shop = Shop(secure_kafka, retry=RetryPolicy(max_attempts=1))
    shop.allow_source()
    shop.allow("Topic", shop.dlq, "Read", "Write")
    shop.allow("Topic", shop.redrive, "Read", "Write")
    async with running(shop.app()) as athomic:
        await healthy(athomic)
        await athomic.publish(shop.source, "bad")
        await eventually(lambda: f"to {shop.dlq} refused" in health(athomic))
        assert missing("Create", "topic", shop.dlq) in health(athomic)
        assert committed(athomic, shop.source) in (None, 0)
        shop.allow("Topic", shop.dlq, "Create")
        await eventually(lambda: committed(athomic, shop.source) == 1)
        await healthy(athomic)

        shop.sound = True
        with pytest.raises(NotAuthorizedError, match=f"Create on topic {shop.redrive}"):
            await athomic.dead_letters("h").redrive()
        assert await athomic.dead_letters("h").count() == 1, "it is as open as before"
        secure_kafka.make(shop.redrive, partitions=3)  # somebody else does it
        assert (await athomic.dead_letters("h").redrive()).settled == 1
        await shop.handled(("bad", shop.redrive))


async def test_what_shall_be_made_at_the_start_and_may_not_is_told_until_it_may(secure_kafka: SecureKafka) -> None:
    shop = Shop(secure_kafka, retry=RetryPolicy(max_attempts=1))
    shop.allow_source()
    shop.allow("Topic", shop.dlq, "Write")
    shop.allow("Topic", shop.redrive, "Read")
    async with running(shop.app(create_topics="at_start")) as athomic:
        await eventually(lambda: "failure_topics_unusable" in health(athomic))
        await athomic.publish(shop.source, "good")
        await shop.handled(("good", shop.source))
        shop.allow("Topic", shop.dlq, "Create")
        shop.allow("Topic", shop.redrive, "Create")
        await eventually(lambda: {shop.dlq, shop.redrive} <= secure_kafka.topics())
        await healthy(athomic)


def committed(athomic: Athomic, topic: str) -> int | None:
    return next((place.committed for place in athomic.consumers()[0].assignment if place.topic == topic), None)


async def test_a_right_that_is_taken_away_does_not_make_a_topic_one_that_is_gone(
    secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(secure_kafka)
    shop.allow_source()
    shop.allow("Topic", shop.retry, "Read", "Write", "Create")
    shop.allow("Topic", shop.dlq, "Write", "Create")
    async with running(shop.app()) as athomic:
        await athomic.publish(shop.source, "bad")
        await shop.handled(("bad", shop.retry))
        await eventually(lambda: athomic.consumers()[0].counters.dead_lettered == 1)

        for operation in ("read", "write", "create"):
            secure_kafka.take(shop.user, "topic", shop.retry, operation)
        await eventually(lambda: missing("Read", "topic", shop.retry) in health(athomic))
        await athomic.publish(shop.source, "good")
        await shop.handled(("good", shop.source))
        await eventually(lambda: committed(athomic, shop.source) == 2)
        shop.allow("Topic", shop.retry, "Read", "Write")
        await healthy(athomic)

        secure_kafka.take(shop.user, "topic", shop.source, "read")
        secure_kafka.write(shop.source, "late")
        await eventually(lambda: missing("Read", "topic", shop.source) in health(athomic))
        shop.allow("Topic", shop.source, "Read")
        await shop.handled(("late", shop.source))
        assert "exist" not in caplog.text
        assert "deleted" not in caplog.text


async def test_publishing_names_the_right_that_is_missing(secure_kafka: SecureKafka) -> None:
    shop = Shop(secure_kafka)
    shop.allow_source()
    hidden, seen = f"{shop.source}-hidden", f"{shop.source}-seen"
    secure_kafka.make(hidden, seen)
    shop.allow("Topic", seen, "Describe")
    shop.allow("Topic", f"{shop.source}-new", "Describe")
    async with running(shop.app()) as athomic:
        for topic, right in ((hidden, "Write"), (seen, "Write"), (f"{shop.source}-new", "Create")):
            with pytest.raises(PublishError, match=f"{right} on topic {topic} is missing"):
                await athomic.publish(topic, "never")
        await athomic.publish(shop.source, "good")
        await shop.handled(("good", shop.source))


@provokes(C.POSITION_UNKNOWN, C.RETURN_TOPIC_UNREADABLE)
async def test_p13_what_may_not_be_read_is_told_until_it_may(secure_kafka: SecureKafka) -> None:
    shop = Shop(secure_kafka, retry=RetryPolicy(max_attempts=1), dlq=False)
    secure_kafka.make(shop.redrive)
    shop.allow("Topic", shop.redrive, "Describe")
    shop.allow_source()
    async with running(shop.app()) as athomic:
        reason = await comes(athomic, C.RETURN_TOPIC_UNREADABLE)
        assert reason.message.startswith(
            f"what comes to {shop.redrive} waits: {missing('Read', 'topic', shop.redrive)}"
        )
        shop.allow("Topic", shop.redrive, "Read")
        await goes(athomic, C.RETURN_TOPIC_UNREADABLE)
        await eventually(lambda: owned(athomic, shop.redrive))  # else it would leave in the middle of a rebalance
        secure_kafka.take(shop.user, "topic", shop.source, "read")
        coordinator = session_of(athomic).client()._member._coordinator
        await coordinator._send_req(LeaveGroupRequest(shop.group, coordinator.member_id))  # it gets its partition anew
        reason = await comes(athomic, C.POSITION_UNKNOWN)
        assert missing("Read", "topic", shop.source) in reason.message
        shop.allow("Topic", shop.source, "Read")
        await goes(athomic, C.POSITION_UNKNOWN)


@provokes(C.RESTARTING, C.RESTARTS_OFTEN)
async def test_p13_a_consumer_that_breaks_is_told_and_one_that_breaks_often_is_too(
    secure_kafka: SecureKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks when its group may not be used any more."""
    shop = Shop(secure_kafka)
    shop.allow_source()
    parts = HealthSettings(restarts=1, ready_includes=("faults", "checks", "consumers", "broker", "dependencies"))
    kafka = shop.user.model_copy(update={"session_timeout": 2.0, "heartbeat_interval": 0.5})
    async with running(shop.app(health=parts, kafka=kafka)) as athomic:
        secure_kafka.take(shop.user, "group", shop.group, "read")
        reason = await comes(athomic, C.RESTARTING)
        assert missing("Read", "group", shop.group) in reason.message
        shop.allow("Group", shop.group, "Read")
        await goes(athomic, C.RESTARTING)
        reason = await comes(athomic, C.RESTARTS_OFTEN)
        assert (reason.message[:13], reason.limit_seconds) == ("broke 1 times", 300.0)
        set_clock(monkeypatch, lambda: time.monotonic() + 301, *EVERYWHERE)
        await goes(athomic, C.RESTARTS_OFTEN)
