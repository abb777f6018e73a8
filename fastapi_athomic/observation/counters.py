"""What has a consumer done? Plain integers, because they are counted on the hot path; readers derive rates and sums."""

from __future__ import annotations

from dataclasses import dataclass, field

from .timings import Timings


@dataclass(slots=True)
class Counters:
    """What one consumer service has done since it was built. Restarts do not reset it.

    Whoever does the work adds to the fields, in the event loop of the consumers; no field is ever lowered.
    """

    received: int = 0  # messages taken in from the broker
    processed: int = 0  # handled successfully
    failed: int = 0  # attempts that failed
    retried: int = 0  # further attempts that were started
    deferred: int = 0  # moved to a retry topic
    dead_lettered: int = 0
    redriven: int = 0  # dead letters sent back to their group
    skipped: int = 0  # passed over by a rule, such as failed messages without a DLQ
    redelivered: int = 0  # taken in again although done; not handled again
    duplicates: int = 0  # of the skipped: their sequence number was done or waiting already
    parked: int = 0  # put into the waiting room until their turn
    given_up: int = 0  # missing sequence numbers that are no longer waited for
    lost_to_retention: int = 0  # offsets that the broker deleted before they were read
    commits: int = 0
    rebalances: int = 0
    abandoned: int = 0  # still being handled when their partition had to be given up
    timings: Timings = field(default_factory=Timings)

    @property
    def done(self) -> int:
        """Messages that are finished one way or another, so that their offsets may be committed."""
        return self.processed + self.deferred + self.dead_lettered + self.skipped
