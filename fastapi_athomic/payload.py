"""From Python values to bytes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_json

from .exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError

Decoder = Callable[[bytes | None], Any]

MAX_ERRORS = 5
"""So many problems of one payload are named in the error."""


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

    Published are pydantic models, dataclasses and anything else JSON can hold; `bytes` and `str` (in UTF-8) as they
    are; None as a null value (a tombstone), which no step touches. What a handler gets is decided by its type:
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
            PayloadEncodeError: names the step and the kind of error, never the message.
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
    except MemoryError:
        raise
    except Exception as error:
        raise PayloadDecodeError(_failed(step, "decode", error), step=step.name) from None


def _failed(step: PayloadStep, doing: str, error: Exception) -> str:
    return f"step {step.name} could not {doing} the payload: {type(error).__name__}"


def _serialize(message: object) -> bytes:
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    try:
        if isinstance(message, str):
            return message.encode()
        return to_json(message, by_alias=True, inf_nan_mode="null")  # by alias: so it can be validated again
    except MemoryError:
        raise
    except Exception as error:
        reason = f"a {type(message).__name__} cannot be encoded as JSON: {type(error).__name__}"
        raise PayloadEncodeError(reason, step="json") from error


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
        except MemoryError:
            raise
        except Exception as error:  # of a validator of the user's
            problem = type(error).__name__
        # out of the except block: a traceback through the validation error would show the payload
        raise PayloadDecodeError(f"the payload is not a valid {target.name}: {problem}", step="json")

    return decode


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
        try:
            return frozenset(_property_names(self.adapter.json_schema()))
        except PydanticUserError:  # types without a JSON schema
            return frozenset()


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
