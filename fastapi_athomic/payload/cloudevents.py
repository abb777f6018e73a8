"""CloudEvents 1.0 over Kafka: an envelope around what another serializer writes.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md: in binary mode the
attributes are headers, as UTF-8 and never percent-encoded (unlike HTTP's), and the value is the data. In structured
mode the value is a JSON document with both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..clock import utc_now
from ..exceptions import ConfigurationError, PayloadEncodeError
from ..messages import Headers
from .annotations import type_name
from .cloudevents_attributes import (
    CHECKS,
    SPECVERSION,
    bare,
    is_json,
    json_of_extension,
    text_of_extension,
    text_of_time,
)
from .cloudevents_event import CloudEvent as CloudEvent
from .cloudevents_event import checked_extensions
from .cloudevents_json import write
from .cloudevents_reading import EventReader, is_event
from .json_format import Json
from .steps import CONTENT_TYPE, Decoder, Later, Outgoing, Part, Received, Serializer

STRUCTURED = b"application/cloudevents+json; charset=UTF-8"
_TRACE = TraceContextTextMapPropagator()
_TRACE_HEADERS = frozenset(_TRACE.fields)


class CloudEvents(Serializer):
    """Writes and reads CloudEvents. Handlers get data, or with `CloudEvent[Order]` the event with its attributes.

    Both modes are read, whichever is written. What is published is a `CloudEvent`, or data, which gets an id, the
    present time, and a type. If the event has the extension `partitionkey` and no key is given, that is the key.

    Args:
        source: where the events happen, a URI reference. A received event has its own.
        serializer: of the data; None: `Json`.
        mode: in which events are written.
        types: the data of each type of event. Handlers of several types get by it what is in the message. Of two types
            with one class the first is written.
        type: of data that `types` does not know; None: the name of its class.
        reads: serializers whose data is read, too, but not written: chosen by `datacontenttype`.
        plain: messages without an envelope are read, too, by handlers that take data.
        tracing: published events say in which trace they began (extension `traceparent`).

    Raises:
        ConfigurationError: an attribute is not valid.
    """

    name = "cloudevents"
    takes_keys = False

    def __init__(
        self,
        source: str,
        *,
        serializer: Serializer | None = None,
        mode: Literal["binary", "structured"] = "binary",
        types: Mapping[str, Any] | None = None,
        type: str | None = None,  # noqa: A002 - the attribute's name
        reads: Sequence[Serializer] = (),
        plain: bool = False,
        tracing: bool = True,
    ) -> None:
        self.serializer = serializer or Json()
        self.readers = (self.serializer, *reads)
        for each in self.readers:
            _check_serializer(each)
        self.types = dict(types or {})
        self.plain = plain
        self.waits = any(each.waits for each in self.readers)
        if mode not in ("binary", "structured"):
            raise ConfigurationError(f"a CloudEvents mode is 'binary' or 'structured', not {mode!r}")
        if any(isinstance(each, CloudEvents) for each in self.readers):
            raise ConfigurationError("CloudEvents needs a serializer of data, not another CloudEvents")
        for name, value in (("source", source), *(("type", each) for each in (*self.types, type) if each is not None)):
            _configured(name, value)
        self._source = source
        self._type = type
        self.mode = mode
        self._is_binary = mode == "binary"
        self._tracing = tracing
        self._type_of: dict[Any, str] = {kind: name for name, kind in reversed(self.types.items())}

    # --- writing

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        """None stays None: a tombstone without an envelope."""
        if message is None:
            return None
        if outgoing.part == "key":
            raise ConfigurationError("a key is no CloudEvent: give the pipeline another serializer for keys")
        event = message if isinstance(message, CloudEvent) else None
        data = message if event is None else event.data
        try:
            attributes = self._attributes(event, data)
            extensions = {} if event is None else checked_extensions(event.extensions)
        except ValueError as error:
            raise _refused(str(error)) from None
        if self._tracing and "traceparent" not in extensions:
            extensions = {**extensions, **(_trace(outgoing.headers) or {})}
        if outgoing.headers:
            _check_given(outgoing.headers, structured=not self._is_binary)
        declared = self._declared(event, outgoing)
        written, content_type = self._data(data, declared, outgoing)
        key = extensions.get("partitionkey")
        if outgoing.key is None and key is not None:
            outgoing.key = text_of_extension(key).encode()
        if self._is_binary:
            for name, value in extensions.items():
                attributes[name] = text_of_extension(value)
            outgoing.headers += tuple([(f"ce_{name}", text.encode()) for name, text in attributes.items()])
            if content_type is not None:
                outgoing.add(CONTENT_TYPE, content_type.encode())
            return written
        outgoing.add(CONTENT_TYPE, STRUCTURED)
        members = {**attributes, **{name: json_of_extension(value) for name, value in extensions.items()}}
        if content_type is not None:
            members["datacontenttype"] = content_type
        if isinstance(written, Later):
            return Later(partial(_wrapped_later, members, content_type, written))
        return write(members, content_type, written)

    def _attributes(self, event: CloudEvent[Any] | None, data: Any) -> dict[str, str]:
        """Those that every mode writes, as text. Raises `ValueError`."""
        if event is None:
            return {
                "specversion": SPECVERSION,
                "id": str(uuid4()),
                "source": self._source,
                "type": self._type_of.get(type(data)) or self._type_for(data),
                "time": f"{utc_now().isoformat()[:-6]}Z",
            }
        moment = event.time
        if moment is None and "time" not in event.model_fields_set:
            moment = utc_now()
        texts = {
            "specversion": SPECVERSION,
            "id": event.id,
            "source": event.source or self._source,
            "type": event.type or self._type_for(data),
            "subject": event.subject,
            "time": None if moment is None else text_of_time(moment),
            "dataschema": event.dataschema,
        }
        written = {name: text for name, text in texts.items() if text is not None}
        for name, text in written.items():  # also those of a copy, which pydantic does not check
            if name != "specversion":
                _named(name, text)
        return written

    def _type_for(self, data: Any) -> str:
        kind = type(data)
        for base in kind.__mro__:
            known = self._type_of.get(base)
            if known is not None:
                return known
        if self._type is not None:
            return self._type
        if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
            raise ValueError(f"an event with {type_name(kind)} as data has no type: publish a CloudEvent with one")
        return kind.__name__

    def _declared(self, event: CloudEvent[Any] | None, outgoing: Outgoing) -> str | None:
        """The content type that the event, or else a given header, says."""
        given = _content_type(outgoing.headers) if self._is_binary else None
        own = None if event is None else event.datacontenttype
        if own is not None and given is not None and own != given:
            raise _refused("the event's datacontenttype is not that of the given header content-type")
        return own or given

    def _data(
        self, data: Any, declared: str | None, outgoing: Outgoing
    ) -> tuple[bytes | Later[bytes | None] | None, str | None]:
        """The data as the value of a message, and its content type."""
        if data is None:
            return None, declared
        own = self.serializer.content_type
        if isinstance(data, str | bytes | bytearray | memoryview) and isinstance(self.serializer, Json):
            usual = "text/plain; charset=UTF-8" if isinstance(data, str) else "application/octet-stream"
            return self.serializer.encode(data, outgoing), declared or usual
        if declared is None or own is None or _alike(bare(declared), own):
            return self.serializer.encode(data, outgoing), declared or own
        if isinstance(data, str | bytes | bytearray | memoryview):
            return Json().encode(data, outgoing), declared
        raise _refused(
            f"the serializer {self.serializer.name} does not write the event's datacontenttype: leave it out, or give "
            "the data as bytes"
        )

    # --- reading

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        if part == "key":
            raise ConfigurationError("a key is no CloudEvent: give the pipeline another serializer for keys")
        return EventReader(self.readers, self.types, target_type, plain=self.plain).decode

    def recognizes(self, message: Received) -> bool:
        return is_event(message)

    # --- life

    async def open(self) -> None:
        for each in self.readers:
            await each.open()

    async def close(self) -> None:
        for each in self.readers:
            await each.close()


async def _wrapped_later(members: Mapping[str, Any], content_type: str | None, later: Later[bytes | None]) -> bytes:
    return write(members, content_type, await later)


def _trace(given: Headers) -> dict[str, str] | None:
    """The trace in which the event begins: that of the given headers, or else the current one."""
    carrier = {name: raw.decode("ascii", "replace") for name, raw in given if name in _TRACE_HEADERS and raw}
    if "traceparent" in carrier:
        return carrier
    if get_current_span().get_span_context().is_valid:
        _TRACE.inject(carrier)
        return carrier
    return None


def _content_type(headers: Headers) -> str | None:
    found = None
    for name, raw in headers:
        if name == CONTENT_TYPE and raw is not None:
            found = raw.decode("utf-8", "replace")
    return found


def _check_given(headers: Headers, *, structured: bool) -> None:
    for name, _ in headers:
        if name.startswith("ce_"):
            raise _refused("headers that begin with ce_ come from the event: publish a CloudEvent with the attributes")
    given = _content_type(headers)
    if structured and given is not None and bare(given) != "application/cloudevents+json":
        raise _refused("the given header content-type does not fit structured mode")


def _alike(one: str, other: str) -> bool:
    return one == other or (is_json(one) and is_json(other))


def _named(name: str, text: str) -> None:
    try:
        CHECKS[name](text)
    except ValueError as error:
        raise ValueError(f"the attribute {name} {error}") from None


def _check_serializer(given: object) -> None:
    if not isinstance(given, Serializer):
        name = getattr(given, "__name__", None) or type(given).__name__
        raise ConfigurationError(f"CloudEvents takes serializers, such as Json(), and was given {name}")


def _configured(name: str, value: Any) -> None:
    try:
        CHECKS[name](value)
    except ValueError as error:
        raise ConfigurationError(f"CloudEvents: the {name} {value!r} {error}") from None
    except TypeError:
        raise ConfigurationError(f"CloudEvents: the {name} is a str, not {type(value).__name__}") from None


def _refused(words: str) -> PayloadEncodeError:
    return PayloadEncodeError(f"step cloudevents: {words}", step="cloudevents")
