"""The partitions that this member has, as ordered consumption needs them."""

from __future__ import annotations

from collections import deque

from ..consumption.partitions import PartitionState
from ..outcomes import FailureContext


class Refusals:
    """Messages of one partition that have no place in any sequence, on their way to the DLQ."""

    __slots__ = ("busy", "letters", "partition")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.letters: deque[FailureContext] = deque()
        self.busy = False


class Assignment:
    """The session's partitions, whether work may start, and whose drain waits for it."""

    def __init__(self) -> None:
        self.refusals: dict[PartitionState, Refusals] = {}
        self.closed = False

    def add(self, partition: PartitionState) -> None:
        if partition not in self.refusals:
            self.refusals[partition] = Refusals(partition)

    def remove(self, partition: PartitionState) -> bool:
        """False: it was not there."""
        refusals = self.refusals.pop(partition, None)
        if refusals is None:
            return False
        refusals.letters.clear()
        return True

    def active(self) -> bool:
        return not self.closed and self.host() is not None

    def host(self) -> PartitionState | None:
        """A partition whose drain waits for what belongs to none."""
        for partition in self.refusals:
            if partition.open:
                return partition
        return None
