"""How far one partition is: for the status, and for who waits until it is done."""

from __future__ import annotations

from time import time

from ..failures.return_topics import Place
from ..observation.status import PartitionStatus
from ..observation.waiting import PartitionWork
from ..transports.base import TransportConsumer
from .partitions import PartitionState


def partition_status(client: TransportConsumer, state: PartitionState, member: str) -> PartitionStatus:
    """What the status says about an assigned partition. `member`: the `instance_id` of this process."""
    partition, unfinished = state.topic_partition, state.unfinished
    end = client.end_offset(partition)
    lag = max(0, end - unfinished) if end is not None and unfinished is not None else None
    return PartitionStatus(
        topic=partition.topic,
        partition=partition.partition,
        position=client.position(partition),
        committed=state.committed,
        end_offset=end,
        lag=lag,
        lag_seconds=_age(state) if lag else lag,
        in_flight=state.buffered,
        paused=state.paused,
        member=member,
    )


def partition_work(
    client: TransportConsumer, state: PartitionState, *, end: int | None, blocked: bool, role: Place | None
) -> PartitionWork | None:
    """What is left to do in an assigned partition; None: it is done.

    `end`: its end offset; None: as the client last saw it. `blocked`: a dead letter cannot be written. `role`: what
    the topic is for, if it is a retry or redrive topic.
    """
    place, tracker = state.topic_partition, state.tracker
    end = client.end_offset(place) if end is None else end
    first = tracker.position if tracker.position is not None else client.position(place)
    left = max(0, end - first) if end is not None and first is not None else None
    if left == 0 and tracker.settled:
        return None
    return PartitionWork(
        place=place,
        left=left,
        in_hand=state.buffered,
        running=state.running,
        due_in=_due_in(state, role),
        paused=state.paused,
        blocked=blocked,
    )


def _age(state: PartitionState) -> float | None:
    """Seconds since the oldest unfinished message in hand was written."""
    written = state.oldest_timestamp
    return max(0.0, time() - written / 1000) if written is not None else None


def _due_in(state: PartitionState, role: Place | None) -> float | None:
    written = state.oldest_timestamp
    if role is None or role.delay is None or written is None:
        return None
    return written / 1000 + role.delay - time()
