"""Requests about topics in versions that aiokafka 0.14 does not know: metadata with topic ids and with our rights,
and creating topics.

aiokafka knows the metadata request up to version 5; ids came with version 10 (KIP-516, Kafka 2.8). Schemas:
https://kafka.apache.org/protocol.html#The_Messages_Metadata
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2s
from io import BytesIO
from typing import Any

from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from aiokafka.protocol.admin import CreateTopicsRequest, CreateTopicsRequest_v3, CreateTopicsResponse_v3
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from ...rights import Operation
from ..base import TopicCounts, TopicInfo
from .client import KafkaClient

WITH_IDS = 10
NO_ID = bytes(16)
OPERATION_BITS: dict[Operation, int] = {"Read": 3, "Write": 4, "Describe": 8}
"""Kafka's codes of these operations (`AclOperation`), which are their bits in a metadata response."""
UNKNOWN_OPERATIONS = -(2**31)

_String = CompactString("utf-8")
_Tags = ("tags", TaggedFields)


class _Uuid:
    """16 bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)

    @classmethod
    def repr(cls, value: bytes) -> str:
        return value.hex()


class MetadataResponse_v10(Response):  # type: ignore[misc]  # aiokafka is not typed  # noqa: N801
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _String), ("port", Int32), ("rack", _String), _Tags)),
        ("cluster_id", _String),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", _String),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _Tags,
                    ),
                ),
                ("authorized_operations", Int32),
                _Tags,
            ),
        ),
        ("cluster_authorized_operations", Int32),
        _Tags,
    )


class MetadataRequest_v10(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed  # noqa: N801
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = MetadataResponse_v10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", _String), _Tags)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _Tags,
    )


class _AskForTopics(MetadataRequest):  # type: ignore[misc]  # aiokafka is not typed
    """A metadata request in version 10 if the broker knows it, else as aiokafka makes it. Creates no topic.

    In version 10 it also asks what we may do with the topics (KIP-430).
    """

    def __init__(self, names: Collection[str] | None) -> None:
        super().__init__(None if names is None else list(names), allow_auto_topic_creation=False)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        oldest, newest = versions.get(self.API_KEY, (0, 0))
        if not oldest <= WITH_IDS <= newest:
            return super().prepare(versions)
        topics: Any = None if self._topics is None else [(NO_ID, name, {}) for name in self._topics]
        return MetadataRequest_v10(topics, False, False, True, {})


async def ask_for_topics(client: KafkaClient, names: Collection[str]) -> dict[str, TopicInfo | None]:
    """Each topic as some broker knows it now; None for one that does not exist. Raises errors of aiokafka."""
    if not names:
        return {}
    response = await client.ask_any(_AskForTopics(names))
    answer = response.to_object()
    found = {topic["topic"]: topic for topic in answer["topics"]}
    cluster = _digest(answer.get("cluster_id"))
    return {name: _info(found.get(name), cluster) for name in names}


async def count_partitions(client: KafkaClient, names: Collection[str] | None) -> TopicCounts:
    """See `Transport.partition_counts`. Raises errors of aiokafka."""
    if names is not None and not names:
        return TopicCounts()
    response = await client.ask_any(_AskForTopics(names))
    topics = response.to_object()["topics"]
    # a topic has an error, but counts, while one of its partitions has no leader
    counts = {topic["topic"]: len(topic["partitions"]) for topic in topics if topic["partitions"]}
    denied = {topic["topic"]: operations for topic in topics if (operations := _denied(topic))}
    ids = {topic["topic"]: each for topic in topics if (each := topic.get("topic_id", NO_ID)) != NO_ID}
    return TopicCounts(counts, denied, ids)


def _digest(cluster_id: str | None) -> bytes:
    return blake2s(cluster_id.encode(), digest_size=8).digest() if cluster_id else b""


def _info(topic: dict[str, Any] | None, cluster: bytes) -> TopicInfo | None:
    if topic is None or topic["error_code"] == UnknownTopicOrPartitionError.errno:
        return None
    topic_id = topic.get("topic_id", NO_ID)
    return TopicInfo(b"" if topic_id == NO_ID else topic_id, len(topic["partitions"]), cluster, _denied(topic))


def _denied(topic: dict[str, Any]) -> frozenset[Operation]:
    """Without Describe the broker says neither whether the topic exists nor what else we may do: nothing, then."""
    if topic["error_code"] == TopicAuthorizationFailedError.errno:
        return frozenset(OPERATION_BITS)
    allowed = topic.get("authorized_operations", UNKNOWN_OPERATIONS)
    if topic["error_code"] or allowed == UNKNOWN_OPERATIONS:
        return frozenset()
    return frozenset(operation for operation, bit in OPERATION_BITS.items() if not allowed >> bit & 1)


class CreateTopicsResponse_v4(CreateTopicsResponse_v3):  # type: ignore[misc]  # aiokafka is not typed  # noqa: N801
    API_VERSION = 4


class CreateTopicsRequest_v4(CreateTopicsRequest_v3):  # type: ignore[misc]  # aiokafka is not typed  # noqa: N801
    """The first version in which -1 partitions or replicas stand for the broker's default (KIP-464, Kafka 2.4)."""

    API_VERSION = 4
    RESPONSE_TYPE = CreateTopicsResponse_v4


class CreateTopics(CreateTopicsRequest):  # type: ignore[misc]  # aiokafka is not typed
    """The request in version 4 if the broker knows it, else as aiokafka makes it."""

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        _, newest = versions.get(self.API_KEY, (0, 0))
        return self.build(CreateTopicsRequest_v4) if newest >= 4 else super().prepare(versions)
