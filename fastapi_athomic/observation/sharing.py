"""What the processes of a group tell each other of their consumers, so that any of them can answer for all.

Each writes the statuses of its consumers into the shared state, under the group's name, where they end by themselves:
a process that crashed vanishes. It looks every `sharing.interval` seconds whether there is something new to tell, in a
tick that the app has anyway, and tells it; what is unchanged it repeats a third as often. Whoever is asked reads the
others' parts, and adds its own as it is now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from ..complaints import Complaints
from ..exceptions import StateStoreError
from ..settings import AthomicSettings
from ..stores.shared import SharedState
from .group_status import together
from .process import this_process
from .status import ConsumerStatus, StatusScope

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of a `_Report`. Reports in another one, of a version to come, are left out."""
IDLE = 3
"""A status that has not changed is told again after so many intervals."""
KEPT = 2.5
"""A status ends after so many of the longest pauses between two of them."""
READ_SECONDS = 1.0
"""For the answers of the others. Without them in time a process speaks for itself."""
LEAVE_SECONDS = 0.5
"""At the end, to take back what was told."""
COMPLAINT_SECONDS = 300.0
"""Between two log lines that the others cannot be told, or understood."""
ELSEWHERE = "elsewhere"
"""The state of a consumer that this process has no part in (role `web`)."""
NO_STORE = (
    "each process speaks for itself, as they share no state store: set state_store_url to a Redis (docs/status.md)"
)
SWITCHED_OFF = "each process speaks for itself, as sharing.enabled is off"
NOBODY = "no process that consumes has told its status lately"


class _Report(BaseModel):
    """What a process tells of its consumers in one group."""

    format: int = FORMAT
    consumers: list[ConsumerStatus]


