"""Does the type of an ordered consumer's messages have the fields that say their order? Asked at the start.

Without them every message would become a dead letter. Only what is certain is refused: of a `dict[str, Any]`, of a
class that pydantic knows nothing of, or of a field whose validators may change its type, nothing is certain.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin
from uuid import UUID

import typing_extensions
from pydantic import BaseModel
from typing_extensions import is_typeddict

from ..checks import did_you_mean
from ..exceptions import ConfigurationError
from ..payload.annotations import split, type_name
from ..subscriptions import Sequencing

_CONTAINERS = (Mapping, list, tuple, Set)
_NO_KEY = (bytearray, float, bool, Decimal, date, time, timedelta, NoneType, BaseModel, *_CONTAINERS)
_NO_NUMBER = (str, bytes, UUID, *_NO_KEY)
_NO_FIELDS = (str, bytes, int, float, Decimal, UUID, date, time, timedelta, Sequence, Set)
_QUALIFIERS = {typing.Required, typing.NotRequired, getattr(typing_extensions, "ReadOnly", typing.Required)}
_AT_MOST = 20
"""An error lists no more fields than this."""


def check_fields(handler_id: str, sequencing: Sequencing, target_type: Any) -> None:
    """Checks that messages of this type have the two fields, and that the fields can hold what is needed.

    Raises:
        ConfigurationError: one sentence, which names the handler, the option and the fields that there are.
    """
    for option, name, unfit, wanted in (
        ("aggregate_key_field", sequencing.aggregate_key_field, _NO_KEY, "text, a whole number, a UUID or bytes"),
        ("sequence_id_field", sequencing.sequence_id_field, _NO_NUMBER, "a whole number (int)"),
    ):
        for kind in _members(target_type):
            problem = _problem(kind, name, unfit, wanted)
            if problem is not None:
                raise ConfigurationError(f"handler {handler_id}: {option} is {name!r}, but {problem}")


def _members(annotation: Any) -> Iterator[Any]:
    """The types that a value may have. None is left out: a null value is refused when it comes, and others are not."""
    kind = _bare(annotation)[0]
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _members(member)
    elif kind is not NoneType:
        yield kind


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type behind aliases, `Annotated`, `NotRequired` and `NewType`, and what was annotated."""
    kind, metadata = split(annotation)
    while True:
        if isinstance(kind, NewType):
            kind = kind.__supertype__
        elif get_origin(kind) in _QUALIFIERS:
            kind = get_args(kind)[0]
        else:
            return kind, metadata
        kind, more = split(kind)
        metadata = (*more, *metadata)


def _problem(kind: Any, name: str, unfit: tuple[type, ...], wanted: str) -> str | None:
    plain = get_origin(kind) or kind
    if not isinstance(plain, type):
        return None
    if issubclass(plain, Mapping) and not is_typeddict(plain):
        values = get_args(kind)[1:]
        return None if not values or _may_hold(values[0], unfit) else _wrong_type(kind, "values", values[0], wanted)
    fields = _fields_of(plain)
    if fields is None:
        bare = issubclass(plain, _NO_FIELDS) and not hasattr(plain, name)
        return f"{type_name(kind)} has no fields: take a model, a dataclass or a dict" if bare else None
    if name not in fields:
        return None if _has_otherwise(plain, name) else _missing(plain, name, fields)
    return None if _may_hold(fields[name], unfit) else _wrong_type(kind, "field", fields[name], wanted)


def _fields_of(plain: type) -> Mapping[str, Any] | None:
    """The annotations of its fields by name; None if it does not say which fields it has."""
    if issubclass(plain, BaseModel):
        return {
            name: Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            for name, field in plain.model_fields.items()
        }
    if is_typeddict(plain) or is_dataclass(plain) or (issubclass(plain, tuple) and hasattr(plain, "_fields")):
        try:
            return typing.get_type_hints(plain, include_extras=True)
        except NameError:  # pydantic may know more about where the type was made
            return dict.fromkeys(name for base in plain.__mro__ for name in getattr(base, "__annotations__", ()))
    return None


def _has_otherwise(plain: type, name: str) -> bool:
    """As a property, as a private attribute, or as a key that the type allows besides its fields."""
    config = getattr(plain, "model_config", None) or getattr(plain, "__pydantic_config__", None) or {}
    own = (vars(base) for base in plain.__mro__ if base not in (BaseModel, object, dict, tuple))
    return (
        config.get("extra") == "allow"
        or name in getattr(plain, "__private_attributes__", ())
        or any(name in names or "__getattr__" in names for names in own)
    )


def _missing(plain: type, name: str, fields: Mapping[str, Any]) -> str:
    if name in (named := _names_in_json(plain)):
        return f"that is the name in JSON: name the field of {type_name(plain)}, {named[name]!r}"
    shown = [*list(fields)[:_AT_MOST], *(["..."] if len(fields) > _AT_MOST else [])]
    text = f"{type_name(plain)} has no such field, only {', '.join(shown)}" if shown else f"{type_name(plain)} has none"
    if "." in name:
        return f"{text}: it must be a field of the message itself, not of a part of it"
    return text + did_you_mean(name, fields)


def _names_in_json(plain: type) -> dict[str, str]:
    """The fields of a model by their aliases."""
    fields = plain.model_fields if issubclass(plain, BaseModel) else {}
    aliases = ((alias, name) for name, field in fields.items() for alias in (field.alias, field.validation_alias))
    return {alias: name for alias, name in aliases if isinstance(alias, str)}


def _may_hold(annotation: Any, unfit: tuple[type, ...]) -> bool:
    """Whether the field may have a value of another type than these."""
    kind, metadata = _bare(annotation)
    if any(hasattr(each, "func") for each in metadata):  # a validator, which may return anything
        return True
    if get_origin(kind) in (Union, UnionType):
        return any(_may_hold(member, unfit) for member in get_args(kind))
    if get_origin(kind) is Literal:
        return any(not isinstance(value, unfit) for value in get_args(kind))
    plain = get_origin(kind) or kind
    return plain is None or not isinstance(plain, type) or not (issubclass(plain, unfit) or is_dataclass(plain))


def _wrong_type(kind: Any, what: str, annotation: Any, wanted: str) -> str:
    are = "are" if what == "values" else "is"
    return f"the {what} of {type_name(kind)} {are} {type_name(_bare(annotation)[0])}, and must be {wanted}"
