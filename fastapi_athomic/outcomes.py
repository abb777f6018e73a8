"""How one attempt to handle a message ended, as values: it completed, or it failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from traceback import walk_tb
from uuid import uuid4

from .messages import Origin, RawMessage


class Stage(StrEnum):
    """In which step a message failed. Dead letters have it in the header `athomic-error-stage`."""

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
    """The handler, or a step before it, failed. Compared by identity."""

    message: RawMessage
    origin: Origin  # where the message was first: here, unless it came back from a retry or redrive topic
    error: BaseException
    stage: Stage
    attempt: int  # 1 for the first, counted over all topics
    handler_id: str
    group_id: str
    first_failed_at: float  # seconds since the epoch
    failed_at: float  # seconds since the epoch
    letter_id: str = field(default_factory=lambda: uuid4().hex)  # of its dead letter: the same each time it is written

    def __repr__(self) -> str:
        return f"<FailureContext {self.message!r} {self.stage} attempt {self.attempt}: {type(self.error).__name__}>"

    def __str__(self) -> str:
        """For a log line. Has no payload, nor the error's message, which may contain some."""
        topic, partition, offset = self.message.topic, self.message.partition, self.message.offset
        line = _line_of_the_service(self.error) if self.stage is Stage.HANDLER else ""
        what = f"{self.stage}, attempt {self.attempt}: {type(self.error).__name__}{line}"
        return f"{topic}[{partition}]@{offset} failed ({what})"


PASSED_THROUGH = (__package__, "asyncio", "contextlib")
"""Packages whose frames are skipped in a traceback, to find the service's own code."""


def _line_of_the_service(error: BaseException) -> str:
    """The place in the handler or dependency that the error passed through, without a file path; else empty."""
    for frame, line in walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in PASSED_THROUGH:
            return f" in {module}.{frame.f_code.co_qualname}, line {line}"
    return ""
