"""The state store in Redis, for any number of processes. Needs the extra `redis`, and is imported only when it is used.

Each call is one run of a Lua script (state.lua): one round trip, and atomic. All keys begin with
`{prefix}:{{group_id}}:`. Redis Cluster is not supported: there a script must name all its keys beforehand. Leases end
by the server's clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from ..exceptions import StateStoreError
from .base import TAKEN_AT_ONCE, Call, Claim, Member, Overview, Parked, Reply, Waiting
from .redis_connection import RedisConnection

SCRIPT = resources.files(__package__).joinpath("state.lua").read_text()
_BOOLEAN = {48: False, 49: True}  # "0" and "1"
_PARKED = {ord(parked): parked for parked in Parked}


class RedisStateStore(RedisConnection):
    """A `StateStore`."""

    _script = b""  # its SHA-1, once the server has it

    async def call(self, member: Member, call: Call) -> Reply:
        arguments = self._arguments(member, call)
        base = f"{self._prefix}:{{{member.group_id}}}:"
        try:
            answer = await self._run(base, arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise StateStoreError(f"the state store cannot be reached: {type(error).__name__}") from error
        return _reply(answer)

    async def _run(self, base: str, arguments: Sequence[Any]) -> Any:
        client: Any = self._connected()
        if not self._script:
            self._script = await client.script_load(SCRIPT)
        try:
            return await client.evalsha(self._script, 1, base, *arguments)
        except NoScriptError:  # the server has restarted, or its scripts were flushed
            self._script = await client.script_load(SCRIPT)
            return await client.evalsha(self._script, 1, base, *arguments)

    def _arguments(self, member: Member, call: Call) -> list[Any]:
        scan = call.scan
        arguments: list[Any] = [
            member.name,
            round(member.lease * 1000),
            self._now(),
            member.room_per_aggregate,
            member.room_per_group,
            member.before_first,
            len(call.writes),
            len(call.drops),
            len(call.parks),
            len(call.claims),
            TAKEN_AT_ONCE,
            scan.limit if scan is not None else 0,
            scan.start if scan is not None else 0,
            round(scan.gap_timeout * 1000) if scan is not None else 0,
        ]
        add = arguments.extend
        for key, token, last, known, take, release in call.writes:
            add((key, f"{token} {'' if last is None else last} {known} {take.value} {release:d}"))
        for drop in call.drops:
            add(drop)
        for park in call.parks:
            add(park)
        add(call.claims)
        return arguments


def _reply(answer: Any) -> Reply:
    written, became, claimed, waiting, knocked, overview = answer
    return Reply(
        written=[_BOOLEAN[byte] for byte in written],
        parked=[_PARKED[byte] for byte in became],
        claimed=list(_claims(claimed)),
        waiting={
            key: Waiting(int(lowest), int(age) / 1000, [_parked_message(member) for member in messages])
            for key, lowest, age, messages in waiting
        },
        knocked=knocked,
        overview=_overview(overview) if overview else None,
    )


def _claims(text: bytes) -> Iterator[Claim | None]:
    for part in text.split(b",") if text else ():
        token, _, last = part.partition(b" ")
        yield Claim(int(token), int(last)) if last else None


def _parked_message(member: bytes) -> tuple[int, bytes]:
    """The number stands before the message, because a set would take equal messages with different numbers for one."""
    sequence, _, message = member.partition(b":")
    return int(sequence), message


def _overview(found: Sequence[Any]) -> Overview:
    ready, overdue, gaps, overdue_count, parked, oldest, waiting = found
    return Overview(
        ready=ready,
        overdue=overdue,
        gaps=gaps,
        overdue_count=overdue_count,
        parked=parked,
        oldest_gap=int(oldest) / 1000,
        waiting=waiting,
    )
