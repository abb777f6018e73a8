"""The messages that all contenders consume, and how they get to a broker."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import BaseModel

PARTITIONS = 4
UNIFORM_KEYS, ZIPF_KEYS = 1_000, 10_000
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS: Any = [("traceparent", TRACEPARENT), ("x-tenant-id", b"acme")]

Keys = Literal["uniform", "zipf"]


class Order(BaseModel):
    number: int  # counts from 0 for each key, to show what is lost, repeated or out of order
    key: int
    sent: int  # nanoseconds of the machine's monotonic clock
    customer: str
    items: list[str]
    amount: float
    note: str


def keys_of(kind: Keys, count: int) -> Iterator[int]:
    """`count` keys: in turn, or by Zipf's law (the k-th most frequent key is 1/k times as frequent as the first)."""
    if kind == "uniform":
        yield from (number % UNIFORM_KEYS for number in range(count))
        return
    weights = [1 / rank for rank in range(1, ZIPF_KEYS + 1)]
    yield from random.Random(7).choices(range(ZIPF_KEYS), weights, k=count)


def encode(key: int, number: int) -> bytes:
    order = {"number": number, "key": key, "sent": time.monotonic_ns(), "customer": f"c{key}", "items": ["a", "b"]}
    return json.dumps(order | {"amount": 1.5, "note": "x" * 50}).encode()


class Source:
    """A foreign producer. It counts what it writes, for each topic and key."""

    def __init__(self, bootstrap: str, *, partitions: int = PARTITIONS, linger_ms: int = 20) -> None:
        config: dict[str, Any] = {"linger.ms": linger_ms, "enable.idempotence": True, "log_level": 0}
        self._producer = Producer(config | {"bootstrap.servers": bootstrap})
        self._partitions = partitions
        self._numbers: dict[tuple[str, int], int] = defaultdict(int)

    def look_up(self, *topics: str) -> None:
        """Asks where the topics are, so that the first messages need not wait for it."""
        for topic in topics:
            self._producer.list_topics(topic, 30)

    def write(self, topic: str, key: int) -> None:
        number = self._numbers[topic, key]
        self._numbers[topic, key] = number + 1
        arguments: dict[str, Any] = {"partition": key % self._partitions, "headers": HEADERS}
        while True:
            try:
                self._producer.produce(topic, encode(key, number), b"%d" % key, **arguments)
                return
            except BufferError:
                self._producer.poll(0.1)

    def poll(self) -> None:
        self._producer.poll(0)

    def flush(self) -> None:
        if left := self._producer.flush(120):
            raise RuntimeError(f"the broker did not take {left} messages")


def create_topics(bootstrap: str, topics: Sequence[str], partitions: int = PARTITIONS) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for created in admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics]).values():
        created.result(30)


def source_of(bootstrap: str, topic: str, *, create: bool, linger_ms: int = 20) -> Source:
    if create:
        create_topics(bootstrap, [topic])
    source = Source(bootstrap, linger_ms=linger_ms)
    source.look_up(topic)
    return source


def fill(bootstrap: str, topic: str, keys: Keys, count: int, *, create: bool) -> None:
    source = source_of(bootstrap, topic, create=create)
    for key in keys_of(keys, count):
        source.write(topic, key)
    source.flush()


@contextmanager
def steady(bootstrap: str, topic: str, rate: float, *, create: bool) -> Iterator[None]:
    """Within the block, writes `rate` messages per second, evenly."""
    source = source_of(bootstrap, topic, create=create, linger_ms=0)
    ending = threading.Event()

    def write() -> None:
        began, count = time.monotonic(), 0
        while not ending.wait(max(0.0, began + count / rate - time.monotonic())):
            source.write(topic, count % UNIFORM_KEYS)
            source.poll()
            count += 1

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        source.flush()
