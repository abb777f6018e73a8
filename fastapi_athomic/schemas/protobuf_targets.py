"""What a handler's type says about the values in a message: its fields, their names, and what they may be."""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from inspect import isclass
from types import UnionType
from typing import Any, Literal, NamedTuple, NotRequired, Required, TypeVar, get_args, get_origin
from uuid import UUID

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo
from typing_extensions import get_type_hints, is_typeddict

from ..compatibility import model_fields
from ..payload.annotations import split

MAX_TYPES = 1_000
"""For how many types the fields are remembered."""


class RecordField(NamedTuple):
    """One field of a model, dataclass, TypedDict or NamedTuple."""

    name: str  # of the attribute
    key: str  # what pydantic calls it when it reads a dict
    names: frozenset[str]  # all that a field of a message may be called to be this one
    annotation: Any
    required: bool
    excluded: bool = False  # Field(exclude=True): it is never written


@dataclass(frozen=True, slots=True)
class Record:
    """A type with named fields."""

    kind: Any
    fields: tuple[RecordField, ...]
    takes_others: bool = False  # fields that it does not declare are for pydantic to judge

    def field(self, *names: str) -> RecordField | None:
        """The field that goes by one of these names; of several the one that goes by the first of them."""
        for name in names:
            for each in self.fields:
                if name == each.name:
                    return each
        for name in names:
            for each in self.fields:
                if name in each.names:
                    return each
        return None


@dataclass(frozen=True, slots=True)
class Choice:
    """What an annotation allows, without aliases and `Annotated`: the members of a union."""

    members: tuple[Any, ...]
    allows_none: bool

    def has(self, *kinds: type) -> bool:
        """Whether one of these types is allowed by name. Anything (`Any`) does not count."""
        return any(member in kinds for member in self.members)

    @property
    def anything(self) -> bool:
        """Whether no type is declared that says how a value should look."""
        return any(member in (Any, object, dict, Mapping) or isinstance(member, TypeVar) for member in self.members)

    @property
    def records(self) -> list[Any]:
        return [member for member in self.members if record_of(member) is not None]

    @property
    def items(self) -> Any:
        """The type of the items, if it is a collection; `Any` if nothing is said."""
        return next((arguments[0] for arguments in self._arguments(Collection) if len(arguments) != 2), Any)

    @property
    def values(self) -> Any:
        """The type of the values, if it is a mapping; `Any` if nothing is said."""
        return next((arguments[1] for arguments in self._arguments(Mapping) if len(arguments) == 2), Any)

    def _arguments(self, base: Any) -> Iterator[tuple[Any, ...]]:
        for member in self.members:
            origin = get_origin(member)
            if isclass(origin) and issubclass(origin, base) and get_args(member):
                arguments = tuple(each for each in get_args(member) if each is not Ellipsis)
                yield arguments if issubclass(origin, Mapping) else arguments[:1]


ANYTHING = Choice((Any,), allows_none=True)


@lru_cache(MAX_TYPES)
def _choice(annotation: Any) -> Choice:
    members = list(_members(annotation))
    allows_none = any(member in (None, type(None), Any, object) for member in members)
    return Choice(tuple(each for each in members if each not in (None, type(None))), allows_none)


def choice_of(annotation: Any) -> Choice:
    """What an annotation allows. What cannot be hashed (a list in `Annotated`) is not remembered."""
    try:
        return _choice(annotation)
    except TypeError:
        return _choice.__wrapped__(annotation)


def _members(annotation: Any) -> Iterator[Any]:
    kind = split(annotation)[0]
    if get_origin(kind) in (typing.Union, UnionType):
        for member in get_args(kind):
            yield from _members(member)
    elif isclass(kind) and issubclass(kind, RootModel):
        yield from _members(model_fields(kind)["root"].annotation)
    else:
        yield kind


@lru_cache(MAX_TYPES)
def record_of(kind: Any) -> Record | None:
    """The fields of a model, dataclass, TypedDict or NamedTuple; None: it is none of them."""
    origin = get_origin(kind) or kind
    if not isclass(origin):
        return None
    if issubclass(origin, BaseModel):
        return None if issubclass(origin, RootModel) else _model(origin)
    if is_dataclass(origin):
        return Record(kind, tuple(_dataclass_fields(origin, _arguments_of(kind))))
    if is_typeddict(origin):
        return Record(kind, tuple(_typed_dict_fields(origin, _arguments_of(kind))))
    if issubclass(origin, tuple) and hasattr(origin, "_fields"):
        return Record(kind, tuple(_named_tuple_fields(origin)))
    return None


