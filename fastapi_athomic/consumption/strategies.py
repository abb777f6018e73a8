"""What a consumption strategy is: how messages get from the partitions to the processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict

from ..loop.fairness import LoopShare
from ..messages import RawMessage
from ..observation.counters import Counters
from .partitions import PartitionState


class Guard(Protocol):
    """Knows whether this process may still take itself for a member of the group."""

    trusted_until: float  # on the monotonic clock; `suspect` is asked by then

    def suspect(self, now: float) -> bool:
        """True if the process was away for too long.

        All partitions are closed then. `now` is on the monotonic clock.
        """
        ...


class ConsumptionStrategy(Protocol):
    """Takes messages from partitions to the handler, in the order it stands for."""

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        """Takes in messages of one partition, in offset order."""

    def reopen(self, partition: PartitionState) -> None:
        """Begins with a partition, or goes on with one that was closed for a while."""

    def release(self, partition: PartitionState) -> None:
        """Drops what has not started; what runs may finish."""

    def oldest_start(self) -> float | None:
        """When the longest-running handler call began, on the monotonic clock; None if none runs."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why a worker died, if one did."""
        ...

    async def close(self, grace: float) -> None:
        """Cancels what still runs and waits up to `grace` seconds for it.

        Nothing is concluded any more, whatever comes of it.
        """


class StrategyParts(TypedDict):
    """What every strategy is built from."""

    concurrency: int
    counters: Counters
    share: LoopShare
    guard: Guard
    name: str
