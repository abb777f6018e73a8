"""How does a message become bytes, and would it be read back as the same value? If not, it is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from ..compatibility import json_writer, to_json
from ..exceptions import ConfigurationError, PayloadEncodeError
from .fidelity import JSON_CHECKS, Check, check_of_message, doubt, is_flat
from .losses import BARE, DECLARED, MAX_TYPES, Spot, described, losses, unwritable
from .target import Target

logger = logging.getLogger(__name__)

MAX_SHAPES = 100
"""Combinations of field types that are remembered for one model."""
MAX_DIGITS = 4_300
"""Python and pydantic do not read longer numbers."""
_LONG_NUMBER = b"0" * (MAX_DIGITS + 1)
_DIGITS_ALIKE = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else byte for byte in range(256))


class RefusedError(Exception):
    """What is wrong with bytes that a format cannot read, without any of them."""


class UnfitError(RefusedError):
    """The bytes can be read, and the type cannot hold what they say. The text says where and why, without any of it."""


class Format(Protocol):
    """How values are written and read. `JSON` is one; others make a `Writers` of theirs."""

    step: str  # names it in errors
    name: str  # for people
    checks: Mapping[str, Check]  # of the simple types: which of their values are read back unchanged
    declared: Spot
    bare: Spot

    def writer(self, adapter: TypeAdapter[Any]) -> Callable[..., bytes]:
        """A function that writes values of the adapter's type; it takes `by_alias` and `warnings` as pydantic does."""
        ...

    def reader(self, adapter: TypeAdapter[Any]) -> Callable[[bytes], Any]:
        """A function that reads values of the adapter's type."""
        ...

    def write_bare(self, message: Any) -> bytes:
        """Writes a dict, a list, a number: values that no class describes."""
        ...

    def read_bare(self, data: bytes) -> Any:
        """Reads them into plain objects."""
        ...

    def is_short(self, data: bytes) -> bool:
        """Whether no number in it is too long to be read."""
        ...


class _Json:
    step, name, checks = "json", "JSON", JSON_CHECKS
    declared, bare = DECLARED, BARE
    write_bare = staticmethod(partial(to_json, by_alias=True, inf_nan_mode="null"))
    read_bare = staticmethod(from_json)

    def writer(self, adapter: TypeAdapter[Any]) -> Callable[..., bytes]:
        return json_writer(adapter)

    def reader(self, adapter: TypeAdapter[Any]) -> Callable[[bytes], Any]:
        return adapter.validator.validate_json

    @staticmethod
    def is_short(data: bytes) -> bool:
        return len(data) <= MAX_DIGITS or _LONG_NUMBER not in data.translate(_DIGITS_ALIKE)


def serialize(message: object) -> bytes:
    """The bytes of a message other than None: `str` and `bytes` as they are, anything else (also enums) as JSON.

    Raises:
        PayloadEncodeError: it cannot be written, or would not be read back as the same value.
    """
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    if isinstance(message, str) and not isinstance(message, Enum):
        return _utf8(message)
    kind: Any = type(message)
    return _json.writer_of(kind)(message)


class Writers:
    """Writes messages in one format, and refuses those that would not be read back as the same value."""

    def __init__(self, of: Format) -> None:
        self._format = of
        self.writer_of = lru_cache(MAX_TYPES)(self._new_writer)
        """A function that writes messages of a class other than None's, and raises as `write` does."""

    def write(self, message: object) -> bytes:
        """The bytes of a message other than None.

        Raises:
            PayloadEncodeError: it cannot be written, or would not be read back as the same value.
        """
        kind: Any = type(message)
        return self.writer_of(kind)(message)

    def _new_writer(self, kind: type) -> Callable[[Any], bytes]:
        if not (issubclass(kind, BaseModel) or is_dataclass(kind)):
            return partial(_write_bare, self._format)
        try:
            return _RecordWriter(kind, self._format)
        except ConfigurationError as error:  # pydantic cannot handle it
            reason = str(error).partition("\n")[0]
        text = f"{reason}: publish a dict, a str or bytes instead"
        raise PayloadEncodeError(text, step=self._format.step)


