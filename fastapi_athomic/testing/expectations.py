"""Which failures of handlers a test expects, and the error that tells of all others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from traceback import format_exception
from types import TracebackType
from typing import Self

from ..checks import shown
from ..error_text import line_of_the_service
from ..exceptions import ConfigurationError
from ..outcomes import FailureContext

Types = type[BaseException] | tuple[type[BaseException], ...]
MOST_TOLD = 10
"""An error shows no more failures than these; the rest is counted."""


class UnexpectedFailuresError(AssertionError):
    """Handlers failed in a test that did not expect it.

    `failures` has the attempts that failed, in order; the errors are in their `error`.
    """

    def __init__(self, text: str, failures: Sequence[FailureContext]) -> None:
        super().__init__(text)
        self.failures = tuple(failures)


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Failures that a test expects: from now on, or, as a context manager, inside the `with` block only."""

    handlers: Collection[str] | None  # ids; None: all
    types: Types
    others: list[Expected]

    def covers(self, handler_id: str, error: BaseException) -> bool:
        """Whether the test expects this error of this handler."""
        return (self.handlers is None or handler_id in self.handlers) and isinstance(error, self.types)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in self.others:  # it may be used again
            self.others.remove(self)


class Expectations:
    """What one test expects."""

    def __init__(self) -> None:
        self._all: list[Expected] = []

    def add(self, handlers: Collection[str] | None, types: Types) -> Expected:
        """From now on failures of these types are expected of these handlers; None: of all.

        Raises:
            ConfigurationError: what stands there is no type of errors.
        """
        for each in types if isinstance(types, tuple) else (types,):
            if not (isinstance(each, type) and issubclass(each, BaseException)):
                raise ConfigurationError(f"expect_failures takes types of errors (ValueError), not {shown(each)}")
        expected = Expected(handlers, types, self._all)
        self._all.append(expected)
        return expected

    def cover(self, handler_id: str, error: BaseException) -> bool:
        """Whether the test expects this error of this handler."""
        return any(each.covers(handler_id, error) for each in self._all)


def told(failures: Iterable[FailureContext], waiting: str | None = None) -> str | None:
    """What to say at the end of a test; None: nothing. `waiting`: what was not handled, as `drain` says it."""
    by_message: dict[tuple[str, str, int, int], list[FailureContext]] = {}
    for failure in failures:
        place = failure.origin
        by_message.setdefault((failure.handler_id, place.topic, place.partition, place.offset), []).append(failure)
    parts = [_of_message(each) for each in list(by_message.values())[:MOST_TOLD]]
    if (more := len(by_message) - MOST_TOLD) > 0:
        parts.append(f"... and {more} more messages")
    if parts:
        count = len(by_message)
        which = "1 message" if count == 1 else f"{count} messages"
        parts.insert(0, f"handlers failed that the test did not expect to fail, at {which}:")
        parts.append("If this is what the test is about: kit.expect_failures(handler, ErrorType); see docs/testing.md.")
    if waiting is not None:
        parts.append(f"not all messages were handled at the end of the test: {waiting}")
    return "\n\n".join(parts) or None


def _of_message(failures: Sequence[FailureContext]) -> str:
    last = failures[-1]
    place = f"{last.origin.topic}[{last.origin.partition}]@{last.origin.offset}"
    attempts = f"attempt {last.attempt}" if len(failures) == 1 else f"{len(failures)} attempts"
    where = line_of_the_service(last.error) or "in no line of the service"
    trace = "".join(format_exception(last.error)).rstrip()
    return f"{last.handler_id}: {place}, {attempts}, stage {last.stage}, {where}\n{trace}"
