"""Writing messages to Apache Kafka one by one, each in a batch and a request of its own.

For messages that aiokafka's producer does not take, and for those whose batch was refused: after a refusal aiokafka's
producer can no longer write to the partition, and it does not know all reasons for a refusal. What is written here is
idempotent too (KIP-98), under a producer id of its own.
"""

from __future__ import annotations

import asyncio

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from ...exceptions import MessageRefusedError
from ...messages import OutgoingMessage, TopicPartition
from .client import KafkaClient
from .options import milliseconds
from .records import Sequence, encode_record

ALL_REPLICAS = -1
NO_TRANSACTION, NO_TRANSACTION_TIMEOUT = None, 2**31 - 1
RETRY_PAUSE = 0.1
"""Seconds before a request is tried again because there was no leader, or too few in-sync replicas."""
MAX_BATCH_BYTES = 100 * 2**20
"""A broker closes the connection when a request is larger (`socket.request.max.bytes`)."""
SEQUENCE_NUMBERS = 2**31

# https://kafka.apache.org/protocol#protocol_error_codes
DUPLICATE_SEQUENCE_NUMBER, INVALID_RECORD = 46, 87
NEW_ID_NEEDED = frozenset((45, 47, 49, 59))
"""Sequence number out of order, invalid epoch, invalid or unknown producer id: we need a new producer id."""


class Identity:
    """A producer id, and the number of records it has written to each partition."""

    def __init__(self, producer_id: int, epoch: int) -> None:
        self._producer = producer_id, epoch
        self._written: dict[TopicPartition, int] = {}

    def next(self, place: TopicPartition) -> Sequence:
        """What identifies the next record to this partition."""
        return Sequence(*self._producer, self._written.get(place, 0))

    def note_written(self, place: TopicPartition) -> None:
        """The broker has acknowledged that record."""
        self._written[place] = (self._written.get(place, 0) + 1) % SEQUENCE_NUMBERS


class SingleWriter:
    """Writes one message at a time to each partition. Belongs to one event loop; callers set the deadlines."""

    def __init__(self, request_timeout: float) -> None:
        self._request_timeout = milliseconds(request_timeout)
        self._identity: Identity | None = None
        self._turns: dict[TopicPartition, asyncio.Lock] = {}

    async def write(self, client: KafkaClient, message: OutgoingMessage, partition: int, compression: str) -> int:
        """Writes the message and returns its offset. Tries again for as long as the caller lets it.

        Raises:
            MessageRefusedError: the topic is compacted, and the message has no key.
            KafkaError: any other refusal.
        """
        place = TopicPartition(message.topic, partition)
        async with self._turns.setdefault(place, asyncio.Lock()):
            while True:
                identity = self._identity or await self._new_identity(client)
                batch = await asyncio.to_thread(encode_record, message, identity.next(place), compression)
                if len(batch) > MAX_BATCH_BYTES:
                    raise MessageSizeTooLargeError
                try:
                    code, offset = await self._answer(client, place, batch)
                except BaseException:  # nobody knows whether it was written
                    self._forget(identity)
                    raise
                if code not in NEW_ID_NEEDED:
                    break
                self._forget(identity)
            _check(code, place)
            identity.note_written(place)
            return offset

    async def _answer(self, client: KafkaClient, place: TopicPartition, batch: bytes) -> tuple[int, int]:
        """The broker's error code (0: success) and the offset. Tries again while the error is retriable."""
        topics = [(place.topic, [(place.partition, batch)])]
        request = ProduceRequest(NO_TRANSACTION, ALL_REPLICAS, self._request_timeout, topics)
        while True:
            leader = client.cluster.leader_for_partition(place)
            try:
                if leader not in (None, -1):
                    response = await client.send(leader, request)
                    ((_, ((_, code, offset, *_),)),) = response.topics
                    if not for_code(code).retriable:
                        return code, offset
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(RETRY_PAUSE)
            await client.force_metadata_update()

    async def _new_identity(self, client: KafkaClient) -> Identity:
        request = InitProducerIdRequest(NO_TRANSACTION, NO_TRANSACTION_TIMEOUT)
        while True:
            response = await client.ask_any(request)
            error = for_code(response.error_code)
            if not response.error_code:
                self._identity = self._identity or Identity(response.producer_id, response.producer_epoch)
                return self._identity
            if not error.retriable:
                raise error()
            await asyncio.sleep(RETRY_PAUSE)

    def _forget(self, identity: Identity) -> None:
        if self._identity is identity:
            self._identity = None


def _check(code: int, place: TopicPartition) -> None:
    if code == INVALID_RECORD:
        raise MessageRefusedError(f"{place} refuses the message: in a compacted topic every message needs a key")
    if code not in (0, DUPLICATE_SEQUENCE_NUMBER):
        raise for_code(code)(place.topic)
