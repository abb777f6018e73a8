"""Protobuf's well-known types, and enums, as Python values.

https://protobuf.dev/reference/protobuf/google.protobuf/ says what they mean. Functions here raise `UnreadableError` and
`UnwritableError`, whose texts hold no values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from inspect import isclass
from typing import Any

from ..compatibility import to_jsonable_python
from .protobuf_targets import Choice, literal_values

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - `timezone.utc` is what datetimes of pydantic hold
SECOND = 1_000_000_000
"""In nanoseconds."""
_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""The seconds of a Timestamp: the years 1 to 9999."""
_LONGEST = 315_576_000_000
"""The seconds of a Duration: about 10,000 years."""
_TOO_FINE = "cannot hold its nanoseconds: annotate int, or set nanoseconds='cut'"
WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


class UnreadableError(ValueError):
    """A message holds something that the target cannot take."""


class UnwritableError(ValueError):
    """A value cannot stand in the field. `place` is the path to it, the outermost name first."""

    def __init__(self, reason: str, *place: str) -> None:
        super().__init__(reason)
        self.place = place

    def within(self, *place: str) -> UnwritableError:
        """The same, seen from outside."""
        return UnwritableError(str(self), *place, *self.place)


def unwritable(value: Any, wanted: str) -> UnwritableError:
    return UnwritableError(f"a {type(value).__name__} is no {wanted}")


# --- time


def _to_datetime(stamp: Any) -> datetime:
    """Refuses what a datetime cannot hold, as Avro's `timestamp-nanos` is."""
    if stamp.nanos % 1000:
        raise UnreadableError(f"a datetime {_TOO_FINE}")
    return _to_cut_datetime(stamp)


