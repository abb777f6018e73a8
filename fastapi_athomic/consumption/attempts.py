"""The attempts at one message: how often it was tried, and what its failures add to the counters."""

from __future__ import annotations

from ..failures.dlq import Judgement, Verdict
from ..observation.counters import Counters
from ..outcomes import FailureContext


class AttemptState:
    """The state of the attempts at the message in front. Base of what handles messages one after the other.

    A lane inherits from it: a separate object would cost an allocation per lane, and an attribute look-up per message.
    """

    __slots__ = ("attempt", "first_failed_at", "letter")

    attempt: int  # the number of the next attempt, from 1
    first_failed_at: float  # seconds since the epoch; 0: it has not failed
    letter: FailureContext | None  # its dead letter could not be written yet: that is tried again, not the handler

    def begin_anew(self) -> None:
        """Another message is in front."""
        self.attempt, self.first_failed_at, self.letter = 1, 0.0, None

    def note_failure(self, judgement: Judgement, counters: Counters) -> float | None:
        """Counts a failure and remembers it for the next attempt.

        Returns the seconds to wait before that; None if the message is concluded.
        """
        count_judgement(counters, judgement, again=self.letter is not None)
        if judgement.settled:
            self.begin_anew()
            return None
        if judgement.verdict is Verdict.RETRY:
            self.attempt += 1
            self.first_failed_at = judgement.failure.first_failed_at
        else:
            self.letter = judgement.failure
        return judgement.delay


def count_judgement(counters: Counters, judgement: Judgement, *, again: bool = False) -> None:
    """Adds a judgement to the counters. `again`: its failure is counted already, only the dead letter came later."""
    counters.failed += not again
    counters.retried += judgement.verdict is Verdict.RETRY
    counters.deferred += judgement.verdict is Verdict.DEFERRED
    counters.dead_lettered += judgement.verdict is Verdict.DEAD_LETTERED
    counters.skipped += judgement.verdict is Verdict.SKIPPED
