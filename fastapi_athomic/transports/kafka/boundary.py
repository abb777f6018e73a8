"""Calls of aiokafka: within a deadline, and what they raise as one of our errors."""

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
"""Characters of a foreign error's text that are passed on."""

_COMMIT_ERRORS = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
)
_TOO_LARGE_ERRORS = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_WRONG_TIME = "its time is refused: compare this machine's clock with the topic's message.timestamp settings"
_CLOSED_ERRORS = (errors.ProducerClosed, errors.ConsumerStoppedError)
AUTHORIZATION_ERRORS = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)


def translate(error: BaseException, doing: str) -> TransportError:
    """A foreign error as the most specific one of ours; `doing` says what was tried, and with what."""
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
    """aiokafka's texts speak of hosts, topics and codes. Those of other errors may quote what was in a message."""
    return str(error)[:MAX_DETAIL] if isinstance(error, errors.KafkaError) else type(error).__name__


async def within(work: Coroutine[Any, Any, T], seconds: float, doing: str) -> T:
    """The result of `work`, done in a task of its own.

    The task keeps apart what aiokafka likes to mix: a `CancelledError` of its inner tasks is an error like others
    here, while a cancellation of the caller goes through.

    Raises:
        TransportError: it failed, or took longer than `seconds`.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=max(0.0, seconds))
    finally:
        if not task.done():
            abandon(task)
    if not task.done():
        raise TransportError(f"{doing}: no answer within {seconds:.3g} s")
    if task.cancelled():
        raise TransportError(f"{doing}: broken off")
    error = task.exception()
    if error is not None:
        raise translate(error, doing) from error
    return task.result()


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancels a task nobody waits for any more; what becomes of it is of no interest."""
    task.cancel()
    task.add_done_callback(retrieve)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Looks at the exception, so that asyncio does not complain that nobody did."""
    if not future.cancelled():
        future.exception()
