"""From Python values to bytes and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal, Protocol

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError
from .fidelity import check_of_message, doubt, is_flat
from .losses import BARE, DECLARED, MAX_TYPES, Loss, Spot, losses, unwritable

logger = logging.getLogger(__name__)

Decoder = Callable[[bytes | None], Any]

MAX_ERRORS = 5
"""So many problems of one payload are named in the error."""
MAX_SHAPES = 100
"""Combinations of types in the fields of one model that are remembered."""
MAX_DIGITS = 4_300
"""Longer numbers are not read (the limit of Python, and of pydantic)."""
_LONG_NUMBER = b"0" * (MAX_DIGITS + 1)
_DIGITS_ALIKE = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else byte for byte in range(256))


class PayloadStep(Protocol):
    """Something done to the bytes: compression, encryption. What `decode` raises makes the message a dead letter."""

    @property
    def name(self) -> str:
        """Stands in errors."""
        ...

    def encode(self, data: bytes) -> bytes: ...

    def decode(self, data: bytes) -> bytes: ...


class PayloadPipeline:
    """Serialization, then the given steps in their order; decoding runs in reverse.

    Published are pydantic models, dataclasses and anything else JSON can hold, if it can be read back as it is (see
    docs/payload.md); `bytes` and `str` (in UTF-8) as they are; None as a null value (a tombstone), which no step
    touches. What a handler gets is decided by its type:
    `bytes` and `str` as they came, anything else validated by pydantic straight from the JSON bytes. A null value
    reaches handlers whose type allows None.
    """

    def __init__(self, steps: Sequence[PayloadStep] = ()) -> None:
        for step in steps:
            if not (getattr(step, "name", None) and callable(getattr(step, "encode", None)) and callable(step.decode)):
                raise ConfigurationError(f"{type(step).__name__} is no payload step: it needs name, encode and decode")
        self._steps = tuple(steps)

    def encode(self, message: object) -> bytes | None:
        """The bytes of a message.

        Raises:
            PayloadEncodeError: names the step and the kind of error, or the field that would not come back as it is;
                never the message.
        """
        if message is None:
            return None
        data = _serialize(message)
        for step in self._steps:
            try:
                data = step.encode(data)
            except Exception as error:
                raise PayloadEncodeError(_failed(step, "encode", error), step=step.name) from error
        return data

    def decoder(self, target_type: Any) -> Decoder:
        """A function from bytes to the type. It raises `PayloadDecodeError`, which never repeats the payload.

        Raises:
            ConfigurationError: pydantic cannot validate the type.
        """
        deserialize = _deserializer(target_type)
        if not self._steps:
            return deserialize
        steps = self._steps[::-1]

        def decode(data: bytes | None) -> Any:
            if data is not None:
                for step in steps:
                    data = _undo(step, data)
            return deserialize(data)

        return decode


def _undo(step: PayloadStep, data: bytes) -> bytes:
    try:
        return step.decode(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PayloadDecodeError(_failed(step, "decode", error), step=step.name) from None


def _failed(step: PayloadStep, doing: str, error: BaseException) -> str:
    return f"step {step.name} could not {doing} the payload: {type(error).__name__}"


def _serialize(message: object) -> bytes:
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    if isinstance(message, str):
        return _utf8(message)
    try:
        kind: Any = type(message)
        write = _writer_of(kind)
    except ConfigurationError as error:
        reason = str(error).partition("\n")[0]
        raise PayloadEncodeError(f"{reason}: publish a dict, a str or bytes instead", step="json") from None
    return write(message)


def _utf8(message: str) -> bytes:
    if message.isascii() or not any("\ud800" <= character <= "\udfff" for character in message):
        return message.encode()
    raise PayloadEncodeError(
        "the message is a str with half a surrogate pair in it, which UTF-8 cannot hold", step="str"
    )


@lru_cache(MAX_TYPES)
def _writer_of(kind: type) -> Callable[[Any], bytes]:
    """Raises `ConfigurationError`."""
    return _RecordWriter(kind) if issubclass(kind, BaseModel) or is_dataclass(kind) else _write_bare


class _RecordWriter:
    """Writes models or dataclasses of one class, so that reading that class gives them back.

    Where that is sure from the schema and a look at the value, nothing is read.
    """

    def __init__(self, kind: type) -> None:
        self._target = _Target(kind)
        schema = self._target.adapter.core_schema
        self._write = self._target.adapter.serializer.to_json
        self._write_anyway = partial(self._write, by_alias=True, warnings=False)
        self._check = check_of_message(schema)
        self._is_flat = is_flat(schema)
        self._shapes: set[tuple[object, ...]] = set()  # of flat ones that were as declared

    def __call__(self, message: Any) -> bytes:
        if self._check is not doubt:
            try:
                data = self._write_as_declared(message)
                if (self._check is None or self._check((message,))) and _is_short(data):
                    return data
            except Exception as error:  # the careful way finds out what, or that nothing is wrong
                logger.debug("a %s is not quite what its class declares: %s", self._target.name, type(error).__name__)
        return self._write_carefully(message)

    def _write_as_declared(self, message: Any) -> bytes:
        """Raises if some value is not of its declared type, which costs pydantic longer than writing a small model."""
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
        data = _written(message, self._write_anyway, DECLARED)
        problem = self._problem_of_reading(message, data)
        if problem is None:
            return data
        raise PayloadEncodeError(f"a {self._target.name} would not be read back as it is: {problem}", step="json")

    def _problem_of_reading(self, message: Any, data: bytes) -> str | None:
        try:
            return _first(losses(message, self._target.adapter.validator.validate_json(data), DECLARED))
        except ValidationError as error:
            return self._target.describe(error)
        except MemoryError:
            raise
        except Exception as error:  # of a validator of the user's
            return type(error).__name__


_to_json = partial(to_json, by_alias=True, inf_nan_mode="null")


def _write_bare(message: object) -> bytes:
    """Of a dict, a list, a number: what no class describes."""
    data = _written(message, _to_json, BARE)
    problem = _problem_of_reading_bare(message, data)
    if problem is None:
        return data
    raise PayloadEncodeError(f"a {type(message).__name__} would not be read back as it is: {problem}", step="json")


def _problem_of_reading_bare(message: object, data: bytes) -> str | None:
    try:
        read = from_json(data)
        return _first(losses(message, read, BARE)) if read != message else None
    except MemoryError:
        raise
    except Exception as error:
        return type(error).__name__


def _written(message: object, write: Callable[[Any], bytes], spot: Spot) -> bytes:
    try:
        return write(message)
    except MemoryError:
        raise
    except Exception as error:  # what JSON cannot hold, or of a serializer of the user's
        reason = f"{_described(unwritable(message, spot))}: {type(error).__name__}"
    # out of the except block: a traceback through the error would show the message
    raise PayloadEncodeError(f"a {type(message).__name__} cannot be encoded as JSON: {reason}", step="json")


def _is_short(data: bytes) -> bool:
    """No number in it is too long to be read."""
    return len(data) <= MAX_DIGITS or _LONG_NUMBER not in data.translate(_DIGITS_ALIKE)


def _first(found: Iterator[Loss]) -> str | None:
    loss = next(found, None)
    return None if loss is None else _described(loss)


def _described(loss: Loss) -> str:
    place, kind = loss
    return f"{'.'.join(place) or 'it'} ({kind.__name__})"


def _deserializer(target_type: Any) -> Decoder:
    if target_type is bytes:
        return _to_bytes
    if target_type is str:
        return _to_str
    if target_type == bytes | None:
        return _to_optional_bytes
    if target_type == str | None:
        return _to_optional_str
    return _from_json(_Target(target_type))


def _to_bytes(data: bytes | None) -> bytes:
    if data is None:
        raise _no_null(bytes)
    return data


def _to_str(data: bytes | None) -> str:
    if data is None:
        raise _no_null(str)
    return _text(data)


def _to_optional_bytes(data: bytes | None) -> bytes | None:
    return data


def _to_optional_str(data: bytes | None) -> str | None:
    return None if data is None else _text(data)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PayloadDecodeError("the payload is not UTF-8", step="str") from None


def _no_null(target_type: Any) -> PayloadDecodeError:
    name = getattr(target_type, "__name__", str(target_type))
    return PayloadDecodeError(f"the payload is null, and the handler's type {name} does not allow None", step="json")


def _from_json(target: _Target) -> Decoder:
    validate = target.adapter.validator.validate_json
    allows_none = target.allows_none

    def decode(data: bytes | None) -> Any:
        if data is None:
            if allows_none:
                return None
            raise _no_null(target.type)
        try:
            return validate(data)
        except ValidationError as error:
            problem = target.describe(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of a validator of the user's
            problem = type(error).__name__
        # out of the except block: a traceback through the validation error would show the payload
        raise PayloadDecodeError(f"the payload is not a valid {target.name}: {problem}", step="json")

    return decode


_MODES: tuple[Literal["validation", "serialization"], ...] = ("validation", "serialization")


class _Target:
    """The type that payloads are validated against."""

    def __init__(self, target_type: Any) -> None:
        self.type = target_type
        self.name = getattr(target_type, "__name__", None) or str(target_type)
        try:
            self.adapter: TypeAdapter[Any] = TypeAdapter(target_type)
            self.adapter.rebuild()
        except (PydanticUserError, NameError, TypeError) as error:
            raise ConfigurationError(f"messages cannot be decoded into {self.name}: {error}") from error

    @property
    def allows_none(self) -> bool:
        try:
            return self.adapter.validate_python(None) is None
        except Exception:
            return False

    def describe(self, error: ValidationError) -> str:
        """Where it failed and how, without a word of the payload."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [f"{self._place(item['loc'])}{item['type']}" for item in found[:MAX_ERRORS]]
        return "; ".join(problems) + ("; ..." if len(found) > MAX_ERRORS else "")

    def _place(self, location: Iterable[int | str]) -> str:
        """Keys that are not fields of the type come from the payload."""
        parts = [str(part) if isinstance(part, int) or part in self._known_names else "?" for part in location]
        return f"{'.'.join(parts)}: " if parts else ""

    @cached_property
    def _known_names(self) -> frozenset[str]:
        names: set[str] = set()
        for mode in _MODES:
            with suppress(PydanticUserError):  # types without a JSON schema
                names.update(_property_names(self.adapter.json_schema(mode=mode)))
        return frozenset(names)


def _property_names(schema: Any) -> Iterable[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _property_names(item)
    elif isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for item in schema.values():
            yield from _property_names(item)
