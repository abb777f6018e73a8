"""What both the service and its observers must know: handlers, their topics, and the options that a deploy changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Literal

PARTITIONS = {"main": 4, "tries": 3, "orders": 3, "fleeting": 3, "sequence": 3}
"""The topics that exist from the beginning, without their prefix, and their partitions."""
MANY = "many"
"""Begins the names of topics that match a pattern. They come and go."""

TOPICS = {
    "loop": "main",
    "latest": "main",
    "thread": "main",
    "dependency": "main",
    "batch": "main",
    "retrying": "tries",
    "billing": "orders",
    "shipping": "orders",
    "fleeting": "fleeting",
    "pattern": MANY,
    "pattern_too": MANY,
    "ordered": "sequence",
}
"""The topic of each handler."""
UNORDERED = frozenset(("latest", "retrying"))


def group_of(prefix: str, handler: str) -> str:
    return f"{prefix}-{handler}"


def handlers_of(topic: str) -> list[str]:
    """The handlers of a topic. `topic`: without its prefix."""
    kind = topic.partition(".")[0]
    return [handler for handler, source in TOPICS.items() if source == kind]


@dataclass(frozen=True)
class Options:
    """What a deploy may change."""

    ordering: Literal["key", "partition"] = "key"
    concurrency: int = 20
    batch_size: int = 20
    retry_topics: tuple[float, ...] = (2,)  # seconds
    dlq_name: str = ""  # of `retrying`; "": by the template
    isolation: Literal["loop", "thread"] = "loop"

    def dlq(self, prefix: str) -> str | bool:
        return f"{prefix}.{self.dlq_name}" if self.dlq_name else True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Options:
        values = json.loads(text)
        return cls(**values | {"retry_topics": tuple(values["retry_topics"])})

    def changed(self, chance: Random) -> Options:
        """Other options, chosen at random."""
        return replace(
            self,
            ordering=chance.choice(("key", "partition")),
            concurrency=chance.choice((1, 5, 20, 50)),
            batch_size=chance.choice((1, 20, 200)),
            retry_topics=chance.choice(((2, 3), (2, 3), (3,), ())),
            dlq_name=chance.choice(("", "failed", "refused")),
            isolation=chance.choice(("loop", "thread")),
        )
