"""What a session is built from. The factory puts it together once, for all sessions of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from ..failures.topic_watch import Heard
from ..loop.fairness import LoopShare
from ..messages import RawMessage, TopicPartition
from ..observation.counters import Counters
from ..settings import AthomicSettings
from ..transports.base import RebalanceListener, TransportConsumer
from .controls import Controls
from .positions import StartingPoints
from .strategies import ConsumptionStrategy, Guard


class SessionParts(NamedTuple):
    """What a session is built from; its components get the same structure."""

    name: str
    connect: Callable[[RebalanceListener, frozenset[str]], TransportConsumer]  # a member that follows these topics, too
    make_strategy: Callable[[Guard], ConsumptionStrategy]
    ensure_topics: Callable[[], Awaitable[frozenset[str]]]  # checks or creates the sources; returns others to follow
    named: bool  # it consumes topics by their names, not by a pattern
    follow: Callable[[TransportConsumer, frozenset[str], Heard], Awaitable[None]]
    """Then follows topics that come and go, and passes on what the broker says of those that the app names."""
    prepare: Callable[[Collection[str]], Awaitable[None]]  # checks or creates the own topics of these
    delay_of: Callable[[str], Callable[[RawMessage], float] | None]  # of a retry topic: seconds until due
    forget: Callable[[Collection[TopicPartition]], None]
    """Clears what blocks these partitions: they were revoked, moved by a seek, or their topic was recreated."""
    starting_points: StartingPoints
    settings: AthomicSettings
    counters: Counters
    share: LoopShare
    controls: Controls
    session_timeout: float | None  # seconds after which the broker evicts a silent member; None: it never does
