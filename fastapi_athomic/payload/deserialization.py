"""How does JSON become a value of the handler's type? `str` and `bytes` are taken as they came."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from ..error_text import located
from ..exceptions import PayloadDecodeError
from .annotations import split, type_name
from .slices import in_thread, sliced_validator
from .steps import Decoder, Received
from .target import Target


def deserializer(target_type: Any, thread_above: int = sys.maxsize) -> Decoder:
    """A function from messages to the type. It raises `PayloadDecodeError`, which never shows the payload.

    Args:
        target_type: what the messages become.
        thread_above: for larger payloads (in bytes) it gives a `Later`, which reads them in a thread.

    Raises:
        ConfigurationError: pydantic cannot validate the type.
    """
    kinds = _raw_kinds(target_type)
    if kinds is not None:
        return _as_it_came(target_type, kinds)
    return _from_json(Target(target_type), thread_above)


def _raw_kinds(annotation: Any) -> frozenset[Any] | None:
    """What the type allows if that is nothing but `str`, `bytes` and None; else None."""
    kind = split(annotation)[0]
    if hasattr(kind, "__supertype__"):  # a NewType
        return _raw_kinds(kind.__supertype__)
    if get_origin(kind) in (Union, UnionType):
        members = [_raw_kinds(each) for each in get_args(kind)]
        return None if None in members else frozenset().union(*filter(None, members))
    return frozenset((kind,)) if kind in (str, bytes, NoneType) else None


def _as_it_came(target_type: Any, kinds: frozenset[Any]) -> Decoder:
    if kinds == {NoneType}:
        return _from_json(Target(target_type))
    plain = _PLAIN[kinds]
    if target_type in (str, bytes, str | None, bytes | None):
        return plain
    target = Target(target_type)  # it may have constraints

    def decode(message: Received) -> Any:
        value = plain(message)
        try:
            return target.adapter.validator.validate_python(value)
        except ValidationError as error:
            problem = target.describe(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # from a validator of the user's
            problem = f"a validator raised {located(error)}"
        raise PayloadDecodeError(f"step str: the payload is not a valid {target.name}: {problem}", step="str")

    return decode


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


def _to_either(message: Received) -> str | bytes:
    data = message.value
    if data is None:
        raise _no_null(str | bytes)
    return _text_or_bytes(data)


def _to_optional_either(message: Received) -> str | bytes | None:
    data = message.value
    return None if data is None else _text_or_bytes(data)


_PLAIN: Mapping[frozenset[Any], Decoder] = {
    frozenset((str,)): _to_str,
    frozenset((bytes,)): _to_bytes,
    frozenset((str, NoneType)): _to_optional_str,
    frozenset((bytes, NoneType)): _to_optional_bytes,
    frozenset((str, bytes)): _to_either,
    frozenset((str, bytes, NoneType)): _to_optional_either,
}


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text if it is UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PayloadDecodeError("step str: the payload is not UTF-8", step="str") from None


def _no_null(target_type: Any) -> PayloadDecodeError:
    name = type_name(target_type)
    text = f"step json: the payload is null, and the handler's type {name} does not allow None"
    return PayloadDecodeError(text, step="json")


def _from_json(
    target: Target, thread_above: int = sys.maxsize, validate_json: Callable[[bytes], Any] | None = None
) -> Decoder:
    validate = validate_json or target.adapter.validator.validate_json
    read_later = in_thread(lambda: _from_json(target, validate_json=sliced_validator(target.adapter).validate_json))
    allows_none = target.allows_none

    def decode(message: Received) -> Any:
        data = message.value
        if data is None:
            if allows_none:
                return None
            raise _no_null(target.type)
        if data[thread_above:]:  # it is larger: a slice, as `len` would be a call for each message
            return read_later(message)
        try:
            return validate(data)
        except ValidationError as error:
            problem = target.describe(error) + _for_lists(target, error) if data else "it is empty"
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
