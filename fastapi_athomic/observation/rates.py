"""How much a consumer does per second: over the last minute, from samples that are taken while the app runs anyway."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from .counters import Counters
from .status import Rates

WINDOW_SECONDS = 60.0
"""Rates are those of so long a time, or of the time since the consumer was first ready, if that is less."""
SAMPLE_SECONDS = 5.0
"""Between two samples: a rate is of up to so much longer than `WINDOW_SECONDS`."""
LOOK_SECONDS = 1.0
"""Between two looks whether samples are due, which may be late by as much: with many consumers each look counts."""


class _Sample(NamedTuple):
    at: float  # on the monotonic clock
    received: int
    processed: int
    failed: int


class RateMeter:
    """The rates of one consumer. Costs nothing per message: `sample` reads the counters every few seconds.

    `rates` may be asked from another thread than `sample` is called in.
    """

    def __init__(self, counters: Counters, clock: Callable[[], float] | None = None) -> None:
        self._counters = counters
        self._clock = clock or monotonic
        self._samples: tuple[_Sample, ...] = ()  # the oldest first; replaced as a whole, for readers in other threads

    def begin(self) -> None:
        """The consumer is ready: its rates count from now on, if they do not already."""
        if not self._samples:
            self._samples = (self._read(),)

    def sample(self) -> None:
        """Call it often: it takes a sample if one is due."""
        samples = self._samples
        if samples and self._clock() - samples[-1].at >= SAMPLE_SECONDS:
            newest = self._read()
            first = self._first(samples, newest.at)
            self._samples = (*samples[samples.index(first) :], newest)

    def rates(self) -> Rates:
        """Up to now."""
        samples, now = self._samples, self._read()
        if not samples:
            return Rates(received=0.0, processed=0.0, failed=0.0, seconds=0.0)
        since = self._first(samples, now.at)
        seconds = max(now.at - since.at, 1e-3)
        return Rates(
            received=(now.received - since.received) / seconds,
            processed=(now.processed - since.processed) / seconds,
            failed=(now.failed - since.failed) / seconds,
            seconds=seconds,
        )

    def _read(self) -> _Sample:
        counters = self._counters
        return _Sample(self._clock(), counters.received, counters.processed, counters.failed)

    @staticmethod
    def _first(samples: tuple[_Sample, ...], now: float) -> _Sample:
        """The youngest sample that is a whole window old, or the oldest."""
        old = [sample for sample in samples if now - sample.at >= WINDOW_SECONDS]
        return old[-1] if old else samples[0]
