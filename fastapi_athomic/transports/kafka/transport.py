"""The transport of `kafka://host:port[,host:port]`: its admin client, producer and consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any

from aiokafka.errors import (
    IncompatibleBrokerVersion,
    NodeNotReadyError,
    NoError,
    NotControllerError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from ...exceptions import NotAuthorizedError, TransportClosedError, TransportError
from ...messages import RawMessage, TopicPartition
from ...rights import missing_right
from ...settings import AthomicSettings
from ..base import CommittedOffset, ConsumerConfig, RebalanceListener, TopicCounts
from .boundary import AUTHORIZATION_ERRORS, within
from .client import KafkaClient
from .client_life import close_client, open_client
from .client_log import client_log
from .consumer import KafkaConsumer
from .group_offsets import group_offsets
from .options import connection_options, milliseconds
from .producer import KafkaProducer
from .reader import KafkaReader
from .removal import delete_groups, delete_topics
from .shared_client import SharedClients
from .topics import CreateTopics, count_partitions

KNOWN_SECONDS, KNOWN_PAUSE = 3.0, 0.02
"""Most seconds to wait until the cluster knows a new topic, and seconds between two checks."""
CONTROLLER_PAUSE = 0.1
"""Seconds before a request is tried again because the controller has moved."""


class KafkaTransport:
    """See `Transport`."""

    scheme = "kafka"

    def __init__(self, settings: AthomicSettings) -> None:
        self.address = settings.broker_address
        self._settings = settings
        self._connection = connection_options(settings)
        self._producer = KafkaProducer(settings, self._connection)
        self._clients = SharedClients(settings, self._connection)
        self._admin: KafkaClient | None = None
        self._silent = False  # the last ping was not answered
        self._twins: set[str] = set()  # static member ids that other processes use too, see `KafkaConsumer`

    @property
    def producer(self) -> KafkaProducer:
        return self._producer

    async def start(self, timeout: float) -> None:
        if self._admin is not None:
            return
        client_log.attach(self)  # before an attempt that may fail: each logs the same again
        end = monotonic() + timeout
        admin = KafkaClient(**self._connection)
        admin.makes_topics, admin.patience = False, self._settings.request_timeout
        await open_client(admin, timeout, "connecting to Kafka")
        try:
            await self._producer.start(end - monotonic())
        except BaseException:
            await close_client(admin, 1.0)
            raise
        self._admin = admin

    async def stop(self, timeout: float) -> None:
        admin, self._admin = self._admin, None
        self._twins.clear()
        closing = [self._producer.stop(timeout)]
        if admin is not None:
            closing.append(close_client(admin, timeout))
        await asyncio.gather(*closing)
        client_log.detach(self)

    async def ping(self, timeout: float) -> None:
        no_topics = MetadataRequest([], allow_auto_topic_creation=False)
        doing, end = f"asking {self.address} for a sign of life", monotonic() + timeout
        try:
            await within(self._ask_any(no_topics), timeout, doing)
        except TransportError as error:
            self._silent = True
            if not isinstance(error.__cause__, NodeNotReadyError):
                raise
            why = await within(self._running().why_unreachable(), end - monotonic(), doing)
            raise TransportError(f"{doing}: {why}") from error
        client_log.note_answer(recovered=self._silent)
        self._silent = False

    async def bounds(self, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
        asking = self._running().find_and(lambda: self._reader().bounds(topic))
        return await within(asking, timeout, f"asking for the offsets of {topic}", needs="Describe")

    async def offsets_at(self, topic: str, milliseconds: int, timeout: float) -> dict[int, int]:
        asking = self._running().find_and(lambda: self._reader().offsets_at(topic, milliseconds))
        return await within(asking, timeout, f"asking for the offsets of {topic} at a time", needs="Describe")

    async def committed(
        self, group_id: str, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        client = self._running()
        asking = client.find_and(lambda: group_offsets(client, group_id, partitions))
        return await within(asking, timeout, f"asking for the committed offsets of group {group_id}")

    async def read(self, partition: TopicPartition, offset: int, timeout: float) -> list[RawMessage]:
        reading = self._running().find_and(lambda: self._reader().read(partition, offset))
        return await within(reading, timeout, f"reading {partition}")

    def _reader(self) -> KafkaReader:
        kafka = self._settings.kafka
        return KafkaReader(self._running(), kafka.max_partition_fetch_bytes, kafka.max_batch_bytes)

    def consumer(self, config: ConsumerConfig, listener: RebalanceListener) -> KafkaConsumer:
        return KafkaConsumer(config, listener, self._settings, self._clients, self._twins)

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> TopicCounts:
        client = self._running()
        asking = client.find_and(lambda: count_partitions(client, topics))
        return await within(asking, timeout, "asking for topics")

    async def create_topics(self, topics: Mapping[str, int], timeout: float) -> None:
        if not topics:
            return
        doing = f"creating topic {', '.join(topics)}"
        replicas = self._settings.kafka.replication_factor
        wanted: Sequence[Any] = [(name, count, replicas, [], []) for name, count in topics.items()]
        request = CreateTopics(wanted, milliseconds(timeout), validate_only=False)
        try:
            response = await within(self._ask_controller(request), timeout, doing)
        except TransportError as error:
            if not isinstance(error.__cause__, IncompatibleBrokerVersion):
                raise
            await self._have_created(topics, timeout)
            return
        for topic, code, *detail in response.topic_errors:
            kind = for_code(code)
            if kind in AUTHORIZATION_ERRORS:
                raise NotAuthorizedError(f"{doing}: {missing_right('Create', 'Topic', topic)}", [topic])
            if kind not in (NoError, TopicAlreadyExistsError):
                raise TransportError(f"creating topic {topic}: {kind.__name__} {(detail or [''])[0] or ''}".rstrip())
        self._producer.note_created(topics)
        await self._wait_for(topics, timeout)

    async def remove(self, topics: Collection[str], groups: Collection[str], timeout: float) -> None:
        """Deletes topics, and groups without members. For `fastapi_athomic.testing`. Raises `TransportError`."""
        client, end = self._running(), monotonic() + timeout
        deleting = client.find_and(lambda: delete_topics(client, _controller(client), topics, milliseconds(timeout)))
        await within(deleting, timeout, "deleting topics")
        await within(client.find_and(lambda: delete_groups(client, groups)), end - monotonic(), "deleting groups")

    async def _wait_for(self, topics: Collection[str], timeout: float) -> None:
        """Waits until a broker knows the new topics: a consumer that starts earlier would see them only much later."""
        end = monotonic() + min(timeout, KNOWN_SECONDS)
        while len(await self.partition_counts(topics, timeout)) < len(topics):
            if monotonic() > end:
                return
            await asyncio.sleep(KNOWN_PAUSE)

    async def _have_created(self, topics: Collection[str], timeout: float) -> None:
        """For brokers that cannot be asked to create topics, but create those that a metadata request names."""
        request = MetadataRequest(list(topics), allow_auto_topic_creation=True)
        await within(self._ask_any(request), timeout, "asking for topics")
        missing = set(topics) - set(await self.partition_counts(topics, timeout))
        if missing:
            raise TransportError(f"the broker cannot create topic {', '.join(sorted(missing))}")

    async def _ask_any(self, request: Any) -> Any:
        client = self._running()
        return await client.find_and(lambda: client.ask_any(request))

    async def _ask_controller(self, request: Any) -> Any:
        """Looks for the controller again if it has just moved."""
        client = self._running()
        while True:
            response = await client.find_and(lambda: client.send(_controller(client), request))
            if NotControllerError not in (for_code(code) for _, code, *_ in response.topic_errors):
                return response
            await asyncio.sleep(CONTROLLER_PAUSE)
            await client.force_metadata_update()

    def _running(self) -> KafkaClient:
        if self._admin is None:
            raise TransportClosedError("the transport is not started")
        return self._admin


def _controller(client: KafkaClient) -> Any:
    controller = client.cluster.controller
    return controller.nodeId if controller is not None else client.get_random_node()
