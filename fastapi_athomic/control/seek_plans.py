"""What a seek does, as values: where to, and what it skips and repeats."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Target = int | datetime | Literal["beginning", "end"]
"""Where to: an offset; the first message of that time or later (with a time zone); the oldest message that is kept;
behind the newest one."""


class PartitionSeek(BaseModel):
    """What a seek does to one partition. "Handled" is what the consumer has concluded: also dead letters."""

    topic: str
    partition: int
    from_offset: int | None = Field(description="The lowest offset that is not handled; null if that is not known")
    to_offset: int = Field(description="Where the consumer goes on")
    skipped: int | None = Field(description="Messages that will not be handled, or null if that is not known")
    repeated: int | None = Field(description="Messages that will be handled again, or null if that is not known")
    exact: bool = Field(
        description="False: so many offsets are counted that were not looked at; there may be fewer messages, as "
        "transactions and compaction leave gaps"
    )
    done: bool = Field(False, description="The consumer has gone there")
    problems: list[str] = Field([], description="Why it cannot be done: another member has the partition, say")


class SeekPlan(BaseModel):
    """What a seek would do, or has done."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "consumer": "billing",
                    "topic": "orders.placed",
                    "partitions": [
                        {
                            "topic": "orders.placed",
                            "partition": 0,
                            "from_offset": 1204,
                            "to_offset": 1100,
                            "skipped": 0,
                            "repeated": 104,
                            "exact": True,
                            "done": False,
                            "problems": [],
                        }
                    ],
                    "skipped": 0,
                    "repeated": 104,
                    "exact": True,
                    "problems": [],
                    "notes": ["billing is paused: it goes on there when it is resumed"],
                    "done": False,
                }
            ]
        }
    )

    consumer: str = Field(description="The handler id")
    topic: str
    partitions: list[PartitionSeek]
    skipped: int | None = Field(description="Of all partitions; null if that of one is not known")
    repeated: int | None = Field(description="Of all partitions; null if that of one is not known")
    exact: bool = Field(description="Whether both numbers are exact")
    problems: list[str] = Field([], description="Why it is refused unless it is forced; empty: it can be done")
    notes: list[str] = Field([], description="What to know besides")
    done: bool = Field(False, description="All partitions are where they should be")


def plan_of(consumer: str, topic: str, partitions: list[PartitionSeek], notes: list[str]) -> SeekPlan:
    """The plan of a seek, summed up over its partitions."""
    return SeekPlan(
        consumer=consumer,
        topic=topic,
        partitions=partitions,
        skipped=_sum([each.skipped for each in partitions]),
        repeated=_sum([each.repeated for each in partitions]),
        exact=all(each.exact for each in partitions),
        problems=[problem for each in partitions for problem in each.problems],
        notes=notes,
        done=bool(partitions) and all(each.done for each in partitions),
    )


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
