"""What a consumption strategy is, and what it is built from.

A session gives messages to its strategy. The strategy decides when each goes to the processor, and reports the result
to the message's partition. The strategies are in `lanes` (one message at a time), `batches`, and `sequencing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict

from ..loop.fairness import LoopShare
from ..messages import RawMessage, TopicPartition
from ..observation.counters import Counters
from .gate import Limits
from .partitions import PartitionState


class Guard(Protocol):
    """Knows whether this process can still be sure of its membership in the consumer group. `Assignment` is one."""

    trusted_until: float  # on the monotonic clock; after that, call `suspect` before anything new starts

    def paused(self, place: TopicPartition) -> bool:
        """An operator has paused this partition, which may be that of another member."""
        ...

    def suspect(self, now: float) -> bool:
        """Whether membership is in doubt: the process stood still, or was cut off. No new message may start then.

        Holds all partitions in that case. `now` is on the monotonic clock.
        """
        ...

    def wake(self) -> None:
        """Has the session look at once, because a `failure` has come, or the strategy is `hungry` again."""


class ConsumptionStrategy(Protocol):
    """Takes messages from partitions to the processor, and keeps one kind of order. Lives as long as a session."""

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        """Takes in messages of one partition, in the order of their offsets."""

    def reopen(self, partition: PartitionState) -> None:
        """Starts or resumes work on a partition that is open: a new one, or one of which a hold was lifted."""

    def release(self, partition: PartitionState) -> None:
        """Drops the messages of a partition that have not started; running handlers may finish."""

    def resize(self, concurrency: int) -> None:
        """From now on so many calls of the handler run at once at most. Those that run go on."""

    def hungry(self, running: int, partitions: int, *, busy: bool) -> bool:
        """Whether a partition may have more messages than are usually enough, since calls could run that have none.

        `running`: calls of this partition, one of so many `partitions`. `busy`: the thread computes all the time. If
        the answer is no, the guard is woken when calls are free.
        """
        ...

    def oldest_start(self) -> float | None:
        """When the longest-running handler call began, on the monotonic clock; None if none runs.

        Can be called from another thread.
        """
        ...

    def settled(self) -> bool:
        """Whether nothing is under way besides the messages whose offsets are not concluded: they are known of."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """The error that ended a worker, if there was one: the session cannot go on then."""
        ...

    async def close(self, grace: float) -> None:
        """Cancels the handlers that still run, and waits up to `grace` seconds for them.

        Whatever they do then, their offsets are not concluded.
        """


class StrategyParts(TypedDict):
    """What every strategy is built from."""

    concurrency: int  # how many handler calls may run at once
    counters: Counters
    share: LoopShare
    guard: Guard
    limits: Limits
    name: str  # prefix of the worker tasks' names