def _utf8(message: str) -> bytes:
    if message.isascii() or not any("\ud800" <= character <= "\udfff" for character in message):
        return message.encode()
    raise PayloadEncodeError(
        "the message is a str with half a surrogate pair in it, which UTF-8 cannot hold", step="str"
    )


class _RecordWriter:
    """Writes models or dataclasses of one class, and refuses those that this class would not read back unchanged.

    It reads back what it wrote only if the schema and a look at the value leave doubts.
    """

    def __init__(self, kind: type, of: Format) -> None:
        self._format = of
        self._target = Target(kind)
        schema = self._target.adapter.core_schema
        self._write = of.writer(self._target.adapter)
        self._read = of.reader(self._target.adapter)
        self._is_short = of.is_short
        self._write_anyway = partial(self._write, by_alias=True, warnings=False)
        self._check = check_of_message(schema, of.checks)
        self._is_flat = is_flat(schema)
        self._shapes: set[tuple[object, ...]] = set()  # field types of flat models that were as declared

    def __call__(self, message: Any) -> bytes:
        if self._check is not doubt:
            try:
                data = self._write_as_declared(message)
                if (self._check is None or self._check((message,))) and self._is_short(data):
                    return data
            except Exception as error:  # writing carefully finds out what is wrong, if anything is
                logger.debug("a %s is not quite what its class declares: %s", self._target.name, type(error).__name__)
        return self._write_carefully(message)

    def _write_as_declared(self, message: Any) -> bytes:
        """Raises if a value is not of its declared type. pydantic checks slowly: shapes that passed once skip it."""
        if not self._is_flat:
            return self._write(message, by_alias=True, warnings="error")
        fields = message.__dict__
        shape = (*fields, *map(type, fields.values()))
        if shape in self._shapes:
            return self._write_anyway(message)
        data = self._write(message, by_alias=True, warnings="error")
        if len(self._shapes) < MAX_SHAPES:
            self._shapes.add(shape)
        return data

    def _write_carefully(self, message: Any) -> bytes:
        data = _written(self._format, message, self._write_anyway, self._format.declared)
        problem = self._problem_of_reading(message, data)
        if problem is None:
            return data
        text = f"a {self._target.name} would not be read back as it is: {problem}"
        raise PayloadEncodeError(text, step=self._format.step)

    def _problem_of_reading(self, message: Any, data: bytes) -> str | None:
        try:
            return described(next(losses(message, self._read(data), self._format.declared), None))
        except ValidationError as error:
            return self._target.describe(error)
        except MemoryError:
            raise
        except RefusedError as error:
            return str(error)
        except Exception as error:  # from a validator of the user's
            return type(error).__name__


def _write_bare(of: Format, message: object) -> bytes:
    """Writes a dict, a list, a number: values that no class describes."""
    data = _written(of, message, of.write_bare, of.bare)
    problem = _problem_of_reading_bare(of, message, data)
    if problem is None:
        return data
    raise PayloadEncodeError(f"a {type(message).__name__} would not be read back as it is: {problem}", step=of.step)


def _problem_of_reading_bare(of: Format, message: object, data: bytes) -> str | None:
    try:
        read = of.read_bare(data)
        return described(next(losses(message, read, of.bare), None)) if read != message else None
    except MemoryError:
        raise
    except RefusedError as error:
        return str(error)
    except Exception as error:
        return type(error).__name__


def _written(of: Format, message: object, write: Callable[[Any], bytes], spot: Spot) -> bytes:
    try:
        return write(message)
    except MemoryError:
        raise
    except Exception as error:  # the format cannot hold it, or a serializer of the user's failed
        reason = f"{described(unwritable(message, spot, of.write_bare))}: {type(error).__name__}"
    # outside the except block, as a traceback through the first error would show the message
    raise PayloadEncodeError(f"a {type(message).__name__} cannot be encoded as {of.name}: {reason}", step=of.step)


_json = Writers(_Json())
write_json = _json.write
"""JSON, also of `str` and `bytes`, which `serialize` does not touch."""
