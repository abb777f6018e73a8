"""Tokens come with time, are never more than the burst, and what did not begin gives them back."""

from __future__ import annotations

import pytest

from fastapi_athomic import RateLimit
from fastapi_athomic.consumption.bucket import TokenBucket
from tests.support.clock import Clock, set_clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    set_clock(monkeypatch, clock, "consumption.bucket")
    return clock


def taken(bucket: TokenBucket, most: int = 100) -> int:
    return next(number for number in range(most + 1) if number == most or not bucket.take(1))


def limit(rate: float, burst: int) -> RateLimit:
    return RateLimit(messages_per_second=rate, burst=burst)


def test_it_begins_full_and_fills_with_time(clock: Clock) -> None:
    bucket = TokenBucket(limit(2, 5))
    assert taken(bucket) == 5
    assert bucket.seconds_until(1) == 0.5
    clock.now += 0.5
    assert taken(bucket) == 1
    clock.now += 1000
    assert taken(bucket) == 5, "no more than the burst"


def test_a_batch_larger_than_the_burst_needs_a_full_one_and_leaves_a_debt(clock: Clock) -> None:
    bucket = TokenBucket(limit(1, 4))
    assert bucket.take(1)
    assert not bucket.take(10)
    clock.now += 1
    assert bucket.take(10)
    assert bucket.seconds_until(1) == 7
    clock.now += 6
    assert not bucket.take(1)
    clock.now += 1
    assert bucket.take(1)


def test_what_is_given_back_can_be_taken_again(clock: Clock) -> None:
    bucket = TokenBucket(limit(1, 4))
    assert bucket.take(3)
    bucket.give_back(3)
    bucket.give_back(3)
    assert taken(bucket) == 4


def test_another_limit_keeps_what_is_there(clock: Clock) -> None:
    bucket = TokenBucket(limit(1, 4))
    assert bucket.take(2)
    bucket.set(limit(10, 100))
    assert taken(bucket) == 2
    bucket.set(limit(10, 1))
    clock.now += 10
    assert taken(bucket) == 1
    bucket.set(None)
    assert taken(bucket) == 100
    assert bucket.seconds_until(50) == 0
    bucket.give_back(1)
    bucket.set(limit(10, 3))
    assert taken(bucket) == 3, "who had none begins with a full one"
