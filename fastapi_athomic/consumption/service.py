"""One subscription at run time: a session that is rebuilt when it breaks, and what is to be seen of it from outside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Any

from ..complaints import Complaints
from ..error_text import exc_info
from ..exceptions import AthomicError, StateStoreError, TransportError
from ..failures.dlq import DLQHandler
from ..handling.patience import Patience
from ..messages import TopicPartition
from ..observation.counters import Counters
from ..observation.gauges import SequenceGauge
from ..observation.health import ConsumerFacts, judge
from ..observation.process import this_process
from ..observation.status import (
    ConsumerHealth,
    ConsumerStatus,
    CounterValues,
    HealthStatus,
    Rates,
)
from ..observation.waiting import ConsumerWork, PartitionWork
from ..propagation.headers import HeadersOrchestrator
from ..propagation.lineage import JobRun
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .partitions import PartitionState
from .progress import partition_status, partition_work
from .session import ConsumerSession, longest_rebalance

logger = logging.getLogger(__name__)

STEADY_SECONDS = 60.0
"""After a session that lived for longer, the back-off starts again at its shortest."""
BREAK_SECONDS = 300.0
"""Between two log lines about the same error that keeps a consumer from consuming."""


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
    ServiceState.RUNNING: frozenset({ServiceState.BACKING_OFF, ServiceState.STOPPING}),
    ServiceState.BACKING_OFF: frozenset({ServiceState.STARTING, ServiceState.STOPPING}),
    ServiceState.STOPPING: frozenset({ServiceState.STOPPED}),
    ServiceState.STOPPED: frozenset(),
    ServiceState.ELSEWHERE: frozenset({ServiceState.STOPPED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParts:
    """What a service is built from."""

    subscription: Subscription
    new_session: Callable[[bool], ConsumerSession]  # True: paused from the beginning
    dlq_handler: DLQHandler
    patience: Patience
    orchestrator: HeadersOrchestrator
    counters: Counters
    settings: AthomicSettings
    paused: bool  # by an operator, from the beginning
    gauge: SequenceGauge | None  # of an ordered consumer
    target_type: Any  # what messages are decoded into; `RawMessage`: they stay as they came


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
        self.paused = parts.paused
        self.restart_error: BaseException | None = None  # why its session broke for the last time
        self._new_session = parts.new_session
        self._patience = parts.patience
        self._orchestrator = parts.orchestrator
        self._settings = parts.settings
        self._gauge = parts.gauge
        self._breaks = _new_breaks()
        self._repeats = False  # it has broken off again with an error that was told
        self._session: ConsumerSession | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._stop_timeout = parts.settings.shutdown_timeout
        self._ready = asyncio.Event()  # has been ready once
        self._blocked = (float("-inf"), 0.0)  # when its handler last blocked the event loop, and for how long
        self._ready_since = monotonic()
        self._at_ready = (0, 0)  # received and processed, when it was last ready

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
            self._become(ServiceState.STOPPED)
            return
        _, late = await asyncio.wait([self._supervisor], timeout=timeout + 1)
        if late:
            logger.error("%s did not stop within %.1f s and is abandoned", self.name, timeout)
            self._supervisor.cancel()

    def pause(self) -> None:
        """Nothing new is fetched or started, in later sessions either; running handlers may finish."""
        self.paused = True
        if self._session is not None:
            self._session.pause()

    def resume(self) -> None:
        """Goes on after `pause`."""
        self.paused = False
        if self._session is not None:
            self._session.resume()

    async def seek(self, place: TopicPartition, offset: int) -> None:
        """Goes on at `offset` of a partition that is assigned here. Raises `TransportError`."""
        if self._session is None or not self.ready:
            raise TransportError(f"{self.name} has no partitions at the moment ({self.state})")
        await self._session.seek(place, offset)

    def _become(self, state: ServiceState) -> None:
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise AthomicError(f"{self.name} cannot go from {self.state} to {state}")
        again = self._repeats and state in (ServiceState.STARTING, ServiceState.BACKING_OFF)
        logger.log(logging.DEBUG if again else logging.INFO, "%s: %s", self.name, state)
        self.state = state

    async def _supervise(self) -> None:
        delay = self._settings.restart_backoff
        while not self._stop.is_set():
            self._become(ServiceState.STARTING)
            began = monotonic()
            try:
                await self._live_one_session()
            except Exception as error:  # by a fault of ours; what consumes no more must not look as if it did
                self._note_break(error)
            if self._stop.is_set():
                break
            if monotonic() - began > STEADY_SECONDS:
                delay = self._settings.restart_backoff
            self._become(ServiceState.BACKING_OFF)
            await self._pause_before_restart(delay)
            delay = min(delay * 2, self._settings.restart_backoff_max)
        self._become(ServiceState.STOPPING)
        self._become(ServiceState.STOPPED)

    async def _live_one_session(self) -> None:
        session = self._session = self._new_session(self.paused)
        running = asyncio.create_task(session.run(), name=f"athomic-{self.name}-session")
        stopping = asyncio.create_task(self._stop.wait())
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
        self._ready_since = monotonic()
        self._at_ready = (self.counters.received, self.counters.processed)
        self._ready.set()

    async def _pause_before_restart(self, delay: float) -> None:
        self.restarts += 1
        try:
            async with asyncio.timeout(delay):
                await self._stop.wait()
        except TimeoutError:
            pass

    # --- status

    @property
    def ready(self) -> bool:
        """The session that runs has joined the group."""
        return self.state is ServiceState.RUNNING

    def health(self) -> ConsumerHealth:
        """Whether it consumes, and what somebody should look at. May be asked from another thread."""
        if self.state is ServiceState.ELSEWHERE:
            return ConsumerHealth(status=HealthStatus.HEALTHY)
        if self.state is not ServiceState.RUNNING or self._session is None:
            status = HealthStatus.UNHEALTHY if self._ready.is_set() else HealthStatus.STARTING
            said = f" ({SAID[self.state]})" if self.state in SAID else ""
            error = f": {_describe(self.restart_error)}" if self.restart_error else ""
            return ConsumerHealth(status=status, reasons=[f"{self.state}{said}{error}"])
        return judge(self._facts(self._session), self.subscription, self._settings)

    def _facts(self, session: ConsumerSession) -> ConsumerFacts:
        now = monotonic()
        oldest, moved_at = session.oldest_start(), session.without_partitions_since
        blocked_at, blocked_for = self._blocked
        return ConsumerFacts(
            since_poll=now - session.polled_at,
            since_progress=now - session.progress_at,
            without_partitions=now - moved_at if moved_at is not None else 0.0,
            longest_rebalance=longest_rebalance(self._settings),
            in_handler=now - oldest if oldest is not None else 0.0,
            since_blocking=now - blocked_at,
            blocked_for=blocked_for,
            unwritable=dict(self.dlq_handler.blocked),
            problems=[*session.problems(), *self.dlq_handler.problems(), *self._patience.problems()],
            sequence_problems=self._gauge.reasons() if self._gauge is not None else [],
            topics=session.topics,
        )

    def note_blocking(self, seconds: float) -> None:
        """The handler has blocked the event loop for so many seconds, and has just stopped."""
        self._blocked = (monotonic(), seconds)

    def status(self) -> ConsumerStatus:
        """May be asked from another thread."""
        session, subscription = self._session, self.subscription
        oldest = session.oldest_start() if session else None
        return ConsumerStatus(
            id=self.name,
            process=this_process(self._settings.instance_id),
            topics=list(subscription.topics),
            pattern=subscription.pattern.pattern if subscription.pattern else None,
            group_id=subscription.group_id,
            ordering="sequence" if subscription.sequencing else subscription.ordering,
            concurrency=subscription.concurrency,
            batch_size=subscription.batch_size,
            state=self.state,
            ready=self.ready,
            paused=self.paused,
            health=self.health(),
            assignment=[partition_status(session.client(), state) for state in list(session.states.values())]
            if session
            else [],
            counters=CounterValues.model_validate(self.counters),
            rates=self._rates(),
            oldest_in_flight_seconds=monotonic() - oldest if oldest is not None else None,
            last_message_at=_moment(session.last_message_at) if session else None,
            last_error=self.dlq_handler.log.last_error,
            restarts=self.restarts,
            last_restart_reason=_describe(self.restart_error) if self.restart_error else None,
            dlq_topics=self._dlq_topics(),
            ordered=self._gauge.status() if self._gauge is not None else None,
        )

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
            paused=self.paused,
            moving=session is not None and session.without_partitions_since is not None,
            in_handler=now - oldest if oldest is not None else None,
            parked=self._gauge.parked if self._gauge is not None else 0,
            reasons=self.health().reasons,
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

    # --- positions and rates

    def positions(self) -> dict[TopicPartition, int | None]:
        """The next offset to be fetched from each assigned partition; None if not known yet."""
        session = self._session
        return (
            {place: session.client().position(place) for place in list(session.states)} if session is not None else {}
        )

    def _rates(self) -> Rates:
        seconds = max(monotonic() - self._ready_since, 1e-3)
        received, processed = self._at_ready
        return Rates(
            received=(self.counters.received - received) / seconds,
            processed=(self.counters.processed - processed) / seconds,
        )


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None


def _new_breaks() -> Complaints:
    return Complaints(burst=1, interval=BREAK_SECONDS)


def _describe(error: BaseException) -> str:
    """Our own errors in full; of other errors only the type, as their text may hold data."""
    return str(error) if isinstance(error, AthomicError) else type(error).__name__
