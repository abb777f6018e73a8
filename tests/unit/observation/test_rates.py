"""Rates are those of the last minute, and say over how many seconds. The clock is moved, nobody waits."""

from __future__ import annotations

import pytest

from fastapi_athomic.observation.counters import Counters
from fastapi_athomic.observation.rates import SAMPLE_SECONDS, WINDOW_SECONDS, RateMeter


class Consumer:
    """A consumer's counters and meter, on a clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.counters = Counters()
        self.meter = RateMeter(self.counters, lambda: self.now)

    def live(self, seconds: int, *, received: int = 0, processed: int = 0, failed: int = 0) -> None:
        """So many seconds with so much each second, and a tick in each."""
        for _ in range(seconds):
            self.now += 1
            self.counters.received += received
            self.counters.processed += processed
            self.counters.failed += failed
            self.meter.sample()


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


def test_before_it_is_ready_there_is_nothing(consumer: Consumer) -> None:
    consumer.live(10, received=5)
    rates = consumer.meter.rates()
    assert (rates.received, rates.processed, rates.failed, rates.seconds) == (0, 0, 0, 0)


def test_in_the_first_minute_they_are_those_since_it_was_ready(consumer: Consumer) -> None:
    consumer.meter.begin()
    consumer.live(20, received=3, processed=2, failed=1)
    rates = consumer.meter.rates()
    assert (rates.received, rates.processed, rates.failed, rates.seconds) == (3, 2, 1, 20)


def test_what_was_more_than_a_minute_ago_no_longer_counts(consumer: Consumer) -> None:
    consumer.meter.begin()
    consumer.live(600, received=100, processed=100)
    consumer.live(70, received=1, processed=2)
    rates = consumer.meter.rates()
    assert (rates.received, rates.processed) == (1, 2)
    consumer.live(70)
    assert consumer.meter.rates().received == 0


def test_they_say_over_how_many_seconds_they_are(consumer: Consumer) -> None:
    consumer.meter.begin()
    for _ in range(300):
        consumer.live(1, received=1)
        rates = consumer.meter.rates()
        assert rates.received == pytest.approx(1)
        alive = consumer.now - 1_000
        assert min(alive, WINDOW_SECONDS) <= rates.seconds <= WINDOW_SECONDS + SAMPLE_SECONDS


def test_a_loop_that_stood_still_makes_the_time_longer_and_the_rate_true(consumer: Consumer) -> None:
    consumer.meter.begin()
    consumer.live(5, received=10)
    consumer.now += 200  # nobody ticks
    rates = consumer.meter.rates()
    assert rates.seconds == 200, "since the last sample that is a minute old"
    assert rates.received == 0


def test_a_second_session_goes_on_with_the_same_minute(consumer: Consumer) -> None:
    consumer.meter.begin()
    consumer.live(30, received=2)
    consumer.meter.begin()
    assert consumer.meter.rates().seconds == 30


def test_few_samples_are_kept(consumer: Consumer) -> None:
    consumer.meter.begin()
    consumer.live(1_000, received=1)
    assert len(consumer.meter._samples) <= WINDOW_SECONDS / SAMPLE_SECONDS + 2
