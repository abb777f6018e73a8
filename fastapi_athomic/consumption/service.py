"""One subscription at run time: its life, what an operator does to it, and what is to be seen of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from ..clock import utc_now
from ..exceptions import ControlRefusedError
from ..limits import RateLimit
from ..messages import TopicPartition
from ..observation.rates import RateMeter
from ..observation.status import ConsumerHealth, ConsumerStatus, PauseStatus
from ..observation.waiting import ConsumerWork, said
from ..propagation.lineage import JobRun
from .account import Account, ServiceParts
from .controls import EVERYTHING, Scope, new_pause
from .placement import Passage
from .session import ConsumerSession
from .states import ServiceState
from .supervision import Supervision

logger = logging.getLogger(__name__)


class ConsumerService:
    """Consumes one subscription until it is stopped.

    A session that raises (the client died, a worker died, no progress) is closed, and after a back-off the next one is
    built. A service is used once: a second run of the app builds a new one. It is a service of the lifecycle manager
    (`start`, `stop`, `required`, `depends_on`).

    Its attributes are for others to read; only the service sets them.
    """

    required = True
    depends_on: tuple[str, ...] = ("broker",)

    def __init__(self, parts: ServiceParts) -> None:
        self.name = parts.subscription.handler_id
        self.subscription = parts.subscription
        self.target_type = parts.target_type
        self.function = parts.function
        self.key_types = parts.key_types
        self.counters = parts.counters
        self.dlq_handler = parts.dlq_handler
        self.controls = parts.controls
        self.effective = parts.effective
        self.life = Supervision(self.name, parts.new_session, parts.settings, lambda: self.meter.begin())
        self.account = Account(parts, self.life)
        self._orchestrator = parts.orchestrator
        self._settings = parts.settings
        self._next_end: asyncio.TimerHandle | None = None  # of a pause with a time limit

    # --- lifecycle

    async def start(self) -> None:
        """Returns when the group has given it partitions, perhaps none; keeps trying while the broker is away."""
        await self.life.start()

    def leave_to_workers(self) -> None:
        """Call it instead of `start` where others consume: nothing is started, and nothing is wrong with that."""
        self.life.leave_to_workers()

    async def stop(self, timeout: float) -> None:
        """Finishes what runs, commits and leaves within `timeout` seconds. Never raises; may be called twice."""
        await self.life.stop(timeout)
        self._forget_next_end()

    async def restart(self) -> None:
        """Closes the session as a stop does, and begins the next one at once. Returns when that begins.

        Does nothing before the first session: it is about to begin. Raises `ControlRefusedError` if it stops.
        """
        await self.life.restart()

    # --- what an operator does; in the consumers' event loop

    def pause(self, pause: PauseStatus | None = None) -> None:
        """Nothing new is fetched or started there, in later sessions either; running handlers may finish.

        None: of the whole consumer, until it is resumed.
        """
        self.controls.pauses.put(pause if pause is not None else new_pause(EVERYTHING, actor="app"))
        self._apply_pauses()

    def resume(self, scope: Scope = EVERYTHING) -> list[PauseStatus]:
        """Ends the pauses in this scope, and returns them."""
        return self.end_pauses(self.controls.pauses.within(scope))

    def end_pauses(self, scopes: Collection[Scope]) -> list[PauseStatus]:
        """Ends the pauses of exactly these scopes, and returns them."""
        ended = self.controls.pauses.remove(scopes)
        self._apply_pauses()
        return ended

    def _apply_pauses(self) -> None:
        if self.life.session is not None:
            self.life.session.apply_pauses()
        self._forget_next_end()
        end = self.controls.pauses.next_end()
        if end is not None and not self.life.stopping:
            seconds = max(0.0, (end - utc_now()).total_seconds())
            self._next_end = asyncio.get_running_loop().call_later(seconds, self._end_due_pauses)

    def _forget_next_end(self) -> None:
        if self._next_end is not None:
            self._next_end.cancel()
            self._next_end = None

    def _end_due_pauses(self) -> None:
        for pause in self.end_pauses(self.controls.pauses.due(utc_now())):
            logger.info("a pause is over, as its time is: %s", said(self.name, pause))

    def set_concurrency(self, value: int | None) -> int:
        """How many calls run at once from now on, in later sessions too; None: as declared. Returns the number."""
        controls = self.controls
        controls.concurrency = value if value is not None else controls.declared_concurrency
        for listener in controls.listeners:
            listener(controls.concurrency)
        if self.life.session is not None:
            self.life.session.apply_concurrency()
        return controls.concurrency

    def set_rate(self, limit: RateLimit | None) -> RateLimit | None:
        """How many messages begin in a second from now on, in later sessions too; None: as declared.

        Returns the limit that is in force.
        """
        limits = self.controls.limits
        limits.set_rate(limit)
        return limits.bucket.limit

    def set_breaker(self, state: str) -> None:
        """`open`: until it is closed here again; `closed`: from now on; `auto`: it tries one message, if it is open."""
        breaker = self.controls.limits.breaker
        if state == "auto":
            breaker.release()
        else:
            breaker.force(opened=state == "open")

    async def seek(self, place: TopicPartition, offset: int) -> Passage:
        """Goes on at `offset` of a partition that is assigned here.

        Raises `TransportError`: `ControlRefusedError` if it is not assigned here.
        """
        return await self._ready_session().seek(place, offset)

    def passage(self, place: TopicPartition) -> Passage | None:
        """How far a partition is; None if it is not assigned here at the moment."""
        return self.life.session.passage(place) if self.life.session is not None and self.ready else None

    def why_not_here(self, place: TopicPartition) -> str:
        """A sentence about a partition that is not assigned here, for who wants to seek in it."""
        if self.elsewhere:
            return f"{place} is not assigned to this process: its role is web, and it consumes nothing"
        if not self.ready:
            return (
                f"{place} is not assigned to this process: {self.name} has no partitions at the moment ({self.state})"
            )
        if place in self.account.partitions():
            return f"{place} is being taken over or given up by this process: try again in a moment"
        ours = ", ".join(map(str, sorted(self.account.partitions()))) or "none"
        return (
            f"{place} is not assigned to this process (assigned are: {ours}): another member of the group "
            f"{self.subscription.group_id} has it, and only that one can seek there"
        )

    def follows(self, topic: str) -> bool:
        """The handler consumes this topic, or it is one of its own retry and redrive topics."""
        returns = self.dlq_handler.returns
        return isinstance(topic, str) and (returns.consumes(topic) or returns.brings_back(topic))

    def _ready_session(self) -> ConsumerSession:
        if self.life.session is None or not self.ready:
            raise ControlRefusedError(f"{self.name} has no partitions at the moment ({self.state})")
        return self.life.session

    # --- how it does

    @property
    def state(self) -> ServiceState:
        """Where it is in its life."""
        return self.life.state

    @property
    def restarts(self) -> int:
        """How often a session was built after another broke."""
        return self.life.restarts

    @property
    def restart_error(self) -> BaseException | None:
        """Why its session broke for the last time."""
        return self.life.restart_error

    @property
    def meter(self) -> RateMeter:
        """What it did in the last minute."""
        return self.account.meter

    @property
    def paused(self) -> bool:
        """An operator has paused the whole consumer."""
        return self.account.paused

    @property
    def elsewhere(self) -> bool:
        """Other processes consume: the role of this one is web."""
        return self.state is ServiceState.ELSEWHERE

    @property
    def ready(self) -> bool:
        """The session that runs has joined the group."""
        return self.life.ready

    def health(self) -> ConsumerHealth:
        """Whether it consumes, and what somebody should look at. May be asked from another thread."""
        return self.account.health()

    def note_blocking(self, seconds: float) -> None:
        """The handler has blocked the event loop for so many seconds, and has just stopped."""
        self.account.note_blocking(seconds)

    def status(self) -> ConsumerStatus:
        """Speaks for this process. May be asked from another thread."""
        return self.account.status()

    def oldest_start(self) -> float | None:
        """When the longest of the running calls of the handler began, on the monotonic clock; None: none runs."""
        session = self.life.session
        return session.oldest_start() if session is not None else None

    def settled(self) -> bool:
        """All known messages of the assigned partitions are concluded and committed. For the consumers' event loop."""
        return self.account.settled()

    def work(self, ends: Mapping[TopicPartition, int]) -> ConsumerWork:
        """What is not done. `ends`: of partitions, where the broker says they end. For the consumers' event loop."""
        return self.account.work(ends)

    # --- lineage

    @property
    def lineage_run(self) -> JobRun | None:
        """The run that is reported to OpenLineage; None if lineage is off."""
        return self._orchestrator.lineage_run

    def consumed_topics(self) -> list[str]:
        """The source topics; for a pattern, those of which a partition is assigned here."""
        return self.account.consumed_topics()

    def written_topics(self) -> list[str]:
        """The topics that the handler published to, and its DLQ topics if it had dead letters."""
        return self.account.written_topics()

    # --- positions

    def positions(self) -> dict[TopicPartition, int | None]:
        """The next offset to be fetched from each assigned partition; None if not known yet."""
        session = self.life.session
        return (
            {place: session.client().position(place) for place in list(session.states)} if session is not None else {}
        )
