"""Plain integers on the hot path; whoever asks makes figures of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .timings import Timings


@dataclass(slots=True)
class Counters:
    """What one consumer service has done since it was built. Restarts do not reset it."""

    received: int = 0  # taken in from the broker
    processed: int = 0  # handled with success
    failed: int = 0  # attempts that failed
    retried: int = 0  # attempts that were started again
    deferred: int = 0  # moved to a retry topic
    dead_lettered: int = 0
    redriven: int = 0  # dead letters that were sent back
    skipped: int = 0  # by a rule: failed without a DLQ
    redelivered: int = 0  # taken in again, though known to be done: not handled again
    duplicates: int = 0  # of the skipped: their sequence number was done, or was there already
    parked: int = 0  # put into the waiting room, before their turn
    given_up: int = 0  # sequence numbers that did not come and are no longer waited for
    lost_to_retention: int = 0  # offsets the broker dropped before they were read
    commits: int = 0
    rebalances: int = 0
    abandoned: int = 0  # still running when their partition had to be given up
    timings: Timings = field(default_factory=Timings)

    @property
    def done(self) -> int:
        """Concluded by a rule that allows the commit."""
        return self.processed + self.deferred + self.dead_lettered + self.skipped
