"""Messages become CloudEvents, or their data: for one type that handlers take."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args, get_origin

from ..exceptions import ConfigurationError, PayloadDecodeError
from ..messages import Headers
from .annotations import split, type_name
from .cloudevents_attributes import CORE, READ_CHECKS, REQUIRED, SPECVERSION, bare, is_json
from .cloudevents_event import CloudEvent, received, type_of_data
from .cloudevents_json import Envelope, read
from .json_format import Json
from .steps import CONTENT_TYPE, Decoder, Incoming, Later, Received, Serializer

FAMILY = b"application/cloudevents"
_NONE = type(None)
_FEW_VALUES = ("specversion", "source", "type", "dataschema", "datacontenttype")
MOST_SEEN = 1_000
"""So many values of these attributes are remembered."""


class Context(NamedTuple):
    """The checked attributes of an event."""

    attributes: dict[str, Any]
    extensions: dict[str, Any]


class _Choice(NamedTuple):
    """What data is decoded into: a type of event's class, or what the handler takes."""

    target: Any
    envelope: type[CloudEvent[Any]] | None  # None: the handler gets the data
    decoders: tuple[Decoder, ...]  # one of each serializer
    foreign: Decoder | None  # for data of content types that no serializer reads
    takes_text: bool
    takes_none: bool


