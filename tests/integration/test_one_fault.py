"""All consumers of an app share a client and its connections. What happens to one of them disturbs no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import UnknownError
from aiokafka.protocol.group import LeaveGroupRequest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.observation.status import ConsumerStatus
from tests.support.apps import Record, eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka

HANDLERS = 50


class Crowd:
    """An app with many handlers, each with a topic and a group of its own. The first one is hit."""

    def __init__(self, broker: Kafka, isolation: Any) -> None:
        self.handled = Record()
        name = f"crowd-{uuid4().hex[:12]}"
        self.topics = [f"{name}-{number}" for number in range(HANDLERS)]
        settings = AthomicSettings(broker_url=f"kafka://{broker.bootstrap}", isolation=isolation, restart_backoff=0.1)
        self.athomic: Athomic = new_app(settings, *map(self._handler, self.topics))

    def _handler(self, topic: str) -> Any:
        @subscribe_to(topic, group_id=topic, handler_id=topic)
        async def handle(number: int) -> None:
            self.handled.note((topic, number))

        return handle

    async def publish(self, number: int) -> None:
        await asyncio.gather(*(self.athomic.publish(topic, number) for topic in self.topics))

    async def have_handled(self, number: int, topics: list[str]) -> None:
        await self.handled.until(lambda seen: {(topic, number) for topic in topics} <= set(seen))

    @property
    def hit(self) -> ConsumerStatus:
        return self.athomic.consumers()[0]

    def of_the_others(self) -> list[tuple[int, int, int, int]]:
        """What each of the others has been through."""
        return [
            (each.restarts, each.counters.rebalances, each.counters.received, each.counters.redelivered)
            for each in self.athomic.consumers()[1:]
        ]

    async def member(self) -> Any:
        consumer = self.athomic._running().manager.consumers[self.topics[0]]
        session: Any = consumer.life.session
        return session._connected._member


async def breaks(crowd: Crowd) -> None:
    """Its coordinator has met what it cannot overcome."""
    coordinator = (await crowd.member())._coordinator

    def check_errors() -> None:
        raise UnknownError

    coordinator.check_errors = check_errors


async def is_put_out(crowd: Crowd) -> None:
    """Its group goes on without it."""
    member = await crowd.member()

    async def leave() -> None:
        coordinator = member._coordinator
        request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
        await member._client.send(coordinator.coordinator_id, request)

    await crowd.athomic.at_home(leave)


async def is_restarted(crowd: Crowd) -> None:
    """An operator wants it."""
    await crowd.athomic.restart(crowd.topics[0])


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_p21_what_happens_to_one_consumer_leaves_the_others_undisturbed(
    apache_kafka: Kafka, isolation: str
) -> None:
    crowd = Crowd(apache_kafka, isolation)
    faults: tuple[Callable[[Crowd], Awaitable[None]], ...] = (breaks, is_put_out, is_restarted)
    async with running(crowd.athomic):
        await crowd.publish(0)
        await crowd.have_handled(0, crowd.topics)
        before = crowd.of_the_others()
        for number, fault in enumerate(faults, start=1):
            rebalances = crowd.hit.counters.rebalances
            await fault(crowd)
            await crowd.publish(number)
            await crowd.have_handled(number, crowd.topics[1:])
            await crowd.have_handled(number, crowd.topics)
            await eventually(lambda known=rebalances: crowd.hit.counters.rebalances > known)  # type: ignore[misc]
        assert crowd.hit.restarts == 1, "the one that broke was built anew"
        expected = [(restarts, moves, got + len(faults), again) for restarts, moves, got, again in before]
        assert crowd.of_the_others() == expected, "neither a rebalance, nor a restart, nor a message twice"
