"""Validates large payloads in a thread such that other threads, the event loop's first of all, have their turn.

pydantic holds Python's lock (GIL) from the beginning of a payload to its end: in a thread of its own it stops the event
loop as long as in the loop's. So a copy of the type's schema calls a Python function after each item of a list; there
the interpreter hands the lock over, every 5 ms if somebody waits for it (`sys.setswitchinterval`). Parsing, before the
first item, is still one piece. docs/types.md has figures.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from ..checks import is_whole, shown
from ..compatibility import validator_with_all
from ..exceptions import ConfigurationError
from .off_loop import threads
from .steps import Decoder, Later, Received

_ITEMS = {"list": "items_schema", "set": "items_schema", "frozenset": "items_schema", "dict": "values_schema"}
_QUICK = ("str", "int", "float", "bool", "none", "bytes", "any")
"""Items that are validated faster than the function is called."""


def sliced_validator(adapter: TypeAdapter[Any]) -> Any:
    """Like the adapter's validator, with places where another thread may go on."""
    schema: Any = _sliced(adapter.core_schema)
    return validator_with_all(schema)  # ready-made validators of nested models do not have these places


def bytes_or_none(thread_above: Any) -> int | None:
    """The option `thread_above` of a serializer. Raises `ConfigurationError` if it is no number of bytes."""
    if thread_above is None or is_whole(thread_above):
        return thread_above  # type: ignore[no-any-return]
    raise ConfigurationError(
        f"thread_above must be a whole number of bytes, or None (never in a thread), not {shown(thread_above)}"
    )


def in_thread_above(size: int, at_once: Decoder, in_thread: Callable[[Received], Any]) -> Decoder:
    """A decoder that gives a `Later` for payloads of more than `size` bytes, which are read in a thread."""

    def decode(message: Received) -> Any | Later[Any]:
        data = message.value
        if data is None or len(data) <= size:
            return at_once(message)
        return threads.later(partial(copy_context().run, in_thread, message))

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
