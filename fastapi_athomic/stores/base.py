"""The protocol every state store keeps.

Of each aggregate of a group a store knows the last sequence number that is done, who may work on it (a lease), and
its waiting room: messages that came before their turn. One call does everything for many aggregates, and does it at
once: nobody sees a half of it, and no two calls of a group mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

GREATEST = 2**53 - 1
"""Sequence numbers beyond it (or below its negative) cannot be told apart by a store: Redis counts in doubles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One consumer that works on the aggregates of its group."""

    group_id: str
    name: str  # of this member; never used twice
    lease: float  # seconds for which an aggregate is its own, counted anew with each write
    before_first: int = 0  # the last sequence done of an aggregate that nobody knows
    room_per_aggregate: int = 1_000  # messages
    room_per_group: int = 100_000  # messages


class Take(StrEnum):
    """What a write wants to know of the waiting room."""

    NOTHING = "n"
    NEXT = "x"  # what follows the last one done without a gap
    ANY = "a"  # the lowest, whatever is missing before


class Write(NamedTuple):
    """For who holds the lease of the token: renews it, or gives it back. With another token it changes nothing."""

    key: bytes
    token: int
    last: int | None = None  # the last sequence done, if it has grown; what waited up to it is removed
    known: int = -GREATEST  # what waits up to this number is known already
    take: Take = Take.NEXT
    release: bool = False


class Drop(NamedTuple):
    """Removes one message from the waiting room; only together with a write of the aggregate that counts."""

    key: bytes
    sequence: int


class Park(NamedTuple):
    """Puts a message into the waiting room; no lease is needed. Who holds it is told."""

    key: bytes
    sequence: int
    message: bytes


class Parked(StrEnum):
    """What became of a message for the waiting room."""

    PARKED = "p"
    DOUBLE = "d"  # one with this number waits already
    LATE = "l"  # this number is done
    FULL = "f"


class Claim(NamedTuple):
    """An aggregate is ours until the lease ends; every write and every new claim has a greater token."""

    token: int
    last: int


class Waiting(NamedTuple):
    """What waits for one aggregate. `messages` are pairs of sequence number and message, in order, not all of them."""

    lowest: int
    seconds: float  # since when the lowest is the next to come, or since when something is missing before it
    messages: Sequence[tuple[int, bytes]]


class Scan(NamedTuple):
    """Asks for aggregates that somebody should look after: those whose next message waits, and old gaps."""

    gap_timeout: float  # seconds
    limit: int  # of each kind
    start: int = 0  # so many of each kind are passed over


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Of a whole group. Aggregates that another member holds are not among `ready` and `overdue`."""

    ready: Sequence[bytes]
    overdue: Sequence[bytes]  # a number has been missing for longer than the timeout
    gaps: int  # aggregates that wait for a missing number
    overdue_count: int
    parked: int  # messages
    oldest_gap: float  # seconds; 0: there is none
    waiting: int  # aggregates with something in their waiting room


@dataclass(slots=True)
class Call:
    """What is asked of a store at once, in this order."""

    writes: list[Write] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    parks: list[Park] = field(default_factory=list)
    claims: list[bytes] = field(default_factory=list)
    scan: Scan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answers, each in the order of its questions."""

    written: Sequence[bool]  # False: the lease is lost
    parked: Sequence[Parked]
    claimed: Sequence[Claim | None]  # None: another member has it
    waiting: Mapping[bytes, Waiting]  # of the aggregates written or claimed that have something waiting, as was asked
    knocked: Sequence[bytes]  # aggregates of ours, or of nobody, for which somebody else parked a message
    overview: Overview | None


TAKEN_AT_ONCE = 100
"""Messages of one aggregate in one reply."""


class StateStore(Protocol):
    """One store as one app sees it."""

    async def call(self, member: Member, call: Call) -> Reply:
        """All of the call, or nothing.

        It may be asked again after an error: what was done already changes nothing then.

        Raises:
            StateStoreError: it cannot be reached, or refuses. It may have done what was asked all the same.
        """
        ...

    async def close(self) -> None:
        """Ends its connections. It can be used again."""
