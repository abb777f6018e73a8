"""The boundary to aiokafka: every call has a deadline, and every error becomes one of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import errors

from ...exceptions import (
    CommitFailedError,
    MessageTooLargeError,
    NotAuthorizedError,
    TopicNotFoundError,
    TransportClosedError,
    TransportError,
)
from ...rights import CLUSTER, Operation, missing_right
from .client_log import client_context

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
_OTHER_ASSIGNORS = (
    "InconsistentGroupProtocolError: other members of the group offer none of the assignors that this one offers; set "
    "kafka.partition_assignment_strategy (ATHOMIC_KAFKA__PARTITION_ASSIGNMENT_STRATEGY) to one that they offer, or use "
    "another group_id"
)
_CLOSED_ERRORS = (errors.ProducerClosed, errors.ConsumerStoppedError)
AUTHORIZATION_ERRORS = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)


class UnreachableError(errors.KafkaConnectionError):  # type: ignore[misc]  # aiokafka is not typed
    """No bootstrap server could be used; the text says why, for each."""

    def __str__(self) -> str:
        return str(self.args[0])


def translate(error: BaseException, doing: str, needs: Operation = "Read") -> TransportError:
    """An error of aiokafka as the most specific one of ours.

    `doing` begins its text: what was tried, on what. `needs`: the right on topics that it takes.
    """
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
        return _not_authorized(error, doing, needs)
    if isinstance(error, errors.InconsistentGroupProtocolError):
        return TransportError(f"{doing}: {_OTHER_ASSIGNORS}")
    return TransportError(f"{doing}: {_detail(error)}")


def _not_authorized(error: errors.KafkaError, doing: str, needs: Operation) -> NotAuthorizedError:
    """aiokafka's errors name the group, or a topic, or a set of topics, or a partition."""
    (subject,) = error.args[:1] or ("",)
    subject = getattr(subject, "topic", subject)
    if isinstance(error, errors.GroupAuthorizationFailedError):
        return NotAuthorizedError(f"{doing}: {missing_right('Read', 'Group', str(subject))}")
    if isinstance(error, errors.ClusterAuthorizationFailedError):
        reason = f"{missing_right('IdempotentWrite', 'Cluster', CLUSTER)}; Write on any topic includes it"
        return NotAuthorizedError(f"{doing}: {reason}")
    topics = sorted([subject] if isinstance(subject, str) and subject else subject)
    return NotAuthorizedError(f"{doing}: {missing_right(needs, 'Topic', ', '.join(topics))}", topics)


def _detail(error: BaseException) -> str:
    """The text only of aiokafka's errors: they name hosts, topics and codes. Other errors may quote a message."""
    return str(error)[:MAX_DETAIL] if isinstance(error, errors.KafkaError) else type(error).__name__


async def within(
    work: Coroutine[Any, Any, T], seconds: float, doing: str, needs: Operation = "Read", *, began: float = 0.0
) -> T:
    """The result of `work`, if it ends within `seconds`. `work` runs in a task of its own.

    `doing` and `needs` are for the text of errors, see `translate`; so is `began`: so many seconds ago.

    This keeps two cancellations apart: aiokafka sometimes raises a `CancelledError` of its own tasks, which becomes a
    `TransportError`; a cancellation of the caller stays one.

    Raises:
        TransportError: `work` failed, or took too long and was cancelled.
    """
    task = client_context().run(asyncio.ensure_future, work)
    try:
        await asyncio.wait({task}, timeout=max(0.0, seconds))
    finally:
        late = not task.done()
        if late:
            abandon(task)
    if late:
        raise TransportError(f"{doing}: no answer within {seconds + began:.3g} s")
    if task.cancelled():
        raise TransportError(f"{doing}: cancelled by the Kafka client")
    error = task.exception()
    if error is not None:
        raise translate(error, doing, needs) from error
    return task.result()


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancels a task that nobody waits for, and ignores how it ends."""
    task.cancel()
    task.add_done_callback(retrieve)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieves the exception, so that asyncio does not log that nobody did. A callback for a finished future."""
    if not future.cancelled():
        future.exception()
