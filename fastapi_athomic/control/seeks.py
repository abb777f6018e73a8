"""Goes on elsewhere in partitions, after saying what that skips and repeats."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import NamedTuple

from ..checks import did_you_mean, is_whole, shown
from ..consumption.notes import decode_note
from ..consumption.placement import Passage
from ..consumption.service import ConsumerService
from ..exceptions import (
    ConfigurationError,
    ControlRefusedError,
    PartitionNotFoundError,
    SourceNotFoundError,
    StateStoreError,
    TransportError,
)
from ..messages import TopicPartition
from .handovers import Handovers
from .parts import DeskParts
from .seek_plans import PartitionSeek, SeekPlan, Target, plan_of

MOST_COUNTED = 10_000
"""Offsets of a partition that are looked at, one by one, to count the messages. Of longer ranges the offsets count."""
COUNT_SECONDS = 2.0
"""Most seconds for counting the messages of one partition."""
WORDS = ("beginning", "end")


Result = PartitionSeek | BaseException | str
"""Of one partition: what was done, or why it failed."""


class Route(NamedTuple):
    """Where a partition is to go on."""

    place: TopicPartition
    to: int
    passage: Passage | None  # how far it is; None: it is not assigned here
    committed: Passage | None  # of a partition that is not assigned here, by what the group has committed
    there: bool  # the partition has this offset
    problems: list[str]


class Seeks:
    """Plans seeks, and carries them out: here, and through the state store at other members of the group."""

    def __init__(self, parts: DeskParts) -> None:
        self._transport = parts.transport
        self._timeout = parts.settings.request_timeout
        self.handovers = Handovers(parts, self._go)

    async def plan(self, service: ConsumerService, topic: str, partition: int | None, to: Target) -> SeekPlan:
        """See `Steering.plan_seek`."""
        routes = await self._routes(service, topic, partition, to)
        return self._plan(service, topic, [await self._seen(service, route) for route in routes])

    async def seek(
        self, service: ConsumerService, topic: str, partition: int | None, to: Target, *, force: bool
    ) -> SeekPlan:
        """See `Steering.seek`."""
        routes = await self._routes(service, topic, partition, to)
        problems = [problem for route in routes for problem in route.problems]
        possible = [route for route in routes if not route.problems]
        away = [route for route in routes if route.passage is None and route.there]
        if not force or not self.handovers.possible:
            away = []
        if not (possible or away) or (problems and not force):
            raise ControlRefusedError("; ".join(problems), problems)
        handed = asyncio.ensure_future(self._hand_over(service, away))
        went = await asyncio.gather(
            *(self._go(service, route.place, route.to) for route in possible), return_exceptions=True
        )
        results = await handed | dict(zip((route.place for route in possible), went, strict=True))
        nothing = not any(isinstance(result, PartitionSeek) for result in results.values())
        for result in results.values():
            if isinstance(result, BaseException) and (nothing or not isinstance(result, TransportError)):
                raise result
        if nothing:
            problems = [str(result) for result in results.values()]
            raise ControlRefusedError("; ".join(problems), problems)
        return self._plan(service, topic, [await self._result(service, route, results) for route in routes])

    async def _go(self, service: ConsumerService, place: TopicPartition, to: int) -> PartitionSeek:
        passage = await service.seek(place, to)
        return await self._counted(service, Route(place, to, passage, None, True, []), passage, done=True)

    async def _hand_over(self, service: ConsumerService, away: Sequence[Route]) -> dict[TopicPartition, Result]:
        if not away:
            return {}
        targets = {route.place: route.to for route in away}
        try:
            return dict(await self.handovers.hand_over(service, targets))
        except StateStoreError as error:
            return dict.fromkeys(targets, f"it could not be handed over to the member that has it: {error}")

    # --- where to

    async def _routes(self, service: ConsumerService, topic: str, partition: int | None, to: Target) -> list[Route]:
        _check(partition, to)
        bounds = await self._transport.bounds(topic, self._timeout)
        if not service.follows(topic):
            raise SourceNotFoundError(f"{service.name} does not consume the topic {shown(topic)}")
        if partition is not None and partition not in bounds:
            raise PartitionNotFoundError(f"{TopicPartition(topic, partition)}: there is no such partition")
        wanted = {number: ends for number, ends in sorted(bounds.items()) if partition in (None, number)}
        targets = await self._targets(topic, wanted, to)
        passages = {number: service.passage(TopicPartition(topic, number)) for number in wanted}
        committed = await self._committed(service, topic, [n for n, passage in passages.items() if passage is None])
        return [
            Route(
                place := TopicPartition(topic, number),
                targets[number],
                passages[number],
                committed.get(place),
                wanted[number][0] <= targets[number] <= wanted[number][1],
                self._problems(service, place, targets[number], wanted[number]),
            )
            for number in wanted
        ]

    def _problems(self, service: ConsumerService, place: TopicPartition, to: int, bounds: tuple[int, int]) -> list[str]:
        problems = []
        if not bounds[0] <= to <= bounds[1]:
            problems.append(f"{place} cannot go on at offset {to}: its offsets are from {bounds[0]} to {bounds[1]}")
        if service.passage(place) is None:
            handed = "; with force the member that has it is asked to" if self.handovers.possible else ""
            problems.append(service.why_not_here(place) + handed)
        return problems

    async def _targets(self, topic: str, bounds: Mapping[int, tuple[int, int]], to: Target) -> Mapping[int, int]:
        if isinstance(to, datetime):
            found = await self._transport.offsets_at(topic, int(to.timestamp() * 1000), self._timeout)
            return {number: found.get(number, end) for number, (_, end) in bounds.items()}
        if isinstance(to, int):
            return dict.fromkeys(bounds, to)
        return {number: first if to == "beginning" else end for number, (first, end) in bounds.items()}

    async def _committed(
        self, service: ConsumerService, topic: str, numbers: Sequence[int]
    ) -> Mapping[TopicPartition, Passage]:
        if not numbers:
            return {}
        places = [TopicPartition(topic, number) for number in numbers]
        try:
            found = await self._transport.committed(service.subscription.group_id, places, self._timeout)
        except TransportError:  # the plan says already that they are not assigned here
            return {}
        return {
            place: Passage(commit.offset, decode_note(commit.offset, commit.metadata))
            for place, commit in found.items()
        }

    # --- what it skips and repeats

    def _plan(self, service: ConsumerService, topic: str, partitions: list[PartitionSeek]) -> SeekPlan:
        notes = []
        if service.subscription.sequencing is not None:
            notes.append(
                "an ordered consumer skips what its state store knows as handled, so messages that are read again "
                "are handled again only if the store has forgotten them; skipped ones leave gaps in their sequences"
            )
        if service.paused:
            notes.append(f"{service.name} is paused: it goes on there when it is resumed")
        return plan_of(service.name, topic, partitions, notes)

    async def _seen(self, service: ConsumerService, route: Route) -> PartitionSeek:
        passage = route.passage if route.passage is not None else route.committed
        return await self._counted(service, route, passage, done=False)

    async def _result(
        self, service: ConsumerService, route: Route, results: Mapping[TopicPartition, Result]
    ) -> PartitionSeek:
        result = results.get(route.place)
        if isinstance(result, PartitionSeek):
            return result
        seen = await self._seen(service, route)
        if result is None:
            return seen
        return seen.model_copy(update={"problems": [f"{route.place}: {result}"]})

    async def _counted(
        self, service: ConsumerService, route: Route, passage: Passage | None, *, done: bool
    ) -> PartitionSeek:
        skipped = repeated = None
        exact = False
        if passage is not None:
            between, exact = await self._count(route.place, *sorted((passage.position, route.to)))
            again = sum(offset >= route.to for offset in passage.done_above)
            ahead = route.to > passage.position
            skipped = max(0, between - (len(passage.done_above) - again)) if ahead else 0
            repeated = again if ahead else between + again
            assumed = service.subscription.sequencing is not None and repeated > 0
            exact = exact and not assumed and route.passage is not None
        return PartitionSeek(
            topic=route.place.topic,
            partition=route.place.partition,
            from_offset=passage.position if passage is not None else None,
            to_offset=route.to,
            skipped=skipped,
            repeated=repeated,
            exact=exact,
            done=done,
            problems=route.problems,
        )

    async def _count(self, place: TopicPartition, first: int, end: int) -> tuple[int, bool]:
        """How many messages lie from `first` to before `end`, and whether that is exact.

        Where offsets are missing it is an upper bound: messages of aborted transactions are counted.
        """
        if end - first > MOST_COUNTED:
            return end - first, False
        found, offset, deadline = 0, first, monotonic() + COUNT_SECONDS
        while offset < end:
            if (left := deadline - monotonic()) <= 0:
                return found + end - offset, False
            try:
                messages = await self._transport.read(place, offset, left)
            except TransportError:
                return found + end - offset, False
            if not messages:
                break
            found += sum(message.offset < end for message in messages)
            offset = messages[-1].offset + 1
        return found, found == end - first


def _check(partition: int | None, to: Target) -> None:
    if partition is not None and not (is_whole(partition) and partition >= 0):
        raise ConfigurationError(f"partition must be a whole number of 0 or more, or None, not {shown(partition)}")
    if isinstance(to, datetime):
        if to.tzinfo is None:
            raise ConfigurationError(f"the time {to.isoformat()} needs a time zone, such as datetime.UTC")
    elif isinstance(to, str):
        if to not in WORDS:
            meant = did_you_mean(to, WORDS)
            raise ConfigurationError(
                f"a seek goes to an offset, a datetime, 'beginning' or 'end', not {shown(to)}{meant}"
            )
    elif not is_whole(to):
        raise ConfigurationError(f"a seek goes to an offset, a datetime, 'beginning' or 'end', not {shown(to)}")
    elif partition is None:
        raise ConfigurationError("an offset says nothing about all partitions of a topic: name one of them")
