"""Fields of requests that several routes have, with their limits: what is outside of them is a problem, not an error.

The limits are those of Kafka, or generous. `strict` refuses a number in quotes, and `true` for 1.
"""

from __future__ import annotations

import re
from typing import Annotated

from annotated_types import Ge, Le
from fastapi import Path
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints

LONGEST_REASON = 500
MOST_PARTITIONS = 2**31
MOST_OFFSETS = 2**53
"""Kafka's go up to 2**63, but JavaScript and many other readers of JSON know whole numbers up to here only."""
LONGEST_TIME = 365 * 24 * 3600
"""Seconds: nobody pauses a consumer until a moment further away, but may pause it without an end."""

_LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
"""A character that cannot make a line of a log look like two, or like another one."""
_VISIBLE = r"[^\x00-\x20\x7f-\xa0\u2028\u2029\u202a-\u202e\u2066-\u2069\u1680\u2000-\u200a\u202f\u205f\u3000]"

Reason = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_REASON, pattern=f"^{_LINE}*{_VISIBLE}{_LINE}*$"),
    Field(description="Why: it is logged, and told to `on_control`. One line", examples=["payment provider is down"]),
]
Topic = Annotated[
    str,
    StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,249}$"),
    Field(description="The name of a topic", examples=["orders.placed"]),
]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""3.0 is a whole number in JSON Schema. It stands last: limits behind it would not be shown there."""
Partition = Annotated[int, Strict(), Ge(0), Le(MOST_PARTITIONS - 1), WHOLE]
Offset = Annotated[int, Strict(), Ge(0), Le(MOST_OFFSETS - 1), WHOLE]
Count = Annotated[int, Strict(), Ge(1), WHOLE]
Flag = Annotated[bool, Strict()]
ErrorType = Annotated[
    str,
    StringConstraints(min_length=1, max_length=300, pattern=f"^{_LINE}+$"),
    Field(
        description="Only those that failed with this type of error, as letters show it",
        examples=["builtins.ValueError"],
    ),
]
ConsumerId = Annotated[str, Path(description="The handler id", examples=["billing"])]

_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt]")


def _text(value: object) -> object:
    if not isinstance(value, str) or _DATE.match(value) is None:
        raise ValueError("must be a time as text, ISO 8601 with its distance from UTC")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_text)]
"""Pydantic would take a number, too, also as text, and guess whether it counts seconds or milliseconds."""


class Body(BaseModel):
    """What a request brings. A field that there is not, is refused: it would be a misspelt one."""

    model_config = ConfigDict(extra="forbid")
