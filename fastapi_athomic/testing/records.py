"""What a test kit has seen: messages that were published, handled or put off, and attempts that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import time
from typing import Any, Literal, NamedTuple, TypeVar, overload

from ..messages import MessageHeaders, Origin, RawMessage
from ..outcomes import FailureContext
from ..propagation.context import ExecutionContext

T = TypeVar("T")
Outcome = Literal["completed", "dead_lettered", "skipped", "deferred"]
Decode = Callable[["Published", Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A message that the app, or the kit, has published, and that the broker has acknowledged."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None  # as it is on the topic; None: a tombstone
    headers: MessageHeaders
    reader: Decode

    @overload
    def decode(self, target_type: type[T]) -> T: ...
    @overload
    def decode(self, target_type: Any) -> Any: ...
    def decode(self, target_type: Any) -> Any:
        """The value, decoded into this type by the pipeline of the topic, as a handler would get it.

        Raises:
            PayloadDecodeError: it cannot be decoded.
        """
        return self.reader(self, target_type)

    def __repr__(self) -> str:  # without payload and key
        return f"<Published {self.topic}[{self.partition}]@{self.offset}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """A message whose fate is known: a handler is done with it.

    `topic`, `partition` and `offset` say where it was first published, also if it came by retry topics since.
    """

    handler_id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    message: Any  # decoded, as the handler got it; None if it did not get so far
    raw: RawMessage  # as it was read for its last attempt
    headers: MessageHeaders
    outcome: Outcome
    attempts: int  # over all topics
    result: Any  # what the handler returned
    error: BaseException | None  # of the last attempt, if that failed
    context: ExecutionContext  # what `get_context` gave the handler
    batch: int | None = None  # which call of a batch handler it was in, from 0; None: of no batch handler

    def __repr__(self) -> str:  # without payload and key
        place = f"{self.topic}[{self.partition}]@{self.offset}"
        return f"<Handled {self.handler_id} {place} {self.outcome} at attempt {self.attempts}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """A message that waits in a retry topic."""

    handler_id: str
    topic: str  # where it was first published
    partition: int
    offset: int
    message: Any  # decoded; None if it did not decode
    attempts: int  # so far
    error: BaseException
    due_at: float  # seconds since the epoch, by the clock of the app
    now: Callable[[], float] = time

    @property
    def due_in_seconds(self) -> float:
        """How long it has yet to wait; 0 if it is due."""
        return max(0.0, self.due_at - self.now())

    def __repr__(self) -> str:  # without payload and key
        place = f"{self.topic}[{self.partition}]@{self.offset}"
        return f"<Deferred {self.handler_id} {place} after attempt {self.attempts}, due in {self.due_in_seconds:g} s>"


class Failure(NamedTuple):
    """An attempt that failed."""

    context: FailureContext
    expected: bool


class Identity(NamedTuple):
    """One message of one handler, in whatever topic it is."""

    handler_id: str
    topic: str
    partition: int
    offset: int


def identity(handler_id: str, origin: Origin) -> Identity:
    """The message that was first published there."""
    return Identity(handler_id, origin.topic, origin.partition, origin.offset)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a message that is not concluded yet."""

    message: Any = None
    attempts: int = 0
    batch: int | None = None


class Records:
    """Everything that one kit has seen, in order. Written in the loop of the consumers, read anywhere."""

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.handled: list[Handled] = []
        self.failures: list[Failure] = []
        self._deferred: dict[Identity, Deferred] = {}
        self._seen: dict[Identity, Seen] = {}
        self._calls: dict[str, int] = {}
        self._drained = 0  # how many were published when the test last waited

    def note_drain(self) -> None:
        """The test waits for what was published so far."""
        self._drained = len(self.published)

    @property
    def undrained(self) -> int:
        """How many messages were published since the test last waited."""
        return len(self.published) - self._drained

    def next_call(self, handler_id: str) -> int:
        """The number of a call of a batch handler, from 0."""
        number = self._calls[handler_id] = self._calls.get(handler_id, -1) + 1
        return number

    def seen(self, which: Identity) -> Seen:
        """What is known of a message so far."""
        return self._seen.get(which, Seen())

    def note(self, which: Identity, message: Any, attempts: int, batch: int | None = None) -> None:
        """The message has been decoded, and the handler is about to be called."""
        self._seen[which] = Seen(message, attempts, batch)

    def note_attempt(self, which: Identity, attempts: int) -> None:
        """So many attempts were made so far."""
        self._seen[which] = replace(self.seen(which), attempts=max(attempts, self.seen(which).attempts))

    def conclude(self, which: Identity, handled: Handled) -> None:
        """The fate of the message is known."""
        self._seen.pop(which, None)
        self._deferred.pop(which, None)
        self.handled.append(handled)

    def put_off(self, which: Identity, deferred: Deferred) -> None:
        """The message waits in a retry topic."""
        self._deferred[which] = deferred

    def deferred(self) -> Sequence[Deferred]:
        """Those that wait now, in the order in which they were put off first."""
        return list(self._deferred.values())

    def last_of(self, which: Identity) -> Handled | None:
        """The last record of a message; None if its fate is not known."""
        own = (each for each in reversed(self.handled) if place_of(each) == which)
        return next(own, None)


def place_of(handled: Handled) -> Identity:
    """The message of a record."""
    return Identity(handled.handler_id, handled.topic, handled.partition, handled.offset)
