"""The states of a consumer."""

from __future__ import annotations

from enum import StrEnum


class ServiceState(StrEnum):
    """The states of a `ConsumerService`."""

    NEW = "new"
    STARTING = "starting"  # connects, or waits for its partitions
    RUNNING = "running"
    BACKING_OFF = "backing_off"  # its session broke; it waits before it builds the next one
    STOPPING = "stopping"
    STOPPED = "stopped"
    ELSEWHERE = "elsewhere"  # it is checked here, and consumes in other processes: the role is web


SAID = {
    ServiceState.NEW: "its start waits for the broker",
    ServiceState.STARTING: "it connects, or waits for its partitions",
    ServiceState.BACKING_OFF: "it broke, and is rebuilt after a pause",
}
"""What health adds to the names of these states."""

TRANSITIONS: dict[ServiceState, frozenset[ServiceState]] = {
    ServiceState.NEW: frozenset({ServiceState.STARTING, ServiceState.STOPPED, ServiceState.ELSEWHERE}),
    ServiceState.STARTING: frozenset({ServiceState.RUNNING, ServiceState.BACKING_OFF, ServiceState.STOPPING}),
    ServiceState.RUNNING: frozenset({ServiceState.STARTING, ServiceState.BACKING_OFF, ServiceState.STOPPING}),
    ServiceState.BACKING_OFF: frozenset({ServiceState.STARTING, ServiceState.STOPPING}),
    ServiceState.STOPPING: frozenset({ServiceState.STOPPED}),
    ServiceState.STOPPED: frozenset(),
    ServiceState.ELSEWHERE: frozenset(),
}
