"""Where does a value that was read differ from the value that was written?

A value is read as the type declared for it: the message's class, or the annotation of a field. Where none is declared
(in a dict, a list, a field of type Any) it is read as its own type: a `datetime` in a dict becomes text, from which
everyone who declares a `datetime` reads the same value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from ..compatibility import model_fields, to_json, type_adapter
from .fidelity import undeclared_fields
from .objects import object_validator

Place = tuple[str, ...]
"""The path to a value in a message: names of fields and indexes of items."""
Loss = tuple[Place, type]
"""The place of a value that is lost, and its type."""

MAX_TYPES = 1_000
"""For how many types, of messages and of values in them, the schemas are cached."""
MAX_KEY = 40
"""Longer keys are not shown in errors."""
UNKNOWN = "?"

_JSON = (str, int, float, bool, list, dict, type(None))
_PLAIN = frozenset((str, int, float, bool, type(None)))
_ITEMS = (list, tuple, set, frozenset, deque)
_SETS = (set, frozenset)


def _read_from_json(kind: Any, read: Any) -> Any:
    return adapter_of(kind).validator.validate_json(to_json(read))


def _read_from_python(kind: Any, read: Any) -> Any:
    return _object_validator_of(kind)(read)


@lru_cache(MAX_TYPES)
def _object_validator_of(kind: Any) -> Callable[[Any], Any]:
    return object_validator(adapter_of(kind))


class Spot(NamedTuple):
    """A place in a message, and how the value there is read."""

    place: Place = ()
    undeclared: bool = False  # no type is declared for the value: it is read as its own type
    # keys of mappings are data and not shown in errors; only those of a bare dict are, if they look like names
    tells_keys: bool = False
    own_type: Callable[[Any, Any], Any] = _read_from_json  # reads a value as a type: raises if it is none of it

    def at(self, part: str) -> Spot:
        return Spot((*self.place, part), self.undeclared, self.tells_keys, self.own_type)


DECLARED, BARE = Spot(), Spot(undeclared=True, tells_keys=True)
DECLARED_OBJECTS, BARE_OBJECTS = (
    DECLARED._replace(own_type=_read_from_python),
    BARE._replace(own_type=_read_from_python),
)
"""For formats whose values become Python objects before pydantic sees them."""


@lru_cache(MAX_TYPES)
def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """The cached adapter of a type. Raises what pydantic raises for a type that it cannot handle."""
    return type_adapter(kind)


def difference(value: Any, read: Any, *, declared: bool = True, rounded: bool = False) -> str | None:
    """Place and type of the first value that was not read back as the same, `items.0.price (Decimal)`; None: all were.

    For serializers of formats other than JSON, to keep the rule that what is published can be read back.

    Args:
        value: what was given to `encode`.
        read: what a reader of the bytes gets: `value`'s own class (validated by `adapter_of(type(value))`), or the
            plain objects of the format if `declared` is False.
        declared: whether `value`'s class says how it is read. False for a dict, list or number, whose parts are read
            by their own types: text equals a UUID that reads it as the same.
        rounded: the schema has floats of 32 bits, to which Python's floats are rounded: a float may differ.
    """
    found = losses(value, read, DECLARED_OBJECTS if declared else BARE_OBJECTS)
    return described(next((loss for loss in found if not (rounded and loss[1] is float)), None))


def described(loss: Loss | None) -> str | None:
    """The loss in words, without the value."""
    if loss is None:
        return None
    place, kind = loss
    return f"{'.'.join(place) or 'it'} ({kind.__name__})"


def losses(value: Any, read: Any, spot: Spot) -> Iterator[Loss]:
    """The places where `read` is not the same as `value`.

    `read` is of the declared type, or plain JSON (of other formats: plain objects) where none is declared.
    """
    if is_record(value):
        if type(read) is type(value):
            yield from _of_fields(value, read, spot)
        else:
            yield from _by_own_type(value, read, spot)
    elif isinstance(value, Mapping) and isinstance(read, Mapping):
        yield from _of_mapping(value, read, spot)
    elif isinstance(value, _ITEMS) and isinstance(read, _ITEMS) and not isinstance(read, _SETS):
        yield from _of_items(value, read, spot)
    elif not _equal(value, read):
        yield from _by_own_type(value, read, spot)


def unwritable(value: Any, spot: Spot, write: Callable[[Any], bytes]) -> Loss:
    """The innermost part of the value that `write` cannot write."""
    place, seen = spot.place, {id(value)}
    while True:
        for part, child in _parts(value, spot.tells_keys):
            if id(child) not in seen and not _is_writable(child, write):
                place, value = (*place, part), child
                seen.add(id(child))
                break
        else:
            return place, type(value)


def is_record(value: object) -> bool:
    """Whether it is a model or a dataclass."""
    return isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type))


def fields_of(record: Any) -> dict[str, Any]:
    """The values of a record's fields by name, pydantic's extras included; private attributes are left out."""
    if isinstance(record, BaseModel):
        held = record.__dict__
        known = {name: held[name] for name in model_fields(type(record)) if name in held}
        extra = record.__pydantic_extra__
        return known | extra if extra else known
    return {field.name: getattr(record, field.name) for field in fields(record) if hasattr(record, field.name)}


def _of_fields(value: Any, read: Any, spot: Spot) -> Iterator[Loss]:
    kind: Any = type(value)
    written, found = fields_of(value), fields_of(read)
    undeclared = {*_undeclared_fields(kind), *(getattr(value, "__pydantic_extra__", None) or ())}
    for name, held in written.items():
        if type(held) in _PLAIN and name in found and held == found[name]:
            continue  # the cheap check, which is enough for most fields
        there = Spot((*spot.place, name), name in undeclared, own_type=spot.own_type)
        if name in found:
            yield from losses(held, found[name], there)
        else:
            yield there.place, type(held)
    yield from (((*spot.place, name), type(found[name])) for name in found.keys() - written.keys())


def _of_mapping(value: Mapping[Any, Any], read: Mapping[Any, Any], spot: Spot) -> Iterator[Loss]:
    if len(value) != len(read):  # two keys became the same text
        yield spot.place, type(value)
        return
    pairs = read.items() if value.keys() != read.keys() else ((key, read[key]) for key in value)  # in any order
    for (key, held), (read_key, read_held) in zip(value.items(), pairs, strict=True):
        there = spot.at(_told(key, spot.tells_keys))
        if not _equal(key, read_key) and not (spot.undeclared and _is_read_as(key, read_key, spot)):
            yield there.place, type(key)
        yield from losses(held, read_held, there)


def _of_items(value: Any, read: Any, spot: Spot) -> Iterator[Loss]:
    if len(value) != len(read):
        yield spot.place, type(value)
        return
    for index, (held, read_held) in enumerate(zip(value, read, strict=True)):
        if type(held) in _PLAIN and held == read_held:
            continue
        yield from losses(held, read_held, spot.at(str(index)))


def _by_own_type(value: Any, read: Any, spot: Spot) -> Iterator[Loss]:
    """For values that are not equal: where no type is declared, the value's own type may read the same value."""
    kind: Any = type(value)
    again: Any = NotImplemented  # None may be what is read
    if spot.undeclared and kind not in _JSON and (type(read) in _JSON or spot.own_type is _read_from_python):
        try:
            again = spot.own_type(kind, read)
        except Exception:  # pydantic has no schema for it, cannot read it, or a validator of the user's failed
            again = NotImplemented
    if type(again) is kind:
        yield from losses(value, again, spot._replace(undeclared=False))
    else:
        yield spot.place, kind


