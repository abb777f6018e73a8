from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from .brokers import Broker, KafkaBroker, MemoryBroker, MockCluster


@pytest.fixture(params=["memory", "mock", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """One suite for all three; `@pytest.mark.not_on("mock", reason=...)` marks what a broker cannot do."""
    mark = request.node.get_closest_marker("not_on")
    if mark is not None and request.param in mark.args:
        pytest.skip(mark.kwargs["reason"])
    if request.param == "memory":
        return MemoryBroker(uuid4().hex)
    fixture: Any = request.getfixturevalue("mock_cluster" if request.param == "mock" else "apache_kafka")
    return MockCluster(fixture.bootstrap) if request.param == "mock" else KafkaBroker(fixture.bootstrap)


@pytest.fixture
def topic() -> str:
    return f"t-{uuid4().hex[:12]}"
