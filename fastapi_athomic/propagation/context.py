"""The execution context: who and what the current request or message is about.

One immutable `ExecutionContext` in one `ContextVar`. Over HTTP and Kafka it travels in headers of the same names, one
per field: `x-request-id`, `x-correlation-id`, `x-tenant-id`, `x-user-id`, `x-role`, `x-locale`, `x-feature-flags`
(separated by commas), and `x-context-<name>` for each entry of `extra`. Values are UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Protocol

from ..messages import Headers, RawMessage

MAX_VALUE_LENGTH = 256
"""Most bytes of a header value from outside, unless the settings say otherwise."""
MAX_EXTRA = 32
"""Most entries of `extra` from outside."""

REQUEST_ID = "x-request-id"
FEATURE_FLAGS = "x-feature-flags"
EXTRA_PREFIX = "x-context-"
FIELD_OF_HEADER: Mapping[str, str] = MappingProxyType(
    {
        REQUEST_ID: "request_id",
        "x-correlation-id": "correlation_id",
        "x-tenant-id": "tenant_id",
        "x-user-id": "user_id",
        "x-role": "role",
        "x-locale": "locale",
        FEATURE_FLAGS: "feature_flags",
    }
)
UNTRUSTED_FIELDS = frozenset(("request_id", "correlation_id", "locale"))
"""Fields that may come from anybody: they name a request or a language, and grant nothing."""

_EXTRA_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class FrozenDict(dict[str, str]):
    """A dict that cannot be changed; unlike a mapping proxy it can be pickled, copied, and serialized by FastAPI."""

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("it is immutable: use set_context(extra={...}) or dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


_NOTHING: Mapping[str, str] = FrozenDict()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionContext:
    """Who and what the current request or message is about. Immutable; can be passed to threads and processes."""

    request_id: str | None = None
    correlation_id: str | None = None
    tenant_id: str | None = None
    user_id: str | None = None
    role: str | None = None
    locale: str | None = None
    feature_flags: tuple[str, ...] = ()
    # fields of your own; names in lower case
    extra: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)

    def __post_init__(self) -> None:
        """Makes the collections immutable.

        Raises:
            TypeError: feature_flags is a single str.
            ValueError: a flag or a name in `extra` could not travel in a header.
        """
        if self.feature_flags != ():
            object.__setattr__(self, "feature_flags", _checked_flags(self.feature_flags))
        if self.extra is not _NOTHING:
            _check_extra_names(self.extra)
            object.__setattr__(self, "extra", FrozenDict(self.extra))


def _checked_flags(flags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(flags, str):
        raise TypeError("feature_flags is a collection of str, not one str")
    checked = tuple(flags)
    if any("," in flag or flag != flag.strip() or not flag for flag in checked):
        raise ValueError("a feature flag is not empty, has no comma in it and no space around it")
    return checked


def _check_extra_names(names: Iterable[str]) -> None:
    for name in names:
        if _EXTRA_NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} in extra must match {_EXTRA_NAME.pattern}: it is part of a header's name")


EMPTY = ExecutionContext()
FIELDS = tuple(known.name for known in fields(ExecutionContext))

Messages = RawMessage | Sequence[RawMessage]


class HeadersReader(Protocol):
    """Reads the headers of the messages in hand, when something asks for them. `HeadersOrchestrator` is one.

    No method raises.
    """

    @property
    def handler_id(self) -> str:
        """The handler that the messages are for."""
        ...

    def note_published(self, topic: str) -> None:
        """The handler has published to this topic."""
        ...

    def read_context(self, messages: Messages) -> ExecutionContext:
        """Their context; an empty one if it cannot be read."""
        ...

    def read_lineage(self, messages: Messages) -> object:
        """Their `Lineage`; None if lineage is off or cannot be read. An object, as `lineage` imports this module."""
        ...


Received = tuple[HeadersReader, Messages, ExecutionContext | None]
"""The messages in hand, what reads their headers, and their context once it has been read or set.

