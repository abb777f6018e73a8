"""One subscription at run time: a session that is rebuilt when it breaks, and what is to be seen of it from outside."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Any

from ..clock import utc_now
from ..complaints import Complaints
from ..error_text import exc_info
from ..exceptions import AthomicError, ControlRefusedError, StateStoreError, TransportError
from ..failures.dlq import DLQHandler
from ..handling.patience import Patience
from ..limits import RateLimit
from ..messages import TopicPartition
from ..observation.counters import Counters
from ..observation.effective import EffectiveSettings, order_of
from ..observation.gauges import SequenceGauge
from ..observation.group_status import total_lag
from ..observation.health import ConsumerFacts, judge
from ..observation.process import this_process
from ..observation.rates import RateMeter
from ..observation.reasons import Reason, ReasonCode
from ..observation.status import (
    ConsumerHealth,
    ConsumerStatus,
    CounterValues,
    HealthStatus,
    MemberStatus,
    PartitionStatus,
    PauseStatus,
    StatusScope,
)
from ..observation.waiting import ConsumerWork, PartitionWork, said
from ..propagation.headers import HeadersOrchestrator
from ..propagation.lineage import JobRun
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .controls import EVERYTHING, Controls, Scope, new_pause
from .partitions import PartitionState
from .placement import Passage
from .progress import partition_status, partition_work
from .session import ConsumerSession, longest_rebalance

logger = logging.getLogger(__name__)

STEADY_SECONDS = 60.0
"""After a session that lived for longer, the back-off starts again at its shortest."""
BREAK_SECONDS = 300.0
"""Between two log lines about the same error that keeps a consumer from consuming."""
MOST_BREAKS = 100
"""So many of the last breaks are remembered, to tell how often it broke lately."""


class ServiceState(StrEnum):
    """The states of a `ConsumerService`."""

    NEW = "new"
    STARTING = "starting"  # connects, or waits for its partitions
    RUNNING = "running"
    BACKING_OFF = "backing_off"  # its session broke; it waits before it builds the next one
    STOPPING = "stopping"
    STOPPED = "stopped"
    ELSEWHERE = "elsewhere"  # it is checked here, and consumes in other processes: the role is web


SAID = {
    ServiceState.NEW: "its start waits for the broker",
    ServiceState.STARTING: "it connects, or waits for its partitions",
    ServiceState.BACKING_OFF: "it broke, and is rebuilt after a pause",
}
"""What health adds to the names of these states."""

TRANSITIONS: dict[ServiceState, frozenset[ServiceState]] = {
    ServiceState.NEW: frozenset({ServiceState.STARTING, ServiceState.STOPPED, ServiceState.ELSEWHERE}),
    ServiceState.STARTING: frozenset({ServiceState.RUNNING, ServiceState.BACKING_OFF, ServiceState.STOPPING}),
    ServiceState.RUNNING: frozenset({ServiceState.STARTING, ServiceState.BACKING_OFF, ServiceState.STOPPING}),
    ServiceState.BACKING_OFF: frozenset({ServiceState.STARTING, ServiceState.STOPPING}),
    ServiceState.STOPPING: frozenset({ServiceState.STOPPED}),
    ServiceState.STOPPED: frozenset(),
    ServiceState.ELSEWHERE: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParts:
    """What a service is built from."""

    subscription: Subscription
    new_session: Callable[[], ConsumerSession]
    controls: Controls
    dlq_handler: DLQHandler
    patience: Patience
    orchestrator: HeadersOrchestrator
    counters: Counters
    settings: AthomicSettings
    gauge: SequenceGauge | None  # of an ordered consumer
    target_type: Any  # what messages are decoded into; `RawMessage`: they stay as they came
    effective: EffectiveSettings  # for the status


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
        self.counters = parts.counters
        self.dlq_handler = parts.dlq_handler
        self.state = ServiceState.NEW
        self.restarts = 0
        self._changed_at = utc_now()  # when `state` changed
        self.controls = parts.controls
        self.restart_error: BaseException | None = None  # why its session broke for the last time
        self._new_session = parts.new_session
        self._patience = parts.patience
        self._orchestrator = parts.orchestrator
        self._settings = parts.settings
        self._gauge = parts.gauge
        self._broke_at: deque[float] = deque(maxlen=MOST_BREAKS)  # on the monotonic clock
        self._breaks = _new_breaks()
        self._repeats = False  # it has broken off again with an error that was told
        self._session: ConsumerSession | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._restart = asyncio.Event()  # an operator wants a new session
        self._restart_began: asyncio.Future[bool] | None = None  # False: it was stopped instead
        self._next_end: asyncio.TimerHandle | None = None  # of a pause with a time limit
        self._stop_timeout = parts.settings.shutdown_timeout
        self._ready = asyncio.Event()  # has been ready once
        self._blocked = (float("-inf"), 0.0)  # when its handler last blocked the event loop, and for how long
        self.meter = RateMeter(parts.counters)
        self.effective = parts.effective

    # --- lifecycle

    async def start(self) -> None:
        """Returns when the group has given it partitions, perhaps none; keeps trying while the broker is away."""
        if self._supervisor is None and not self._stop.is_set():
            self._supervisor = asyncio.create_task(self._supervise(), name=f"athomic-{self.name}")
        await self._ready.wait()

    def leave_to_workers(self) -> None:
        """Call it instead of `start` where others consume: nothing is started, and nothing is wrong with that."""
        self._become(ServiceState.ELSEWHERE)

    async def stop(self, timeout: float) -> None:
        """Finishes what runs, commits and leaves within `timeout` seconds. Never raises; may be called twice."""
        self._stop_timeout = timeout
        self._stop.set()
        if self._supervisor is None:
            if not self.elsewhere:  # others consume, still: nothing has stopped
                self._become(ServiceState.STOPPED)
            return
        _, late = await asyncio.wait([self._supervisor], timeout=timeout + 1)
        if late:
            logger.error("%s did not stop within %.1f s and is abandoned", self.name, timeout)
            self._supervisor.cancel()
            self._note_restart(began=False)

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
        if self._session is not None:
            self._session.apply_pauses()
        if self._next_end is not None:
            self._next_end.cancel()
            self._next_end = None
        end = self.controls.pauses.next_end()
        if end is not None and not self._stop.is_set():
            seconds = max(0.0, (end - utc_now()).total_seconds())
            self._next_end = asyncio.get_running_loop().call_later(seconds, self._end_due_pauses)

    def _end_due_pauses(self) -> None:
        for pause in self.end_pauses(self.controls.pauses.due(utc_now())):
            logger.info("a pause is over, as its time is: %s", said(self.name, pause))

    def set_concurrency(self, value: int | None) -> int:
        """How many calls run at once from now on, in later sessions too; None: as declared. Returns the number."""
        controls = self.controls
        controls.concurrency = value if value is not None else controls.declared_concurrency
        for listener in controls.listeners:
            listener(controls.concurrency)
        if self._session is not None:
            self._session.apply_concurrency()
        return controls.concurrency

    def set_rate(self, limit: RateLimit | None) -> RateLimit | None:
        """How many messages begin in a second from now on, in later sessions too; None: as declared.

        Returns the limit that is in force.
        """
        limits = self.controls.limits
        limits.set_rate(limit)
        return limits.bucket.limit

    def set_breaker(self, *, opened: bool) -> None:
        """Opens the circuit breaker until it is closed here again, or closes it."""
        self.controls.limits.breaker.force(opened=opened)

    async def restart(self) -> None:
        """Closes the session as a stop does, and begins the next one at once. Returns when that begins.

        Does nothing before the first session: it is about to begin. Raises `ControlRefusedError` if it stops.
        """
        if self._stop.is_set() or self.state in (ServiceState.STOPPING, ServiceState.STOPPED):
            raise ControlRefusedError(f"{self.name} cannot be restarted: it is stopping, or has stopped")
        if self.state is ServiceState.NEW:
            return
        if self._restart_began is None or self._restart_began.done():  # else somebody restarts it already
            self._restart_began = asyncio.get_running_loop().create_future()
        self._restart.set()
        if not await asyncio.shield(self._restart_began):
            raise ControlRefusedError(f"{self.name} was stopped before it began anew")

    async def seek(self, place: TopicPartition, offset: int) -> Passage:
        """Goes on at `offset` of a partition that is assigned here.

        Raises `TransportError`: `ControlRefusedError` if it is not assigned here.
        """
        return await self._ready_session().seek(place, offset)

    def passage(self, place: TopicPartition) -> Passage | None:
        """How far a partition is; None if it is not assigned here at the moment."""
        return self._session.passage(place) if self._session is not None and self.ready else None

    def why_not_here(self, place: TopicPartition) -> str:
        """A sentence about a partition that is not assigned here, for who wants to seek in it."""
        if self.elsewhere:
            return f"{place} is not assigned to this process: its role is web, and it consumes nothing"
        if not self.ready:
            return (
                f"{place} is not assigned to this process: {self.name} has no partitions at the moment ({self.state})"
            )
        if place in self._partitions():
            return f"{place} is being taken over or given up by this process: try again in a moment"
        ours = ", ".join(map(str, sorted(self._partitions()))) or "none"
        return (
            f"{place} is not assigned to this process (assigned are: {ours}): another member of the group "
            f"{self.subscription.group_id} has it, and only that one can seek there"
        )

    def follows(self, topic: str) -> bool:
        """The handler consumes this topic, or it is one of its own retry and redrive topics."""
        returns = self.dlq_handler.returns
        return isinstance(topic, str) and (returns.consumes(topic) or returns.brings_back(topic))

    async def committed(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """What the group has committed for these partitions, whoever has them. Raises as `seek` does."""
        found = await self._ready_session().client().committed(places, self._settings.request_timeout)
        return {place: commit.offset for place, commit in found.items()}

    def _ready_session(self) -> ConsumerSession:
        if self._session is None or not self.ready:
            raise ControlRefusedError(f"{self.name} has no partitions at the moment ({self.state})")
        return self._session

    # --- its life

    def _become(self, state: ServiceState) -> None:
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise AthomicError(f"{self.name} cannot go from {self.state} to {state}")
        again = self._repeats and state in (ServiceState.STARTING, ServiceState.BACKING_OFF)
        logger.log(logging.DEBUG if again else logging.INFO, "%s: %s", self.name, state)
        self.state, self._changed_at = state, utc_now()

    async def _supervise(self) -> None:
        delay = self._settings.restart_backoff
        while not self._stop.is_set():
            self._become(ServiceState.STARTING)
            self._note_restart(began=True)
            began = monotonic()
            try:
                await self._live_one_session()
            except Exception as error:  # by a fault of ours; what consumes no more must not look as if it did
                self._note_break(error)
            if self._stop.is_set():
                break
            if self._restart.is_set() or monotonic() - began > STEADY_SECONDS:
                delay = self._settings.restart_backoff
            if self._restart.is_set():
                continue
            if self.state is ServiceState.RUNNING:  # else it has not come so far: the broker may be away
                self._broke_at.append(monotonic())
            self._become(ServiceState.BACKING_OFF)
            await self._pause_before_restart(delay)
            delay = min(delay * 2, self._settings.restart_backoff_max)
        self._become(ServiceState.STOPPING)
        self._become(ServiceState.STOPPED)
        self._note_restart(began=False)
        if self._next_end is not None:
            self._next_end.cancel()

    def _note_restart(self, *, began: bool) -> None:
        self._restart.clear()
        if self._restart_began is not None and not self._restart_began.done():
            self._restart_began.set_result(began)

    async def _live_one_session(self) -> None:
        session = self._session = self._new_session()
        running = asyncio.create_task(session.run(), name=f"athomic-{self.name}-session")
        stopping = asyncio.create_task(self._told_to_end())
        joining = asyncio.create_task(session.joined.wait())
        try:
            await asyncio.wait([running, stopping, joining], return_when=asyncio.FIRST_COMPLETED)
            if joining.done() and not running.done() and not stopping.done():
                self._note_ready()
                await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            joining.cancel()
            stopping.cancel()
            if self._stop.is_set():
                self._become(ServiceState.STOPPING)
            await self._close(session, running)

    async def _told_to_end(self) -> None:
        """Returns when the service is stopped or restarted."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._restart)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _close(self, session: ConsumerSession, running: asyncio.Task[None]) -> None:
        broke = running.done()
        await session.close(self._stop_timeout if self._stop.is_set() else self._settings.drain_timeout)
        if not running.done():
            running.cancel()
        await asyncio.wait([running], timeout=1)
        if broke and not running.cancelled() and (error := running.exception()) is not None:
            self._note_break(error)

    def _note_break(self, error: BaseException) -> None:
        """The same error is told once, and every five minutes, until it consumes again."""
        self.restart_error = error
        if (more := self._breaks.due(_describe(error))) is None:
            self._repeats = True
            return
        # no traceback where the broker or the store is the cause: it says nothing beyond the error's own words
        unforeseen = not isinstance(error, TransportError | StateStoreError)
        shown = exc_info(error, exposed=self._settings.expose_error_messages) if unforeseen else None
        since = f" ({more} more times since this was logged)" if more else ""
        what = "consumption broke off (%s), it will be started again"
        logger.error(f"%s: {what}%s", self.name, _describe(error), since, exc_info=shown)

    def _note_ready(self) -> None:
        self._become(ServiceState.RUNNING)
        self._breaks, self._repeats = _new_breaks(), False
        self.meter.begin()
        self._ready.set()

    async def _pause_before_restart(self, delay: float) -> None:
        self.restarts += 1
        try:
            async with asyncio.timeout(delay):
                await self._told_to_end()
        except TimeoutError:
            pass

    # --- status

    @property
    def paused(self) -> bool:
        """An operator has paused the whole consumer."""
        return self.controls.pauses.whole

    @property
    def elsewhere(self) -> bool:
        """Other processes consume: the role of this one is web."""
        return self.state is ServiceState.ELSEWHERE

    @property
    def ready(self) -> bool:
        """The session that runs has joined the group."""
        return self.state is ServiceState.RUNNING

    def health(self) -> ConsumerHealth:
        """Whether it consumes, and what somebody should look at. May be asked from another thread."""
        if self.state is ServiceState.ELSEWHERE:
            return ConsumerHealth(status=HealthStatus.HEALTHY)
        if self._supervisor is not None and self._supervisor.done() and not self._stop.is_set():
            said = "what builds its sessions has ended: nothing is consumed until the process is restarted"
            reason = Reason(code=ReasonCode.SUPERVISOR_ENDED, message=said)
            return ConsumerHealth(status=HealthStatus.UNHEALTHY, reasons=[reason])
        if self.state is not ServiceState.RUNNING or self._session is None:
            status = HealthStatus.UNHEALTHY if self._ready.is_set() else HealthStatus.STARTING
            said = f" ({SAID[self.state]})" if self.state in SAID else ""
            error = f": {_describe(self.restart_error)}" if self.restart_error else ""
            reason = Reason(code=self._code(), message=f"{self.state}{said}{error}", since=self._changed_at)
            return ConsumerHealth(status=status, reasons=[reason])
        return judge(self._facts(self._session), self.subscription, self._settings)

    def _code(self) -> ReasonCode:
        """Of a consumer that does not run."""
        if self.state in (ServiceState.STOPPING, ServiceState.STOPPED):
            return ReasonCode.STOPPED
        return ReasonCode.STARTING if self.restart_error is None else ReasonCode.RESTARTING

    def _facts(self, session: ConsumerSession) -> ConsumerFacts:
        now = monotonic()
        oldest, moved_at = session.oldest_start(), session.without_partitions_since
        blocked_at, blocked_for = self._blocked
        arrival = session.oldest_arrival()
        held_back = self.controls.limits.hold_back()  # as was asked for, which is nobody's fault
        broke = [moment for moment in list(self._broke_at) if now - moment < self._settings.health.restarts_within]
        return ConsumerFacts(
            now=utc_now(),
            since_poll=now - session.polled_at,
            since_progress=now - session.progress_at,
            without_partitions=_since(moved_at, now),
            longest_rebalance=longest_rebalance(self._settings),
            in_handler=_since(oldest, now),
            in_queue=0.0 if held_back else _since(arrival, now),
            full={} if held_back else {place: now - since for place, since in session.full_since.items()},
            in_doubt=_since(session.doubted_at, now),
            evicted=_since(session.evicted_at, now),
            restarts=len(broke),
            since_restarts=_since(min(broke, default=None), now),
            restart_error=_describe(self.restart_error) if self.restart_error else None,
            since_blocking=now - blocked_at,
            blocked_for=blocked_for,
            unwritable=list(self.dlq_handler.blocked.values()),
            problems=[
                *self.controls.limits.problems(),
                *session.problems(),
                *self.dlq_handler.problems(),
                *self._patience.problems(),
            ],
            sequence_problems=self._gauge.reasons() if self._gauge is not None else [],
            absent_since=session.absent_since,
            topics=session.topics,
        )

    def note_blocking(self, seconds: float) -> None:
        """The handler has blocked the event loop for so many seconds, and has just stopped."""
        self._blocked = (monotonic(), seconds)

    def status(self) -> ConsumerStatus:
        """Speaks for this process. May be asked from another thread."""
        session, subscription = self._session, self.subscription
        process = this_process(self._settings.instance_id)
        health, partitions = self.health(), self._partition_statuses(session, process.instance_id)
        lag, lag_seconds = total_lag(partitions)
        oldest = session.oldest_start() if session else None
        in_handler = monotonic() - oldest if oldest is not None else None
        arrival = session.oldest_arrival() if session else None
        in_queue = monotonic() - arrival if arrival is not None else None
        last_errors = self.dlq_handler.log.last_errors
        return ConsumerStatus(
            id=self.name,
            process=process,
            scope=StatusScope.PROCESS,
            scope_note=None,
            members=[
                MemberStatus(
                    **process.model_dump(),
                    state=self.state,
                    ready=self.ready,
                    paused=self.paused,
                    health=health.status,
                    partitions=len(partitions),
                    concurrency=self.controls.concurrency,
                    seen_at=utc_now(),
                )
            ],
            topics=list(subscription.topics),
            pattern=subscription.pattern.pattern if subscription.pattern else None,
            group_id=subscription.group_id,
            ordering=order_of(subscription),
            concurrency=self.controls.concurrency,
            batch_size=subscription.batch_size,
            settings=self.effective,
            state=self.state,
            ready=self.ready,
            paused=self.paused,
            pauses=self.controls.pauses.all(),
            rate_limit=self.controls.limits.rate_status(),
            breaker=self.controls.limits.breaker.status(),
            health=health,
            assignment=partitions,
            lag=lag,
            lag_seconds=lag_seconds,
            counters=CounterValues.model_validate(self.counters),
            rates=self.meter.rates(),
            oldest_in_queue_seconds=in_queue,
            oldest_in_handler_seconds=in_handler,
            oldest_in_flight_seconds=in_handler,
            last_message_at=_moment(session.last_message_at) if session else None,
            last_error=last_errors[0] if last_errors else None,
            last_errors=last_errors,
            restarts=self.restarts,
            last_restart_reason=_describe(self.restart_error) if self.restart_error else None,
            dlq_topics=self._dlq_topics(),
            ordered=self._gauge.status() if self._gauge is not None else None,
        )

    @staticmethod
    def _partition_statuses(session: ConsumerSession | None, member: str) -> list[PartitionStatus]:
        if session is None:
            return []
        return [partition_status(session.client(), state, member) for state in list(session.states.values())]

    def _dlq_topics(self) -> list[str]:
        sources = self.consumed_topics()
        return sorted({topic for source in sources if (topic := self.dlq_handler.topic_for(source)) is not None})

    def _partitions(self) -> list[TopicPartition]:
        return list(self._session.states) if self._session is not None else []

    def settled(self) -> bool:
        """All known messages of the assigned partitions are concluded and committed. For the consumers' event loop."""
        if self.state is ServiceState.ELSEWHERE:
            return True
        return self._session is not None and self.ready and self._session.settled()

    def work(self, ends: Mapping[TopicPartition, int]) -> ConsumerWork:
        """What is not done. `ends`: of partitions, where the broker says they end. For the consumers' event loop."""
        session, now = self._session, monotonic()
        oldest = session.oldest_start() if session is not None else None
        states = list(session.states.values()) if session is not None else []
        partitions = [self._work(session, state, ends) for state in states] if session is not None else []
        return ConsumerWork(
            handler_id=self.name,
            ready=self.ready,
            pauses=self.controls.pauses.all(),
            moving=session is not None and session.without_partitions_since is not None,
            in_handler=now - oldest if oldest is not None else None,
            parked=self._gauge.parked if self._gauge is not None else 0,
            reasons=[reason.message for reason in self.health().reasons],
            partitions=[partition for partition in partitions if partition is not None],
        )

    def _work(
        self, session: ConsumerSession, state: PartitionState, ends: Mapping[TopicPartition, int]
    ) -> PartitionWork | None:
        place = state.topic_partition
        return partition_work(
            session.client(),
            state,
            end=ends.get(place),
            blocked=place in self.dlq_handler.blocked,
            role=self.dlq_handler.returns.place(place.topic),
        )

    # --- lineage

    @property
    def lineage_run(self) -> JobRun | None:
        """The run that is reported to OpenLineage; None if lineage is off."""
        return self._orchestrator.lineage_run

    def consumed_topics(self) -> list[str]:
        """The source topics; for a pattern, those of which a partition is assigned here."""
        source_of = self.dlq_handler.returns.source_of
        return sorted({*self.subscription.topics, *(source_of(state.topic) for state in self._partitions())})

    def written_topics(self) -> list[str]:
        """The topics that the handler published to, and its DLQ topics if it had dead letters."""
        letters = self._dlq_topics() if self.counters.dead_lettered else []
        return sorted({*self._orchestrator.published_topics, *letters})

    # --- positions

    def positions(self) -> dict[TopicPartition, int | None]:
        """The next offset to be fetched from each assigned partition; None if not known yet."""
        session = self._session
        return (
            {place: session.client().position(place) for place in list(session.states)} if session is not None else {}
        )


def _since(moment: float | None, now: float) -> float:
    """Seconds; 0 if it has not happened."""
    return now - moment if moment is not None else 0.0


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None


def _new_breaks() -> Complaints:
    return Complaints(burst=1, interval=BREAK_SECONDS)


def _describe(error: BaseException) -> str:
    """Our own errors in full; of other errors only the type, as their text may hold data."""
    return str(error) if isinstance(error, AthomicError) else type(error).__name__