@lru_cache(MAX_TYPES)
def _undeclared_fields(kind: Any) -> Collection[str]:
    """The fields of a record that allow anything, or hold something that does."""
    return undeclared_fields(adapter_of(kind).core_schema, kind)


def _is_read_as(key: Any, text: Any, spot: Spot) -> bool:
    """Whether the key's own type reads this text as the same key: in JSON, keys are text."""
    try:
        read = spot.own_type(dict[type(key), None], {text: None})  # type: ignore[misc]
    except Exception:
        return False
    return _equal(key, next(iter(read)))


def _equal(value: Any, read: Any) -> bool:
    try:
        if _is_true(value == read):
            return True
        if value != value and read != read:
            return type(value) is type(read)  # both are NaN
        if isinstance(value, datetime) and isinstance(read, datetime):
            return _same_instant(value, read)
        if type(value) is type(read) and _has_no_equality(type(value)):
            return not any(losses(value.__getstate__(), read.__getstate__(), DECLARED))
    except Exception:  # from an `__eq__` of the user's
        return False
    return False


def _has_no_equality(kind: Any) -> bool:
    return kind.__eq__ is object.__eq__


def _is_true(answer: Any) -> bool:
    """Arrays compare element by element."""
    return bool(answer.all() if hasattr(answer, "all") else answer)


def _same_instant(value: datetime, read: datetime) -> bool:
    """Compares instants. `==` does not: a time in the repeated hour never equals one in another zone (PEP 495)."""
    offset, read_offset = value.utcoffset(), read.utcoffset()
    if offset is None or read_offset is None:
        return False
    return value.replace(tzinfo=None) - read.replace(tzinfo=None) == offset - read_offset


def _is_writable(value: object, write: Callable[[Any], bytes]) -> bool:
    try:
        write(value)
    except MemoryError:
        raise
    except Exception:
        return False
    return True


def _parts(value: Any, tell_keys: bool) -> Iterator[tuple[str, Any]]:
    if is_record(value):
        yield from fields_of(value).items()
    elif isinstance(value, Mapping):
        for key, held in value.items():
            yield _told(key, tell_keys), held
    elif isinstance(value, _ITEMS):
        yield from ((str(index), held) for index, held in enumerate(value))


def _told(key: object, tell_keys: bool) -> str:
    return key if tell_keys and isinstance(key, str) and key.isidentifier() and len(key) <= MAX_KEY else UNKNOWN
