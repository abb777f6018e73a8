"""The servers that the tests themselves bring."""

from __future__ import annotations

import redis
from confluent_kafka.admin import AdminClient

from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.redis_server import ExternalRedis, RedisServer


def test_apache_kafka_answers(apache_kafka: KafkaBroker | ExternalKafka) -> None:
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    assert len(admin.describe_cluster().result(30).nodes) >= 1


def test_redis_answers(redis_server: RedisServer | ExternalRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("athomic", "1", px=10_000)
        assert client.get("athomic") == b"1"