A plain tuple: one is made per message.
"""

_current: ContextVar[ExecutionContext | Received] = ContextVar("athomic_context", default=EMPTY)

apply_context = _current.set
undo_context = _current.reset
"""`restore_context` in two halves, for code that runs once per message or request: it saves an object."""


def get_context() -> ExecutionContext:
    """The current context; an empty one if none was set."""
    current = _current.get()
    if isinstance(current, ExecutionContext):
        return current
    reader, messages, context = current
    if context is None:
        context = reader.read_context(messages)
        _current.set((reader, messages, context))
    return context


def set_context(context: ExecutionContext | None = None, /, **changes: Any) -> ExecutionContext:
    """Replaces the current context by `context`, changes single fields of it, or both. Returns the new one.

    It lasts until the request or message in hand is done. Call it in async code: FastAPI runs a sync dependency in a
    copy of the context variables.

    Raises:
        TypeError: there is no such field.
    """
    new = get_context() if context is None else context
    if changes:
        new = replace(new, **changes)
    _current.set(_with(new))
    return new


def capture_context() -> ExecutionContext:
    """The current context, for `restore_context` in a background task, a thread or another process."""
    return get_context()


class RestoredContext:
    """A context manager that restores the previous context on exit."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: ExecutionContext) -> None:
        self._context = context
        self._token: Token[ExecutionContext | Received] = _current.set(_with(context))

    def __enter__(self) -> ExecutionContext:
        return self._context

    def __exit__(self, *_: object) -> None:
        try:
            _current.reset(self._token)
        except ValueError:  # left in another copy of the context (a sync dependency with yield): nothing to undo there
            return


def restore_context(context: ExecutionContext) -> RestoredContext:
    """Makes `context` current from this call on; in a `with` statement, until the end of the block."""
    return RestoredContext(context)


def current_messages() -> tuple[HeadersReader, Messages] | None:
    """The message or batch in hand, and what reads its headers; None outside handlers."""
    current = _current.get()
    return None if isinstance(current, ExecutionContext) else current[:2]


def _with(context: ExecutionContext) -> ExecutionContext | Received:
    """The context together with the messages in hand, which stay in hand when the context changes."""
    current = _current.get()
    return context if isinstance(current, ExecutionContext) else (current[0], current[1], context)


# --- headers


def context_from_headers(
    headers: Headers, max_value_length: int = MAX_VALUE_LENGTH, *, believe_identity: bool = True
) -> ExecutionContext:
    """The context that the headers carry. Of several headers with one name the last usable one counts. Never raises.

    A value is ignored if it is null, empty, not UTF-8, longer than `max_value_length` bytes, or has unprintable
    characters. Without `believe_identity` only the `UNTRUSTED_FIELDS` are read.
    """
    values: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for name, raw in headers:
        known = FIELD_OF_HEADER.get(name)
        if known is None and not (believe_identity and name.startswith(EXTRA_PREFIX)):
            continue
        value = _usable_text(raw, max_value_length)
        if value is None or not (believe_identity or known in UNTRUSTED_FIELDS):
            continue
        if known is None:
            _add_extra(extra, name.removeprefix(EXTRA_PREFIX), value)
        else:
            values[known] = _flags(value) if name == FEATURE_FLAGS else value
    if extra:
        values["extra"] = extra
    return ExecutionContext(**values) if values else EMPTY


def headers_from_context(context: ExecutionContext) -> Headers:
    """One header per field that is set."""
    if context is EMPTY:
        return ()
    values = [(name, getattr(context, known)) for name, known in FIELD_OF_HEADER.items() if name != FEATURE_FLAGS]
    values.append((FEATURE_FLAGS, ",".join(context.feature_flags)))
    values += [(EXTRA_PREFIX + name, value) for name, value in context.extra.items()]
    return tuple((name, str(value).encode("utf-8", "replace")) for name, value in values if value)


def common_context(contexts: Iterable[ExecutionContext]) -> ExecutionContext:
    """What all contexts have in common. A field in which they differ is empty."""
    first, *others = contexts
    names = [name for name in FIELDS if all(getattr(first, name) == getattr(other, name) for other in others)]
    return first if len(names) == len(FIELDS) else ExecutionContext(**{name: getattr(first, name) for name in names})


class ContextAdapter:
    """Reads and writes the execution context in the headers of messages.

    It believes what comes over the broker, whose access control decides who may write to a topic.
    """

    def __init__(self, max_value_length: int = MAX_VALUE_LENGTH) -> None:
        self._max_value_length = max_value_length

    def read(self, messages: Messages) -> ExecutionContext:
        """The context of a message, or what all messages of a batch have in common. Never raises."""
        if isinstance(messages, RawMessage):
            return context_from_headers(messages.headers, self._max_value_length)
        different = {message.headers for message in messages}
        return common_context(context_from_headers(headers, self._max_value_length) for headers in different)

    def outgoing(self) -> Headers:
        """The headers of the current context, for what is published now."""
        return headers_from_context(get_context())


def _usable_text(raw: bytes | None, max_length: int) -> str | None:
    if not raw or len(raw) > max_length:
        return None
    try:
        value = raw.decode()
    except UnicodeDecodeError:
        return None
    return value if value.isprintable() else None


def _flags(value: str) -> tuple[str, ...]:
    return tuple(flag for part in value.split(",") if (flag := part.strip()))


def _add_extra(extra: dict[str, str], name: str, value: str) -> None:
    if _EXTRA_NAME.fullmatch(name) is not None and (len(extra) < MAX_EXTRA or name in extra):
        extra[name] = value
