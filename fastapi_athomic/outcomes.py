"""How one attempt to handle a message ended, as values: it completed, or it failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

from .error_text import line_of_the_service, one_line, summary
from .messages import Origin, RawMessage, key_text

LONGEST_KEY = 100
"""Characters of a key in a log line."""


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
        return self.in_words()

    def in_words(self, *, exposed: bool = True, with_key: bool = False, messages: int = 1) -> str:
        """A sentence for a log line: which message failed, where, at which attempt, and with what.

        Args:
            exposed: with what the exception says (setting `expose_error_messages`); inputs of validation errors are
                left out in any case.
            with_key: with the message's key (setting `trace_message_keys`).
            messages: how many failed together, in a batch that begins with `message`.
        """
        message = self.message
        what = "a message" if messages == 1 else f"a batch of {messages} messages"
        where = f"partition {message.partition}, offset {message.offset}"
        if with_key and message.key is not None:
            where += f", key {one_line(key_text(message.key), LONGEST_KEY)}"
        if (origin := self.origin).topic != message.topic:
            where += f"; at first {origin.topic}, partition {origin.partition}, offset {origin.offset}"
        how = f"stage {self.stage}, attempt {self.attempt}"
        if self.stage is not Stage.DECODE and (line := line_of_the_service(self.error)):
            how += f", {line}"
        error = summary(self.error, exposed=exposed)
        return f"{what} of {message.topic} ({where}) failed ({how}): {error}"
