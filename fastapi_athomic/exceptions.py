"""Every error the package raises. The first line of an error's docstring is its default message.

AthomicError
├── ConfigurationError            the settings or the wiring are wrong: stops the start-up
│   ├── DiscoveryError            a module with handlers cannot be searched
│   ├── DuplicateHandlerError     two subscriptions share one id
│   ├── HandlerSignatureError     a handler's parameters cannot be filled in
│   └── NotIncludedError          the app of a request has no `Athomic` (a LookupError, too)
├── NotFoundError                 what a caller named does not exist: 404 in a route (a LookupError, too)
│   ├── HandlerNotFoundError      no handler has this id (a ConfigurationError, too)
│   ├── SourceNotFoundError       the handler does not consume this topic (a ConfigurationError, too)
│   ├── PartitionNotFoundError    the topic has no such partition (a TransportError, too)
│   └── TopicNotFoundError        the topic does not exist and is not created (a TransportError, too)
├── TransportError                the broker refused or could not be reached
│   ├── TransportClosedError      used after it was closed
│   ├── CommitFailedError         the group went on without this member
│   ├── ControlRefusedError       an action on a consumer cannot be done now
│   ├── MessageRefusedError       the topic does not accept such a message, however often it is sent
│   ├── MessageTooLargeError      larger than the broker accepts
│   ├── NotAcknowledgedError      sent, but not acknowledged in time: it may still be written
│   └── NotAuthorizedError        the broker's authorizer refused: the text says which right is missing
├── PublishError                  a message was not acknowledged
├── PayloadError                  a payload step failed
│   ├── PayloadEncodeError
│   ├── PayloadDecodeError
│   └── PayloadUnavailableError   a schema registry or an object store cannot be reached: no message is to blame
├── StateStoreError               the state of ordered consumers could not be read or written
├── SequenceGapError              a message waited too long for a sequence number that is missing before it
├── WorkerDiedError               a worker died of an error that no message caused: the consumer is rebuilt
├── ThreadStartError              a sync handler needs a thread, and none could be started
├── BatchItemError                raised by a batch handler to name the item that failed
└── HandlerTimeoutError           a handler ran longer than its timeout
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any


class AthomicError(Exception):
    """Something went wrong in fastapi_athomic.

    docs/errors.md says of each error that is derived from this one why it happens and what to do.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigurationError(AthomicError):
    """The settings or the wiring of the application are wrong.

    `problems` has the single errors if several were found together; else it is empty.
    """

    def __init__(self, message: str | None = None, problems: Sequence[ConfigurationError] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.add_note("docs/errors.md says why this is refused, and what to do")  # tracebacks end with it


class DiscoveryError(ConfigurationError):
    """A module that should be searched for handlers could not be imported."""


class DuplicateHandlerError(ConfigurationError):
    """Two subscriptions have the same handler id."""


class HandlerSignatureError(ConfigurationError):
    """The parameters of a handler cannot be filled in."""


class NotIncludedError(ConfigurationError, LookupError):
    """The app has no `Athomic`: call `include_athomic(app)` first."""


class NotFoundError(AthomicError, LookupError):
    """What was asked for does not exist.

    `include_athomic` answers it with 404 where a route lets it escape, unless the app has a handler of its own for it.
    """


class HandlerNotFoundError(NotFoundError, ConfigurationError):
    """No handler of the app has this id."""


class SourceNotFoundError(NotFoundError, ConfigurationError):
    """The handler does not consume this topic."""


class TransportError(AthomicError):
    """The broker refused the request or could not be reached."""


class TransportClosedError(TransportError):
    """The transport has been closed."""


class CommitFailedError(TransportError):
    """The commit was refused: this member no longer owns the partitions."""


class ControlRefusedError(TransportError):
    """The action on the consumer cannot be done now.

    `problems` says why, a sentence each: the partition is not assigned here, the consumer stops. Nothing was done.
    """

    def __init__(self, message: str | None = None, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (str(self),)


class MessageTooLargeError(TransportError):
    """The message is larger than the broker accepts."""


class MessageRefusedError(TransportError):
    """The topic does not accept such a message, however often it is sent: a compacted topic requires a key."""


class NotAcknowledgedError(TransportError):
    """The message was sent but not acknowledged in time: it may still be written.

    `wait(seconds)` goes on waiting and does not send it again. It returns what `TransportProducer.send` would have
    returned.
    """

    def __init__(self, message: str | None, wait: Callable[[float], Awaitable[Any]]) -> None:
        super().__init__(message)
        self.wait = wait


class NotAuthorizedError(TransportError):
    """The broker's authorizer refused: a right is missing.

    `topics` are those that were refused; empty if it was not about topics. What was asked in the same request for
    other topics was done.
    """

    def __init__(self, message: str | None = None, topics: Collection[str] = ()) -> None:
        super().__init__(message)
        self.topics = frozenset(topics)


class TopicNotFoundError(NotFoundError, TransportError):
    """The topic does not exist."""


class PartitionNotFoundError(NotFoundError, TransportError):
    """The topic has no such partition."""


class PublishError(AthomicError):
    """The broker did not acknowledge the message."""


class PayloadError(AthomicError):
    """A step of the payload pipeline failed.

    `step` names the step. The text never contains the payload or a key.
    """

    def __init__(self, message: str | None = None, *, step: str = "") -> None:
        super().__init__(message)
        self.step = step


class PayloadEncodeError(PayloadError):
    """The message could not be encoded."""


class PayloadDecodeError(PayloadError):
    """The payload could not be decoded."""


class PayloadUnavailableError(PayloadError):
    """Something that the payload needs cannot be reached: a schema registry, an object store.

    The message is not to blame. A consumer waits and tries again, `publish` tries until `publish_timeout` has passed.
    """


class BatchItemError(AthomicError):
    """Raised by a batch handler to say which item of the batch failed.

    `index` counts from 0 in the list that the handler got. The items before it count as handled.
    """

    def __init__(self, index: int, message: str | None = None) -> None:
        super().__init__(message or f"item {index} of the batch failed")
        self.index = index


class StateStoreError(AthomicError):
    """The state store cannot be reached, or refused the request."""


class SequenceGapError(AthomicError):
    """A number is missing before this message, and did not come within the gap's timeout."""


class WorkerDiedError(AthomicError):
    """A worker died of an error that no message caused."""


class ThreadStartError(AthomicError):
    """A sync handler or dependency needs a thread, and none could be started."""


class HandlerTimeoutError(AthomicError):
    """The handler ran longer than its timeout."""


def raise_all(problems: Sequence[ConfigurationError]) -> None:
    """Raises the error as it is, or one that says what all of them say; nothing if there are none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigurationError("\n".join(map(str, problems)), problems) from problems[0]
