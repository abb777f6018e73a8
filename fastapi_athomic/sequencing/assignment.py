"""The partitions that this process has, as ordered consumption sees them.

An aggregate's messages may come from several partitions, or from the waiting room and thus from none. So the
questions here concern all partitions together.
"""

from __future__ import annotations

from collections import deque

from ..consumption.partitions import PartitionState
from ..outcomes import FailureContext


class Refusals:
    """Messages of one partition that have no place in any sequence, on their way to the DLQ.

    `Serving` adds to `letters` and sets `busy`. `Burials` removes letters once they are written; `Assignment.remove`
    clears them.
    """

    __slots__ = ("busy", "letters", "partition")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.letters: deque[FailureContext] = deque()
        self.busy = False  # with a worker, waiting for one, or waiting for a delay to pass


class Assignment:
    """The partitions of this process, and whether new work may start."""

    def __init__(self) -> None:
        self.refusals: dict[PartitionState, Refusals] = {}
        """By partition. Its keys are the partitions that are assigned; only `add` and `remove` change them."""
        self.closed = False
        """Set by the strategy when it closes: nothing starts, and what a handler still returns is ignored."""

    def add(self, partition: PartitionState) -> None:
        """The partition is ours. It may be added again."""
        if partition not in self.refusals:
            self.refusals[partition] = Refusals(partition)

    def remove(self, partition: PartitionState) -> bool:
        """The partition is not ours any more. False if it was not before."""
        refusals = self.refusals.pop(partition, None)
        if refusals is None:
            return False
        refusals.letters.clear()
        return True

    def active(self) -> bool:
        """New work may start."""
        return not self.closed and self.host() is not None

    def host(self) -> PartitionState | None:
        """An open partition, to host work on a message that belongs to none: its drain waits for that work."""
        for partition in self.refusals:
            if partition.open:
                return partition
        return None
