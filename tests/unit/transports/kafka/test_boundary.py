"""Errors of aiokafka as ours: a missing right is named with operation and resource, whatever aiokafka makes of it."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from fastapi_athomic import NotAuthorizedError, TransportError
from fastapi_athomic.rights import Operation
from fastapi_athomic.transports.kafka.boundary import translate, within


async def test_a_future_that_is_late_is_not_taken_for_one_that_the_client_cancelled() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(TransportError, match=r"asking: no answer within 0\.01 s"):
        await within(never, 0.01, "asking")  # type: ignore[arg-type]  # aiokafka gives futures, too
    never = asyncio.get_running_loop().create_future()
    never.cancel()
    with pytest.raises(TransportError, match="asking: cancelled by the Kafka client"):
        await within(never, 0.01, "asking")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "needs", "right", "topics"),
    [
        (kafka_errors.TopicAuthorizationFailedError("t"), "Write", "Write on topic t", {"t"}),
        (kafka_errors.TopicAuthorizationFailedError({"t", "s"}), "Read", "Read on topic s, t", {"s", "t"}),
        (kafka_errors.TopicAuthorizationFailedError(TopicPartition("t", 0)), "Describe", "Describe on topic t", {"t"}),
        (kafka_errors.GroupAuthorizationFailedError("g"), "Write", "Read on group g", set()),
        (kafka_errors.ClusterAuthorizationFailedError(), "Read", "IdempotentWrite on cluster kafka-cluster", set()),
    ],
)
def test_a_missing_right_is_named(
    error: kafka_errors.KafkaError, needs: Operation, right: str, topics: set[str]
) -> None:
    ours = translate(error, "trying", needs)
    assert isinstance(ours, NotAuthorizedError)
    assert str(ours).startswith(f"trying: not authorized: the right {right} is missing")
    assert ours.topics == topics