class StatusSharing:
    """Tells the others the statuses of this process, and reads theirs. All of it runs in the consumers' event loop.

    `statuses` gives those of this process. `shared`: None if there is no state store.
    """

    def __init__(
        self,
        shared: SharedState | None,
        settings: AthomicSettings,
        statuses: Callable[[], list[ConsumerStatus]],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._shared = shared if shared is not None and shared.has_others and settings.sharing.enabled else None
        self._alone = self._why_alone(settings)
        self._settings = settings
        self._statuses = statuses
        self._clock = clock or monotonic
        self._name = f"{this_process(settings.instance_id).instance_id}/{uuid4().hex[:8]}"
        self._looks_at = self._told_at = float("-inf")  # on the clock: the next look, and when it was last told
        self._told: object = None  # what is known to the others
        self._groups: set[str] = set()  # in which something was told
        self._telling: asyncio.Task[None] | None = None
        self._complaints = Complaints(burst=1, interval=COMPLAINT_SECONDS)

    def _why_alone(self, settings: AthomicSettings) -> str | None:
        """Why this process speaks for itself only; None: it need not, or there are no others."""
        if self._shared is not None or settings.scheme == "memory":
            return None
        return NO_STORE if settings.sharing.enabled else SWITCHED_OFF

    # --- telling

    def tick(self) -> None:
        """Call it often, in the event loop: it tells the others what is new, when that is due."""
        now = self._clock()
        if self._shared is None or now < self._looks_at or (self._telling is not None and not self._telling.done()):
            return
        self._looks_at = now + self._settings.sharing.interval
        self._telling = asyncio.create_task(self._look(self._shared, now), name="athomic-status")

    async def _look(self, shared: SharedState, now: float) -> None:
        """Tells what is new. Never raises: whoever ticks has other things to do, too."""
        try:
            statuses = [status for status in self._statuses() if status.state != ELSEWHERE]
            gist = [_gist(status) for status in statuses]
            if gist != self._told or now - self._told_at >= self._settings.sharing.interval * IDLE:
                self._told, self._told_at = gist, now
                await self._tell(shared, statuses)
        except Exception as error:  # by a fault of ours
            self._told = None
            if self._complaints.due("look") is not None:
                logger.error("the status of this process cannot be told: %s", type(error).__name__, exc_info=error)

    async def _tell(self, shared: SharedState, statuses: Sequence[ConsumerStatus]) -> None:
        by_group: dict[str, list[ConsumerStatus]] = {}
        for status in statuses:
            by_group.setdefault(status.group_id, []).append(status)
        ttl = self._settings.sharing.interval * IDLE * KEPT
        try:
            for group_id, consumers in by_group.items():
                self._groups.add(group_id)
                report = _Report(consumers=consumers).model_dump_json().encode()
                await shared.put(section_of(group_id), self._name, report, ttl=ttl)
        except StateStoreError as error:
            self._told = None
            if (more := self._complaints.due("tell")) is not None:
                since = f" ({more} more times since this was logged)" if more else ""
                logger.warning("other processes cannot be told the status of this one: %s%s", error, since)

    async def leave(self) -> None:
        """Takes back what was told: this process ends. Never raises, and takes `LEAVE_SECONDS` at most."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])
        self._looks_at = float("inf")
        if self._shared is None:
            return
        with suppress(StateStoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                for group_id in self._groups:
                    await self._shared.remove(section_of(group_id), self._name)

    # --- answering

    def alone(self, why: str | None = None, only: str | None = None) -> list[ConsumerStatus]:
        """The statuses of this process, or that of the handler `only`. `why` it does not speak for others, too."""
        return [
            status.model_copy(update={"scope_note": why})
            for status in self._statuses()
            if only is None or status.id == only
        ]

    async def of_all(self, groups: Mapping[str, str], only: str | None = None) -> list[ConsumerStatus]:
        """The statuses over all processes; those of this one only, with a note, where the others cannot be asked.

        `groups`: the group of each handler of the app by the handler's id, whether it runs in this process or not.
        `only`: the id of the one that is asked for; None: all are.
        """
        if self._shared is None:
            return self.alone(self._alone, only)
        wanted = {name: group_id for name, group_id in groups.items() if only is None or name == only}
        try:
            async with asyncio.timeout(READ_SECONDS):
                told, left_out = await self._read(self._shared, set(wanted.values()))
        except StateStoreError as error:
            return self.alone(f"other processes cannot be asked: {error}", only)
        except TimeoutError:
            why = f"the state store has not answered within {READ_SECONDS:g} s"
            return self.alone(f"other processes cannot be asked: {why}", only)
        own = {status.id: status for status in self._statuses()}
        found = [
            self._of_one(own.get(name), [part for part in told if (part.id, part.group_id) == (name, group)], left_out)
            for name, group in wanted.items()
        ]
        return [status for status in found if status is not None]

    def _of_one(
        self, own: ConsumerStatus | None, others: list[ConsumerStatus], left_out: Sequence[str]
    ) -> ConsumerStatus | None:
        note = f"left out, as they are of another version: {', '.join(left_out)}" if left_out else None
        others.sort(key=lambda part: part.members[0].seen_at, reverse=True)
        parts = [own, *others] if own is not None and own.state != ELSEWHERE else others
        if parts:
            return together(parts, this_process(self._settings.instance_id), note)
        if own is not None:
            update = {"scope": StatusScope.GROUP, "scope_note": note or NOBODY, "members": []}
            return own.model_copy(update=update)
        return None

    async def _read(self, shared: SharedState, groups: set[str]) -> tuple[list[ConsumerStatus], list[str]]:
        """What the other processes have told of their consumers in these groups; who cannot be understood."""
        told, left_out = list[ConsumerStatus](), set[str]()
        for group_id in groups:
            for name, document in (await shared.all(section_of(group_id))).items():
                if name == self._name:
                    continue
                report = self._understood(name, document)
                if report is None:
                    left_out.add(name.rpartition("/")[0])
                else:
                    told += [status for status in report.consumers if status.members]
        return told, sorted(left_out)

    def _understood(self, name: str, document: bytes) -> _Report | None:
        try:
            report = _Report.model_validate_json(document)
        except ValidationError as error:
            wrong = f"{error.error_count()} fields are not as expected"
        else:
            if report.format == FORMAT:
                return report
            wrong = f"format {report.format}"
        if self._complaints.due(f"read {name}") is not None:
            logger.warning("the status of process %s is left out: it is of another version (%s)", name, wrong)
        return None


def section_of(group_id: str) -> str:
    """Where the statuses of a group's consumers are, in the shared state."""
    return f"status:{group_id}"


def _gist(status: ConsumerStatus) -> object:
    """What makes a status worth telling: all but what changes by itself, as ages do."""
    return (
        status.counters.model_dump(),
        (status.id, status.state, status.ready, status.paused, status.concurrency, status.health.status),
        [pause.model_dump() for pause in status.pauses],
        status.pauses_note,
        status.rate_limit and (status.rate_limit.messages_per_second, status.rate_limit.burst),
        status.breaker and (status.breaker.state, status.breaker.until, status.breaker.forced),
        [(each.topic, each.partition, each.committed, each.end_offset, each.paused) for each in status.assignment],
    )
