from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fastapi_athomic.consumption.controls import EVERYTHING, Controls, Pauses, Scope, new_pause, scope_of
from fastapi_athomic.messages import TopicPartition

T, T0, T1 = Scope("t"), Scope("t", 0), Scope("t", 1)
NOW = datetime.now(UTC)


def pauses(*scopes: Scope) -> Pauses:
    return Pauses([new_pause(scope, actor="ann") for scope in scopes])


@pytest.mark.parametrize(
    ("scopes", "covered"),
    [
        ([], set()),
        ([EVERYTHING], {"t0", "t1", "u0"}),
        ([T], {"t0", "t1"}),
        ([T1], {"t1"}),
        ([T1, Scope("u")], {"t1", "u0"}),
    ],
)
def test_a_pause_covers_its_partitions_and_no_others(scopes: list[Scope], covered: set[str]) -> None:
    known = pauses(*scopes)
    places = {"t0": TopicPartition("t", 0), "t1": TopicPartition("t", 1), "u0": TopicPartition("u", 0)}
    assert {name for name, place in places.items() if known.covers(place)} == covered
    assert known.whole is (EVERYTHING in scopes)


@pytest.mark.parametrize(
    ("scope", "within"), [(EVERYTHING, [EVERYTHING, T, T0, T1]), (T, [T, T0, T1]), (T1, [T1]), (Scope("u"), [])]
)
def test_the_pauses_within_a_scope_are_its_parts(scope: Scope, within: list[Scope]) -> None:
    assert pauses(EVERYTHING, T, T0, T1).within(scope) == within


def test_one_pause_for_each_scope_the_oldest_first() -> None:
    known = pauses(T1, T0)
    later = new_pause(T1, actor="bob")
    known.put(later)
    assert [(scope_of(pause), pause.actor) for pause in known.all()] == [(T0, "ann"), (T1, "bob")]
    assert known.get(T1) == later
    assert known.remove([T, T1]) == [later]
    assert [scope_of(pause) for pause in known.all()] == [T0]


def test_pauses_end_in_the_order_of_their_limits() -> None:
    known = Pauses(
        new_pause(Scope("t", n), actor="ann", until=NOW + timedelta(seconds=n) if n else None) for n in range(3)
    )
    assert known.next_end() == NOW + timedelta(seconds=1)
    assert known.due(NOW) == []
    assert known.due(NOW + timedelta(seconds=1)) == [T1]
    assert known.due(NOW + timedelta(seconds=9)) == [T1, Scope("t", 2)]
    known.remove([T1, Scope("t", 2)])
    assert known.next_end() is None


def test_more_is_read_ahead_for_more_concurrency() -> None:
    controls = Controls(concurrency=2, paused=True, max_buffered=lambda concurrency: concurrency * 100)
    assert (controls.max_buffered, controls.pauses.whole) == (200, True)
    controls.concurrency = 7
    assert (controls.max_buffered, controls.declared_concurrency) == (700, 2)
