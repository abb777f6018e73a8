"""When topics are made (`create_topics`), and how few questions to the broker that takes, however many handlers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from fastapi_athomic import AthomicSettings, NotAuthorizedError
from fastapi_athomic.consumption import membership
from fastapi_athomic.failures import topic_watch
from fastapi_athomic.transports.base import TopicCounts
from fastapi_athomic.transports.memory.transport import MemoryTransport
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import EVERYTHING, Shop, followed, later

AT_START = {"create_topics": "at_start"}


class Requests:
    """What all apps ask of brokers, and which topics may not be created."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = list[set[str] | None]()
        self.created = list[dict[str, int]]()
        self.looks = 0  # of single consumers at their own topics
        self.forbidden = set[str]()
        count, create = MemoryTransport.partition_counts, MemoryTransport.create_topics

        async def partition_counts(
            transport: MemoryTransport, topics: Collection[str] | None, timeout: float
        ) -> TopicCounts:
            self.asked.append(None if topics is None else set(topics))
            return await count(transport, topics, timeout)

        async def create_topics(transport: MemoryTransport, topics: Mapping[str, int], timeout: float) -> None:
            self.created.append(dict(topics))
            if refused := self.forbidden & topics.keys():
                raise NotAuthorizedError(f"the right Create on topic {min(refused)} is missing", refused)
            await create(transport, topics, timeout)

        monkeypatch.setattr(MemoryTransport, "partition_counts", partition_counts)
        monkeypatch.setattr(MemoryTransport, "create_topics", create_topics)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (True, "when_needed"),
        (False, "never"),
        ("yes", "when_needed"),
        ("OFF", "never"),
        ("at_start", "at_start"),
        ("never", "never"),
    ],
)
def test_a_yes_or_no_of_before_is_still_understood(given: Any, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AthomicSettings(create_topics=given).create_topics == meant
    monkeypatch.setenv("ATHOMIC_CREATE_TOPICS", str(given))
    assert AthomicSettings().create_topics == meant
    assert AthomicSettings().makes_topics is (meant != "never")


def test_what_create_topics_can_be_is_said() -> None:
    with pytest.raises(ValueError, match="must be when_needed, at_start or never"):
        AthomicSettings(create_topics="sometimes")  # type: ignore[arg-type]


# --- at the start


async def test_p20_at_start_all_own_topics_are_made_and_followed_before_anything_is_consumed(
    shop: Shop, requests: Requests
) -> None:
    shop.broker.create_topics({"t": 3})
    async with running(shop.app("t", retry=later(0.01), settings=AT_START)) as athomic:
        own = dict.fromkeys(["t.g.dlq", "t.g.retry.0.01s", "t.g.redrive"], 3)
        assert requests.created == [own]
        assert followed(athomic) == {"t", "t.g.retry.0.01s", "t.g.redrive"}
        assert athomic.consumers()[0].counters.rebalances == 1, "they are not found one after the other"
        await athomic.publish("t", "x")
        await athomic.drain()
        assert (await athomic.dead_letters("g").redrive()).settled == 1
    assert requests.created == [own]


async def test_p20_at_start_without_a_dlq_no_topic_for_redrives_is_made(shop: Shop, requests: Requests) -> None:
    async with running(shop.app("t", dlq=False, settings=AT_START)):
        pass
    assert shop.topics() == {"t"}


async def test_p20_at_start_a_shared_dlq_gets_as_many_partitions_as_its_largest_source(shop: Shop) -> None:
    shop.broker.create_topics({"t": 2, "u": 5})
    athomic = shop.app("t", "g", dlq="errors", settings=AT_START)
    async with running(shop.add(athomic, "u", "h", dlq="errors")):
        assert shop.broker.partition_counts(["errors", "t.g.redrive", "u.h.redrive"]) == {
            "errors": 5,
            "t.g.redrive": 2,
            "u.h.redrive": 5,
        }


async def test_p20_at_start_the_topics_of_a_pattern_get_theirs_when_they_are_assigned(shop: Shop) -> None:
    shop.broker.create_topics({"t": 2})
    async with running(shop.app(EVERYTHING, settings=AT_START)) as athomic:
        await eventually(lambda: shop.topics() == {"t", "t.g.dlq", "t.g.redrive"})
        await eventually(lambda: followed(athomic) == {"t", "t.g.redrive"})


async def test_p20_at_start_what_may_not_be_made_is_told_and_stops_nothing(
    shop: Shop, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "PREPARE_SECONDS", 0.01)
    shop.broker.create_topics({"t": 1})
    shop.sound = True
    requests.forbidden = {"t.g.dlq"}
    async with running(shop.app("t", settings=AT_START)) as athomic:
        await eventually(lambda: "the right Create on topic t.g.dlq is missing" in str(athomic.health()))
        assert "failure_topics_unusable" in str(athomic.health())
        shop.write("t")
        await shop.record.count(1)
        requests.forbidden.clear()
        await eventually(lambda: "t.g.dlq" in shop.topics())
        await eventually(lambda: "failure_topics_unusable" not in str(athomic.health()))


# --- few questions


async def test_all_handlers_start_with_the_same_questions(
    shop: Shop, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_watch, "FOLLOW_SECONDS", 3_600.0)
    monkeypatch.setattr(topic_watch, "COUNT_SECONDS", 60.0)
    athomic = shop.app("t0", "g0")
    for number in range(1, 20):
        shop.add(athomic, f"t{number}", f"g{number}")
    async with running(athomic):
        await eventually(lambda: len(requests.asked) >= 3)
    assert requests.created == [{f"t{number}": -1 for number in range(20)}]
    names = {f"t{number}{end}" for number in range(20) for end in ("", f".g{number}.dlq", f".g{number}.redrive")}
    assert requests.asked == [None, names, names], "a listing, what exists, and once more when topics were made"


async def test_p21_a_topic_that_may_not_be_made_is_the_problem_of_its_own_handler(
    shop: Shop, requests: Requests
) -> None:
    requests.forbidden = {"u"}
    athomic = shop.app("t", "g", settings={"restart_backoff": 0.01, "restart_backoff_max": 0.01})
    shop.add(athomic, "u", "h")
    async with athomic.app.router.lifespan_context(athomic.app):
        await eventually(lambda: "t" in shop.topics())
        await eventually(lambda: athomic.consumers()[0].ready)
        assert {"t": -1, "u": -1} in requests.created, "they were asked for together"
        assert "the right Create on topic u is missing" in str(athomic.health())
        shop.write("t")
        await shop.record.until(lambda seen: ("g", "t") in seen)
        requests.forbidden.clear()
        await athomic.wait_until_ready(10)


async def test_an_idle_app_has_one_question_for_all_handlers(
    shop: Shop, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.broker.create_topics({f"t{number}": 1 for number in range(10)} | {"t0.g0.redrive": 1})
    athomic = shop.app("t0", "g0")
    for number in range(1, 10):
        shop.add(athomic, f"t{number}", f"g{number}")
    async with running(athomic):
        await eventually(lambda: len(requests.asked) > 5)
        looks, look = list[Any](), shop.broker.topics_of

        def topics_of(member: Any) -> Any:
            looks.append(member)
            return look(member)

        monkeypatch.setattr(shop.broker, "topics_of", topics_of)
        before = len(requests.asked)
        await eventually(lambda: len(requests.asked) > before + 10)
        assert not looks, "no handler asks by itself"
        shop.broker.delete_topics(["t3"])
        await eventually(lambda: "topic_missing" in str(athomic.health()))
        assert {member.config.group_id for member in looks} == {"g3"}
