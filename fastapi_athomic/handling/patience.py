"""Waiting for what a payload needs: a schema registry, an object store. That one is away is no message's fault.

A message that has to wait occupies no worker in between: it gets a pause, as before another attempt in place, and none
of its attempts is used up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from ..announcements import announce
from ..exceptions import PayloadUnavailableError
from ..messages import RawMessage, TopicPartition
from ..observation.reasons import Reason, ReasonCode, ago
from ..payload.steps import Later

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
"""Seconds between two attempts; each pause is about twice as long as the one before."""
FORGOTTEN = 120.0
"""Seconds after the last attempt at which a message counts as gone."""
SILENT = 5.0
"""Seconds after which health tells of an attempt that gives neither a value nor an error."""
AT_ONCE = 16
"""So many messages of a batch are waited for at the same time."""


class Failed(NamedTuple):
    """Stands where the value of a message would be that cannot be decoded."""

    error: BaseException


class Gone:
    """What a message becomes whose partition was taken away while it was waited for: somebody else gets it."""


GONE = Gone()


class _Wait(NamedTuple):
    """A message that waits. Times are monotonic, in seconds."""

    since: float
    tried: float  # the last time
    reason: str

    def is_forgotten(self, now: float) -> bool:
        """It has not been tried for long: it is another member's now (of an ordered consumer, with its aggregate)."""
        return now - self.tried > FORGOTTEN


class Patience:
    """Waits for decoded values of one handler. Knows which messages wait, and for what: health tells it."""

    def __init__(self, handler_id: str) -> None:
        self._handler_id = handler_id
        self.waiting: dict[tuple[TopicPartition, int], _Wait] = {}
        """What waits, by the message's place and offset. Empty: nothing does, which is asked for each message."""
        self._asked: dict[tuple[TopicPartition, int], float] = {}  # since when an attempt is under way; as `waiting`
        self._limits: dict[TopicPartition, set[asyncio.Timeout]] = {}  # of attempts that are under way
        self._pauses: dict[TopicPartition, asyncio.Event] = {}  # of `until_there`

    @property
    def is_asking(self) -> bool:
        """Whether an attempt is under way: something real is waited for."""
        return bool(self._asked)

    async def of(self, message: RawMessage, later: Later[Any]) -> Any:
        """The value, by one attempt; `GONE` if its partition is let go meanwhile. Raises what the attempt raises."""
        place = message.topic_partition
        token = (place, message.offset)
        limits = self._limits.setdefault(place, set())
        limit = asyncio.timeout(None)
        limits.add(limit)
        self._asked[token] = monotonic()
        try:
            async with limit:
                return await later
        except TimeoutError:
            if limit.expired():
                return GONE
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # not us: somebody cancelled what several wait for, such as a request to a registry
            raise PayloadUnavailableError("what the payload needs was cancelled") from None
        finally:
            self._asked.pop(token, None)
            limits.discard(limit)
            if not limits and self._limits.get(place) is limits:
                del self._limits[place]

    async def of_all(self, messages: Sequence[RawMessage], values: Sequence[Any]) -> list[Any]:
        """The values, with several that are a `Later` waited for at once: as `of`, with a `Failed` for each error."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(message: RawMessage, value: Later[Any]) -> Any:
            async with turns:
                try:
                    return await self.of(message, value)
                except asyncio.CancelledError:
                    raise
                except BaseException as error:
                    return Failed(error)

        found, works = list(values), {}
        async with asyncio.TaskGroup() as group:
            for number, (message, value) in enumerate(zip(messages, values, strict=True)):
                if isinstance(value, Later):
                    works[number] = group.create_task(one(message, value))
        for number, work in works.items():
            found[number] = work.result()
        return found

    async def until_there(self, message: RawMessage, later: Later[Any]) -> Any:
        """The value, by as many attempts as it takes; `GONE` if its partition is let go meanwhile."""
        place = message.topic_partition
        ended = self._pauses.setdefault(place, asyncio.Event())
        try:
            while not ended.is_set():
                try:
                    value = await self.of(message, later)
                    self.arrived(message)
                    return value
                except PayloadUnavailableError as error:
                    pause = self.note(message, error)
                try:
                    async with asyncio.timeout(pause):
                        await ended.wait()
                except TimeoutError:
                    pass
            return GONE
        finally:
            self._pauses.pop(place, None)

    # --- what waits

    def note(self, message: RawMessage, error: PayloadUnavailableError) -> float:
        """This message has to wait, for the reason in the error. Returns the seconds until the next attempt."""
        token, now = (message.topic_partition, message.offset), monotonic()
        for old in [each for each, wait in self.waiting.items() if wait.is_forgotten(now)]:
            del self.waiting[old]
        if not self.waiting:
            logger.warning("%s: messages wait, and are not failed: %s", self._handler_id, error)
        known = self.waiting.get(token)
        since = now if known is None else known.since
        self.waiting[token] = _Wait(since, now, str(error))
        return min(LONGEST_PAUSE, max(FIRST_PAUSE, now - since))

    def arrived(self, message: RawMessage) -> None:
        """This message waits no more: what it needs is there, or it has failed for another reason."""
        if self.waiting.pop((message.topic_partition, message.offset), None) is not None and not self.waiting:
            announce(f"{self._handler_id}: what messages waited for is there again", logger)

    def let_go(self, place: TopicPartition | None) -> None:
        """The partition is taken away (None: all are): nothing of it is waited for any more."""
        for taken in [place] if place is not None else [*self._limits, *self._pauses]:
            for limit in list(self._limits.get(taken, ())):
                limit.reschedule(-1)
            if (ended := self._pauses.get(taken)) is not None:
                ended.set()
        for token in [token for token in self.waiting if place is None or token[0] == place]:
            del self.waiting[token]

    def problems(self) -> list[Reason]:
        """What is waited for now. May be asked from another thread."""
        found: dict[str, list[float]] = {}
        now = monotonic()
        for wait in list(self.waiting.values()):
            if not wait.is_forgotten(now):
                found.setdefault(wait.reason, []).append(wait.since)
        for since in list(self._asked.values()):
            if now - since >= SILENT:
                found.setdefault("a step of the payload pipeline gives no answer", []).append(since)
        return [
            Reason(
                code=ReasonCode.PAYLOAD_UNAVAILABLE,
                message=f"{len(starts)} {'message waits' if len(starts) == 1 else 'messages wait'}, the first for "
                f"{now - min(starts):.0f} s: {reason}",
                since=ago(now - min(starts)),
            )
            for reason, starts in found.items()
        ]
