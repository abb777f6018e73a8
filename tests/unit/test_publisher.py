"""What a publish says while it waits."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, PayloadPipeline, PayloadUnavailableError, include_athomic, publisher
from tests.support.apps import eventually, running
from tests.support.payloads import Depot


async def test_the_log_says_once_for_what_publishing_waits(caplog: pytest.LogCaptureFixture) -> None:
    depot = Depot()
    depot.away = True
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", publish_timeout=600)
    async with running(include_athomic(FastAPI(), settings, payload=PayloadPipeline([depot]))) as athomic:
        works = [asyncio.create_task(athomic.publish("t", b"s3cret")) for _ in range(3)]
        await eventually(lambda: depot.asked > 6)
        depot.away = False
        await asyncio.gather(*works)
    said = [record.message for record in caplog.records if record.name == publisher.__name__]
    assert said == ["a publish waits, for at most 600 s: the depot is away"]


async def test_a_publish_that_waits_for_nothing_to_come_fails_with_the_reason() -> None:
    depot = Depot()
    depot.away = True
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", publish_timeout=0.2)
    async with running(include_athomic(FastAPI(), settings, payload=PayloadPipeline([depot]))) as athomic:
        with pytest.raises(PayloadUnavailableError, match=r"waited for 0\.2 s: the depot is away"):
            await athomic.publish("t", b"s3cret")