def _to_cut_datetime(stamp: Any) -> datetime:
    """Cut to the microsecond before, as Protobuf's own library does."""
    nanos = stamp.nanos
    if 0 <= nanos < SECOND:
        try:
            return EPOCH + timedelta(0, stamp.seconds, nanos // 1000)
        except OverflowError:
            pass
    raise UnreadableError("no valid Timestamp")


def _to_nanoseconds(stamp: Any) -> int:
    """Of a Timestamp since 1970, or of a Duration."""
    return int(stamp.seconds * SECOND + stamp.nanos)


def _to_text(stamp: Any) -> str:
    try:
        return str(stamp.ToJsonString())
    except ValueError:
        raise UnreadableError("no valid value") from None


def _to_timedelta(duration: Any) -> timedelta:
    if duration.nanos % 1000:
        raise UnreadableError(f"a timedelta {_TOO_FINE}")
    return _to_cut_timedelta(duration)


def _to_cut_timedelta(duration: Any) -> timedelta:
    """Cut towards zero, as Protobuf's own library does."""
    nanos = duration.nanos
    try:
        return timedelta(0, duration.seconds, nanos // 1000 if nanos >= 0 else -(-nanos // 1000))
    except OverflowError:
        raise UnreadableError("no valid Duration") from None


def _stamp_parts(value: Any) -> dict[str, Any]:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UnwritableError("a datetime without a time zone is no Timestamp")
        since = value - EPOCH
        return _parts((since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 1000)
    if isinstance(value, int) and not isinstance(value, bool):
        if _FIRST <= value // SECOND <= _LAST:
            return _parts(value)
        raise UnwritableError("the int, in nanoseconds since 1970, is no Timestamp")
    if type(value) is date:
        return _stamp_parts(datetime.combine(value, time(), timezone.utc))  # noqa: UP017
    raise unwritable(value, "Timestamp")


def _parts(nanoseconds: int) -> dict[str, Any]:
    seconds, nanos = divmod(nanoseconds, SECOND)
    return {"seconds": seconds, "nanos": nanos}


def _duration_parts(value: Any) -> dict[str, Any]:
    if isinstance(value, timedelta):
        nanoseconds = ((value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds) * 1000
    elif isinstance(value, int) and not isinstance(value, bool):
        nanoseconds = value
    else:
        raise unwritable(value, "Duration")
    seconds, nanos = divmod(abs(nanoseconds), SECOND)
    if seconds > _LONGEST:
        raise UnwritableError("it is too long for a Duration")
    sign = -1 if nanoseconds < 0 else 1
    return {"seconds": sign * seconds, "nanos": sign * nanos}


# --- JSON in messages


def _of_value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    match kind:
        case None | "null_value":
            return None
        case "struct_value":
            return _of_struct(value.struct_value)
        case "list_value":
            return _of_list(value.list_value)
        case _:
            return getattr(value, kind)


def _of_struct(struct: Any) -> dict[str, Any]:
    return {key: _of_value(value) for key, value in struct.fields.items()}


def _of_list(values: Any) -> list[Any]:
    return [_of_value(value) for value in values.values]


def _fill_value(message: Any, value: Any) -> None:
    match value:
        case None:
            message.null_value = 0
        case bool():
            message.bool_value = value
        case int() | float():
            try:
                message.number_value = float(value)
            except OverflowError:
                raise UnwritableError("the int is too large for a number of JSON") from None
        case str():
            message.string_value = encodable(value)
        case Mapping():
            message.struct_value.SetInParent()  # also if it is empty
            _fill_struct(message.struct_value, value)
        case list():
            message.list_value.SetInParent()
            _fill_list(message.list_value, value)
        case _:
            _fill_value(message, _as_json(value))


def _fill_struct(message: Any, value: Any) -> None:
    if not isinstance(value, Mapping):
        value = _as_json(value)
        if not isinstance(value, Mapping):
            raise unwritable(value, "Struct")
    for key, held in value.items():
        if not isinstance(key, str):
            raise unwritable(key, "key of a Struct")
        try:
            _fill_value(message.fields[encodable(key)], held)
        except UnwritableError as error:
            raise error.within("?") from None


def _fill_list(message: Any, value: Any) -> None:
    if not isinstance(value, list | tuple | set | frozenset):
        raise unwritable(value, "ListValue")
    for number, held in enumerate(value):
        try:
            _fill_value(message.values.add(), held)
        except UnwritableError as error:
            raise error.within(str(number)) from None


def encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnwritableError("half a surrogate pair, which UTF-8 cannot hold") from None
    return text


def _as_json(value: Any) -> Any:
    """Raises `UnwritableError` for what JSON cannot hold, or only as something that needs this again."""
    try:
        found = to_jsonable_python(value, by_alias=True)
    except (ValueError, TypeError):
        raise unwritable(value, "value of JSON") from None
    if isinstance(found, str | Mapping | list):
        return found
    raise unwritable(value, "value of JSON")


# --- which


def _paths(mask: Any) -> list[str]:
    return list(mask.paths)


def _joined_paths(mask: Any) -> str:
    return ",".join(mask.paths)


def _mask_parts(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"paths": [path for path in value.split(",") if path]}
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(path, str) for path in value):
        return {"paths": list(value)}
    raise unwritable(value, "FieldMask")


def _nothing(empty: Any) -> dict[str, Any]:
    return {}


def reader_of(full_name: str, choice: Choice, *, cuts_nanoseconds: bool) -> Callable[[Any], Any] | None:
    """How a well-known type is read into a target; None: it is none, or the target is a record with its fields."""
    if full_name in _JSON_READERS:
        return _JSON_READERS[full_name]
    if full_name not in PARTS or choice.records:
        return None
    match full_name.rpartition(".")[2]:
        case "Timestamp":
            to_datetime = _to_cut_datetime if cuts_nanoseconds else _to_datetime
            return to_datetime if choice.has(datetime, date, time) else _by_type(choice, to_datetime)
        case "Duration":
            to_timedelta = _to_cut_timedelta if cuts_nanoseconds else _to_timedelta
            return to_timedelta if choice.has(timedelta) else _by_type(choice, to_timedelta)
        case "FieldMask":
            return _joined_paths if choice.has(str) else _paths
        case _:
            return _nothing


def _by_type(choice: Choice, otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if choice.has(int):
        return _to_nanoseconds
    return _to_text if choice.has(str) else otherwise


_JSON_READERS: Mapping[str, Callable[[Any], Any]] = {
    "google.protobuf.Struct": _of_struct,
    "google.protobuf.Value": _of_value,
    "google.protobuf.ListValue": _of_list,
}
FILLERS: Mapping[str, Callable[[Any, Any], None]] = {
    "google.protobuf.Struct": _fill_struct,
    "google.protobuf.Value": _fill_value,
    "google.protobuf.ListValue": _fill_list,
}
"""What puts a value into a message for JSON. A constructor would take a dict for the values in it."""
PARTS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "google.protobuf.Timestamp": _stamp_parts,
    "google.protobuf.Duration": _duration_parts,
    "google.protobuf.FieldMask": _mask_parts,
    "google.protobuf.Empty": lambda value: {},
}
"""What the fields of a well-known type are for a value that is no record."""


# --- enums


class _Table(dict[int, Any]):
    """What the numbers of an enum become."""

    def __init__(self, known: Mapping[int, Any], *, refuses: bool) -> None:
        super().__init__(known)
        self._refuses = refuses

    def __missing__(self, number: int) -> int:
        """Enums are open: a writer may know more numbers than its schema had. They are not remembered."""
        if self._refuses:
            raise UnreadableError("a number that the enum has no member for")
        return number


def enum_table(enum: Any, choice: Choice) -> Mapping[int, Any] | None:
    """What the numbers of an enum become for a target; None: they stay numbers."""
    classes = [member for member in choice.members if isclass(member) and issubclass(member, Enum)]
    if classes:
        return _table_of_members(enum, classes, choice)
    literals = literal_values(choice)
    if not choice.has(str) and (choice.has(int) or any(isinstance(value, int) for value in literals)):
        return None
    return _Table({value.number: value.name for value in reversed(enum.values)}, refuses=False)


def _table_of_members(enum: Any, classes: list[Any], choice: Choice) -> _Table:
    known = {number: member for kind in reversed(classes) for member, number in numbers_of(enum, kind).items()}
    if 0 not in known and choice.allows_none:
        known[0] = None  # by convention the number 0 of an enum says that nothing is said
    numbered_alike = all(member is None or member.value == number for number, member in known.items())
    return _Table(known, refuses=not numbered_alike and not choice.has(int))


def numbers_of(enum: Any, kind: Any) -> dict[Any, int]:
    """The numbers of the members of an `Enum` class. They are found by name, with the enum's prefix or without.

    Members whose names and values are other ones are found by their number.
    """
    prefix, found = _prefix(enum.name), dict[Any, int]()
    by_value = {member.value: member for member in kind if isinstance(member.value, str | int)}
    for value in enum.values:
        short = value.name.removeprefix(prefix)
        for known, name in ((kind.__members__, value.name), (by_value, value.name), (kind.__members__, short)):
            if name in known:
                found.setdefault(known[name], value.number)
                break
        else:
            member = by_value.get(short, by_value.get(value.number))
            if member is not None:
                found.setdefault(member, value.number)
    return found


def _prefix(name: str) -> str:
    """What the style guide puts before the values of an enum: `ORDER_STATUS_` for `OrderStatus`."""
    parts = "".join(f"_{each}" if each.isupper() and number else each for number, each in enumerate(name))
    return f"{parts.upper()}_"
