"""The JSON format of CloudEvents 1.0, for structured mode: one document with attributes and data.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. The data stays as the serializer
wrote it, or is cut out as it stands: numbers keep their digits.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from .cloudevents_attributes import bare, is_json

_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().raw_decode
_skip = re.compile(r"[ \t\n\r]*").match


class Envelope(NamedTuple):
    """A document that was read. The attributes are not checked."""

    attributes: dict[str, Any]
    data: bytes | None  # as it is in binary mode; None: there is none, or it is null
    text: str | None  # the data, if it is a JSON string


def write(attributes: Mapping[str, Any], content_type: str | None, data: bytes | None) -> bytes:
    """The document. Data that is neither JSON nor text becomes `data_base64`."""
    head = to_json(dict(attributes))
    if data is None:
        return head
    kind = "application/json" if content_type is None else bare(content_type)
    if is_json(kind) and _holds_json(data):
        return b'%b,"data":%b}' % (head[:-1], data)
    if kind.startswith("text/") or kind.endswith(("/xml", "+xml")):
        try:
            return b'%b,"data":%b}' % (head[:-1], to_json(data.decode()))
        except UnicodeDecodeError:
            pass
    return b'%b,"data_base64":"%b"}' % (head[:-1], b64encode(data))


def _holds_json(data: bytes) -> bool:
    """No, if a schema's id stands in front of it."""
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        return False
    return True


def read(document: bytes) -> Envelope:
    """Raises `ValueError` with words that show nothing of the document."""
    try:
        return _read(document.decode())
    except (ValueError, RecursionError, TypeError):
        raise ValueError("is not a JSON object with valid members") from None


def _read(document: str) -> Envelope:
    members = {name: (value, raw) for name, value, raw in _members(document) if value is not None}
    value, raw = members.pop("data", (None, ""))
    encoded, _ = members.pop("data_base64", (None, ""))
    attributes = {name: value for name, (value, _) in members.items()}
    if encoded is not None:
        if value is not None:
            raise ValueError
        return Envelope(attributes, b64decode(encoded, validate=True), None)
    if value is None:
        return Envelope(attributes, None, None)
    kind = attributes.get("datacontenttype")
    text = value if isinstance(value, str) else None
    if isinstance(kind, str) and not is_json(bare(kind)):
        if text is None:
            raise ValueError
        return Envelope(attributes, text.encode(), None)
    return Envelope(attributes, raw.encode(), text)


def _members(text: str) -> Iterator[tuple[str, Any, str]]:
    """Names, values, and their text as it stands, of an object. Raises `ValueError`."""
    place = _after_space(text, 0)
    if text[place : place + 1] != "{":
        raise ValueError
    place = _after_space(text, place + 1)
    if text[place : place + 1] == "}":
        return _end(text, place + 1)
    while True:
        if text[place : place + 1] != '"':
            raise ValueError
        name, place = _scan(text, place)
        place = _after_space(text, place)
        if text[place : place + 1] != ":":
            raise ValueError
        start = _after_space(text, place + 1)
        value, place = _scan(text, start)
        yield name, value, text[start:place]
        place = _after_space(text, place)
        if text[place : place + 1] == "}":
            return _end(text, place + 1)
        if text[place : place + 1] != ",":
            raise ValueError
        place = _after_space(text, place + 1)


def _after_space(text: str, place: int) -> int:
    found = _skip(text, place)
    return place if found is None else found.end()


def _end(text: str, place: int) -> None:
    if _after_space(text, place) != len(text):
        raise ValueError
