"""The attempts at one message: which one is next, and how failures are counted."""

from __future__ import annotations

from ..failures.dlq import Judgement, Verdict
from ..observation.counters import Counters
from ..outcomes import FailureContext


class AttemptState:
    """Attempt counter for the message at the head of a lane, or for the next message of an aggregate.

    `Lane` and `Aggregate` inherit from it: a separate object would cost an allocation for each of them and an attribute
    look-up per message. They set the fields when they are made; an aggregate also when another message is its next, and
    its strategy sets `attempt` of one that is blocked. Everything else is done by the methods here.
    """

    __slots__ = ("attempt", "first_failed_at", "letter")

    attempt: int  # the number of the next attempt, from 1
    first_failed_at: float  # seconds since the epoch; 0: it has not failed
    letter: FailureContext | None  # a dead letter that could not be written: try that again, not the handler

    def begin_anew(self) -> None:
        """Starts again at the first attempt: the message is concluded, or another one is at the head."""
        self.attempt, self.first_failed_at, self.letter = 1, 0.0, None

    def note_failure(self, judgement: Judgement, counters: Counters) -> float | None:
        """Counts a failure, and prepares the next attempt.

        Returns the seconds to wait before that attempt; None if there will be none: the offset can be concluded.
        """
        if judgement.verdict is Verdict.WAITS:
            return judgement.delay
        count_judgement(counters, judgement, again=self.letter is not None)
        if judgement.settled:
            self.begin_anew()
            return None
        if judgement.verdict is Verdict.RETRY:
            if not judgement.free:
                self.attempt += 1
                self.first_failed_at = judgement.failure.first_failed_at
        else:
            self.letter = judgement.failure
        return judgement.delay


def count_judgement(counters: Counters, judgement: Judgement, *, again: bool = False) -> None:
    """Adds a judgement to the counters. `again`: the failure itself has been counted before."""
    counters.failed += not again
    counters.retried += judgement.verdict is Verdict.RETRY
    counters.deferred += judgement.verdict is Verdict.DEFERRED
    counters.dead_lettered += judgement.verdict is Verdict.DEAD_LETTERED
    counters.skipped += judgement.verdict is Verdict.SKIPPED
