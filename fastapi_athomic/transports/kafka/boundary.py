"""The boundary to aiokafka: every call has a deadline, and every error becomes one of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import errors

from ...exceptions import (
    CommitFailedError,
    MessageTooLargeError,
    TopicNotFoundError,
    TransportClosedError,
    TransportError,
)

T = TypeVar("T")

MAX_DETAIL = 300
"""Characters of an error's text from aiokafka that are passed on."""

_COMMIT_ERRORS = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
)
_TOO_LARGE_ERRORS = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_WRONG_TIME = "the timestamp is refused: compare this machine's clock with the topic's message.timestamp settings"
_CLOSED_ERRORS = (errors.ProducerClosed, errors.ConsumerStoppedError)
AUTHORIZATION_ERRORS = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)


def translate(error: BaseException, doing: str) -> TransportError:
    """An error of aiokafka as the most specific one of ours. `doing` begins its text: what was tried, on what."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, _COMMIT_ERRORS):
        return CommitFailedError(f"{doing}: the group went on without this member")
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return TopicNotFoundError(f"{doing}: the topic or partition does not exist")
    if isinstance(error, errors.InvalidTimestampError):
        return TransportError(f"{doing}: {_WRONG_TIME}")
    if isinstance(error, _TOO_LARGE_ERRORS):
        return MessageTooLargeError(f"{doing}: the message is larger than the broker accepts")
    if isinstance(error, _CLOSED_ERRORS):
        return TransportClosedError(f"{doing}: the client is closed")
    if isinstance(error, AUTHORIZATION_ERRORS):
        return TransportError(f"{doing}: not authorized ({_detail(error)})")
    return TransportError(f"{doing}: {_detail(error)}")


def _detail(error: BaseException) -> str:
    """The text only of aiokafka's errors: they name hosts, topics and codes. Other errors may quote a message."""
    return str(error)[:MAX_DETAIL] if isinstance(error, errors.KafkaError) else type(error).__name__


async def within(work: Coroutine[Any, Any, T], seconds: float, doing: str) -> T:
    """The result of `work`, if it ends within `seconds`. `work` runs in a task of its own.

    This keeps two cancellations apart: aiokafka sometimes raises a `CancelledError` of its own tasks, which becomes a
    `TransportError`; a cancellation of the caller stays one.

    Raises:
        TransportError: `work` failed, or took too long and was cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=max(0.0, seconds))
    finally:
        late = not task.done()
        if late:
            abandon(task)
    if late:
        raise TransportError(f"{doing}: no answer within {seconds:.3g} s")
    if task.cancelled():
        raise TransportError(f"{doing}: cancelled by the Kafka client")
    error = task.exception()
    if error is not None:
        raise translate(error, doing) from error
    return task.result()


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancels a task that nobody waits for, and ignores how it ends."""
    task.cancel()
    task.add_done_callback(retrieve)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieves the exception, so that asyncio does not log that nobody did. A callback for a finished future."""
    if not future.cancelled():
        future.exception()
