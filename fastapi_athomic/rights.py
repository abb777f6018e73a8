"""Which rights (ACLs) an app needs where the broker has an authorizer: operations on its topics and groups, by name.

The operations are those of Kafka's authorizer (KIP-11, https://kafka.apache.org/documentation/#operations_in_kafka).
There Read and Write include Describe; it is named all the same, because other authorizers (MSK's IAM) want it named.
An idempotent producer needs no right on the cluster besides Write on some topic (KIP-679, Kafka 2.8).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

Operation = Literal["Read", "Write", "Create", "Describe", "IdempotentWrite"]
ResourceType = Literal["Topic", "Group", "Cluster"]
PatternType = Literal["Literal", "Prefixed"]

CLUSTER = "kafka-cluster"
"""Kafka's name for the one resource of the type Cluster."""
ANY_NAME = "*"
"""At the end of a name: all names that begin so. Alone: all names."""


def missing_right(operation: Operation, resource_type: ResourceType, name: str) -> str:
    """What an error or a health report says where the broker refuses for lack of a right."""
    return (
        f"not authorized: the right {operation} on {resource_type.lower()} {name} is missing "
        "(docs/security.md lists what an app needs)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """What one principal must be allowed to do with one resource."""

    resource_type: ResourceType
    name: str
    operations: tuple[Operation, ...]
    purpose: str  # for people: what it is needed for
    pattern_type: PatternType = "Literal"

    def __str__(self) -> str:
        prefixed = " (prefixed)" if self.pattern_type == "Prefixed" else ""
        return f"{', '.join(self.operations)} on {self.resource_type.lower()} {self.name}{prefixed}"


def rights_of(
    *,
    group_id: str,
    sources: Collection[str],
    dlqs: Collection[str] = (),
    retries: Collection[str] = (),
    redrives: Collection[str] = (),
    published: Collection[str] = (),
    create_topics: bool = True,
    at_start: bool = False,
) -> tuple[Right, ...]:
    """What the app needs for one handler.

    Args:
        group_id: the handler's consumer group.
        sources: topics that the handler consumes; a name that ends in `*` is a prefix.
        dlqs: its DLQ topics. So for the next two.
        retries: its retry topics.
        redrives: its redrive topics: without them it works, but nobody can send dead letters back.
        published: topics that the handler or the routes publish to.
        create_topics: the setting is not "never". If it is, topics are made by somebody else, and Create is not needed.
        at_start: the setting is "at_start". Else redrive topics are made by who sends dead letters back.
    """
    create: tuple[Operation, ...] = ("Create",) if create_topics else ()
    found = (
        _right("Group", group_id, ("Read", "Describe"), "to be a member and to commit"),
        *_topics(sources, ("Read", "Describe", *create), "to consume"),
        *_topics(dlqs, ("Write", "Describe", *create), "to write dead letters"),
        *_topics(
            retries, ("Read", "Write", "Describe", *create), "to write what waits, and to consume it when it is due"
        ),
        *_topics(
            redrives,
            ("Read", "Describe", *(create if at_start else ())),
            "to consume dead letters that were sent back",
        ),
        *_topics(published, ("Write", "Describe", *create), "to publish"),
    )
    if any("Write" in right.operations for right in found):
        return found
    return (*found, _right("Cluster", CLUSTER, ("IdempotentWrite",), "to publish; included in Write on any topic"))


def rights_to_settle(
    *, sources: Collection[str], dlqs: Collection[str], redrives: Collection[str], create_topics: bool = True
) -> tuple[Right, ...]:
    """What it takes to list dead letters, to send them back and to discard them, from the app or the command line.

    Args:
        sources: read only for letters that were too large to be kept whole.
        dlqs: where the letters are; markers are written there, too.
        redrives: where they are sent.
        create_topics: as in `rights_of`.
    """
    create: tuple[Operation, ...] = ("Create",) if create_topics else ()
    return (
        *_topics(dlqs, ("Read", "Write", "Describe"), "to list dead letters and to note which are settled"),
        *_topics(redrives, ("Read", "Write", "Describe", *create), "to send dead letters back"),
        *_topics(sources, ("Read", "Describe"), "to send back what was too large for its dead letter"),
    )


def _topics(names: Collection[str], operations: tuple[Operation, ...], purpose: str) -> Iterator[Right]:
    return (_right("Topic", name, operations, purpose) for name in dict.fromkeys(names))


def _right(kind: ResourceType, name: str, operations: tuple[Operation, ...], purpose: str) -> Right:
    pattern: PatternType = "Prefixed" if name.endswith(ANY_NAME) and name != ANY_NAME else "Literal"
    bare = name.removesuffix(ANY_NAME) if pattern == "Prefixed" else name
    return Right(resource_type=kind, name=bare, operations=operations, purpose=purpose, pattern_type=pattern)
