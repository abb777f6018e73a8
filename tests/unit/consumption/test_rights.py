"""A topic of several that must not be read: the others go on, and are committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fastapi_athomic import NotAuthorizedError
from fastapi_athomic.transports.base import TopicInfo
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import Shop

DENIED = {"s"}
_commit, _topics = MemoryConsumer.commit, MemoryConsumer.topics


async def commit(self: MemoryConsumer, offsets: Mapping[Any, Any], timeout: float) -> None:
    """As Kafka: what is allowed is committed, and the answer names the rest."""
    await _commit(self, {place: offset for place, offset in offsets.items() if place.topic not in DENIED}, timeout)
    if refused := DENIED & {place.topic for place in offsets}:
        raise NotAuthorizedError(f"the right Read on topic {', '.join(refused)} is missing", refused)


async def topics(self: MemoryConsumer, timeout: float) -> dict[str, TopicInfo | None]:
    found = dict(await _topics(self, timeout))
    return {
        name: info._replace(denied=frozenset({"Read"})) if info is not None and name in DENIED else info
        for name, info in found.items()
    }


def committed(athomic: Any, topic: str) -> list[int | None]:
    return [place.committed for place in athomic.consumers()[0].assignment if place.topic == topic]


async def test_a_commit_that_is_refused_for_one_topic_counts_for_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()
    shop.sound = True
    shop.broker.create_topics({"t": 1, "s": 1})
    async with running(shop.app(["t", "s"])) as athomic:
        await eventually(lambda: committed(athomic, "s") == [0])
        monkeypatch.setattr(MemoryConsumer, "commit", commit)
        shop.write("s", 2)
        shop.write("t", 3)
        await shop.record.count(5)
        await eventually(lambda: committed(athomic, "t") == [3])
        assert committed(athomic, "s") == [0]
        await eventually(
            lambda: "commit failed, it will be tried again: the right Read on topic s" in str(athomic.health())
        )
        monkeypatch.undo()
        await eventually(lambda: committed(athomic, "s") == [2])
        await eventually(lambda: "commit failed" not in str(athomic.health()))
    assert sum("commit failed" in text for text in caplog.messages) == 1
    assert "commits are accepted again" in caplog.text


async def test_partitions_that_must_not_be_read_do_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    shop.sound = True
    shop.broker.create_topics({"t": 1, "s": 1})
    monkeypatch.setattr(MemoryConsumer, "commit", commit)
    monkeypatch.setattr(MemoryConsumer, "topics", topics)
    athomic = shop.app(["t", "s"], settings={"stall_timeout": 0.5})
    async with running(athomic):
        shop.write("s")
        shop.write("t")
        await shop.record.until(lambda seen: seen == [("g", "t")])
        await eventually(lambda: committed(athomic, "t") == [1])
        text = "cannot read s[0]: not authorized: the right Read on topic s is missing"
        await eventually(lambda: text in str(athomic.health()))
        monkeypatch.undo()
        await shop.record.until(lambda seen: seen == [("g", "t"), ("g", "s")])
        await eventually(lambda: "missing" not in str(athomic.health()))
        assert athomic.consumers()[0].restarts == 0
