"""Creates the topics that an app needs, before it needs them: `fastapi-athomic topics --create`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..exceptions import TransportError
from ..rights import ANY_NAME, missing_right
from ..transports.base import TopicCounts, Transport
from ..transports.schemes import create_transport
from .app import refuse_memory
from .terminal import FAILED, OK, print_json, print_table
from .topic_needs import NeededTopic, Needs, add_needs, note_own

KINDS = ("source", "published", "retry", "redrive", "dlq")
DEFAULT = -1
"""Stands for the broker's default number of partitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one topic."""

    name: str
    kinds: list[str]
    partitions: int | None  # that it has or would get; None: the broker's default
    result: str  # exists, created, would be created, failed
    error: str = ""


async def create(athomics: Mapping[Athomic, list[str]], options: argparse.Namespace) -> int:
    """Creates what is missing, unless it is only to say what; prints it, and returns the exit status.

    `athomics`: each with the names of the topics that it publishes to.
    """
    outcomes = [
        outcome for athomic, published in athomics.items() for outcome in await _create(athomic, published, options)
    ]
    if options.format == "json":
        print_json({"topics": [asdict(outcome) for outcome in outcomes]})
    else:
        rows = [
            (
                each.name,
                ", ".join(each.kinds),
                _count(each),
                f"{each.result}: {each.error}" if each.error else each.result,
            )
            for each in outcomes
        ]
        print_table(("TOPIC", "FOR", "PARTITIONS", "RESULT"), rows)
    return FAILED if any(outcome.error for outcome in outcomes) else OK


def _count(outcome: Outcome) -> str:
    return "the broker's default" if outcome.partitions is None else str(outcome.partitions)


async def _create(athomic: Athomic, published: list[str], options: argparse.Namespace) -> list[Outcome]:
    refuse_memory(athomic)
    services = (await athomic.check()).consumers.values()
    transport, timeout = create_transport(athomic.settings), athomic.settings.request_timeout
    await transport.start(timeout)
    try:
        needs = await _needs(athomic, services, published, transport)
        wanted = [topic for topic in needs if not options.only or set(options.only) & set(topic.kinds)]
        names = {name for topic in needs for name in (topic.name, *topic.partitions_as)}
        creation = _Creation(transport, timeout, await transport.partition_counts(names, timeout), options)
        by_name = {topic.name: topic for topic in needs}
        wanted.sort(key=lambda topic: _depth(topic, by_name))  # those whose partition count others take come first
        outcomes = [await creation.of(topic) for topic in wanted]
    finally:
        await transport.stop(timeout)
    return outcomes


async def _needs(
    athomic: Athomic, services: Iterable[ConsumerService], published: list[str], transport: Transport
) -> list[NeededTopic]:
    """All topics by name: for a pattern those of the topics that match it now."""
    needs, timeout = Needs(), athomic.settings.request_timeout
    add_needs(needs, athomic, services, published)
    patterns = [service for service in services if service.subscription.pattern is not None]
    there = sorted(await transport.partition_counts(None, timeout)) if patterns else []
    for service in patterns:
        for source in filter(service.dlq_handler.returns.consumes, there):
            note_own(needs, service, source, created=True)
    return [topic for topic in needs.topics.values() if topic.pattern is None and not topic.name.endswith(ANY_NAME)]


def _depth(topic: NeededTopic, by_name: Mapping[str, NeededTopic]) -> int:
    """0 for a source, 1 for its DLQ, 2 for the DLQ of a handler that consumes that one. There are no circles."""
    sources = [by_name[name] for name in topic.partitions_as if name in by_name]
    return 1 + max((_depth(source, by_name) for source in sources), default=0) if topic.partitions_as else 0


class _Creation:
    """Creates one topic after the other: one that cannot be created does not keep the others from it."""

    def __init__(self, transport: Transport, timeout: float, counts: TopicCounts, options: argparse.Namespace) -> None:
        self._transport = transport
        self._timeout = timeout
        self._counts = counts  # of those that exist, or would
        self._dry_run: bool = options.dry_run
        self._default: int = options.partitions or DEFAULT

    async def of(self, topic: NeededTopic) -> Outcome:
        """Creates the topic if it is missing."""
        name = topic.name
        if name in self._counts:
            return _outcome(topic, self._counts[name], "exists")
        if self._counts.denies("Describe", name):
            return _outcome(topic, None, "failed", missing_right("Describe", "Topic", name))
        sources = [self._counts[source] for source in topic.partitions_as if source in self._counts]
        if topic.partitions_as and not sources:
            text = f"it gets as many partitions as {' or '.join(topic.partitions_as)}, which does not exist"
            return _outcome(topic, None, "failed", text)
        count = max(sources, default=self._default)
        if self._dry_run:
            self._counts[name] = count
            return _outcome(topic, count, "would be created")
        try:
            await self._transport.create_topics({name: count}, self._timeout)
            self._counts |= await self._transport.partition_counts([name], self._timeout)
        except TransportError as error:
            return _outcome(topic, count, "failed", str(error))
        return _outcome(topic, self._counts.get(name, count), "created")


def _outcome(topic: NeededTopic, partitions: int | None, result: str, error: str = "") -> Outcome:
    known = partitions if partitions is not None and partitions != DEFAULT else None
    return Outcome(name=topic.name, kinds=topic.kinds, partitions=known, result=result, error=error)