class EventReader:
    """Decodes the messages of one handler.

    Args:
        readers: serializers of the data; the first is for data without a content type.
        types: the class of each type of event.
        target_type: what the handler takes: data, `CloudEvent[...]`, None, or a union of these.
        plain: messages without an envelope are read, too.

    Raises:
        ConfigurationError: no serializer gives the type, or it does not say which data an event has.
    """

    def __init__(
        self, readers: Sequence[Serializer], types: Mapping[str, Any], target_type: Any, *, plain: bool
    ) -> None:
        self._readers = readers
        self._name = type_name(target_type)
        self._plain = plain
        members = _members(target_type)
        self._envelopes = [each for each in members if _is_envelope(each)]
        rest = [each for each in members if not _is_envelope(each)]
        self._allows_none = _NONE in members or Any in members
        data = target_type if not self._envelopes else _union([each for each in rest if each is not _NONE])
        self._of_data = None if data is None else self._choice(data, None)
        self._default = self._default_choice(types)
        self._by_type = self._choices(types)
        self._of_content: dict[str, int | None] = {}
        self._seen: dict[tuple[str, bytes], Any] = {}  # checked values of attributes that have few

    # --- which data

    def _choice(self, target: Any, envelope: type[CloudEvent[Any]] | None) -> _Choice:
        members = _members(target)
        return _Choice(
            target,
            envelope,
            tuple(each.decoder(target) for each in self._readers),
            Json().decoder(target) if _is_raw(target) else None,
            str in members,
            _NONE in members or Any in members,
        )

    def _default_choice(self, types: Mapping[str, Any]) -> _Choice | None:
        """Of events whose type says nothing."""
        if not self._envelopes:
            return self._of_data
        if len(self._envelopes) == 1:
            return self._choice(type_of_data(self._envelopes[0]), self._envelopes[0])
        kinds = list(types.values())
        for envelope in self._envelopes:
            if not any(_fits(kind, type_of_data(envelope)) for kind in kinds):
                raise ConfigurationError(
                    f"{self._name}: which events are {type_name(envelope)}? Say it with CloudEvents(types={{...}})"
                )
        return None

    def _choices(self, types: Mapping[str, Any]) -> dict[str, _Choice | None]:
        """By the types of events. None: the handler does not take it."""
        found: dict[str, _Choice | None] = {}
        for name, kind in types.items():
            if self._default is not None and _is_raw(self._default.target):
                continue  # bytes or text, whatever the event's type
            found[name] = None
            if not self._envelopes:
                if self._of_data is not None and _fits(kind, self._of_data.target):
                    found[name] = self._choice(kind, None)
                continue
            for envelope in self._envelopes:
                if _fits(kind, type_of_data(envelope)):
                    found[name] = self._choice(_with_none(kind, type_of_data(envelope)), envelope)
                    break
        return found

    # --- reading

    def decode(self, message: Received) -> Any:
        found: dict[str, bytes] = {}
        content_type: bytes | None = None
        for name, raw in message.headers:
            if raw is None:
                continue
            name = name.lower()  # as all SDKs do
            if name[:3] == "ce_":
                found[name[3:]] = raw
            elif name == CONTENT_TYPE:
                content_type = raw
        if content_type is not None and content_type[: len(FAMILY)].lower() == FAMILY and message.value is not None:
            return self._structured(message, content_type)
        if "specversion" in found:
            return self._binary(message, found, content_type)
        if message.value is None:
            return self._tombstone(message)
        if looks_like_envelope(message.value):
            return self._document(message, content_type)
        return self._without_envelope(message)

    def _binary(self, message: Received, found: dict[str, bytes], content_type: bytes | None) -> Any:
        found.pop("datacontenttype", None)  # which is not where it belongs
        if content_type is not None:
            found["datacontenttype"] = content_type
        context = self._checked(found)
        if message.value == b"" and is_json(bare(context.attributes.get("datacontenttype", "/json"))):
            message = Incoming(message.topic, message.key, None, message.headers)  # the SDK writes no data so
        return self._event(context, message, None)

    def _checked(self, found: dict[str, bytes]) -> Context:
        """As `checked`, but values that were in other events are not looked at again."""
        known: dict[str, Any] = {}
        left: dict[str, Any] = {}
        for name, raw in found.items():
            value = self._seen.get((name, raw))
            if value is None:
                left[name] = _text(name, raw)
            else:
                known[name] = value
        known.pop("specversion", None)
        context = checked(left, known)
        for name in _FEW_VALUES:
            if left.get(name) and len(self._seen) < MOST_SEEN:
                self._seen[name, found[name]] = context.attributes.get(name, SPECVERSION)
        return context

    def _structured(self, message: Received, content_type: bytes) -> Any:
        kind = bare(content_type.decode("ascii", "replace"))
        if kind.startswith("application/cloudevents-batch"):
            raise refused(
                "the message is a batch of CloudEvents, which Kafka's binding does not have: send them singly"
            )
        if kind not in ("application/cloudevents+json", "application/cloudevents"):
            raise refused("the event is in another format than JSON, which is the only one that is read")
        return self._document(message, None)

    def _document(self, message: Received, content_type: bytes | None) -> Any:
        try:
            envelope = read(message.value or b"")
        except ValueError as error:
            raise refused(f"the event {error}") from None
        attributes = envelope.attributes
        if content_type is not None and "datacontenttype" not in attributes:  # as older SDKs write it
            attributes["datacontenttype"] = _text("datacontenttype", content_type)
        context = checked(attributes)
        others = tuple(item for item in message.headers if item[0].lower() != CONTENT_TYPE)
        kind = context.attributes.get("datacontenttype")
        own: Headers = () if kind is None else ((CONTENT_TYPE, kind.encode()),)
        return self._event(context, Incoming(message.topic, message.key, envelope.data, (*others, *own)), envelope)

    def _event(self, context: Context, message: Received, document: Envelope | None) -> Any:
        name = context.attributes["type"]
        choice = self._by_type.get(name, self._default)
        if choice is None:
            raise refused(f"the event's type is none of those that the handler takes: {self._expected()}")
        data = self._data(context, choice, message, document)
        if choice.envelope is None:
            return data
        if isinstance(data, Later):
            return Later(partial(_enveloped_later, choice.envelope, context, data))
        return received(choice.envelope, context.attributes, context.extensions, data)

    def _data(self, context: Context, choice: _Choice, message: Received, document: Envelope | None) -> Any:
        if message.value is None and choice.envelope is not None:
            if choice.takes_none:
                return None
            name = type_name(choice.target)
            raise refused(f"the event has no data; a handler with CloudEvent[{name} | None] takes such events, too")
        if document is not None and document.text is not None and choice.takes_text:
            return document.text
        kind = context.attributes.get("datacontenttype")
        if kind is None or message.value is None:
            return choice.decoders[0](message)
        number = self._of_content.get(kind, -1)
        if number == -1:
            number = self._serializer_for(kind)
        if number is not None:
            return choice.decoders[number](message)
        if choice.foreign is not None:
            return choice.foreign(message)
        known = ", ".join(each.content_type or each.name for each in self._readers)
        raise refused(f"the data has a content type that is not read here (but {known}, and any as bytes or str)")

    def _serializer_for(self, kind: str) -> int | None:
        """The number of the serializer for a content type."""
        number = next((number for number, each in enumerate(self._readers) if _reads(each, bare(kind))), None)
        if len(self._of_content) < 100:
            self._of_content[kind] = number
        return number

    def _tombstone(self, message: Received) -> Any:
        """A null value without an envelope."""
        if self._of_data is not None:
            return self._of_data.decoders[0](message)
        if self._allows_none:
            return None
        raise refused(f"the payload is null, and the handler's type {self._name} does not allow None")

    def _without_envelope(self, message: Received) -> Any:
        if not self._plain:
            raise refused(
                "the message is no CloudEvent; CloudEvents(plain=True) reads messages without an envelope, too"
            )
        if self._of_data is None:
            raise refused(f"the message is no CloudEvent, and the handler takes {self._name}")
        number = 0
        if len(self._readers) > 1:
            number = next((number for number, each in enumerate(self._readers) if each.recognizes(message)), 0)
        return self._of_data.decoders[number](message)

    def _expected(self) -> str:
        return ", ".join(sorted(name for name, choice in self._by_type.items() if choice is not None))


