"""Avro's logical types: their values in Python, and what is not one.

What this does not leave to fastavro: its readers round decimals to the declared precision, take negative times of day
for others, leave `timestamp-nanos` a number and `duration` bytes; its writers cut off what is too precise, and take a
datetime without a time zone for one in the machine's zone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, localcontext
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID

from .avro_schema import Node

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY = 24 * 60 * 60
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS = {"millis": 1_000, "micros": 1}
_DURATION = Struct("<III")
_LARGEST_PART = 2**32 - 1
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
MOST_DIGITS = 10_000
"""Of a decimal: longer ones take the event loop too long."""

Convert = Callable[[Any], Any]


class Unfit(ValueError):  # noqa: N818 - it names a value's fault, and never leaves this package
    """A value that the schema, or Python's type, cannot hold. `path` leads to it; the text does not show it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: tuple[str, ...] = ()

    def inside(self, part: str) -> Unfit:
        """The same, seen from one level higher."""
        self.path = (part, *self.path)
        return self

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.reason}" if self.path else self.reason


class Duration(NamedTuple):
    """Avro's logical type `duration`: three numbers of 32 bits without sign, which are not added up."""

    months: int = 0
    days: int = 0
    milliseconds: int = 0


# --- reading


def reader(node: Node, *, cuts_nanoseconds: bool, as_timedelta: bool) -> Convert:
    """A function from the bare Avro value to that of the logical type. It raises for values that Python lacks."""
    logical = str(node.logical)
    kind, _, unit = logical.rpartition("-")
    if kind in ("timestamp", "local-timestamp"):
        epoch = EPOCH if kind == "timestamp" else _NAIVE_EPOCH
        if unit == "nanos":
            return _nanos_reader(epoch, cuts_nanoseconds)
        factor = _MICROSECONDS[unit]
        return lambda number: epoch + timedelta(microseconds=number * factor)
    if kind == "time":
        factor = _MICROSECONDS[unit]
        return lambda number: _time_of(number * factor)
    if logical == "decimal":
        return _decimal_reader(node.scale)
    if logical == "uuid":
        return UUID if node.kind == "string" else _uuid_of_bytes
    if logical == "duration":
        return _timedelta_of if as_timedelta else _duration_of
    return lambda number: date.fromordinal(number + _EPOCH_DAY)


def _nanos_reader(epoch: datetime, cuts: bool) -> Convert:
    def read(number: int) -> datetime:
        microseconds, lost = divmod(number, 1_000)
        if lost and not cuts:
            raise Unfit("a datetime cannot hold its nanoseconds: annotate int, or set nanoseconds='cut'")
        return epoch + timedelta(microseconds=microseconds)

    return read


def _time_of(microseconds: int) -> time:
    seconds, rest = divmod(microseconds, 1_000_000)
    if not 0 <= seconds < _DAY:
        raise Unfit("a time of day outside of a day")
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, rest)


def _decimal_reader(scale: int) -> Convert:
    def read(data: bytes) -> Decimal:
        if len(data) > MOST_DIGITS // 3:
            raise Unfit(f"a decimal of more than {MOST_DIGITS} digits")
        return Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-scale, _EXACT)

    return read


def _uuid_of_bytes(data: bytes) -> UUID:
    return UUID(bytes=data)


def _duration_of(data: bytes) -> Duration:
    return Duration(*_DURATION.unpack(data))


def _timedelta_of(data: bytes) -> timedelta:
    months, days, milliseconds = _DURATION.unpack(data)
    if months:
        raise Unfit("a duration with months has no fixed length: annotate Duration")
    return timedelta(days=days, milliseconds=milliseconds)


# --- writing


def writer(node: Node) -> Mapping[type, Convert]:
    """Functions from values of the logical type to bare Avro values, by the type of the value. They raise `Unfit`."""
    logical = str(node.logical)
    kind, _, unit = logical.rpartition("-")
    if kind in ("timestamp", "local-timestamp"):
        return {datetime: _timestamp_writer(kind == "timestamp", unit)}
    if kind == "time":
        return {time: _time_writer(_MICROSECONDS[unit])}
    if logical == "decimal":
        return {Decimal: _decimal_writer(node)}
    if logical == "uuid":
        return {UUID: str if node.kind == "string" else lambda value: value.bytes}
    if logical == "duration":
        return {Duration: _duration_bytes, timedelta: _timedelta_bytes}
    return {date: lambda value: value.toordinal() - _EPOCH_DAY}


def _timestamp_writer(aware: bool, unit: str) -> Convert:
    epoch = EPOCH if aware else _NAIVE_EPOCH

    def write(value: datetime) -> int:
        if (value.utcoffset() is not None) is not aware:
            raise Unfit(
                "a datetime without a time zone" if aware else "a datetime with a time zone, and the schema's is local"
            )
        microseconds = (value - epoch) // _MICROSECOND
        if unit == "nanos":
            return _in_64_bits(microseconds * 1_000)
        number, lost = divmod(microseconds, _MICROSECONDS[unit])
        if lost:
            raise Unfit("the schema keeps milliseconds, and it has microseconds")
        return number

    return write


def _in_64_bits(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise Unfit("a time that the schema's 64 bits do not reach")
    return number


def _time_writer(factor: int) -> Convert:
    def write(value: time) -> int:
        if value.tzinfo is not None:
            raise Unfit("a time of day with a time zone")
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        number, lost = divmod(seconds * 1_000_000 + value.microsecond, factor)
        if lost:
            raise Unfit("the schema keeps milliseconds, and it has microseconds")
        return number

    return write


def _decimal_writer(node: Node) -> Convert:
    limit, scale, size = 10**node.precision, node.scale, node.size

    def write(value: Decimal) -> bytes:
        if not value.is_finite():
            raise Unfit("a Decimal that is no number")
        if value.adjusted() > node.precision:  # before anything that takes long for huge exponents
            raise Unfit(f"more digits than the schema's {node.precision}")
        with localcontext(_EXACT):
            scaled = value.scaleb(scale)
            unscaled = int(scaled) if scaled.as_tuple().exponent > -MOST_DIGITS else 0  # type: ignore[operator]
            if unscaled != scaled:
                raise Unfit(f"more digits behind the point than the schema's {scale}")
        if not -limit < unscaled < limit:
            raise Unfit(f"more digits than the schema's {node.precision}")
        length = size or (unscaled.bit_length() if unscaled >= 0 else (unscaled + 1).bit_length()) // 8 + 1
        try:
            return unscaled.to_bytes(length, "big", signed=True)
        except OverflowError:
            raise Unfit(f"more digits than the schema's {size} bytes hold") from None

    return write


def _duration_bytes(value: Duration) -> bytes:
    if not all(type(part) is int and 0 <= part <= _LARGEST_PART for part in value):
        raise Unfit("a duration whose parts are not within 32 bits without sign")
    return _DURATION.pack(*value)


def _timedelta_bytes(value: timedelta) -> bytes:
    if value < timedelta(0):
        raise Unfit("a negative timedelta, and Avro's durations have no sign")
    if value.microseconds % 1_000:
        raise Unfit("the schema keeps milliseconds, and it has microseconds")
    return _duration_bytes(Duration(0, value.days, value.seconds * 1_000 + value.microseconds // 1_000))
