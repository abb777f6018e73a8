"""The state store in the process's memory, for `memory://` and for tests. It behaves as the one in Redis does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from weakref import WeakValueDictionary

from .base import TAKEN_AT_ONCE, Call, Claim, Member, Overview, Parked, Reply, Scan, Take, Waiting, Write

_shared: WeakValueDictionary[str, MemoryStateStore] = WeakValueDictionary()
_shared_lock = threading.Lock()


def store_named(name: str) -> MemoryStateStore:
    """The store shared by all apps whose broker is `memory://name`; a new store if the name is empty."""
    if not name:
        return MemoryStateStore()
    with _shared_lock:
        store = _shared.get(name)
        if store is None:
            store = _shared[name] = MemoryStateStore()
        return store


class _Lease:
    __slots__ = ("ends_at", "owner", "token")

    def __init__(self, token: int, owner: str, ends_at: float) -> None:
        self.token, self.owner, self.ends_at = token, owner, ends_at


class _Group:
    """All that is known of one consumer group. Times are those of the store's clock."""

    def __init__(self) -> None:
        self.last: dict[bytes, int] = {}
        self.leases: dict[bytes, _Lease] = {}
        self.rooms: dict[bytes, dict[int, bytes]] = {}
        self.gaps: dict[bytes, float] = {}  # since when a number before the lowest waiting one is missing
        self.ready: dict[bytes, float] = {}  # since when the next message waits
        self.knocks: dict[str, set[bytes]] = {}  # by member: its aggregates for which others parked a message
        self.parked = 0  # messages in all rooms
        self.token = 0  # the greatest fencing token


class MemoryStateStore:
    """A `StateStore`. `clock` gives seconds, for leases and for the age of gaps."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or monotonic
        self._groups: dict[str, _Group] = {}
        self._lock = threading.Lock()  # apps that share a store may run in different threads

    async def call(self, member: Member, call: Call) -> Reply:
        await asyncio.sleep(0)  # other tasks get a turn, as they do while a network answers
        with self._lock:
            group = self._groups.setdefault(member.group_id, _Group())
            return _Turn(group, member, self._clock()).answer(call)

    async def close(self) -> None:
        """Keeps everything: what is known outlives one run of the app."""


class _Turn:
    """One call of one member on the state of its group."""

    def __init__(self, group: _Group, member: Member, now: float) -> None:
        self._group, self._member, self._now = group, member, now
        self._waiting: dict[bytes, Waiting] = {}
        self._advanced: set[bytes] = set()
        self._changed: dict[bytes, None] = {}  # rooms, in the order in which they changed
        self._free: list[bytes] = []

    def answer(self, call: Call) -> Reply:
        written = [self._write(write) for write in call.writes]
        counting = {write.key for write, counts in zip(call.writes, written, strict=True) if counts}
        for key, sequence in call.drops:
            if key in counting:
                self._remove(key, [sequence])
        parked = [self._park(*park) for park in call.parks]
        claimed = [self._claim(key) for key in call.claims]
        for key in self._changed:
            self._note_room(key)
        for write, counts in zip(call.writes, written, strict=True):
            if counts and write.take is not Take.NOTHING:
                self._look(write.key, write.take, write.known)
        for key, claim in zip(call.claims, claimed, strict=True):
            if claim is not None:
                self._look(key, Take.NEXT, claim.last)
        return Reply(
            written=written,
            parked=parked,
            claimed=claimed,
            waiting=self._waiting,
            knocked=[*self._group.knocks.pop(self._member.name, ()), *self._free],
            overview=self._scan(call.scan) if call.scan is not None else None,
        )

    def _last(self, key: bytes) -> int:
        return self._group.last.get(key, self._member.before_first)

    def _write(self, write: Write) -> bool:
        lease = self._group.leases.get(write.key)
        if lease is None or (lease.token, lease.owner) != (write.token, self._member.name):
            return False
        lease.ends_at = self._now + self._member.lease
        if write.release:
            del self._group.leases[write.key]
        if write.last is not None and write.last > self._last(write.key):
            self._group.last[write.key] = write.last
            self._advanced.add(write.key)
            self._remove(write.key, [n for n in self._group.rooms.get(write.key, ()) if n <= write.last])
        return True

    def _remove(self, key: bytes, sequences: Iterable[int]) -> None:
        room = self._group.rooms.get(key)
        if room is None:
            return
        for sequence in sequences:
            self._group.parked -= room.pop(sequence, None) is not None
        self._changed[key] = None

    def _park(self, key: bytes, sequence: int, message: bytes) -> Parked:
        group, member = self._group, self._member
        if sequence <= self._last(key):
            return Parked.LATE
        room = group.rooms.get(key, {})
        if sequence in room:
            return Parked.DOUBLE
        if len(room) >= member.room_per_aggregate or group.parked >= member.room_per_group:
            return Parked.FULL
        group.rooms.setdefault(key, room)[sequence] = message
        group.parked += 1
        self._changed[key] = None
        holder = self._holder(key)
        if holder is not None and holder != member.name:
            group.knocks.setdefault(holder, set()).add(key)
        return Parked.PARKED

    def _holder(self, key: bytes) -> str | None:
        lease = self._group.leases.get(key)
        return lease.owner if lease is not None and lease.ends_at > self._now else None

    def _claim(self, key: bytes) -> Claim | None:
        if self._holder(key) not in (None, self._member.name):
            return None
        self._group.token += 1
        self._group.leases[key] = _Lease(self._group.token, self._member.name, self._now + self._member.lease)
        return Claim(self._group.token, self._last(key))

    def _note_room(self, key: bytes) -> None:
        """The room has changed: notes whether its lowest message is the next one, or a number before it is missing."""
        group, room = self._group, self._group.rooms.get(key)
        if not room:
            for table in (group.rooms, group.gaps, group.ready):
                table.pop(key, None)
        elif min(room) == self._last(key) + 1:
            group.gaps.pop(key, None)
            group.ready.setdefault(key, self._now)
            if self._holder(key) is None:
                self._free.append(key)
        else:
            group.ready.pop(key, None)
            if key in self._advanced:
                group.gaps[key] = self._now
            group.gaps.setdefault(key, self._now)

    def _look(self, key: bytes, take: Take, known: int) -> None:
        room = self._group.rooms.get(key)
        if not room:
            return
        start = max(self._last(key), known) + 1
        if take is Take.ANY:
            sequences = sorted(room)[:TAKEN_AT_ONCE]
        else:
            end = start
            while end in room and end < start + TAKEN_AT_ONCE:
                end += 1
            sequences = list(range(start, end))
        since = self._group.gaps.get(key, self._group.ready.get(key, self._now))
        self._waiting[key] = Waiting(min(room), self._now - since, [(n, room[n]) for n in sequences])

    def _scan(self, scan: Scan) -> Overview:
        group, since = self._group, self._now - scan.gap_timeout
        overdue = sorted((begin, key) for key, begin in group.gaps.items() if begin <= since)
        return Overview(
            ready=[key for key in list(group.ready)[scan.start : scan.start + scan.limit] if self._is_free(key)],
            overdue=[key for _, key in overdue[scan.start : scan.start + scan.limit] if self._is_free(key)],
            gaps=len(group.gaps),
            overdue_count=len(overdue),
            parked=group.parked,
            oldest_gap=self._now - min(group.gaps.values(), default=self._now),
            waiting=len(group.gaps) + len(group.ready),
        )

    def _is_free(self, key: bytes) -> bool:
        return self._holder(key) in (None, self._member.name)
