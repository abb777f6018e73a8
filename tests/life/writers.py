"""Foreign producers that use librdkafka: plain, compressing, transactional."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Producer

from .ledger import Ledger, Message

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
FLUSH_SECONDS = 60
LOAD_PER_SECOND = 40


class Writer:
    """Writes numbered messages, from any thread. Its keys are its own, as Kafka does not order several producers."""

    def __init__(self, bootstrap: str, prefix: str, ledger: Ledger, name: str, **config: Any) -> None:
        common = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.max.bytes": 20_000_000,  # before it is compressed
            "topic.metadata.refresh.interval.ms": 1000,
            "log_level": 0,
        }
        self.producer = Producer(common | config)
        self.name = name
        self._prefix = prefix
        self._ledger = ledger
        self._failed: list[str] = []
        self._in_order = threading.Lock()  # the load and an event write the same keys

    def write(self, topic: str, key: str, **more: Any) -> Message:
        """`topic`: without its prefix. `more`: further fields of the message."""
        with self._in_order:
            message = self._ledger.number(topic, f"{self.name}-{key}")
            self._ledger.expect(message)
            self.send(message, **more)
        return message

    def send(self, message: Message, *, value: bytes | None = None, partition: int = -1, **more: Any) -> None:
        topic = f"{self._prefix}.{message.topic}"
        body = {"topic": topic, "key": message.key, "sequence": message.sequence, **more}
        payload = value if value is not None else json.dumps(body).encode()
        for _ in range(2):
            try:
                self.producer.produce(
                    topic, payload, message.key.encode(), partition=partition, on_delivery=self._delivered
                )
                return
            except BufferError:
                self.producer.flush(FLUSH_SECONDS)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(str(error))

    def flush(self) -> None:
        assert self.producer.flush(FLUSH_SECONDS) == 0, f"{self.name}: the broker did not take all messages"
        assert not self._failed, f"{self.name}: the broker refused {len(self._failed)}: {self._failed[0]}"


class Transactions(Writer):
    """Writes in transactions: messages may be read only when committed."""

    def __init__(self, bootstrap: str, prefix: str, ledger: Ledger, name: str) -> None:
        super().__init__(bootstrap, prefix, ledger, name, **{"transactional.id": f"{prefix}-{name}"})
        self.producer.init_transactions(30)
        self._open: list[Message] = []

    def begin(self) -> None:
        self.producer.begin_transaction()
        self._open = []

    def write(self, topic: str, key: str, **more: Any) -> Message:
        message = self._ledger.number(topic, f"{self.name}-{key}")
        self.send(message, **more)
        self._open.append(message)
        return message

    def commit(self) -> None:
        self.producer.commit_transaction(30)
        for message in self._open:
            self._ledger.expect(message)

    def abort(self) -> None:
        self._ledger.forbid(self._open)  # first, as none of it may ever be handled
        self.producer.flush(FLUSH_SECONDS)
        self.producer.abort_transaction(30)


class Load(threading.Thread):
    """Writes messages during all events, but not during quiet spells."""

    def __init__(self, writer: Callable[[], Writer], topics: Sequence[str]) -> None:
        super().__init__(daemon=True, name="life-load")
        self._writer = writer
        self._topics = topics
        self._going_on = threading.Event()
        self._paused = threading.Event()
        self._ended = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            if not self._going_on.is_set():
                self._paused.set()
                self._going_on.wait(0.1)
                continue
            try:
                number = self._write(number)
            except Exception as error:
                self.problem = error
                return
            self._ended.wait(0.1)

    def _write(self, number: int) -> int:
        writer = self._writer()
        for _ in range(LOAD_PER_SECOND // 10):
            flaky = {"deed": {"kind": "flaky"}} if number % 20 == 0 else {}
            writer.write(self._topics[number % len(self._topics)], f"k{number % 12}", **flaky)
            number += 1
        writer.producer.poll(0)
        return number

    def go_on(self) -> None:
        self._paused.clear()
        self._going_on.set()

    def pause(self) -> None:
        """Returns when writing has stopped and everything is acknowledged."""
        self._going_on.clear()
        self._paused.wait(10)
        self._writer().flush()

    def stop(self) -> None:
        self._ended.set()
        self._going_on.set()
        if self.is_alive():
            self.join()


def burst(writer: Writer, topics: Sequence[str], count: int, keys: int = 20, **more: Any) -> list[Message]:
    """Writes many messages at once, and waits until they are acknowledged."""
    written = [writer.write(topics[n % len(topics)], f"k{n % keys}", **more) for n in range(count)]
    writer.flush()
    return written


def until(holds: Callable[[], Any], seconds: float, what: str | Callable[[], str], pause: float = 0.1) -> float:
    """Waits until `holds`; returns the seconds it took. Raises `AssertionError` with what did not happen."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(pause)
    return time.monotonic() - began
