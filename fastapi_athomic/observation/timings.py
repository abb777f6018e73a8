"""How long messages take: histograms of plain integers on the hot path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from time import monotonic, time

# The advice of OpenTelemetry's conventions for `messaging.process.duration`, in seconds.
PROCESS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# From publish to handler: a backlog may be hours old.
QUEUE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)

SHORTEST = PROCESS_BOUNDS[0]
_QUEUE_EDGES = (float("-inf"), *QUEUE_BOUNDS, float("inf"))


class Histogram:
    """Counts per bucket, not yet summed up; the last one is for all beyond the greatest bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # seconds

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound with the number of values up to it, as Prometheus wants them; the last bound is infinite."""
        summed, seen = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            summed.append((bound, seen))
        return summed


class Timings:
    """Of one consumer."""

    __slots__ = ("_above", "_bucket", "_up_to", "process", "queue", "recorder", "wall_offset")

    def __init__(self) -> None:
        self.process = Histogram(PROCESS_BOUNDS)  # in the handler, decoding included
        self.queue = Histogram(QUEUE_BOUNDS)  # from the message's timestamp to the handler
        self.recorder: Callable[[float], None] | None = None  # told each duration too
        self.wall_offset = 0.0
        self._find_bucket(0.0)
        self.set_clock()

    def set_clock(self) -> None:
        """The wall clock may be set while we run: called now and then."""
        self.wall_offset = time() - monotonic()

    def note(self, began: float, ended: float, timestamp: int) -> None:
        """Times on the monotonic clock, in seconds; `timestamp` is the message's, in milliseconds since the epoch."""
        duration = ended - began
        process = self.process
        process.total += duration
        if duration <= SHORTEST:
            process.counts[0] += 1
        else:
            process.counts[bisect_left(PROCESS_BOUNDS, duration)] += 1
        if self.recorder is not None:
            self.recorder(duration)
        waited = began + self.wall_offset - timestamp / 1000
        queue = self.queue
        if not self._above < waited <= self._up_to:
            self._find_bucket(waited)
        queue.counts[self._bucket] += 1
        if waited > 0:  # clocks of other machines may be ahead
            queue.total += waited

    def look_up_at(self, now: float, deadline: float) -> float:
        """When `note_all` is due: at the deadline, or as long as what it assumes holds; at once if somebody records."""
        return min(deadline, now + SHORTEST) if self.recorder is None else now

    def note_all(self, since: float, until: float, timestamps: list[int]) -> None:
        """Notes messages that were handled one right after the other, and forgets their `timestamps`.

        Together they took from `since` to `until`, none longer than `SHORTEST`. As far as their waiting is concerned
        they all began at `since`.
        """
        count = len(timestamps)
        process, queue = self.process, self.queue
        process.total += until - since
        process.counts[0] += count
        arrived = since + self.wall_offset
        if self._above < arrived - max(timestamps) / 1000 and arrived - min(timestamps) / 1000 <= self._up_to:
            queue.counts[self._bucket] += count
        else:
            for timestamp in timestamps:
                queue.counts[bisect_left(QUEUE_BOUNDS, arrived - timestamp / 1000)] += 1
        queue.total += max(0.0, count * arrived - sum(timestamps) / 1000)
        timestamps.clear()

    def _find_bucket(self, waited: float) -> None:
        """Messages that follow each other have waited about as long, so the bucket is remembered."""
        self._bucket = bucket = bisect_left(QUEUE_BOUNDS, waited)
        self._above, self._up_to = _QUEUE_EDGES[bucket], _QUEUE_EDGES[bucket + 1]