def _model(kind: type[BaseModel]) -> Record:
    config = kind.model_config
    by_alias = config.get("validate_by_alias", True)
    found = tuple(_of_info(name, info, by_alias=bool(by_alias)) for name, info in model_fields(kind).items())
    return Record(kind, found, takes_others=config.get("extra") in ("allow", "forbid"))


def _of_info(name: str, info: FieldInfo, *, by_alias: bool = True, annotation: Any = None) -> RecordField:
    aliases = _aliases(info.validation_alias) or _aliases(info.alias)
    key = aliases[0] if aliases and by_alias else name
    return RecordField(
        name,
        key,
        frozenset((name, *aliases, *_aliases(info.serialization_alias))),
        info.annotation if annotation is None else annotation,
        info.is_required(),
        info.exclude is True,
    )


def _aliases(alias: str | AliasPath | AliasChoices | None) -> list[str]:
    if alias is None:
        return []
    if isinstance(alias, AliasChoices):
        return [name for each in alias.choices for name in _aliases(each)]
    if isinstance(alias, AliasPath):
        return [alias.path[0]] if len(alias.path) == 1 and isinstance(alias.path[0], str) else []
    return [alias]


def _dataclass_fields(kind: Any, arguments: Mapping[Any, Any]) -> Iterator[RecordField]:
    infos: Mapping[str, FieldInfo] = getattr(kind, "__pydantic_fields__", {})
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        if not each.init:
            continue
        annotation = _filled_in(hints[each.name], arguments)
        if each.name in infos:
            yield _of_info(each.name, infos[each.name], annotation=annotation)
            continue
        info = next((part for part in split(annotation)[1] if isinstance(part, FieldInfo)), FieldInfo())
        found = _of_info(each.name, info, annotation=annotation)
        yield found._replace(required=each.default is MISSING and each.default_factory is MISSING)


def _typed_dict_fields(kind: Any, arguments: Mapping[Any, Any]) -> Iterator[RecordField]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        required, annotation = name in kind.__required_keys__, hint
        origin: Any = get_origin(annotation)
        if origin is Required or origin is NotRequired:
            required, annotation = origin is Required, get_args(annotation)[0]
        info = next((part for part in split(annotation)[1] if isinstance(part, FieldInfo)), FieldInfo())
        yield _of_info(name, info, annotation=_filled_in(annotation, arguments))._replace(required=required)


def _named_tuple_fields(kind: Any) -> Iterator[RecordField]:
    hints = get_type_hints(kind, include_extras=True)
    for name in kind._fields:
        yield RecordField(name, name, frozenset((name,)), hints.get(name, Any), name not in kind._field_defaults)


def _arguments_of(kind: Any) -> dict[Any, Any]:
    """What stands for the parameters of a generic class: `Page[Order]`."""
    origin = get_origin(kind)
    return {} if origin is None else dict(zip(origin.__parameters__, get_args(kind), strict=False))


def _filled_in(annotation: Any, arguments: Mapping[Any, Any]) -> Any:
    if isinstance(annotation, TypeVar):
        return arguments.get(annotation, annotation)
    wanted = getattr(annotation, "__parameters__", ())
    return annotation[tuple(arguments.get(each, each) for each in wanted)] if wanted and arguments else annotation


_PLAIN = (str, int, float, bool, bytes, datetime, timedelta, date, UUID, Decimal)
_COLLECTIONS = (list, tuple, set, frozenset, dict)


@lru_cache(MAX_TYPES)
def compares_by_fields(kind: Any) -> bool:
    """Whether `==` of two models says that all that is in them is equal: no type in them has rules of its own."""
    return _compares(kind, set())


def _compares(annotation: Any, seen: set[Any]) -> bool:
    kind = split(annotation)[0]
    arguments = [each for each in get_args(kind) if each is not Ellipsis]
    if get_origin(kind) in (typing.Union, UnionType, *_COLLECTIONS):
        return all(_compares(each, seen) for each in arguments)
    if kind in (*_PLAIN, None, type(None)) or get_origin(kind) is Literal or kind in seen:
        return True
    if not isclass(kind):
        return False
    if issubclass(kind, Enum):
        return kind.__eq__ is object.__eq__ or issubclass(kind, int | str)
    if not issubclass(kind, BaseModel) or kind.__eq__ is not BaseModel.__eq__:
        return False
    seen.add(kind)
    return all(_compares(info.annotation, seen) for info in model_fields(kind).values())


def literal_values(choice: Choice) -> tuple[Any, ...]:
    """All values of the `Literal` types among the members."""
    return tuple(value for member in choice.members if get_origin(member) is Literal for value in get_args(member))
