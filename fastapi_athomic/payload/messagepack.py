"""MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), by the `msgpack` library.

It is read by `msgpack`, not by ormsgpack, which does not tell if something stands behind the first value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ..compatibility import to_jsonable_python
from ..error_text import MOST_ERRORS
from ..exceptions import ConfigurationError
from ..extras import needed
from .fidelity import MESSAGEPACK_CHECKS, keeps_anything, names_of, takes_numbers, takes_times
from .losses import BARE_OBJECTS, DECLARED_OBJECTS, adapter_of, is_record
from .objects import object_validator
from .off_loop import threads
from .serialization import RefusedError, UnfitError, Writers
from .slices import THREAD_ABOVE, checked_limit, give_way, in_thread
from .steps import Decoder, Outgoing, Part, Received, Serializer, media_type
from .target import Target
from .validated import validated

STEP = "messagepack"
_CONTENT_TYPES = ("application/vnd.msgpack", "application/msgpack", "application/x-msgpack")
"""The registered one, and those that were used before."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECONDS = 10**9
_TOO_FINE = "a datetime cannot hold its nanoseconds: annotate int, or set nanoseconds='cut'"
_STAMP = re.compile(rb"([\xd7\x08\x0c])\xff(?=(.{4}))", re.DOTALL)
"""What stands before the nanoseconds of a timestamp: a first byte or a length, the type -1. Other bytes may look so."""
_OBJECTS, _NUMBERS = 3, 0
"""How `msgpack` reads timestamps: as `datetime`, or as its own `Timestamp`, with nanoseconds."""


class MessagePack(Serializer):
    """MessagePack, for anything that can be read back as the same value (extra `msgpack`).

    Numbers, text, bytes, lists and dicts are MessagePack's own; a `datetime` with a time zone is its timestamp; what it
    has no type for (UUID, Decimal, a date) is the text that pydantic writes, and sets and tuples are arrays.

    A timestamp is read as a `datetime`, or where `int` is declared as nanoseconds since 1970. Other extension types are
    refused, and so are maps and arrays as keys of maps.

    Args:
        nanoseconds: what a `datetime` cannot hold of a timestamp: "refuse" the message, or "cut" it off. A field
            that is annotated `int` gets all of it.
        thread_above: larger payloads (in bytes) are read in a thread, which lets the event loop go on between maps and
            the items of lists; validators of models run there, too. None: all are read in the event loop.

    Raises:
        ConfigurationError: `msgpack` is not installed, or an option is not what it must be.
    """

    name = STEP
    content_type = _CONTENT_TYPES[0]

    def __init__(
        self, *, nanoseconds: Literal["refuse", "cut"] = "refuse", thread_above: int | None = THREAD_ABOVE
    ) -> None:
        if nanoseconds not in ("refuse", "cut"):
            raise ConfigurationError("nanoseconds must be 'refuse' or 'cut'")
        self.thread_above = thread_above
        self._limit = checked_limit(self)
        self.waits = thread_above is not None
        self._format = _Format(
            needed("msgpack", extra="msgpack", what="MessagePack"), cuts_nanoseconds=nanoseconds == "cut"
        )
        self._writers = Writers(self._format)

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | None:
        return None if message is None else self._writers.write(message)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        target = Target(target_type)
        read = validated(target, self._format.reader(target.adapter), step=STEP, name=self._format.name)

        def in_slices() -> Decoder:
            sliced = validated(target, self._format.sliced_reader(target.adapter), step=STEP, name=self._format.name)
            return lambda message: sliced(message.value)

        read_later, limit = in_thread(in_slices), self._limit

        def decode(message: Received) -> Any:
            data = message.value
            return read_later(message) if data is not None and len(data) > limit else read(data)

        return decode

    async def open(self) -> None:
        if self.waits:
            threads.open()

    async def close(self) -> None:
        if self.waits:
            threads.close()

    def recognizes(self, message: Received) -> bool:
        return media_type(message) in _CONTENT_TYPES


