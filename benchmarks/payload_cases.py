"""What is measured in the figure of payloads (F10): cases, and what each contender does for one message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

OURS, BARE, CONFLUENT = "fastapi-athomic", "by hand", "confluent-kafka"
AS_MODEL = "confluent-kafka, as model"
"""confluent-kafka's deserializer gives dicts of Avro, and messages of Protobuf, of which no field has been looked at:
this makes a model of them."""
OVERHEAD = "times by hand"
STEPS, WAYS = ("gzip", "zstd", "lz4", "Fernet", "AES-GCM"), ("written", "read")

Contenders = Mapping[str, Callable[[], object]]


class Case(NamedTuple):
    name: str
    contenders: Contenders
