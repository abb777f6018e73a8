"""The Kafka protocol broker that lives inside librdkafka."""

from __future__ import annotations

from confluent_kafka import Producer


class MockCluster:
    """One broker, for as long as the object lives. Topics are created by their first use."""

    description = "librdkafka's mock cluster"

    def __init__(self) -> None:
        self._owner = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = self._owner.list_topics(timeout=10).brokers.values()
        self.bootstrap = f"{broker.host}:{broker.port}"
