"""What an exception says: its type, its text, its traceback, and the line of the service that it came from.

Logs, spans, statuses and dead letters show exceptions through this module. What a handler's exception says is shown as
it is. Two things are not:

- Inputs of validation errors. The text of pydantic's `ValidationError` quotes the value that it refused: a payload.
  Its errors are told without values, and so they are where another exception quotes that text.
- Anything at all with `expose_error_messages=false`: then types and places are left.

Tools that get an exception (log formatters, Sentry, spans) print its text themselves. So they get a stand-in where
something must not be shown: an exception of a type with the same name, with the same traceback, causes and members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from traceback import walk_tb
from types import TracebackType
from typing import Any, get_args

from fastapi.exceptions import ValidationException
from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

LONGEST_LINE = 500
"""Characters of an exception's text in a log line, in the status of a span, and in the status of a consumer."""
MAX_ERRORS = 5
"""At most this many problems of one value are told."""
MOST_ERRORS = 1_000
"""A validation error with more problems is only counted: to list 200,000 takes the event loop half a second."""
LONGEST_TEXT = 10_000
"""Characters of an exception's text where it stands in full: in a traceback, and in the event of a span."""
MOST_MEMBERS = 100
"""Of an exception group so many members are shown. Tracebacks show 15, by Python's default."""

PASSED_THROUGH = (__package__, "asyncio", "contextlib")
"""Packages whose frames are skipped in a traceback, to find the service's own code."""

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
"""What `logging` takes as `exc_info`."""
Place = Callable[[Sequence[int | str], str], str]
"""Names the place of a problem: takes pydantic's `loc` and the type of the problem."""


def type_name(error: BaseException) -> str:
    """As tracebacks and spans have it: with the module, unless it is one of Python's own exceptions."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException, *, exposed: bool = True) -> str:
    """What the exception says; empty unless `exposed`."""
    return str(presentable(error)) if exposed else ""


def summary(error: BaseException, *, exposed: bool = True) -> str:
    """Type and text in one line of up to `LONGEST_LINE` characters; the type alone if there is no text."""
    text = one_line(text_of(error, exposed=exposed))
    return f"{type_name(error)}: {text}" if text else type_name(error)


def one_line(text: str, limit: int = LONGEST_LINE) -> str:
    """The text without line breaks and control characters, so that it cannot look like another line of a log."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text[: 2 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def line_of_the_service(error: BaseException) -> str:
    """The place in the handler or dependency that the error passed through, without a file path; else empty."""
    for frame, line in walk_tb(_traceback(error)):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in PASSED_THROUGH:
            return f"in {module}.{frame.f_code.co_qualname}, line {line}"
    return ""


def located(error: BaseException) -> str:
    """The type, and the line of the service that it came from if there is one: for places that never tell the text."""
    return f"{type_name(error)} {line_of_the_service(error)}".rstrip()


# --- validation errors

_KNOWN = frozenset(get_args(ErrorType))
"""Types of pydantic's own problems. Their texts hold what the schema says, apart from the following."""
_CUT_AT_COMMA = frozenset(("uuid_parsing", "mapping_type", "timezone_offset"))
"""What follows the comma may quote a part of the value."""
_OF_VALIDATORS = frozenset(("value_error", "assertion_error", "get_attribute_error", "iteration_error"))
"""The text is that of an exception in a validator, or in the value itself."""


def problems_of(error: ValidationError, place: Place) -> str:
    """Where and how the validation failed, without showing any of the value. Many problems are only counted."""
    if error.error_count() > MOST_ERRORS:
        return "too many problems to be listed"
    return problems_in_words(error.errors(include_url=False, include_input=False), place)


def problems_in_words(found: Sequence[Mapping[str, Any]], place: Place) -> str:
    """Where and how a validation failed (`found`: pydantic's `errors()`), without showing any of the value."""
    told = [f"{place(item['loc'], item['type'])}{item['type']} ({_in_words(item)})" for item in found[:MAX_ERRORS]]
    return "; ".join(told) + ("; ..." if len(found) > MAX_ERRORS else "")


def _in_words(problem: Mapping[str, Any]) -> str:
    kind, message = str(problem["type"]), str(problem["msg"])
    if kind == "union_tag_invalid":
        return f"the tag should be one of {message.rpartition('expected tags: ')[2]}"
    if kind in _OF_VALIDATORS or kind not in _KNOWN:
        raised = (problem.get("ctx") or {}).get("error")
        return f"refused by {_validator(raised)}" if isinstance(raised, BaseException) else "refused by a validator"
    return message.partition(",")[0] if kind in _CUT_AT_COMMA else message


def _validator(raised: BaseException) -> str:
    return f"a validator, with {located(raised)}"


def _place_in_any(location: Sequence[int | str], kind: str) -> str:
    """Names of fields are identifiers. Other parts may be keys of the value, and become a question mark."""
    parts = [part if isinstance(part, int) or part.isidentifier() else "?" for part in location]
    if kind == "extra_forbidden" and parts:
        parts[-1] = "?"
    return f"{'.'.join(map(str, parts))}: " if parts else ""


def _without_values(error: ValidationError | ValidationException) -> str:
    if isinstance(error, ValidationError):
        return f"{_heading(error)}: {problems_of(error, _place_in_any)}"
    found = error.errors()
    return f"{len(found)} validation error{'s' * (len(found) != 1)}: {problems_in_words(found, _place_in_any)}"