class _Format:
    """How values become MessagePack and come back, for `Writers`."""

    step, name, checks = STEP, "MessagePack", MESSAGEPACK_CHECKS
    declared, bare = DECLARED_OBJECTS, BARE_OBJECTS

    def __init__(self, msgpack: Any, *, cuts_nanoseconds: bool) -> None:
        self._msgpack = msgpack
        self._cuts_nanoseconds = cuts_nanoseconds
        self._pack = partial(msgpack.packb, default=_plain, datetime=True)
        self._unpack = partial(msgpack.unpackb, strict_map_key=False, ext_hook=_refuse_extension)

    def writer(self, adapter: TypeAdapter[Any]) -> Callable[..., bytes]:
        to_python, pack = adapter.serializer.to_python, self._pack

        def write(message: Any, **options: Any) -> bytes:
            data: bytes = pack(to_python(message, **options))
            return data

        return write

    def write_bare(self, message: Any) -> bytes:
        data: bytes = self._pack(message)
        return data

    def read_bare(self, data: bytes) -> Any:
        return self.unpack(data, _OBJECTS)

    @staticmethod
    def is_short(data: bytes) -> bool:
        return True  # no number has more than 64 bits

    def unpack(self, data: bytes, timestamps: int) -> Any:
        """The objects that the bytes stand for. Raises `RefusedError` if they are no MessagePack."""
        try:
            return self._unpack(data, timestamp=timestamps)
        except RefusedError:
            raise
        except Exception as error:
            problem = self._problem(error)
        raise RefusedError(problem)

    def reader(self, adapter: TypeAdapter[Any]) -> Callable[[bytes], Any]:
        return self._reader(adapter, self._unpack, object_validator(adapter))

    def sliced_reader(self, adapter: TypeAdapter[Any]) -> Callable[[bytes], Any]:
        """The same for a thread, which lets the event loop go on."""
        in_slices = partial(self._unpack, object_hook=give_way)
        return self._reader(adapter, in_slices, object_validator(adapter, in_slices=True))

    def _reader(
        self, adapter: TypeAdapter[Any], load: Callable[..., Any], validate: Callable[[Any], Any]
    ) -> Callable[[bytes], Any]:
        load = partial(load, timestamp=_OBJECTS)
        schema = adapter.core_schema
        wants_numbers = takes_numbers(schema)
        looks = not self._cuts_nanoseconds and (takes_times(schema) or keeps_anything(schema))

        def read(data: bytes) -> Any:
            if looks and b"\xff" in data and any(_may_be_too_fine(data)):
                stamps = self._stamps(data, validate, adapter)
                if stamps.too_fine:
                    return stamps.validated()
            try:
                return validate(load(data))
            except Exception as error:
                refused = error
            try:
                self.unpack(data, _OBJECTS)
            except RefusedError as error:  # it was the bytes, and this says what is wrong with them
                refused = error
            if wants_numbers and isinstance(refused, ValidationError | RefusedError):
                stamps = self._stamps(data, validate, adapter)
                if stamps.found:
                    return stamps.validated()
            raise refused

        return read

    def _stamps(self, data: bytes, validate: Callable[[Any], Any], adapter: TypeAdapter[Any]) -> _Stamps:
        objects = self.unpack(data, _NUMBERS)
        return _Stamps(objects, self._msgpack.Timestamp, validate, adapter, cuts_nanoseconds=self._cuts_nanoseconds)

    def _problem(self, error: BaseException) -> str:
        if isinstance(error, self._msgpack.ExtraData):
            return "something stands behind its end"
        if isinstance(error, self._msgpack.StackError):
            return "it is nested too deeply"
        if isinstance(error, self._msgpack.FormatError):
            return "it has a byte that stands for nothing"
        if isinstance(error, UnicodeDecodeError):
            return "it has text that is not UTF-8"
        if isinstance(error, OverflowError):
            return "it has a timestamp outside the years 1 to 9999"
        if isinstance(error, TypeError):
            return "it has an array or a map as a key of a map"
        return "it ends too early, or a length in it is wrong"


def _may_be_too_fine(data: bytes) -> Iterator[bool]:
    """Whether bytes that look like timestamps of 64 or 96 bits have nanoseconds that no `datetime` holds."""
    for match in _STAMP.finditer(data):
        number = int.from_bytes(match[2], "big")
        yield (number if match[1] == b"\x0c" else number >> 2) % 1_000 != 0


