from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from .brokers import Broker, KafkaBroker, MemoryBroker, MockCluster


@pytest.fixture(params=["memory", "memory-thread", "mock", "kafka", "kafka-thread"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """One suite for all three, with the consumers in the routes' event loop and in a thread of their own.

    `@pytest.mark.not_on("mock", reason=...)` marks what a broker cannot do.
    """
    name, _, thread = request.param.partition("-")
    mark = request.node.get_closest_marker("not_on")
    if mark is not None and name in mark.args:
        pytest.skip(mark.kwargs["reason"])
    found = _broker(name, request)
    found.isolation = "thread" if thread else "loop"
    return found


def _broker(name: str, request: pytest.FixtureRequest) -> Broker:
    if name == "memory":
        return MemoryBroker(uuid4().hex)
    fixture: Any = request.getfixturevalue("mock_cluster" if name == "mock" else "apache_kafka")
    return MockCluster(fixture.bootstrap) if name == "mock" else KafkaBroker(fixture.bootstrap)


@pytest.fixture
def topic() -> str:
    return f"t-{uuid4().hex[:12]}"