def _heading(error: ValidationError) -> str:
    """How its text begins."""
    count = error.error_count()
    return f"{count} validation error{'s' * (count != 1)} for {error.title}"


def _quotable(error: ValidationError) -> str:
    """Its text; with too many problems only the first line of it, with its end."""
    return f"{_heading(error)}\n" if error.error_count() > MOST_ERRORS else str(error)


# --- stand-ins


def presentable(error: BaseException, *, exposed: bool = True) -> BaseException:
    """The exception for those who print it: itself, or a stand-in if its text, or that of a cause, must not be shown.

    Unless `exposed`, that is every text. Never raises, whatever the methods of a user's exception do.
    """
    try:
        return _shown(error, exposed=exposed)
    except Exception as broken:
        told = f"(it cannot be told: {type_name(broken)})" if exposed else ""
        kind: Any = type(error)
        stand_in: BaseException = _namesake(kind, Exception)(told)
        return stand_in.with_traceback(_traceback(error))


def exc_info(error: BaseException, *, exposed: bool = True) -> ExcInfo:
    """For `logging`: what is `presentable`, under the exception's own type, by which filters and Sentry judge it.

    A tuple, since loggers take an exception that is false (one with `__len__` or `__bool__`) for none.
    """
    return type(error), presentable(error, exposed=exposed), _traceback(error)


def _traceback(error: BaseException) -> TracebackType | None:
    """Also of an exception whose type meddles with attributes."""
    traceback: TracebackType | None = object.__getattribute__(error, "__traceback__")
    return traceback


def _shown(error: BaseException, *, exposed: bool) -> BaseException:
    related = list(_related(error))
    quoted = {_quotable(one): _without_values(one) for one in related if isinstance(one, ValidationError)}
    texts = {id(one): _presentable_text(one, quoted) if exposed else "" for one in related}
    if exposed and not any(text is not None for text in texts.values()):
        return error
    return _StandIns(texts, quoted, exposed=exposed).of(error, related)


def _related(error: BaseException) -> Iterator[BaseException]:
    """The exception, and what a traceback shows with it: causes, contexts, members of groups. Each once."""
    seen, waiting = set[int](), [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        context = None if one.__suppress_context__ else one.__context__
        waiting += [other for other in (one.__cause__, context) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions[:MOST_MEMBERS]


def _presentable_text(error: BaseException, quoted: Mapping[str, str]) -> str | None:
    """None if it can be shown as it is."""
    if isinstance(error, ValidationError):
        return quoted[_quotable(error)]
    if isinstance(error, ValidationException):
        return _without_values(error)
    try:
        told = error.message if isinstance(error, BaseExceptionGroup) else str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # a user's `__str__` may fail
        return f"(its text cannot be told: {type_name(broken)})"
    text = _replaced(told, quoted)
    if isinstance(error, BaseExceptionGroup) and (count := len(error.exceptions)) > MOST_MEMBERS:
        text = f"{text}, here the first {MOST_MEMBERS} of {count}"
    if len(text) > LONGEST_TEXT:
        return f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"
    return None if text == told else text


def _replaced(text: str, quoted: Mapping[str, str]) -> str:
    for quote, replacement in quoted.items():
        if quote.endswith("\n"):  # a first line: what follows it is left out
            before, found, _ = text.partition(quote)
            text = before + replacement if found else text
            continue
        text = text.replace(quote, replacement)
    return text


class _StandIns:
    """Exceptions that say the given texts in place of others, related to each other as those are."""

    def __init__(self, texts: Mapping[int, str | None], quoted: Mapping[str, str], *, exposed: bool) -> None:
        self._texts = texts  # by id of the exception; None: its own
        self._quoted = quoted
        self._exposed = exposed
        self._made: dict[int, BaseException] = {}

    def of(self, error: BaseException, related: Iterable[BaseException]) -> BaseException:
        for original in related:
            stand_in = self._make(original)
            stand_in.__cause__ = self._related(original.__cause__)
            stand_in.__context__ = self._related(original.__context__)
            stand_in.__suppress_context__ = original.__suppress_context__
        return self._made[id(error)]

    def _related(self, other: BaseException | None) -> BaseException | None:
        """None as well for a context that is suppressed: a traceback does not show it."""
        return self._make(other) if other is not None and id(other) in self._texts else None

    def _make(self, original: BaseException) -> BaseException:
        made = self._made.get(id(original))
        if made is None:
            made = self._made[id(original)] = self._new(original)
            made.__traceback__ = original.__traceback__
            if self._exposed:
                notes = getattr(original, "__notes__", None)
                for note in notes if isinstance(notes, list) else ():
                    made.add_note(_replaced(str(note), self._quoted))
        return made

    def _new(self, original: BaseException) -> BaseException:
        told = self._texts[id(original)]
        kind: Any = type(original)
        made: BaseException
        if isinstance(original, BaseExceptionGroup):
            members = [self._make(member) for member in original.exceptions[:MOST_MEMBERS]]
            made = _namesake(kind, BaseExceptionGroup)(original.message if told is None else told, members)
        else:
            made = _namesake(kind, Exception)(str(original) if told is None else told)
        return made


@lru_cache(maxsize=256)
def _namesake(kind: Any, base: Any) -> Any:
    """A type with the same name, for tools that show or group by it."""
    return type(kind.__name__, (base,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
