"""The protocol of state stores.

For each aggregate of a consumer group a store knows three things: the last sequence number that is done, the member
that may work on the aggregate (a lease), and the messages that came before their turn (its waiting room). One call
covers many aggregates. It is atomic: nobody sees half of it, and the calls of a group do not mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

GREATEST = 2**53 - 1
"""The greatest sequence number, and its negative the least: Redis counts in doubles, which are exact up to here."""


class Member(NamedTuple):
    """One consumer of a group, which works on some of the group's aggregates."""

    group_id: str
    name: str  # unique; a member that starts again takes a new one
    lease: float  # seconds; each write starts the lease of its aggregate anew
    before_first: int = 0  # the last number done of an aggregate that the store does not know yet
    room_per_aggregate: int = 1_000  # messages
    room_per_group: int = 100_000  # messages


class Take(StrEnum):
    """Which waiting messages a write wants to read."""

    NOTHING = "n"
    NEXT = "x"  # those that follow the last number done, up to the first gap
    ANY = "a"  # the lowest, even behind a gap


class Write(NamedTuple):
    """From the holder of a lease: renews it, or gives it back. Nothing changes unless the token is the lease's."""

    key: bytes
    token: int
    last: int | None = None  # the last number done, if it is greater now; messages that wait up to it are removed
    known: int = -GREATEST  # up to this number the member has already read what waits
    take: Take = Take.NEXT
    release: bool = False


class Drop(NamedTuple):
    """Removes one message from the waiting room, if the same call has a write for the aggregate and it is accepted."""

    key: bytes
    sequence: int


class Park(NamedTuple):
    """Puts a message into the waiting room. Needs no lease; the member that holds the aggregate is told."""

    key: bytes
    sequence: int
    message: bytes


class Parked(StrEnum):
    """What became of a message that was to be parked."""

    PARKED = "p"
    DOUBLE = "d"  # a message with this number waits already
    LATE = "l"  # its number is done
    FULL = "f"  # there is no room for it


class Claim(NamedTuple):
    """A lease that was granted. Each new claim gets a greater token."""

    token: int
    last: int  # the last number done


class Waiting(NamedTuple):
    """What waits for one aggregate. `messages`: number and message of those that were asked for, in order."""

    lowest: int  # the lowest sequence number that waits
    seconds: float  # how long that number has been next, or a number before it has been missing
    messages: Sequence[tuple[int, bytes]]


class Scan(NamedTuple):
    """Asks for aggregates that need a member: those whose next message waits, and those with an old gap."""

    gap_timeout: float  # seconds
    limit: int  # of each kind
    start: int = 0  # this many of each kind are skipped


class Overview(NamedTuple):
    """State of a whole group. `ready` and `overdue` leave out aggregates that another member holds."""

    ready: Sequence[bytes]  # their next message waits
    overdue: Sequence[bytes]  # a number has been missing for longer than `gap_timeout`
    gaps: int  # aggregates that wait for a missing number
    overdue_count: int  # of all aggregates, held by another member or not
    parked: int  # messages
    oldest_gap: float  # seconds; 0: there is none
    waiting: int  # aggregates with something in their waiting room


@dataclass(slots=True)
class Call:
    """What a store is asked to do in one step, in this order."""

    writes: list[Write] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    parks: list[Park] = field(default_factory=list)
    claims: list[bytes] = field(default_factory=list)
    scan: Scan | None = None


class Reply(NamedTuple):
    """The answers, in the order of what was asked."""

    written: Sequence[bool]  # False: the lease is lost
    parked: Sequence[Parked]
    claimed: Sequence[Claim | None]  # None: another member has it
    waiting: Mapping[bytes, Waiting]  # by key: written or claimed aggregates for which something waits
    # aggregates to look at: ours, if another member parked a message for them; free ones, if their next message waits
    knocked: Sequence[bytes]
    overview: Overview | None


TAKEN_AT_ONCE = 100
"""Most messages of one aggregate in one reply."""


class StateStore(Protocol):
    """A state store, used by one app."""

    async def call(self, member: Member, call: Call) -> Reply:
        """Does all of the call, or nothing.

        The same call may be made again after an error: what has been done already changes nothing.

        Raises:
            StateStoreError: it cannot be reached, or refuses. It may have done the call nevertheless.
        """
        ...

    async def close(self) -> None:
        """Closes its connections. The next call opens them again."""
