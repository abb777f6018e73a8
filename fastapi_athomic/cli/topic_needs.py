"""What an app needs of a broker: topics, and rights (ACLs) on them. Asks no broker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..observation.effective import ANY_TOPIC
from ..rights import ANY_NAME, Right, rights_of, rights_to_settle
from .handlers import dlq_topics


@dataclass(slots=True, kw_only=True)
class NeededTopic:
    """A topic, or what a pattern stands for."""

    name: str
    pattern: str | None = None  # the name has a placeholder for each topic that this matches, or is the pattern
    kinds: list[str] = field(default_factory=list)  # source, retry, redrive, dlq, published
    handlers: list[str] = field(default_factory=list)
    partitions_as: list[str] = field(default_factory=list)  # names of its sources; none for a source itself
    created_by_app: bool = False  # the settings allow it
    partitions: int | None = None  # as the broker says; None: not asked, or it does not exist


@dataclass(slots=True)
class Needs:
    topics: dict[str, NeededTopic] = field(default_factory=dict)  # by name
    rights: list[Right] = field(default_factory=list)  # of the app
    rights_to_settle: list[Right] = field(default_factory=list)  # of people who look after dead letters


def add_needs(needs: Needs, athomic: Athomic, consumers: Iterable[ConsumerService], published: Sequence[str]) -> None:
    """Adds what the handlers of an app need, and what it publishes to."""
    create = athomic.settings.makes_topics
    at_start = athomic.settings.create_topics == "at_start"
    for service in consumers:
        _add_handler(needs, service, create, at_start)
    for name in published:
        _note(needs, name, "published", created=create)
    needs.rights += [
        right
        for right in rights_of(group_id="", sources=(), published=published, create_topics=create)
        if right.resource_type == "Topic"
    ]


def _add_handler(needs: Needs, service: ConsumerService, create: bool, at_start: bool) -> None:
    subscription, returns = service.subscription, service.dlq_handler.returns
    pattern = subscription.pattern
    handler_id, regex = subscription.handler_id, pattern.pattern if pattern else None
    sources = subscription.topics if pattern is None else (ANY_TOPIC,)
    dlqs = dlq_topics(service)
    retries = [topic for source in sources for topic in returns.retries(source)]
    redrives = [returns.redrive(source) for source in sources] if dlqs else []
    for source in subscription.topics:
        _note(needs, source, "source", handler_id, created=create)
    if regex is not None:
        _note(needs, f"/{regex}/", "source", handler_id, pattern=regex)
    for source in sources:
        note_own(needs, service, source, created=create)
    begin = literal_prefix(pattern) if pattern else ""

    def named(topics: Iterable[str]) -> list[str]:
        """For rights, which know names and prefixes only."""
        return [topic.partition(ANY_TOPIC)[0] + begin + ANY_NAME if ANY_TOPIC in topic else topic for topic in topics]

    needs.rights += rights_of(
        group_id=subscription.group_id,
        sources=named(sources),
        dlqs=named(dlqs),
        retries=named(retries),
        redrives=named(redrives),
        create_topics=create,
        at_start=at_start,
    )
    if dlqs:
        needs.rights_to_settle += rights_to_settle(
            sources=named(sources), dlqs=named(dlqs), redrives=named(redrives), create_topics=create
        )


def note_own(needs: Needs, service: ConsumerService, source: str, *, created: bool) -> None:
    """Adds the topics for what fails of a handler's source topic."""
    subscription, returns = service.subscription, service.dlq_handler.returns
    own = [("retry", topic) for topic in returns.retries(source)]
    if (dlq := service.dlq_handler.topic_for(source)) is not None:
        own += [("redrive", returns.redrive(source)), ("dlq", dlq)]
    for kind, topic in own:
        pattern = subscription.pattern if ANY_TOPIC in topic else None
        regex = pattern.pattern if pattern is not None else None
        _note(needs, topic, kind, subscription.handler_id, like=source, created=created, pattern=regex)


def _note(
    needs: Needs,
    name: str,
    kind: str,
    handler_id: str = "",
    *,
    like: str = "",
    created: bool = False,
    pattern: str | None = None,
) -> None:
    topic = needs.topics.setdefault(name, NeededTopic(name=name, pattern=pattern, created_by_app=created))
    for values, value in ((topic.kinds, kind), (topic.handlers, handler_id), (topic.partitions_as, like)):
        if value and value not in values:
            values.append(value)


def literal_prefix(pattern: re.Pattern[str]) -> str:
    """How every topic begins that the pattern matches, as far as that is plain; empty if it is not.

    Kafka's ACLs know names and prefixes (KIP-290), but no patterns.
    """
    text = pattern.pattern
    found: list[str] = []
    if pattern.flags & (re.IGNORECASE | re.VERBOSE) or "|" in re.sub(r"\([^()]*\)", "", text):
        return ""
    for part in re.finditer(r"\\?.", text):
        literal = part[0].removeprefix("\\")
        if not re.fullmatch(r"[\w-]|\\[.-]", part[0]):
            if literal in "*?{" and found:
                found.pop()
            break
        found.append(literal)
    return "".join(found)


def merged(rights: Iterable[Right]) -> list[Right]:
    """One for each resource, with all that is needed on it."""
    merged: dict[tuple[str, str, str], Right] = {}
    for right in rights:
        known = merged.setdefault((right.resource_type, right.name, right.pattern_type), right)
        operations = tuple(dict.fromkeys((*known.operations, *right.operations)))
        purpose = known.purpose if right.purpose in known.purpose else f"{known.purpose}; {right.purpose}"
        merged[right.resource_type, right.name, right.pattern_type] = replace(
            known, operations=operations, purpose=purpose
        )
    writes = any("Write" in right.operations for right in merged.values())  # then none on the cluster is needed
    return [right for right in merged.values() if not (writes and right.resource_type == "Cluster")]
