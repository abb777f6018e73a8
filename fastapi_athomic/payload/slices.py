"""Validates large payloads in a thread such that other threads, the event loop's first of all, have their turn.

pydantic holds Python's lock (GIL) from the beginning of a payload to its end: in a thread of its own it stops the event
loop as long as in the loop's. So a copy of the type's schema calls a Python function after each item of a list; there
the interpreter hands the lock over, every 5 ms if somebody waits for it (`sys.setswitchinterval`). Parsing, before the
first item, is still one piece. docs/types.md has figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..checks import Check, first_problem, is_whole, or_none
from ..compatibility import validator_with_all
from ..exceptions import ConfigurationError
from .off_loop import threads
from .steps import Later

T = TypeVar("T")

THREAD_ABOVE = 1024 * 1024
"""Bytes above which a payload is read in a thread, by default: Kafka's own limit, unless somebody has raised it."""
_LIMIT = or_none(Check(lambda value: is_whole(value) and value >= 0, "a whole number of 0 or more"), "never")
_ITEMS = {"list": "items_schema", "set": "items_schema", "frozenset": "items_schema", "dict": "values_schema"}
_QUICK = ("str", "int", "float", "bool", "none", "bytes", "any")
"""Items that are validated faster than the function is called."""


def sliced_validator(adapter: TypeAdapter[Any]) -> Any:
    """Like the adapter's validator, with places where another thread may go on."""
    schema: Any = _sliced(adapter.core_schema)
    return validator_with_all(schema)  # ready-made validators of nested models do not have these places


def checked_limit(serializer: Any) -> int:
    """The `thread_above` of a serializer, in bytes; None counts as endless. Raises `ConfigurationError`."""
    if (problem := first_problem(serializer, {"thread_above": _LIMIT})) is not None:
        raise ConfigurationError(f"{type(serializer).__name__}: {problem}")
    return sys.maxsize if serializer.thread_above is None else int(serializer.thread_above)


def in_thread(make: Callable[[], Callable[[T], Any]]) -> Callable[[T], Later[Any]]:
    """A decoder whose work is done in a thread. `make` gives what does it; it is called with the first payload."""
    made: list[Callable[[T], Any]] = []

    def work(payload: T) -> Any:
        if not made:
            made.append(make())
        return made[0](payload)

    def decode(payload: T) -> Later[Any]:
        return threads.later(partial(copy_context().run, work, payload))

    return decode


def _sliced(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_sliced(part) for part in schema]
    if isinstance(schema, tuple):
        return tuple(_sliced(part) for part in schema)
    if not isinstance(schema, dict) or schema.get("type") == "union":  # its errors name validators
        return schema
    copy = {key: part if key in ("metadata", "config", "default") else _sliced(part) for key, part in schema.items()}
    key = _ITEMS.get(str(copy.get("type")))
    items = copy.get(key) if key is not None else None
    if key is not None and items is not None and items["type"] not in _QUICK:
        function = {"type": "no-info", "function": give_way}
        copy[key] = {"type": "function-after", "function": function, "schema": items}
    return copy


def give_way(value: Any) -> Any:
    """Does nothing: a call of a Python function is where the interpreter hands its lock over."""
    return value
