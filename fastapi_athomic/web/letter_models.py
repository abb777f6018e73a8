"""Dead letters as the routes show them: without key, value and headers, unless somebody has the right to see those."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..error_text import one_line
from ..failures.letters import DeadLetter
from .fields import Body, Count, ErrorType, Flag, Offset, Partition, Reason, Topic

LONGEST_REDRIVE = 60.0
"""Seconds that one request may be made to last by its `rate`."""


_LETTER: dict[str, Any] = {
    "id": "orders.placed-0-17-1795870000000",
    "topic": "orders.placed.billing.dlq",
    "partition": 0,
    "offset": 4,
    "group_id": "billing",
    "handler_id": "billing",
    "original_topic": "orders.placed",
    "original_partition": 0,
    "original_offset": 17,
    "error_type": "builtins.ValueError",
    "error_message": "the card was declined",
    "error_stage": "handler",
    "attempts": 3,
    "redrives": 0,
    "failed_at": "2026-11-28T12:00:00Z",
    "has_key": True,
    "value_bytes": 73,
    "omitted": [],
}


class Letter(BaseModel):
    """One dead letter without what may be personal data: key, value and headers."""

    model_config = ConfigDict(json_schema_extra={"examples": [_LETTER]})

    id: str = Field(description="The same however often the letter was written")
    topic: str = Field(description="The DLQ topic")
    partition: int = Field(description="The letter's place in the DLQ topic")
    offset: int
    group_id: str | None = Field(description="Whose letter it is")
    handler_id: str | None
    original_topic: str | None = Field(description="Where the message stood first")
    original_partition: int | None
    original_offset: int | None
    error_type: str | None
    error_message: str | None = Field(description="Null with `expose_error_messages=false`")
    error_stage: str | None = Field(description="In which step: `headers`, `decode`, `handler` or `timeout`")
    attempts: int
    redrives: int = Field(description="How often it was sent back already")
    failed_at: datetime | None
    has_key: bool
    value_bytes: int | None = Field(description="The length of the value; null: a tombstone, or left out")
    omitted: list[str] = Field(description="Which of value, headers and key were too large for the DLQ")

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        """Texts of headers are cut and cleaned: whoever may write to the DLQ topic can write anything there."""
        return cls(
            id=one_line(letter.id),
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            group_id=_line(letter.group_id),
            handler_id=_line(letter.handler_id),
            original_topic=_line(letter.original_topic),
            original_partition=letter.original_partition,
            original_offset=letter.original_offset,
            error_type=_line(letter.error_type),
            error_message=_line(letter.error_message, 1_000),
            error_stage=_line(letter.error_stage),
            attempts=letter.attempts,
            redrives=letter.redrives,
            failed_at=letter.failed_at,
            has_key=letter.key is not None,
            value_bytes=None if letter.value is None or "value" in letter.omitted else len(letter.value),
            omitted=list(letter.omitted),
        )


def _line(text: str | None, limit: int = 500) -> str | None:
    return one_line(text, limit) if text else None


class LetterPage(BaseModel):
    """Open dead letters; those of one partition in the order in which they were written."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"letters": [_LETTER], "more": False, "next_offset": None}]}
    )

    letters: list[Letter]
    more: bool = Field(description="There are others that fit")
    next_offset: int | None = Field(description="With `partition`: the `offset` to go on with; null if that is all")


class Data(BaseModel):
    """Bytes as text."""

    encoding: Literal["utf-8", "base64"]
    data: str

    @classmethod
    def of(cls, given: bytes | None) -> Self | None:
        """As it is if it is UTF-8."""
        if given is None:
            return None
        try:
            return cls(encoding="utf-8", data=given.decode())
        except UnicodeDecodeError:
            return cls(encoding="base64", data=base64.b64encode(given).decode())


class HeaderValue(BaseModel):
    """One header of a message. Names may repeat."""

    name: str
    value: Data | None


class LetterPayload(BaseModel):
    """A dead letter with what is in it: after `mask`, if the app has one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "letter": _LETTER,
                    "key": {"encoding": "utf-8", "data": "order-17"},
                    "value": {"encoding": "utf-8", "data": '{"total": 12}'},
                    "headers": [{"name": "traceparent", "value": {"encoding": "utf-8", "data": "00-4bf9-00f0-01"}}],
                    "decoded": {"total": 12},
                    "not_decoded": None,
                    "masked": False,
                }
            ]
        }
    )

    letter: Letter
    key: Data | None
    value: Data | None
    headers: list[HeaderValue]
    decoded: Any = Field(
        None, description="The value as the handler would get it, as JSON; null if it cannot be decoded, see below"
    )
    not_decoded: str | None = Field(None, description="Why there is no decoded form; null if there is one")
    masked: bool = Field(description="The app's `mask` has seen it")


_CLEAR_CHOICE: dict[str, Any] = {
    "if": {"required": ["offset"], "properties": {"offset": {"type": "integer"}}},
    "then": {"required": ["partition"], "properties": {"partition": {"type": "integer"}}},
    "else": {"required": ["limit"], "properties": {"limit": {"type": "integer"}}},
}
"""In JSON Schema what `Settle` checks."""


class Settle(Body):
    """Which dead letters."""

    source: Topic | None = Field(None, description="Only those of this source topic")
    partition: Partition | None = Field(None, description="Only those in this partition of the DLQ topic")
    offset: Offset | None = Field(None, description="Only the one at this offset of the DLQ topic")
    error_type: ErrorType | None = None
    limit: Count | None = Field(None, description="At most so many; needed unless `offset` names a single one")
    dry_run: Flag = Field(False, description="Only say what would be done")
    reason: Reason

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.offset is not None and self.partition is None:
            raise ValueError("offset needs partition: each partition has letters of its own")
        if self.offset is None and self.limit is None:
            raise ValueError("limit is missing: say how many at most, or name one letter by partition and offset")
        return self


class Redrive(Settle):
    """Which dead letters to send back."""

    model_config = ConfigDict(
        json_schema_extra={
            **_CLEAR_CHOICE,
            "examples": [{"error_type": "shop.Down", "limit": 100, "reason": "provider is back"}],
        }
    )

    rate: float | None = Field(
        None, gt=0, le=1e6, allow_inf_nan=False, strict=True, description="Messages per second; null: at once"
    )

    @model_validator(mode="after")
    def _short(self) -> Self:
        if self.rate is not None and (self.limit or 1) / self.rate > LONGEST_REDRIVE:
            raise ValueError(
                f"limit / rate must be {LONGEST_REDRIVE:g} s at most, as the request lasts as long: send it again for "
                "the rest"
            )
        return self


class Discard(Settle):
    """Which dead letters to discard."""

    model_config = ConfigDict(
        json_schema_extra={
            **_CLEAR_CHOICE,
            "examples": [{"partition": 0, "offset": 4, "reason": "paid by hand"}],
        }
    )


class Settled(BaseModel):
    """What was done, or would be."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "selected": 5,
                    "settled": 4,
                    "exhausted": 1,
                    "resumed": 0,
                    "refused": {},
                    "dry_run": False,
                    "topics": {"orders.placed.billing.dlq": 4},
                }
            ]
        },
    )

    selected: int = Field(description="How many letters fit")
    settled: int = Field(description="How many of them were sent back or discarded")
    exhausted: int = Field(description="Left alone: they were sent back `max_redrives` times already")
    resumed: int = Field(description="Of the settled ones: an earlier redrive that broke off had sent them")
    refused: dict[str, int] = Field(description="Cannot be sent back and stay open: how many, by reason")
    dry_run: bool
    topics: dict[str, int] = Field(description="Settled in each DLQ topic")
