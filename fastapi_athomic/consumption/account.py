"""What is to be seen of a consumer from outside: its health, its status, and what it has still to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple

from ..clock import utc_now
from ..failures.dlq import DLQHandler
from ..handling.patience import Patience
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
    StatusScope,
)
from ..observation.waiting import ConsumerWork, PartitionWork
from ..propagation.headers import HeadersOrchestrator
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .controls import Controls
from .partitions import PartitionState
from .progress import partition_status, partition_work
from .session import ConsumerSession, longest_rebalance
from .states import SAID, ServiceState
from .supervision import Supervision, describe


class ServiceParts(NamedTuple):
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
    function: Callable[..., Any]  # the handler, for documents
    key_types: Sequence[Any]  # what keys are decoded into; mostly none, or one


class Account:
    """Tells of one consumer, and changes nothing. May be asked from another thread, but for `settled` and `work`."""

    def __init__(self, parts: ServiceParts, life: Supervision) -> None:
        self.meter = RateMeter(parts.counters)
        self._parts = parts
        self._life = life
        self._blocked = (float("-inf"), 0.0)  # when its handler last blocked the event loop, and for how long

    @property
    def paused(self) -> bool:
        """An operator has paused the whole consumer."""
        return self._parts.controls.pauses.whole

    def health(self) -> ConsumerHealth:
        """Whether it consumes, and what somebody should look at."""
        if self._life.state is ServiceState.ELSEWHERE:
            return ConsumerHealth(status=HealthStatus.HEALTHY)
        if self._life.died:
            said = "what builds its sessions has ended: nothing is consumed until the process is restarted"
            reason = Reason(code=ReasonCode.SUPERVISOR_ENDED, message=said)
            return ConsumerHealth(status=HealthStatus.UNHEALTHY, reasons=[reason])
        if self._life.state is not ServiceState.RUNNING or self._life.session is None:
            status = HealthStatus.UNHEALTHY if self._life.has_been_ready else HealthStatus.STARTING
            said = f" ({SAID[self._life.state]})" if self._life.state in SAID else ""
            error = f": {describe(self._life.restart_error)}" if self._life.restart_error else ""
            reason = Reason(code=self._code(), message=f"{self._life.state}{said}{error}", since=self._life.changed_at)
            return ConsumerHealth(status=status, reasons=[reason])
        return judge(self._facts(self._life.session), self._parts.subscription, self._parts.settings)

    def _code(self) -> ReasonCode:
        """Of a consumer that does not run."""
        if self._life.state in (ServiceState.STOPPING, ServiceState.STOPPED):
            return ReasonCode.STOPPED
        return ReasonCode.STARTING if self._life.restart_error is None else ReasonCode.RESTARTING

    def _facts(self, session: ConsumerSession) -> ConsumerFacts:
        now = monotonic()
        oldest, moved_at = session.oldest_start(), session.without_partitions_since
        blocked_at, blocked_for = self._blocked
        arrival = session.oldest_arrival()
        held_back = self._parts.controls.limits.hold_back()  # as was asked for, which is nobody's fault
        broke = [
            moment for moment in list(self._life.broke_at) if now - moment < self._parts.settings.health.restarts_within
        ]
        return ConsumerFacts(
            now=utc_now(),
            since_poll=now - session.polled_at,
            since_progress=now - session.progress_at,
            without_partitions=_since(moved_at, now),
            longest_rebalance=longest_rebalance(self._parts.settings),
            in_handler=_since(oldest, now),
            in_queue=0.0 if held_back else _since(arrival, now),
            full={} if held_back else {place: now - since for place, since in session.full_since.items()},
            in_doubt=_since(session.doubted_at, now),
            cut_off=session.cut_off,
            evicted=_since(session.evicted_at, now),
            restarts=len(broke),
            since_restarts=_since(min(broke, default=None), now),
            restart_error=describe(self._life.restart_error) if self._life.restart_error else None,
            since_blocking=now - blocked_at,
            blocked_for=blocked_for,
            unwritable=list(self._parts.dlq_handler.blocked.values()),
            problems=[
                *self._parts.controls.limits.problems(),
                *session.problems(),
                *self._parts.dlq_handler.problems(),
                *self._parts.patience.problems(),
            ],
            sequence_problems=self._parts.gauge.reasons() if self._parts.gauge is not None else [],
            absent_since=session.absent_since,
            topics=session.topics,
        )

    def note_blocking(self, seconds: float) -> None:
        """The handler has blocked the event loop for so many seconds, and has just stopped."""
        self._blocked = (monotonic(), seconds)

    def status(self) -> ConsumerStatus:
        """Speaks for this process."""
        session, subscription = self._life.session, self._parts.subscription
        process = this_process(self._parts.settings.instance_id)
        health, partitions = self.health(), self._partition_statuses(session, process.instance_id)
        lag, lag_seconds = total_lag(partitions)
        oldest = session.oldest_start() if session else None
        in_handler = monotonic() - oldest if oldest is not None else None
        arrival = session.oldest_arrival() if session else None
        in_queue = monotonic() - arrival if arrival is not None else None
        last_errors = self._parts.dlq_handler.log.last_errors
        return ConsumerStatus(
            id=self._life.name,
            process=process,
            scope=StatusScope.PROCESS,
            scope_note=None,
            members=[
                MemberStatus(
                    **process.model_dump(),
                    state=self._life.state,
                    ready=self._life.ready,
                    paused=self.paused,
                    health=health.status,
                    partitions=len(partitions),
                    concurrency=self._parts.controls.concurrency,
                    seen_at=utc_now(),
                )
            ],
            topics=list(subscription.topics),
            pattern=subscription.pattern.pattern if subscription.pattern else None,
            group_id=subscription.group_id,
            ordering=order_of(subscription),
            concurrency=self._parts.controls.concurrency,
            batch_size=subscription.batch_size,
            settings=self._parts.effective,
            state=self._life.state,
            ready=self._life.ready,
            paused=self.paused,
            pauses=self._parts.controls.pauses.all(),
            pauses_note=self._parts.controls.pauses_note,
            rate_limit=self._parts.controls.limits.rate_status(),
            breaker=self._parts.controls.limits.breaker.status(),
            health=health,
            assignment=partitions,
            lag=lag,
            lag_seconds=lag_seconds,
            counters=CounterValues.model_validate(self._parts.counters),
            rates=self.meter.rates(),
            oldest_in_queue_seconds=in_queue,
            oldest_in_handler_seconds=in_handler,
            oldest_in_flight_seconds=in_handler,
            last_message_at=_moment(session.last_message_at) if session else None,
            last_error=last_errors[0] if last_errors else None,
            last_errors=last_errors,
            restarts=self._life.restarts,
            last_restart_reason=describe(self._life.restart_error) if self._life.restart_error else None,
            dlq_topics=self._dlq_topics(),
            ordered=self._parts.gauge.status() if self._parts.gauge is not None else None,
        )

    @staticmethod
    def _partition_statuses(session: ConsumerSession | None, member: str) -> list[PartitionStatus]:
        if session is None:
            return []
        return [partition_status(session.client(), state, member) for state in list(session.states.values())]

    def settled(self) -> bool:
        """All known messages of the assigned partitions are concluded and committed. For the consumers' event loop."""
        if self._life.state is ServiceState.ELSEWHERE:
            return True
        return self._life.session is not None and self._life.ready and self._life.session.settled()

    def work(self, ends: Mapping[TopicPartition, int]) -> ConsumerWork:
        """What is not done. `ends`: of partitions, where the broker says they end. For the consumers' event loop."""
        session, now = self._life.session, monotonic()
        oldest = session.oldest_start() if session is not None else None
        states = list(session.states.values()) if session is not None else []
        partitions = [self._work(session, state, ends) for state in states] if session is not None else []
        return ConsumerWork(
            handler_id=self._life.name,
            ready=self._life.ready,
            pauses=self._parts.controls.pauses.all(),
            moving=session is not None and session.without_partitions_since is not None,
            in_handler=now - oldest if oldest is not None else None,
            parked=self._parts.gauge.parked if self._parts.gauge is not None else 0,
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
            blocked=place in self._parts.dlq_handler.blocked,
            role=self._parts.dlq_handler.returns.place(place.topic),
        )

    # --- its topics

    def partitions(self) -> list[TopicPartition]:
        """Those assigned here."""
        return list(self._life.session.states) if self._life.session is not None else []

    def consumed_topics(self) -> list[str]:
        """The source topics; for a pattern, those of which a partition is assigned here."""
        source_of = self._parts.dlq_handler.returns.source_of
        return sorted({*self._parts.subscription.topics, *(source_of(place.topic) for place in self.partitions())})

    def written_topics(self) -> list[str]:
        """The topics that the handler published to, and its DLQ topics if it had dead letters."""
        letters = self._dlq_topics() if self._parts.counters.dead_lettered else []
        return sorted({*self._parts.orchestrator.published_topics, *letters})

    def _dlq_topics(self) -> list[str]:
        topic_for = self._parts.dlq_handler.topic_for
        return sorted({topic for source in self.consumed_topics() if (topic := topic_for(source)) is not None})


def _since(moment: float | None, now: float) -> float:
    """Seconds; 0 if it has not happened."""
    return now - moment if moment is not None else 0.0


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
