"""How long do messages wait and take? Histograms of plain integers, because they are counted on the hot path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from time import monotonic, time

# In seconds, as OpenTelemetry's semantic conventions advise for `messaging.process.duration`.
PROCESS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# In seconds, from publish to handler: a backlog may be hours old.
QUEUE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)

SHORTEST = PROCESS_BOUNDS[0]
_QUEUE_EDGES = (float("-inf"), *QUEUE_BOUNDS, float("inf"))


class Histogram:
    """Counts per bucket, not cumulative; the last bucket is for all values above the greatest bound.

    `Timings` adds to `counts` and `total`; others read.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # seconds

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound with the number of values up to it, as Prometheus expects; the last bound is infinite."""
        summed, seen = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            summed.append((bound, seen))
        return summed


class Timings:
    """The durations of one consumer's messages.

    An exporter may set `recorder`, after the consumers are built and before they start: it is then called with each
    duration in seconds.
    """

    __slots__ = ("_above", "_bucket", "_up_to", "process", "queue", "recorder", "wall_offset")

    def __init__(self) -> None:
        self.process = Histogram(PROCESS_BOUNDS)  # in the handler, decoding included
        self.queue = Histogram(QUEUE_BOUNDS)  # from the message's timestamp to the handler
        self.recorder: Callable[[float], None] | None = None
        self.wall_offset = 0.0  # add it to the monotonic clock for the wall clock, both in seconds
        self._find_bucket(0.0)
        self.set_clock()

    def set_clock(self) -> None:
        """Reads the offset between the clocks. Call it from time to time, as the wall clock may be changed."""
        self.wall_offset = time() - monotonic()

    def note(self, began: float, ended: float, timestamp: int) -> None:
        """Counts one message that was handled.

        `began` and `ended`: on the monotonic clock, in seconds. `timestamp`: the message's, in milliseconds since the
        epoch.
        """
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
        if waited > 0:  # the clock of the producer's machine may be ahead
            queue.total += waited

    def look_up_at(self, now: float, deadline: float) -> float:
        """When the caller must call `note_all`, on the monotonic clock.

        At `deadline`, or sooner, as `note_all` assumes that no message takes longer than `SHORTEST`; at once if a
        `recorder` wants each duration.
        """
        return min(deadline, now + SHORTEST) if self.recorder is None else now

    def note_all(self, since: float, until: float, timestamps: list[int]) -> None:
        """Counts messages that were handled one right after the other, and clears `timestamps`.

        They ran back to back from `since` to `until`, none of them longer than `SHORTEST`. Their waiting times are
        counted as if all had begun at `since`.
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
        """Remembers the bucket, as messages that follow each other have waited for about as long."""
        self._bucket = bucket = bisect_left(QUEUE_BOUNDS, waited)
        self._above, self._up_to = _QUEUE_EDGES[bucket], _QUEUE_EDGES[bucket + 1]
