"""What a session is built from: by the factory once, for every session of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from ..loop.fairness import LoopShare
from ..messages import RawMessage, TopicPartition
from ..observation.counters import Counters
from ..settings import AthomicSettings
from ..transports.base import RebalanceListener, TransportConsumer
from .positions import StartingPoints
from .strategies import ConsumptionStrategy, Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParts:
    """What a session is built from. Its components are given the same structure, and take what they need."""

    name: str
    connect: Callable[[RebalanceListener, frozenset[str]], TransportConsumer]  # a member that follows also these topics
    make_strategy: Callable[[Guard], ConsumptionStrategy]
    ensure_topics: Callable[[], Awaitable[frozenset[str]]]  # makes the sources ready; what else is to be followed now
    follow: Callable[[TransportConsumer, frozenset[str]], Awaitable[None]]  # lets it follow those that come and go
    prepare: Callable[[Collection[str]], Awaitable[None]]  # makes ready what the topics' messages will need
    delay_of: Callable[[str], Callable[[RawMessage], float] | None]  # of a retry topic: when a message is due
    forget: Callable[[Collection[TopicPartition]], None]  # another member has these partitions now
    starting_points: StartingPoints
    settings: AthomicSettings
    counters: Counters
    share: LoopShare
    max_buffered: int  # messages per partition
    session_timeout: float | None  # seconds after which the broker evicts a silent member; None: it never does
