"""What happened to a message, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

from .messages import Origin, RawMessage


class Stage(StrEnum):
    """Where in its journey a message failed; written to `athomic-error-stage`."""

    HEADERS = "headers"
    DECODE = "decode"
    HANDLER = "handler"
    TIMEOUT = "timeout"


class ConsumptionOutcome:
    """The handler completed; `result` is what it returned."""

    __slots__ = ("result",)

    def __init__(self, result: object = None) -> None:
        self.result = result

    def __repr__(self) -> str:  # never the result itself: it may hold payload
        return f"<ConsumptionOutcome {type(self.result).__name__}>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class FailureContext:
    """The handler, or a stage before it, failed. No two are equal."""

    message: RawMessage
    origin: Origin  # where the message stood first; itself, unless it came back from a retry or redrive topic
    error: BaseException
    stage: Stage
    attempt: int  # 1 for the first, counted over all topics
    handler_id: str
    group_id: str
    first_failed_at: float  # seconds since the epoch
    failed_at: float  # seconds since the epoch
    letter_id: str = field(default_factory=lambda: uuid4().hex)  # of its dead letter, however often that is written

    def __repr__(self) -> str:
        return f"<FailureContext {self.message!r} {self.stage} attempt {self.attempt}: {type(self.error).__name__}>"
