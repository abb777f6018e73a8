"""One status of several processes: what is summed, what is the worst, and who said what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi_athomic import AthomicSettings
from fastapi_athomic.observation.counters import Counters
from fastapi_athomic.observation.effective import effective_settings
from fastapi_athomic.observation.group_status import together, total_lag
from fastapi_athomic.observation.reasons import Reason, ReasonCode
from fastapi_athomic.observation.status import (
    BreakerStatus,
    ConsumerHealth,
    ConsumerStatus,
    CounterValues,
    HealthStatus,
    LastError,
    MemberStatus,
    OrderedStatus,
    PartitionStatus,
    PauseStatus,
    ProcessInfo,
    RateLimitStatus,
    Rates,
    StatusScope,
)
from fastapi_athomic.subscriptions import Subscription

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GONE = Reason(code=ReasonCode.TOPIC_MISSING, message="topic t is gone", since=None)
STUCK = Reason(code=ReasonCode.HANDLER_STUCK, message="stuck", since=NOW)
ASKED = ProcessInfo(instance_id="asked", host="web", pid=9)


def partition(number: int, member: str, *, lag: int | None = 0, lag_seconds: float | None = 0.0) -> PartitionStatus:
    return PartitionStatus(
        topic="t",
        partition=number,
        position=10,
        committed=10,
        end_offset=10 + (lag or 0),
        lag=lag,
        lag_seconds=lag_seconds,
        in_flight=0,
        paused=False,
        member=member,
    )


def error(name: str, seconds: float) -> LastError:
    at = NOW + timedelta(seconds=seconds)
    return LastError(type=name, message=None, stage="handler", topic="t", partition=0, offset=1, at=at, count=1)


def part(name: str, *, seen: float = 0.0, concurrency: int = 2, timeout: float | None = None, **fields: Any) -> Any:
    """What one process says. `seen`: in seconds after `NOW`."""
    subscription = Subscription(
        handler_id="h", topics=("t",), pattern=None, group_id="g", concurrency=concurrency, timeout=timeout
    )
    counters = fields.pop("counters", {})
    status = ConsumerStatus(
        id="h",
        process=ProcessInfo(instance_id=name, host=f"host-{name}", pid=1),
        scope=StatusScope.PROCESS,
        scope_note=None,
        members=[],
        topics=["t"],
        pattern=None,
        group_id="g",
        ordering="partition",
        concurrency=concurrency,
        batch_size=None,
        settings=effective_settings(
            subscription, AthomicSettings(), target_type=str, payloads={"t": "json"}, max_buffered=500
        ),
        state="running",
        ready=True,
        paused=False,
        health=ConsumerHealth(status=HealthStatus.HEALTHY),
        assignment=[],
        lag=0,
        lag_seconds=0.0,
        counters=CounterValues.model_validate(Counters(**counters)),
        rates=Rates(received=0, processed=0, failed=0, seconds=60),
        oldest_in_queue_seconds=None,
        oldest_in_handler_seconds=None,
        oldest_in_flight_seconds=None,
        last_message_at=None,
        last_error=None,
        last_errors=[],
        restarts=0,
        last_restart_reason=None,
        dlq_topics=["t.g.dlq"],
        ordered=None,
    ).model_copy(update=fields)
    member = MemberStatus(
        **status.process.model_dump(),
        state=status.state,
        ready=status.ready,
        paused=status.paused,
        health=status.health.status,
        partitions=len(status.assignment),
        concurrency=concurrency,
        seen_at=NOW + timedelta(seconds=seen),
    )
    return status.model_copy(update={"members": [member]})


def of(*parts: ConsumerStatus) -> ConsumerStatus:
    return together(parts, ASKED)


def test_who_answers_and_for_whom() -> None:
    found = of(part("a"), part("b", seen=-4))
    assert found.process == ASKED
    assert found.scope is StatusScope.GROUP
    assert [(member.instance_id, member.host) for member in found.members] == [("a", "host-a"), ("b", "host-b")]
    assert [member.seen_at for member in found.members] == [NOW, NOW - timedelta(seconds=4)]


def test_counters_rates_concurrency_and_restarts_are_summed() -> None:
    found = of(
        part(
            "a",
            counters={"received": 5, "failed": 1},
            restarts=1,
            rates=Rates(received=1, processed=2, failed=3, seconds=60),
        ),
        part(
            "b",
            counters={"received": 7, "commits": 2},
            restarts=2,
            rates=Rates(received=4, processed=5, failed=6, seconds=9),
        ),
        part("c", rates=Rates(received=0, processed=0, failed=0, seconds=0)),
    )
    assert (found.counters.received, found.counters.failed, found.counters.commits) == (12, 1, 2)
    assert found.rates == Rates(received=5, processed=7, failed=9, seconds=9)
    assert found.concurrency == 6
    assert found.restarts == 3


def test_each_partition_is_shown_once_with_who_has_it() -> None:
    found = of(
        part("a", seen=0, assignment=[partition(2, "a", lag=3, lag_seconds=1.0), partition(0, "a")]),
        part("b", seen=-3, assignment=[partition(1, "b", lag=4, lag_seconds=7.5), partition(2, "b", lag=99)]),
    )
    assert [(each.partition, each.member) for each in found.assignment] == [(0, "a"), (1, "b"), (2, "a")]
    assert (found.lag, found.lag_seconds) == (7, 7.5), "of partition 2 what was seen last"


def test_a_lag_that_is_not_known_everywhere_is_not_known() -> None:
    assert total_lag([partition(0, "a", lag=3, lag_seconds=1.0), partition(1, "a", lag=2, lag_seconds=None)]) == (
        5,
        None,
    )
    assert total_lag([partition(0, "a", lag=3, lag_seconds=1.0), partition(1, "a", lag=None, lag_seconds=None)]) == (
        None,
        None,
    )
    assert total_lag([]) == (0, 0.0)


def test_health_is_the_worst_and_reasons_name_who_gives_them() -> None:
    found = of(
        part("a", health=ConsumerHealth(status=HealthStatus.DEGRADED, reasons=[GONE])),
        part("b", health=ConsumerHealth(status=HealthStatus.UNHEALTHY, reasons=[GONE, STUCK])),
        part("c"),
    )
    assert found.health.status is HealthStatus.UNHEALTHY
    assert [(reason.code, reason.message) for reason in found.health.reasons] == [
        (ReasonCode.TOPIC_MISSING, "a, b: topic t is gone"),
        (ReasonCode.HANDLER_STUCK, "b: stuck"),
    ]
    assert GONE.message == "topic t is gone", "the parts stay as they were"
    assert [member.health for member in found.members] == [
        HealthStatus.DEGRADED,
        HealthStatus.UNHEALTHY,
        HealthStatus.HEALTHY,
    ]


def test_the_state_is_that_of_the_process_furthest_from_running() -> None:
    assert of(part("a"), part("b", state="starting", ready=False)).state == "starting"
    assert of(part("a", state="starting"), part("b", state="backing_off")).state == "backing_off"
    assert of(part("a", state="stopping"), part("b")).state == "stopping"
    assert of(part("a"), part("b", state="a state of a later version")).state == "a state of a later version"
    assert not of(part("a"), part("b", ready=False)).ready
    assert of(part("a"), part("b")).ready


def test_it_is_paused_when_all_are() -> None:
    assert of(part("a", paused=True), part("b", paused=True)).paused
    mixed = of(part("a", paused=True), part("b"))
    assert not mixed.paused
    assert [member.paused for member in mixed.members] == [True, False]


def test_pauses_are_shown_once() -> None:
    shared = PauseStatus(since=NOW, actor="ann")
    partition_0 = PauseStatus(topic="t", partition=0, since=NOW, actor="ann")
    partition_1 = PauseStatus(topic="t", partition=1, since=NOW, actor="ann")
    topic = PauseStatus(topic="t", since=NOW, actor="bob", reason="only there")
    found = of(part("a", pauses=[partition_1, shared]), part("b", pauses=[shared, partition_0, topic]))
    assert found.pauses == [shared, topic, partition_0, partition_1]


def test_the_oldest_and_the_newest_of_all_are_shown() -> None:
    found = of(
        part("a", oldest_in_queue_seconds=3.0, oldest_in_handler_seconds=None, last_message_at=NOW),
        part("b", oldest_in_queue_seconds=None, oldest_in_handler_seconds=9.0, last_message_at=NOW - timedelta(1)),
    )
    assert found.oldest_in_queue_seconds == 3.0
    assert found.oldest_in_handler_seconds == found.oldest_in_flight_seconds == 9.0
    assert found.last_message_at == NOW
    assert of(part("a"), part("b")).last_message_at is None


def test_the_last_errors_of_all_are_in_the_order_of_time() -> None:
    found = of(
        part("a", last_errors=[error("E5", 5), error("E1", 1)]),
        part("b", last_errors=[error(f"E{second}", second) for second in (6, 4, 3, 2)]),
    )
    assert [each.type for each in found.last_errors] == ["E6", "E5", "E4", "E3", "E2"]
    assert found.last_error is not None
    assert found.last_error.type == "E6"
    assert of(part("a")).last_error is None


def test_topics_of_all_are_shown() -> None:
    found = of(part("a", topics=["t", "x"], dlq_topics=[]), part("b", topics=["t"], dlq_topics=["t.g.dlq"]))
    assert (found.topics, found.dlq_topics) == (["t", "x"], ["t.g.dlq"])


def test_why_it_broke_off_is_what_was_seen_last() -> None:
    assert (
        of(
            part("a"), part("b", last_restart_reason="newer"), part("c", last_restart_reason="older")
        ).last_restart_reason
        == "newer"
    )


def test_settings_that_differ_are_named_at_the_member() -> None:
    found = of(part("a"), part("b", concurrency=5, timeout=3.0))
    assert [member.differs for member in found.members] == [[], ["concurrency", "timeout"]]
    assert found.settings.concurrency == 2


def test_of_an_ordered_group_what_the_store_said_is_not_summed() -> None:
    def waiting(**numbers: Any) -> OrderedStatus:
        return OrderedStatus(
            **({"aggregates_waiting": 0, "parked": 0, "blocked": 0, "full": 0, "oldest_gap_seconds": 0.0} | numbers)
        )

    found = of(
        part("a", ordered=waiting(aggregates_waiting=4, parked=9, blocked=1, full=1, oldest_gap_seconds=2.0)),
        part("b", ordered=waiting(aggregates_waiting=5, parked=8, blocked=2, oldest_gap_seconds=3.0)),
    )
    assert found.ordered == waiting(aggregates_waiting=5, parked=9, blocked=3, full=1, oldest_gap_seconds=3.0)
    assert of(part("a")).ordered is None


def breaker(state: str) -> BreakerStatus:
    return BreakerStatus(state=state, since=NOW, until=None, forced=False, failures=0, error=None)


def test_rate_limits_are_summed_and_an_open_breaker_stands_for_all() -> None:
    limited = part(
        "a", rate_limit=RateLimitStatus(messages_per_second=2.5, burst=3, waiting=1), breaker=breaker("closed")
    )
    other = part("b", rate_limit=RateLimitStatus(messages_per_second=5, burst=5, waiting=2), breaker=breaker("open"))
    found = of(limited, other, part("c", rate_limit=other.rate_limit, breaker=breaker("half_open")))
    assert found.rate_limit == RateLimitStatus(messages_per_second=12.5, burst=13, waiting=5)
    assert found.breaker == breaker("open")
    found = of(limited, part("b"))
    assert (found.rate_limit, found.breaker) == (None, breaker("closed"))
