"""Pauses that hold for all members of a group and over restarts, by what all processes see in the state store.

There is one document for each pause, which ends with its time limit. Whoever pauses writes it, whoever resumes empties
it; all read all of them every few seconds. An app that has nothing to do with pauses reads them once, at its start.

A pause that is gone was ended, or its time is over; unless the store has lost all that it had, as a Redis does that is
restarted without a disk. One more document, the mark, tells these apart: with another mark or none the store is a new
one, and gets the pauses that are known.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from time import monotonic
from uuid import uuid4

from pydantic import ValidationError

from ..clock import utc_now
from ..consumption.controls import Scope, scope_of
from ..consumption.service import ConsumerService
from ..error_text import exc_info
from ..exceptions import StateStoreError
from ..observation.status import PauseStatus
from ..observation.waiting import said
from .parts import DeskParts

logger = logging.getLogger(__name__)

SECTION = "pauses"
MARK = "mark"
"""The name of a document with a random value, which is written where there is none."""
ENDED, ENDED_SECONDS = b"", 60.0
"""What stands in place of a pause that somebody has ended, and for how long: it is not to be taken for a lost one."""
ACTION_SECONDS = 2.0
"""Whoever pauses or resumes waits so long for the store; then it is written later."""
LOOK_SECONDS = 3.0
"""Seconds between two looks at the pauses of the group, once there is something to look for."""


class GroupPauses:
    """Keeps the pauses of a run's consumers in step with those in the store. Without one it does nothing."""

    def __init__(self, parts: DeskParts, look_too: Callable[[], Awaitable[None]]) -> None:
        """`look_too` is called at each look, for what else the store may have; it may raise `StateStoreError`."""
        settings = parts.settings
        self._consumers = parts.consumers
        self._look_too = look_too
        self._shared = parts.shared
        self._timeout = settings.request_timeout
        self._patience = min(ACTION_SECONDS, settings.request_timeout)
        self._exposed = settings.expose_error_messages
        self._unwritten: dict[str, PauseStatus | None] = {}  # by name of the document; None: to be removed
        self._known: dict[str, Mapping[Scope, PauseStatus]] = {}  # by handler id: what the store has, as far as we know
        self._mark: bytes | None = None  # of the store that `_known` is of
        self._lost_at: float | None = None  # when the store was found to be a new one, on the monotonic clock
        self._look = asyncio.Event()  # there is a reason to look regularly
        if settings.control.enabled:
            self._look.set()
        self._lock = asyncio.Lock()  # writing and reading exclude each other: what is read is never older
        self._looking: asyncio.Task[None] | None = None
        self._away = False  # the store could not be reached last time

    async def begin(self) -> None:
        """Takes over the pauses that were set before, and keeps looking. Never raises.

        A store that is away delays this by `request_timeout` at most; its pauses are taken over when it answers.
        """
        if self._shared is None:
            return
        await self._step(self._timeout)
        if self._away:
            self._look.set()
        self._looking = asyncio.create_task(self._keep_looking(), name="athomic-pauses")

    async def end(self) -> None:
        """Looks no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    @property
    def reached(self) -> bool:
        """The store has answered last time."""
        return not self._away

    @property
    def note(self) -> str | None:
        """Why what was paused or resumed here does not hold for the other members yet; None: they can see it."""
        if not (self._away and self._unwritten):
            return None
        return "the state store is away: other members of the group hear of it when it is back"

    async def share(self, service: ConsumerService, pause: PauseStatus) -> None:
        """Makes a pause known to the other members. If the store is away, that is tried again until it works."""
        await self._write(service, {scope_of(pause): pause})

    async def refresh(self) -> None:
        """Hears of what others have paused in the last seconds, unless the store is known to be away."""
        if self._shared is not None and not self._away:
            await self._step(self._patience)

    async def withdraw(self, service: ConsumerService, ended: Iterable[Scope]) -> None:
        """Ends pauses for the other members, too."""
        await self._write(service, dict.fromkeys(ended))

    async def _write(self, service: ConsumerService, changes: Mapping[Scope, PauseStatus | None]) -> None:
        if self._shared is None or not changes:
            return
        self._unwritten |= {_name(service, scope): pause for scope, pause in changes.items()}
        self._look.set()
        await self._step(self._patience)

    async def _keep_looking(self) -> None:
        while True:
            await self._look.wait()
            await asyncio.sleep(LOOK_SECONDS)
            await self._step(self._timeout)
            if not self._away:
                await self._look_for_more()

    async def _look_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._look_too()
        except (StateStoreError, TimeoutError) as error:
            logger.debug("what other members ask for could not be read: %s", error)
        except Exception as error:  # by a fault of ours; pauses are looked after nevertheless
            shown = exc_info(error, exposed=self._exposed)
            logger.error("what other members ask for could not be done", exc_info=shown)

    async def _step(self, timeout: float) -> None:
        """Writes what has to be written, and takes over what others have written."""
        try:
            async with asyncio.timeout(timeout), self._lock:
                await self._write_all()
                await self._take_over()
        except (StateStoreError, TimeoutError) as error:
            if not self._away:
                logger.warning(
                    "pauses are not shared with the other members of the group at the moment: %s",
                    str(error) or "the state store does not answer",
                )
            self._away = True
        except Exception as error:  # by a fault of ours; consumers start, and others are looked after, nevertheless
            if not self._away:
                logger.error("pauses of the group could not be read", exc_info=exc_info(error, exposed=self._exposed))
            self._away = True
        else:
            if self._away:
                logger.warning("pauses are shared with the other members of the group again")
            self._away = False
        self._tell()

    def _tell(self) -> None:
        """Says of each consumer, in its status, whether others know of its pauses."""
        note = self.note
        waiting = {tuple(json.loads(name)[:2]) for name in self._unwritten} if note else set()
        for service in self._consumers.values():
            about = (service.subscription.group_id, service.name)
            service.controls.pauses_note = note if about in waiting else None

    async def _write_all(self) -> None:
        assert self._shared is not None
        while self._unwritten:
            name, pause = next(iter(self._unwritten.items()))
            if pause is None:
                await self._shared.put(SECTION, name, ENDED, ttl=ENDED_SECONDS)
            elif (ttl := _seconds_left(pause)) is None or ttl > 0:
                await self._shared.put(SECTION, name, pause.model_dump_json().encode(), ttl=ttl)
            if self._unwritten.get(name) is pause:  # else it has changed meanwhile
                del self._unwritten[name]

    async def _survey(self) -> Mapping[str, bytes]:
        """All documents. A store that has lost everything gets the pauses that hold here, after two looks.

        Until then those count as written, and others have the time to say that one of them was ended meanwhile.
        """
        assert self._shared is not None
        documents = await self._shared.all(SECTION)
        mark, before = documents.get(MARK), self._mark
        if mark is None and (documents or before is not None):
            mark = uuid4().hex.encode()
            await self._shared.put(SECTION, MARK, mark)
        self._mark = mark
        if before is not None and mark != before:
            self._lost_at = monotonic()
        if self._lost_at is None:
            return documents
        lost = {name: pause for name, pause in self._holding() if name not in documents}
        if monotonic() > self._lost_at + 2 * LOOK_SECONDS:
            self._lost_at = None
            if lost:
                logger.warning("the state store has lost pauses of the group: they are written anew")
                self._unwritten = {**lost, **self._unwritten}
                await self._write_all()
        return {**documents, **{name: pause.model_dump_json().encode() for name, pause in lost.items()}}

    def _holding(self) -> Iterator[tuple[str, PauseStatus]]:
        """The pauses of the group that hold here, by name of the document."""
        for service in self._consumers.values():
            for scope, pause in self._known.get(service.name, {}).items():
                if service.controls.pauses.get(scope) == pause:
                    yield _name(service, scope), pause

    async def _take_over(self) -> None:
        assert self._shared is not None
        documents = await self._survey()
        for service in self._consumers.values():
            found = _of_service(service, documents)
            before, self._known[service.name] = self._known.get(service.name, {}), found
            ours = service.controls.pauses
            for scope, pause in found.items():
                if _name(service, scope) not in self._unwritten and ours.get(scope) != pause:
                    logger.info("taken over from the group: %s", said(service.name, pause))
                    service.pause(pause)
            gone = [scope for scope in before if scope not in found and _name(service, scope) not in self._unwritten]
            for pause in service.end_pauses([scope for scope in gone if ours.get(scope) == before[scope]]):
                logger.info("over, as the group says: %s", said(service.name, pause))
            if found:
                self._look.set()


def _name(service: ConsumerService, scope: Scope) -> str:
    return json.dumps([service.subscription.group_id, service.name, scope.topic, scope.partition])


def _of_service(service: ConsumerService, documents: Mapping[str, bytes]) -> dict[Scope, PauseStatus]:
    found: dict[Scope, PauseStatus] = {}
    for name, document in documents.items():
        try:
            about = json.loads(name)
            pause = PauseStatus.model_validate_json(document)
        except (ValueError, ValidationError, RecursionError):  # the mark; of a later version of this package; anything
            continue
        scope = scope_of(pause)
        if about == [service.subscription.group_id, service.name, *scope]:
            left = _seconds_left(pause)
            if left is None or left > 0:
                found[scope] = pause
    return found


def _seconds_left(pause: PauseStatus) -> float | None:
    return (pause.until - utc_now()).total_seconds() if pause.until is not None else None
