"""What an operator has set for one consumer. It lives as long as the service, and holds for each of its sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from math import inf
from typing import NamedTuple

from ..clock import utc_now
from ..messages import TopicPartition
from ..observation.status import PauseStatus
from .gate import Limits


class Scope(NamedTuple):
    """What a pause is about."""

    topic: str | None = None  # None: the whole consumer
    partition: int | None = None  # None: the whole topic

    def within(self, other: Scope) -> bool:
        """It is the other scope, or a part of it."""
        return other.topic is None or (self.topic == other.topic and other.partition in (None, self.partition))


EVERYTHING = Scope()


def scope_of(pause: PauseStatus) -> Scope:
    """What the pause is about."""
    return Scope(pause.topic, pause.partition)


def new_pause(scope: Scope, *, actor: str, reason: str | None = None, until: datetime | None = None) -> PauseStatus:
    """A pause that begins now."""
    since = utc_now()
    return PauseStatus(
        topic=scope.topic, partition=scope.partition, since=since, until=until, actor=actor, reason=reason
    )


class Pauses:
    """The pauses of a consumer, one for each scope. May be read from another thread."""

    def __init__(self, pauses: Iterable[PauseStatus] = ()) -> None:
        self._by_scope: dict[Scope, PauseStatus] = {}  # replaced as a whole, never changed: other threads read it
        for pause in pauses:
            self.put(pause)

    def all(self) -> list[PauseStatus]:
        """All pauses, the oldest first."""
        return sorted(self._by_scope.values(), key=lambda pause: pause.since)

    def get(self, scope: Scope) -> PauseStatus | None:
        """The pause of exactly this scope."""
        return self._by_scope.get(scope)

    def put(self, pause: PauseStatus) -> None:
        """Adds a pause, in place of the one with the same scope if there is one."""
        self._by_scope = {**self._by_scope, scope_of(pause): pause}

    def remove(self, scopes: Iterable[Scope]) -> list[PauseStatus]:
        """Removes the pauses of exactly these scopes, and returns them."""
        gone = {scope: self._by_scope[scope] for scope in scopes if scope in self._by_scope}
        self._by_scope = {scope: pause for scope, pause in self._by_scope.items() if scope not in gone}
        return list(gone.values())

    def within(self, scope: Scope) -> list[Scope]:
        """The scopes of the pauses in this scope, itself included."""
        return [each for each in self._by_scope if each.within(scope)]

    def covers(self, place: TopicPartition) -> bool:
        """Whether the partition is paused, alone, with its topic, or with the whole consumer."""
        known = self._by_scope
        return bool(known) and (EVERYTHING in known or Scope(place.topic) in known or Scope(*place) in known)

    @property
    def whole(self) -> bool:
        """The whole consumer is paused."""
        return EVERYTHING in self._by_scope

    def due(self, now: datetime) -> list[Scope]:
        """The scopes of the pauses whose time is over."""
        return [scope for scope, pause in self._by_scope.items() if pause.until is not None and pause.until <= now]

    def next_end(self) -> datetime | None:
        """When the next pause ends by itself; None: none does."""
        return min((pause.until for pause in self._by_scope.values() if pause.until is not None), default=None)


class Controls:
    """What an operator has set for one consumer: what is paused, and how much may begin."""

    def __init__(
        self,
        *,
        concurrency: int,
        paused: bool,
        max_buffered: Callable[[int], int],
        enough: Callable[[int], float] = lambda concurrency: inf,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits if limits is not None else Limits("")
        self.pauses = Pauses([new_pause(EVERYTHING, actor="settings")] if paused else [])
        self.pauses_note: str | None = None  # why other processes do not know of a pause, or of its end
        self.declared_concurrency = concurrency  # in code and settings
        self.concurrency = concurrency  # in force
        self.listeners: list[Callable[[int], None]] = []  # who else has to know the concurrency in force
        self._max_buffered = max_buffered
        self._enough = enough

    @property
    def max_buffered(self) -> int:
        """How many messages of a partition are in hand at most, at this concurrency."""
        return self._max_buffered(self.concurrency)

    @property
    def enough(self) -> float:
        """How many messages of a partition may wait while more would not let more calls run, at this concurrency."""
        return self._enough(self.concurrency)
