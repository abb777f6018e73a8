"""P6 and P7 on Apache Kafka: bad messages of a foreign client, and a DLQ that refuses."""

from __future__ import annotations

import gzip
import json
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic
from pydantic import BaseModel, ConfigDict

from fastapi_athomic import Athomic, RetryPolicy, subscribe_to
from fastapi_athomic.failures import dlq as dlq_handling
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.delivery.brokers import Record as Written
from tests.support.apps import Record, eventually, new_app, running, sentences
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka


class Payment(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int
    note: str = ""


GOOD = b'{"number": 1}'
MANY = tuple((f"h{number}", b"x") for number in range(1_000))
POISON: dict[str, Written] = {
    "empty": Written(b""),
    "null": Written(None, b"key"),
    "not JSON": Written(b"hello"),
    "cut off": Written(b'{"number": 1'),
    "two values": Written(GOOD + GOOD),
    "trailing comma": Written(b'{"number": 1,}'),
    "a list": Written(b"[1]"),
    "a number": Written(b"1"),
    "a string": Written(b'"1"'),
    "JSON null": Written(b"null"),
    "missing field": Written(b"{}"),
    "wrong type": Written(b'{"number": "many"}'),
    "too large a number": Written(b'{"number": 1e400}'),
    "NaN": Written(b'{"number": NaN}'),
    "unknown field": Written(b'{"number": 1, "extra": 2}'),
    "deep nesting": Written(b"[" * 100_000),
    "deep nesting in a field": Written(b'{"number": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "not UTF-8": Written(b'{"number": 1, "note": "\xff\xfe"}'),
    "UTF-16": Written(GOOD.decode().encode("utf-16")),
    "byte order mark": Written(b"\xef\xbb\xbf" + GOOD),
    "lone surrogate": Written(b'{"number": 1, "note": "\\ud800"}'),
    "NUL bytes": Written(b"\0" * 100),
    "gzip": Written(gzip.compress(GOOD)),
    "binary": Written(bytes(range(256))),
    "large": Written(b'{"number": "' + b"x" * 900_000 + b'"}'),
    "bad, key not UTF-8": Written(b"x", b"\xff\xfe\x00"),
    "bad, empty key": Written(b"x", b""),
    "bad, header not UTF-8": Written(b"x", None, (("h", b"\xff\xfe"),)),
    "bad, null header": Written(b"x", None, (("h", None),)),
    "bad, header twice": Written(b"x", None, (("h", b"1"), ("h", b"2"))),
    "bad, 1,000 headers": Written(b"x", None, MANY),
    "bad, headers of ours": Written(b"x", None, (("athomic-attempts", b"none"), ("traceparent", b"\xff"))),
}
STRANGE_BUT_GOOD: dict[str, Written] = {
    "key not UTF-8": Written(GOOD, b"\xff\xfe\x00"),
    "header not UTF-8": Written(GOOD, None, (("h", b"\xff\xfe"),)),
    "null header": Written(GOOD, None, (("h", None),)),
    "1,000 headers": Written(GOOD, None, MANY),
    "garbage in every header we read": Written(
        GOOD,
        None,
        tuple(
            (name, b"\xff\x00garbage")
            for name in ("traceparent", "tracestate", "baggage", "x-tenant-id", "openlineage-run")
        ),
    ),
}


async def test_p06_no_bad_message_blocks_its_partition(apache_kafka: Kafka) -> None:
    topic = f"poison-{uuid4().hex[:8]}"
    foreign, record = Foreign(apache_kafka.bootstrap), Record()
    await foreign.create_topic(topic, 1)
    await foreign.produce(topic, [*POISON.values(), *STRANGE_BUT_GOOD.values(), Written(b'{"number": 2}')])

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(payment: Payment) -> None:
        record.note(payment.number)

    async with running(new_app(foreign.settings(), handle)) as athomic:
        await record.until(lambda seen: 2 in seen)
        await athomic.drain()
        assert athomic.consumers()[0].restarts == 0
    assert len(record.seen) == len(STRANGE_BUT_GOOD) + 1
    letters = await foreign.read(f"{topic}.{topic}.dlq")
    assert len(letters) == len(POISON) >= 25
    for letter, (name, written) in zip(letters, POISON.items(), strict=True):
        assert (letter.value, letter.key) == (written.value, written.key), name
        ours = [header for header in written.headers if not header[0].startswith("athomic-")]
        assert list(letter.headers[: len(ours)]) == ours, name


async def test_p07_a_dlq_that_refuses_makes_the_partition_wait(
    apache_kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlq_handling, "FIRST_WRITE_DELAY", 3.0)  # the topic is mended between two tries, not in one
    topic = f"refused-{uuid4().hex[:8]}"
    dlq = f"{topic}.{topic}.dlq"
    foreign, record = Foreign(apache_kafka.bootstrap), Record()
    await foreign.create_topic(topic, 1)
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    admin.create_topics([NewTopic(dlq, 1, 1, config={"max.message.bytes": "100"})])[dlq].result(30)
    large = json.dumps({"number": 1, "note": "x" * 5_000}).encode()
    await foreign.produce(topic, [Written(b'{"number": 0}'), Written(large), Written(b'{"number": 2}')])

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(payment: Payment) -> None:
        record.note(payment.number)
        if payment.number == 1:
            raise RuntimeError("never")

    async with running(new_app(foreign.settings(), handle)) as athomic:
        await eventually(lambda: f"waits: dead letter to {dlq} refused" in _reasons(athomic))
        assert record.seen == [0, 1]
        await athomic.publish(f"{topic}.unrelated", "publishing goes on")
        assert await foreign.committed(topic, topic) == {0: 1}
        entry = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, dlq, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(30)
        await record.count(3)
        await athomic.drain()
        assert _reasons(athomic) == ""
    assert record.seen == [0, 1, 2]
    assert [letter.value for letter in await foreign.read(dlq)] == [large]


def _reasons(athomic: Athomic) -> str:
    health: Any = athomic.health()
    return " ".join(sentences(health.consumers["h"]))
