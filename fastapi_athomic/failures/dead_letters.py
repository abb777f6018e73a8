"""Dead letters for people: look at them, send them back to the group that failed, or discard them with a reason.

A settled letter stays in its topic. A marker behind it, in the same partition of the DLQ topic, says that it is
settled: no other state is kept, and no group's offsets are touched. A redrive that broke off half way continues
where it stopped: before it sends, it looks in the redrive topic for what is there already. If the topic was purged
meanwhile, that is unknown, and it sends again.

Several handlers may share a DLQ topic: each sees and settles its own letters, by group and handler id. Letters of a
handler id that no handler of the app has (a deploy has renamed it) belong to the handlers that consume the same source
in the same group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..exceptions import PayloadDecodeError
from ..observation.actors import THE_APP, Actor
from .letters import DeadLetter
from .mailbox import DeadLetterParts, Mailbox
from .settling import Predicate, Progress, Selection, Settling, SettlingReport

P = ParamSpec("P")
T = TypeVar("T")
Settle = Callable[[], Awaitable[SettlingReport]]
Told = Callable[[str, str, Actor, dict[str, Any], Settle], Awaitable[SettlingReport]]
"""Has letters settled, and tells who did it: gets redrive or discard, the handler id, the actor, which letters, and
what does it."""


def _at_home(
    method: Callable[Concatenate[DeadLetters, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[DeadLetters, P], Coroutine[Any, Any, T]]:
    """Runs the method in the event loop that the connection to the broker belongs to."""

    @wraps(method)
    async def call(letters: DeadLetters, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await letters._home.run(lambda: method(letters, *args, **kwargs))

    return call


class DeadLetters:
    """The dead letters of one handler, from `Athomic.dead_letters`. A letter is open until somebody settles it."""

    def __init__(self, parts: DeadLetterParts, told: Told) -> None:
        """`told` is called in the event loop of whoever settles letters."""
        self._home = parts.home
        self._handler_id = parts.subscription.handler_id
        self._told = told
        self._mailbox = Mailbox(parts)
        self._payload_of = parts.payload_of
        self._settling = Settling(parts, self._mailbox)

    # --- reading

    @_at_home
    async def count(self, *, source: str | None = None) -> int:
        """How many letters are open. Reads the DLQ topics from end to end.

        `source`: of this topic only.
        """
        return sum([1 async for _ in self._mailbox.open(source)])

    @_at_home
    async def browse(
        self,
        *,
        source: str | None = None,
        partition: int | None = None,
        offset: int = 0,
        since: datetime | None = None,
        error_type: str | None = None,
        limit: int = 50,
    ) -> list[DeadLetter]:
        """Open letters; those of one partition in the order in which they were written.

        Args:
            source: of this topic only.
            partition: in this partition of the DLQ topic only.
            offset: from this offset of the DLQ topic on.
            since: only those that failed at this time or later.
            error_type: only those of this type of error, as `DeadLetter.error_type` has it; `TimeoutError` is
                `builtins.TimeoutError`, too.
            limit: at most this many.
        """
        found: list[DeadLetter] = []
        async for letter in self._mailbox.open(source, partition, offset):
            if len(found) >= limit:
                break
            if since is not None and (letter.failed_at is None or letter.failed_at < since):
                continue
            if letter.is_of_type(error_type):
                found.append(letter)
        return found

    @_at_home
    async def get(self, partition: int, offset: int, *, source: str | None = None) -> DeadLetter | None:
        """The open letter at this place of the DLQ topic; None if there is none, or it is settled."""
        for topic in await self._mailbox.topics(source):
            async for letter in self._mailbox.open_in(topic, source, partition, offset):
                if letter.offset == offset:
                    return letter
                break
        return None

    @_at_home
    async def decode(self, letter: DeadLetter, target_type: Any) -> Any:
        """The letter's payload, decoded with the handler's pipeline as a message of the topic where it was first.

        Raises:
            PayloadDecodeError: it cannot be decoded, or the letter was too large for the DLQ and has no value.
            PayloadUnavailableError: something that is needed cannot be reached.
            ConfigurationError: the pipeline cannot give this type.
        """
        if "value" in letter.omitted:
            raise PayloadDecodeError("the letter has no value, as it was too large: its source topic may still have it")
        source = self._mailbox.source_of(letter)
        first = letter.first_topic or source
        return await self._payload_of(source, first).read(letter, target_type, topic=first)

    # --- settling

    async def redrive(
        self,
        *,
        source: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        error_type: str | None = None,
        where: Predicate | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        actor: Actor = THE_APP,
    ) -> SettlingReport:
        """Sends open letters back to the group that failed, and to nobody else.

        Without `partition` and `offset` all of them. `error_type` selects those of one type of error, `where` others;
        `limit` caps their number, `rate` is messages per second. Letters that were sent back `max_redrives` times
        already are left alone, and so are those that can never be sent: the report says how many, and why. Run one
        redrive of a handler at a time: two would send them twice. `actor` is logged, and told to `Athomic.on_control`.

        Raises:
            TransportError: the broker did not take a message in time. What was sent before is settled; another call
                sends the rest.
        """
        selection = Selection(
            source=source, partition=partition, offset=offset, error_type=error_type, where=where, limit=limit
        )
        settle = partial(self._settling.redrive, selection, rate=rate, dry_run=dry_run, progress=progress)
        return await self._settle("redrive", selection, settle, actor, dry_run=dry_run)

    async def discard(
        self,
        *,
        reason: str,
        source: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        error_type: str | None = None,
        where: Predicate | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        actor: Actor = THE_APP,
    ) -> SettlingReport:
        """Settles open letters without sending them back. They stay in the topic, and the marker has the reason.

        The other arguments are those of `redrive`. An `actor` without a reason has this one.
        """
        selection = Selection(
            source=source, partition=partition, offset=offset, error_type=error_type, where=where, limit=limit
        )
        settle = partial(self._settling.discard, selection, reason=reason, dry_run=dry_run, progress=progress)
        who = actor if actor.reason is not None else replace(actor, reason=reason)
        return await self._settle("discard", selection, settle, who, dry_run=dry_run)

    async def _settle(
        self,
        action: str,
        selection: Selection,
        settle: Callable[[], Coroutine[Any, Any, SettlingReport]],
        actor: Actor,
        *,
        dry_run: bool,
    ) -> SettlingReport:
        if dry_run:
            return await self._home.run(settle)
        which = {name: getattr(selection, name) for name in ("source", "partition", "offset", "error_type", "limit")}
        return await self._told(action, self._handler_id, actor, which, lambda: self._home.run(settle))
