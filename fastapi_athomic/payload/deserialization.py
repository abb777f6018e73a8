"""How does JSON become a value of the handler's type? `str` and `bytes` are taken as they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_origin

from pydantic import ValidationError

from ..error_text import located
from ..exceptions import PayloadDecodeError
from .annotations import split
from .steps import Decoder, Received
from .target import Target


def deserializer(target_type: Any) -> Decoder:
    """A function from messages to the type. It raises `PayloadDecodeError`, which never shows the payload.

    Raises:
        ConfigurationError: pydantic cannot validate the type.
    """
    if target_type is bytes:
        return _to_bytes
    if target_type is str:
        return _to_str
    if target_type == bytes | None:
        return _to_optional_bytes
    if target_type == str | None:
        return _to_optional_str
    return _from_json(Target(target_type))


def _to_bytes(message: Received) -> bytes:
    data = message.value
    if data is None:
        raise _no_null(bytes)
    return data


def _to_str(message: Received) -> str:
    data = message.value
    if data is None:
        raise _no_null(str)
    return _text(data)


def _to_optional_bytes(message: Received) -> bytes | None:
    return message.value


def _to_optional_str(message: Received) -> str | None:
    data = message.value
    return None if data is None else _text(data)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PayloadDecodeError("step str: the payload is not UTF-8", step="str") from None


def _no_null(target_type: Any) -> PayloadDecodeError:
    name = getattr(target_type, "__name__", str(target_type))
    text = f"step json: the payload is null, and the handler's type {name} does not allow None"
    return PayloadDecodeError(text, step="json")


def _from_json(target: Target) -> Decoder:
    validate = target.adapter.validator.validate_json
    allows_none = target.allows_none

    def decode(message: Received) -> Any:
        data = message.value
        if data is None:
            if allows_none:
                return None
            raise _no_null(target.type)
        try:
            return validate(data)
        except ValidationError as error:
            problem = target.describe(error) + _for_lists(target, error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # from a validator of the user's
            problem = f"a validator raised {located(error)}"
        # outside the except block, as a traceback through the validation error would show the payload
        raise PayloadDecodeError(f"step json: the payload is not a valid {target.name}: {problem}", step="json")

    return decode


def _for_lists(target: Target, error: ValidationError) -> str:
    """What to do if the type is a list and the message is none: its author may have meant a batch."""
    kind = split(target.type)[0]
    if (get_origin(kind) or kind) not in (list, Sequence) or error.error_count() > 1:
        return ""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["loc"] or first["type"] == "json_invalid" or isinstance(first["input"], list):
        return ""
    found = "an object" if isinstance(first["input"], dict) else "no list"
    return f"; the handler takes {target.name}, and one message was {found}: for batches of messages set batch_size"
