"""Topics that a handler needs beside its own. What happens to failures is in tests/delivery."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, ConfigurationError, RetryPolicy, include_athomic
from fastapi_athomic.consumption import membership
from fastapi_athomic.failures.own_topics import LONGEST_NAME
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import Shop

RETRY = RetryPolicy(max_attempts=1, retry_topics=(10,), allow_reordering=True)


def app(name: str, *, create_topics: bool) -> Athomic:
    athomic = include_athomic(FastAPI(), AthomicSettings(broker_url=f"memory://{name}", create_topics=create_topics))

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=RETRY)
    async def handle(message: str) -> None: ...

    return athomic


async def test_missing_topics_are_created_with_their_sources_partitions() -> None:
    broker = broker_named("created")
    broker.create_topics({"t": 7})
    async with running(app("created", create_topics=True)) as athomic:
        await athomic.publish("t", b"\xff")  # no text: it is not tried again
        await athomic.drain()
        await athomic.dead_letters("h").redrive()
    assert broker.partition_counts(None) == dict.fromkeys(["t", "t.g.dlq", "t.g.redrive"], 7)


@pytest.mark.parametrize("missing", ["t.g.dlq", "t.g.retry.10s"])
async def test_what_may_not_be_created_is_named_by_health(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "PREPARE_SECONDS", 0.01)
    broker = broker_named(f"named-{missing}")
    broker.create_topics({name: 1 for name in ("t", "t.g.dlq", "t.g.retry.10s", "t.g.redrive") if name != missing})
    async with running(app(f"named-{missing}", create_topics=False)) as athomic:
        await eventually(lambda: f"topic {missing} does not exist and create_topics is off" in str(athomic.health()))
        health = athomic.health()
        assert health is not None
        assert health.status == "degraded"
        broker.create_topics({missing: 1})
        await eventually(lambda: "does not exist" not in str(athomic.health()))


async def test_without_a_redrive_topic_all_else_works() -> None:
    broker = broker_named("without")
    broker.create_topics({"t": 1, "t.g.dlq": 1, "t.g.retry.10s": 1})
    async with running(app("without", create_topics=False)) as athomic:
        await athomic.publish("t", "x")
        await athomic.drain()
        health = athomic.health()
        assert health is not None
        assert health.status == "healthy"
        assert {place.topic for place in athomic.consumers()[0].assignment} == {"t", "t.g.retry.10s"}


async def test_a_source_that_may_not_be_created_keeps_the_consumer_from_starting() -> None:
    athomic = app("no-source", create_topics=False)
    async with athomic.app.router.lifespan_context(athomic.app):
        await eventually(lambda: "topic t does not exist and create_topics is off" in str(athomic.health()))


# --- names


async def test_p20_fault_02_a_name_that_becomes_too_long_keeps_the_app_from_starting(shop: Shop) -> None:
    athomic = shop.app("t" * (LONGEST_NAME - 5), "g")
    with pytest.raises(ConfigurationError, match=f"handler g: .* a name of {LONGEST_NAME + 1} characters"):
        athomic._assemble()


@pytest.mark.parametrize("dlq", ["t.g.redrive", "t.g.retry.5s"])
async def test_p20_fault_02_dead_letters_do_not_come_back_by_themselves(shop: Shop, dlq: str) -> None:
    athomic = shop.app("t", dlq=dlq)
    with pytest.raises(ConfigurationError, match=f"handler g: its dead letters must not go to {dlq}"):
        athomic._assemble()
