"""The attributes of CloudEvents 1.0: their names, their types, and the text that stands for each value.

The rules are those of https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#context-attributes. The
functions raise `ValueError` with words that follow the name of the attribute, and show no value.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

SPECVERSION = "1.0"
REQUIRED = ("id", "source", "type")
OPTIONAL = ("subject", "time", "dataschema", "datacontenttype")
CORE = frozenset(("specversion", *REQUIRED, *OPTIONAL))
MAX_INTEGER = 2**31 - 1

ExtensionValue = bool | int | str | bytes | datetime
"""What an extension attribute may be. A URI is a `str`."""

_NAME = re.compile("[a-z0-9]+").fullmatch
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ud800-\udfff"
    + "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
    + "]"
).search
"""Control characters, code points that are no characters, and halves of surrogate pairs."""
_URI_CHARACTER = r"(?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})"
_REFERENCE = re.compile(rf"{_URI_CHARACTER}*(?:#{_URI_CHARACTER}*)?").fullmatch
_URI = re.compile(rf"[A-Za-z][A-Za-z0-9+.\-]*:{_URI_CHARACTER}+(?:#{_URI_CHARACTER}*)?").fullmatch
_MEDIA_TYPE = re.compile(r"[!#$&^_.+\-a-zA-Z0-9]+/[!#$&^_.+\-a-zA-Z0-9]+\s*(?:;.*)?").fullmatch
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII).fullmatch


def checked_name(name: str) -> str:
    """The name of an extension attribute."""
    if _NAME(name) is None:
        raise ValueError("must have a name of lower-case letters a to z and digits")
    if name == "data" or name in CORE:
        raise ValueError("must have a name that the specification does not use itself")
    return name


def checked_string(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if not (text.isascii() and text.isprintable()) and _FORBIDDEN(text) is not None:
        raise ValueError("has a character that is not allowed")
    return text


@lru_cache(1_000)
def checked_reference(text: str) -> str:
    """RFC 3986, section 4.1."""
    if not text:
        raise ValueError("must not be empty")
    if _REFERENCE(text) is None:
        raise ValueError("is not a URI reference: other characters stand there as %20 and the like")
    return text


@lru_cache(1_000)
def checked_uri(text: str) -> str:
    """RFC 3986, section 3. Fragments are allowed, as the schemas of many have them."""
    if _URI(text) is None:
        raise ValueError("is not a URI with a scheme")
    return text


@lru_cache(1_000)
def checked_media_type(text: str) -> str:
    """RFC 2046."""
    if _MEDIA_TYPE(text) is None or _FORBIDDEN(text) is not None:
        raise ValueError("is not a media type")
    return text


def time_of(text: str) -> datetime:
    """RFC 3339. What is finer than microseconds is cut off."""
    if _RFC_3339(text) is not None:
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            pass
    raise ValueError("is not a timestamp of RFC 3339")


def text_of_time(moment: datetime) -> str:
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValueError("needs a time zone")
    text = moment.isoformat()
    if text.endswith("+00:00"):
        return f"{text[:-6]}Z"
    if _RFC_3339(text) is None:
        raise ValueError("has an offset from UTC with seconds in it")
    return text


def checked_extension(value: Any) -> ExtensionValue:
    """A value of one of the specification's types."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            raise ValueError("is an integer that does not fit into 32 bits")
        return value
    if isinstance(value, str):
        if _FORBIDDEN(value) is not None:
            raise ValueError("has a character that is not allowed")
        return value
    if isinstance(value, bytes):
        return value
    if isinstance(value, datetime):
        text_of_time(value)
        return value
    raise ValueError("must be a str, an int, a bool, bytes or a datetime")


def text_of_extension(value: ExtensionValue) -> str:
    """The canonical text, which stands in a header."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return str(value) if isinstance(value, int) else text_of_time(value)


def json_of_extension(value: ExtensionValue) -> str | int | bool:
    """What stands in a JSON envelope."""
    return value if isinstance(value, bool | int) else text_of_extension(value)


CHECKS: Mapping[str, Callable[[str], Any]] = {
    "id": checked_string,
    "source": checked_reference,
    "type": lru_cache(1_000)(checked_string),
    "subject": checked_string,
    "time": time_of,
    "dataschema": checked_uri,
    "datacontenttype": checked_media_type,
}
"""Of the text of an attribute: its value. All are text but for `time`."""

READ_CHECKS: Mapping[str, Callable[[str], Any]] = {**CHECKS, "source": checked_string, "dataschema": checked_string}
"""Of what others write: many have text there that is no URI."""


def is_json(media_type: str) -> bool:
    """Whether a media type (in lower case, without parameters) declares JSON, by the JSON format's section 3.1."""
    return media_type.endswith(("/json", "+json"))


def bare(content_type: str) -> str:
    """A content type in lower case, without its parameters."""
    return content_type.partition(";")[0].strip().lower()
