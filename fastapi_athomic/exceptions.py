"""Every error the package raises, drawn once.

AthomicError
├── ConfigurationError            wrong settings or wiring: stops the start-up
│   ├── DiscoveryError            a module with handlers cannot be searched
│   ├── DuplicateHandlerError     two subscriptions share one id
│   └── HandlerSignatureError     a handler's parameters make no sense
├── TransportError                the broker refused or could not be reached
│   ├── TransportClosedError      used after it was closed
│   ├── CommitFailedError         the group went on without this member
│   ├── MessageRefusedError       the topic takes no message like this, however often it is sent
│   ├── MessageTooLargeError      larger than the broker takes
│   ├── NotAcknowledgedError      sent, and not confirmed in time: it may be written later
│   └── TopicNotFoundError        the topic does not exist and is not created
├── PublishError                  a message was not acknowledged
├── PayloadError                  a payload step failed
│   ├── PayloadEncodeError
│   └── PayloadDecodeError
├── StateStoreError               what ordered consumption remembers could not be read or written
├── SequenceGapError              a message waited too long for a number that is missing before it
├── WorkerDiedError               no message is to blame: the consumer is rebuilt
├── ThreadStartError              a sync handler has no thread, and the system gives none
├── BatchItemError                raised by a batch handler: one item is to blame
└── HandlerTimeoutError           a handler ran longer than its timeout
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


class AthomicError(Exception):
    """Something went wrong in fastapi_athomic."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigurationError(AthomicError):
    """The settings or the wiring of the application are wrong."""


class DiscoveryError(ConfigurationError):
    """A module that should be searched for handlers cannot be imported."""


class DuplicateHandlerError(ConfigurationError):
    """Two subscriptions have the same handler id."""


class HandlerSignatureError(ConfigurationError):
    """The signature of a handler makes no sense."""


class TransportError(AthomicError):
    """The broker refused the request or could not be reached."""


class TransportClosedError(TransportError):
    """The transport has been closed."""


class CommitFailedError(TransportError):
    """The commit was refused: this member no longer owns the partitions."""


class MessageTooLargeError(TransportError):
    """The message is larger than the broker accepts."""


class MessageRefusedError(TransportError):
    """The topic takes no message like this, however often it is sent: a compacted one wants a key."""


class NotAcknowledgedError(TransportError):
    """The message was sent and not confirmed in time: it may be written later.

    `wait(seconds)` goes on waiting, without sending it again. It gives what `TransportProducer.send` would have given.
    """

    def __init__(self, message: str | None, wait: Callable[[float], Awaitable[Any]]) -> None:
        super().__init__(message)
        self.wait = wait


class TopicNotFoundError(TransportError):
    """The topic does not exist."""


class PublishError(AthomicError):
    """The message was not acknowledged by the broker."""


class PayloadError(AthomicError):
    """A step of the payload pipeline failed.

    `step` names the step. The message never holds the payload or a key.
    """

    def __init__(self, message: str | None = None, *, step: str = "") -> None:
        super().__init__(message)
        self.step = step


class PayloadEncodeError(PayloadError):
    """The message could not be encoded."""


class PayloadDecodeError(PayloadError):
    """The payload could not be decoded."""


class BatchItemError(AthomicError):
    """Raised by a batch handler to say which item of the batch failed.

    `index` counts from 0 in the list the handler got. Items before it are taken as handled.
    """

    def __init__(self, index: int, message: str | None = None) -> None:
        super().__init__(message or f"item {index} of the batch failed")
        self.index = index


class StateStoreError(AthomicError):
    """The state store cannot be reached, or refuses."""


class SequenceGapError(AthomicError):
    """A number is missing before this message, and did not come within the gap's timeout."""


class WorkerDiedError(AthomicError):
    """A worker died of what no message is to blame for."""


class ThreadStartError(AthomicError):
    """No thread could be started for a sync handler or dependency, and none is there."""


class HandlerTimeoutError(AthomicError):
    """The handler ran longer than its timeout."""
