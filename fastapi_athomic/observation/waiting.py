"""What is still to be done, in words: for who waits until consumers are ready, or until all messages are handled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..error_text import one_line
from ..messages import TopicPartition
from .status import PauseStatus

MOST = 10
"""So many things are named; the rest is counted."""


class PartitionWork(NamedTuple):
    """A partition that is not done. Durations are in seconds."""

    place: TopicPartition
    left: int | None  # messages that are not concluded, up to the end; None: not known yet
    in_hand: int  # of these, how many were fetched
    running: int  # of these, how many are in the handler
    due_in: float | None  # of a retry topic: until its oldest message is due
    paused: bool  # by an operator, alone or with its topic or the whole consumer
    blocked: bool  # a dead letter cannot be written: the reasons of its consumer say why


class ConsumerWork(NamedTuple):
    """What a consumer has not done."""

    handler_id: str
    ready: bool
    pauses: Sequence[PauseStatus]  # by an operator
    moving: bool  # the group moves partitions
    in_handler: float | None  # seconds that the longest call of its handler has run; None: none runs
    parked: int  # messages of an ordered consumer that wait for missing numbers
    reasons: Sequence[str]  # of its health
    partitions: Sequence[PartitionWork]  # those that are not done


def still_waiting(consumers: Sequence[ConsumerWork], broker_error: str | None) -> str:
    """What is waited for, as the end of a sentence. `broker_error`: why the broker cannot be reached."""
    found = [f"the broker cannot be reached ({broker_error})"] if broker_error is not None else []
    found += [said for consumer in consumers for said in _of_consumer(consumer)]
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return "; ".join([*found[:MOST], *more]) or "nothing more is known"


def _of_consumer(consumer: ConsumerWork) -> Iterator[str]:
    name = consumer.handler_id
    if not consumer.ready:
        yield f"{name} is not ready: {', '.join(consumer.reasons) or 'it starts'}"
        return
    if consumer.moving:
        yield f"{name}: its group is being rebalanced"
    for pause in consumer.pauses if consumer.partitions else ():
        yield f"{said(name, pause)}: resume it"
    for reason in consumer.reasons:
        yield f"{name}: {reason}"
    if consumer.parked:
        yield f"{name}: {_messages(consumer.parked)} parked until missing sequence numbers come"
    for partition in consumer.partitions:
        yield f"{name}: {_of_partition(partition, consumer)}"


def _of_partition(partition: PartitionWork, consumer: ConsumerWork) -> str:
    left = partition.left
    if left is None:
        return f"{partition.place} has not been read yet"
    if not left:
        return f"{partition.place} is handled, but not committed yet"
    details = ", ".join(_details(partition, consumer))
    return f"{_messages(left)} left in {partition.place}{f' ({details})' if details else ''}"


def _details(partition: PartitionWork, consumer: ConsumerWork) -> Iterator[str]:
    if partition.blocked:
        yield "blocked by a dead letter"
    if partition.due_in is not None and partition.due_in > 0:
        yield f"the oldest is due in about {partition.due_in:.1f} s"
        return
    if partition.running:
        duration = f" for up to {consumer.in_handler:.1f} s" if consumer.in_handler is not None else ""
        yield f"{partition.running} in the handler{duration}"
    elif partition.in_hand and not partition.blocked and not partition.paused:
        yield f"{partition.in_hand} fetched, for their turn or another attempt"


def said(handler_id: str, pause: PauseStatus) -> str:
    """A pause in words: `billing: t[0] is paused by ann (reindexing), until 2026-01-31 12:00:00 UTC`."""
    place = handler_id if pause.topic is None else f"{handler_id}: {pause.topic}"
    place += f"[{pause.partition}]" if pause.partition is not None else ""
    why = f" ({one_line(pause.reason)})" if pause.reason else ""
    until = f", until {pause.until:%Y-%m-%d %H:%M:%S} UTC" if pause.until is not None else ""
    return f"{place} is paused by {one_line(pause.actor)}{why}{until}"


def _messages(count: int) -> str:
    return f"{count} message" if count == 1 else f"{count} messages"
