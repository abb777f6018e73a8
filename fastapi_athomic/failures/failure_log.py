"""Tells what became of each failure: in the log, and among the last errors in the status.

A message has its traceback in the log once, with the line that says where it went: WARNING for a retry topic, ERROR
for a dead letter, and for one that is skipped. An attempt in place is a line at INFO without a traceback. Where such a
final line may never come, the line of an attempt in place is a WARNING with the traceback, at the first attempt and
every five minutes.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from weakref import WeakSet

from ..complaints import Complaints
from ..error_text import ExcInfo, exc_info, line_of_the_service, one_line, text_of, type_name
from ..observation.logs import fields_of
from ..observation.status import LastError
from ..outcomes import FailureContext
from ..retry import RetryPolicy
from ..settings import AthomicSettings

logger = logging.getLogger(__name__)

TRACEBACK_SECONDS = 300.0
"""Between two tracebacks of one kind of failure that is tried again in place without end."""
LAST_ERRORS = 5
"""So many failures are kept for the status."""


class FailureLog:
    """The log lines about the failures of one handler, and its last errors.

    Of many failures of one kind (what was done, the type of the error, the line of the service) `Complaints` lets only
    some through; so what is new is always told, with its traceback.
    """

    def __init__(self, policy: RetryPolicy, settings: AthomicSettings) -> None:
        # a policy that is overridden may retry for ever, whatever its fields say
        self._endless = not policy.max_attempts or type(policy).decide is not RetryPolicy.decide
        self._exposed = settings.expose_error_messages
        self._with_key = settings.trace_message_keys
        self._complaints = Complaints()
        self._tracebacks = Complaints(burst=1, interval=TRACEBACK_SECONDS)
        self._shown = WeakSet[FailureContext]()  # their traceback is in the log
        self._count = 0
        self._last_errors = deque[LastError](maxlen=LAST_ERRORS)

    def note(self, failure: FailureContext) -> None:
        """Called once for each failure, before anything is done about it."""
        self._count += 1
        message = failure.message
        error = LastError(
            type=type_name(failure.error),
            message=one_line(text_of(failure.error)) if self._exposed else None,
            stage=failure.stage.value,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            at=datetime.fromtimestamp(failure.failed_at, UTC),
            count=self._count,
        )
        self._last_errors.appendleft(error)

    @property
    def last_errors(self) -> list[LastError]:
        """The last failures of messages, the newest first; for the status. May be asked from another thread."""
        return [*self._last_errors.copy()]

    def again(self, failure: FailureContext, delay: float, messages: int = 1) -> None:
        """It is tried again in place, `delay` seconds later. `messages`: how many the failed batch has."""
        traceback = self._endless and (self._tracebacks.due(_kind(failure)) is not None or failure.attempt == 1)
        level = logging.WARNING if traceback else logging.INFO
        self.tell(failure, level, f"it is tried again in {delay:.2f} s", traceback=traceback, messages=messages)

    def excused(self, failure: FailureContext, messages: int = 1) -> None:
        """The circuit breaker of the handler is open: it is tried again when that lets it pass."""
        traceback = self._tracebacks.due(_kind(failure)) is not None
        what = "this attempt does not count, and it is tried again when the circuit breaker lets it"
        self.tell(failure, logging.WARNING if traceback else logging.INFO, what, traceback=traceback, messages=messages)

    def halved(self, failure: FailureContext, messages: int, *, again: bool) -> None:
        """The attempts of a batch are used up, and it is halved; `again`: it is a part of one already.

        The traceback comes with the first: if all messages are handled in the halves, there is no other line with it.
        """
        what = "it is halved, to find the message to blame and to handle the others"
        level = logging.INFO if again else logging.WARNING
        self.tell(failure, level, what, traceback=not again, messages=messages)

    def blocks(self, failure: FailureContext, rest: float, *, first: bool) -> None:
        """The message of an ordered consumer keeps its aggregate waiting, and is tried again every `rest` seconds.

        `first`: it did not block before.
        """
        traceback = self._tracebacks.due(_kind(failure)) is not None or first
        what = f"it blocks its aggregate, and is tried again every {rest:g} s"
        self.tell(failure, logging.ERROR, what, traceback=traceback)

    def fenced(self, failure: FailureContext) -> None:
        """It failed after its partition was revoked, which is no failure that counts."""
        self.tell(failure, logging.INFO, "its partition was revoked meanwhile, and the new owner handles it")

    def tell(
        self, failure: FailureContext, level: int, what: str, *, traceback: bool = False, messages: int = 1
    ) -> None:
        """Logs a line; `what` is the end of its sentence: what is done with the message.

        `traceback`: with that of the error, unless the log has it already. Never raises: what is done must not be done
        again because an exception of the user's cannot be described.
        """
        held_back = self._complaints.due(f"{level} {traceback} {_kind(failure)}")
        if held_back is None:
            return
        try:
            error = self._exc_info(failure) if traceback else None
            sentence = failure.in_words(exposed=self._exposed, with_key=self._with_key, messages=messages)
        except Exception as problem:
            error, sentence = None, f"a failure that cannot be described ({type_name(problem)}) at {failure.message!r}"
        more = f" ({held_back} more like it were not logged)" if held_back else ""
        extra = fields_of(failure.message, failure.handler_id)
        logger.log(level, "%s: %s; %s%s", failure.handler_id, sentence, what, more, exc_info=error, extra=extra)

    def _exc_info(self, failure: FailureContext) -> ExcInfo | None:
        """The error for the log; None if the log has its traceback already."""
        if failure in self._shown:
            return None
        self._shown.add(failure)
        return exc_info(failure.error, exposed=self._exposed)


def _kind(failure: FailureContext) -> str:
    return f"{failure.stage} {type_name(failure.error)} {line_of_the_service(failure.error)}"