async def _enveloped_later(kind: type[CloudEvent[Any]], context: Context, later: Later[Any]) -> Any:
    return received(kind, context.attributes, context.extensions, await later)


# --- attributes


def checked(found: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> Context:
    """Takes all attributes, or those that are not `known` to be valid. Extensions stay as they are.

    Raises `PayloadDecodeError`, which names the attribute and shows no value.
    """
    attributes: dict[str, Any] = dict(known or ())
    extensions: dict[str, Any] = {}
    if found.get("specversion", None if known is None else SPECVERSION) != SPECVERSION:
        raise refused(f"the event's specversion is not {SPECVERSION}")
    for name, value in found.items():
        check = READ_CHECKS.get(name)
        if check is None:
            if name not in CORE:
                extensions[name] = value
        elif value != "" or name in REQUIRED:  # some write what they leave out
            try:
                if not isinstance(value, str):
                    raise ValueError("is no string")
                attributes[name] = check(value)
            except ValueError as error:
                raise refused(f"the attribute {name} {error}") from None
    for name in REQUIRED:
        if name not in attributes:
            raise refused(f"the event has no attribute {name}")
    return Context(attributes, extensions)


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        shown = f"the attribute {name}" if name in CORE else "an extension attribute"
        raise refused(f"{shown} is not UTF-8") from None


def is_event(message: Received) -> bool:
    """Whether it says that it is a CloudEvent."""
    said = {name.lower(): raw for name, raw in message.headers if raw is not None}
    if said.get(CONTENT_TYPE, b"")[: len(FAMILY)].lower() == FAMILY or "ce_specversion" in said:
        return True
    return message.value is not None and looks_like_envelope(message.value)


def looks_like_envelope(value: bytes) -> bool:
    """Whether it is a document of structured mode, also without the content type: some SDKs leave that out."""
    if b'"specversion"' not in value or value.lstrip(b" \t\r\n")[:1] != b"{":
        return False
    try:
        attributes = read(value).attributes
    except ValueError:
        return False
    return all(isinstance(attributes.get(name), str) for name in ("specversion", *REQUIRED))


def refused(words: str) -> PayloadDecodeError:
    """The error of this step."""
    return PayloadDecodeError(f"step cloudevents: {words}", step="cloudevents")


# --- types


def _members(annotation: Any) -> list[Any]:
    """Of a union; else the type alone."""
    kind, _ = split(annotation)
    if get_origin(kind) in (typing.Union, types.UnionType):
        return [member for argument in get_args(kind) for member in _members(argument)]
    return [_NONE if kind is None else kind]


def _is_envelope(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, CloudEvent)


def _union(kinds: Sequence[Any]) -> Any:
    """None: of nothing."""
    return typing.Union[tuple(kinds)] if kinds else None  # noqa: UP007 - of a list


def _with_none(kind: Any, allowed: Any) -> Any:
    return kind | None if _NONE in _members(allowed) else kind


def _fits(kind: Any, target: Any) -> bool:
    """Whether data of a type is something that the handler takes."""
    for member in _members(target):
        if member is Any or member == split(kind)[0]:
            return True
        if isinstance(member, type) and isinstance(kind, type) and issubclass(kind, member):
            return True
    return False


def _is_raw(target: Any) -> bool:
    """Whether it is taken as it came."""
    return {str, bytes, _NONE} >= set(_members(target)) != {_NONE}


@lru_cache(1_000)
def _reads(serializer: Serializer, content_type: str) -> bool:
    own = serializer.content_type
    if own is None or own == content_type:
        return True
    if is_json(own) and is_json(content_type):
        return True
    return serializer.recognizes(Incoming("", None, b"", ((CONTENT_TYPE, content_type.encode()),)))