class _TooFine:
    """Stands for a timestamp that a `datetime` cannot hold. pydantic refuses it for everything that is declared."""


class _Stamps:
    """Reads timestamps as numbers where no `datetime` is wanted.

    Only pydantic knows where that is: it gets a `datetime` for each timestamp, and says which of them it refuses.
    """

    def __init__(
        self,
        objects: Any,
        kind: type,
        validate: Callable[[Any], Any],
        adapter: TypeAdapter[Any],
        *,
        cuts_nanoseconds: bool,
    ) -> None:
        self._validate = validate
        self._schema = adapter.core_schema
        self._cuts = cuts_nanoseconds
        # by the identity of the stand-in: itself, the timestamp, and whether that is within the years 1 to 9999
        self.found: dict[int, tuple[object, Any, bool]] = {}
        self.too_fine: set[int] = set()
        self._refused: set[int] = set()
        try:
            self._objects = _rebuilt(objects, (kind,), self._stand_in)
        except RecursionError:
            raise RefusedError("it is nested too deeply") from None

    def validated(self) -> Any:
        """The value, with nanoseconds since 1970 where a `datetime` was refused."""
        try:
            value = self._validate(self._objects)
        except ValidationError as error:
            if error.error_count() > MOST_ERRORS:
                raise
            self._refuse_too_fine(error)
            self._refused = {id(each["input"]) for each in error.errors(include_url=False, include_context=False)}
            value = self._validate(_rebuilt(self._objects, (datetime, _TooFine), self._number))
        if not all(fits for key, (_, _, fits) in self.found.items() if key not in self._refused):
            raise RefusedError("it has a timestamp outside the years 1 to 9999")
        if self.too_fine - self._refused and keeps_anything(self._schema):
            raise UnfitError(f"it has a timestamp with nanoseconds: {_TOO_FINE}")
        return value

    def _refuse_too_fine(self, error: ValidationError) -> None:
        """Raises `UnfitError` for those that stand where a `datetime` is declared, and no `int`."""
        errors = [each for each in error.errors(include_url=False) if id(each["input"]) in self.too_fine]
        numbers = {id(each["input"]) for each in errors if each["type"] == "int_type"}
        names = names_of(self._schema)
        for each in errors:
            if each["type"].startswith("date") and id(each["input"]) not in numbers:
                place = [str(part) if isinstance(part, int) or part in names else "?" for part in each["loc"]]
                raise UnfitError(": ".join(filter(None, [".".join(place), _TOO_FINE])))

    def _stand_in(self, stamp: Any) -> object:
        stand_in: object = _TooFine()
        fits = True
        if self._cuts or stamp.nanoseconds % 1_000 == 0:
            try:
                stand_in = _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanoseconds // 1_000)
            except OverflowError:
                stand_in, fits = datetime.max.replace(tzinfo=UTC), False
        else:
            self.too_fine.add(id(stand_in))
        self.found[id(stand_in)] = (stand_in, stamp, fits)
        return stand_in

    def _number(self, stand_in: Any) -> Any:
        if id(stand_in) not in self._refused or id(stand_in) not in self.found:
            return stand_in
        stamp = self.found[id(stand_in)][1]
        return stamp.seconds * _NANOSECONDS + stamp.nanoseconds


def _rebuilt(part: Any, kinds: tuple[type, ...], replace: Callable[[Any], Any]) -> Any:
    if type(part) is list:
        return [_rebuilt(item, kinds, replace) for item in part]
    if type(part) is dict:
        return {_rebuilt(key, kinds, replace): _rebuilt(item, kinds, replace) for key, item in part.items()}
    return replace(part) if type(part) in kinds else part


def _plain(value: Any) -> Any:
    """What MessagePack has no type for, as JSON has it."""
    if is_record(value):
        kind: Any = type(value)
        return adapter_of(kind).serializer.to_python(value, by_alias=True)
    if isinstance(value, set | frozenset):
        return list(value)
    return to_jsonable_python(value, by_alias=True)


def _refuse_extension(code: int, _: bytes) -> Any:
    raise RefusedError(f"it has a value of the extension type {code}, which is not known")
