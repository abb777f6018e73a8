"""Reads dead letters with a foreign consumer that commits no offsets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from .ledger import Ledger, Message

READ_SECONDS = 3.0


def read_letters(bootstrap: str, prefix: str, topics: Iterable[str], ledger: Ledger) -> int:
    """Tells the ledger about all dead letters that are in the topics now, and returns how many there are."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "letters",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "fetch.message.max.bytes": 20_000_000,
            "log_level": 0,
        }
    )
    try:
        return sum(_read(consumer, prefix, topic, ledger) for topic in topics)
    finally:
        consumer.close()


def _read(consumer: Consumer, prefix: str, topic: str, ledger: Ledger) -> int:
    try:
        found = consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic]
        bounds = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=READ_SECONDS)
            for number in found.partitions
        }
    except KafkaException:  # the topic was deleted meanwhile
        return 0
    left = {number: end for number, (first, end) in bounds.items() if first < end}
    consumer.assign([TopicPartition(topic, number, bounds[number][0]) for number in left])
    letters = 0
    while left and (message := consumer.poll(READ_SECONDS)) is not None:
        if message.error():
            continue
        letters += _note(prefix, message, ledger)
        if (message.offset() or 0) + 1 >= left.get(message.partition() or 0, 0):
            left.pop(message.partition() or 0, None)
    consumer.unassign()
    return letters


def _note(prefix: str, message: Any, ledger: Ledger) -> bool:
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers() or ()}
    handler, origin = headers.get("athomic-handler"), headers.get("athomic-original-topic", "")
    if handler not in ledger.accounts or not origin.startswith(prefix):  # a marker, or something foreign
        return False
    try:
        sequence = int(json.loads(message.value())["sequence"])
    except (ValueError, TypeError, KeyError):
        sequence = 0
    key = (message.key() or b"").decode("utf-8", "replace")
    ledger.dead_letter(handler, Message(origin.partition(".")[2], key, sequence))
    return True
