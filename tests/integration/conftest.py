from __future__ import annotations

from typing import Any

import pytest

from tests.support.causes import shorten_intervals
from tests.support.grounds import Ground, KafkaGround, MemoryGround


@pytest.fixture(params=["memory", "kafka"])
async def ground(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """Where a cause is provoked, with the topics of its app. Consumers look around often."""
    shorten_intervals(monkeypatch)
    monkeypatch.setattr("fastapi_athomic.transports.kafka.shared_client.METADATA_MAX_AGE_FOR_PATTERN", 0.5)
    if request.param == "memory":
        found: Ground = MemoryGround()
    else:
        kafka: Any = request.getfixturevalue("apache_kafka")
        found = KafkaGround(kafka.bootstrap)
    await found.create(found.topic, f"{found.topic}.beside")
    return found
