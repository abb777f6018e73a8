"""Where do bytes go wrong? fastavro's errors do not say, so what it could not read is read again, slowly.

Checks what fastavro leaves out, too, and counts items that take no bytes: an array of nulls may claim any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from struct import Struct
from typing import Any

from pydantic import ValidationError

from ..error_text import located, problems_of
from .avro_logical import Unfit
from .avro_wire_schema import CONVERT, REASON, WireSchema

MAX_EMPTY_ITEMS = 100_000
"""Items that take no bytes, in all arrays of a message."""
MAX_BYTES = 65_536
"""Longer payloads are not read again: that would hold the event loop."""
_LONG_BYTES = 10
_FLOAT, _DOUBLE = Struct("<f"), Struct("<d")
_ENDS = "the payload ends in the middle of it"


def what_is_wrong(data: bytes, schema: WireSchema) -> str | None:
    """Where the first fault is, and what it is, without values. None: nothing is found."""
    if len(data) > MAX_BYTES:
        return None
    walk = _Walk(data, converts=True)
    try:
        walk.read(schema)
    except Unfit as error:
        return str(error)
    left = len(data) - walk.at
    return f"the value ends, and {left} bytes are left over" if left else None


def count_items(data: bytes, schema: WireSchema) -> None:
    """Raises `Unfit` if arrays claim more items that take no bytes than `MAX_EMPTY_ITEMS`."""
    _Walk(data, converts=False).read(schema)


class _Walk:
    def __init__(self, data: bytes, *, converts: bool) -> None:
        self.at = 0
        self._data = data
        self._converts = converts
        self._empty_items = 0

    def read(self, schema: WireSchema) -> Any:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return self._of_kind(schema)()
        if REASON in schema:
            raise Unfit(schema[REASON])
        kind = schema["type"]
        value = self._of_kind(kind)() if kind in _PLAIN else _COMPOUND[kind](self, schema)
        convert = schema.get(CONVERT)
        return value if convert is None or not self._converts else _converted(value, convert)

    def _of_kind(self, kind: str) -> Callable[[], Any]:
        return getattr(self, f"_{kind}")  # type: ignore[no-any-return]

    def _take(self, size: int) -> bytes:
        if size < 0:
            raise Unfit("a length below zero")
        taken = self._data[self.at : self.at + size]
        if len(taken) < size:
            raise Unfit(_ENDS)
        self.at += size
        return taken

    def _null(self) -> None:
        return None

    def _boolean(self) -> bool:
        return self._take(1) != b"\0"

    def _long(self) -> int:
        number = 0
        for position in range(_LONG_BYTES):
            (byte,) = self._take(1)
            number |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
        raise Unfit("a number of more than 64 bits")

    _int = _long

    def _float(self) -> float:
        return float(_FLOAT.unpack(self._take(4))[0])

    def _double(self) -> float:
        return float(_DOUBLE.unpack(self._take(8))[0])

    def _bytes(self) -> bytes:
        return self._take(self._long())

    def _string(self) -> str:
        try:
            return self._bytes().decode()
        except UnicodeDecodeError:
            raise Unfit("text that is not UTF-8") from None

    def _fixed(self, schema: Mapping[str, Any]) -> bytes:
        return self._take(schema["size"])

    def _enum(self, schema: Mapping[str, Any]) -> Any:
        try:
            return schema["symbols"][self._long()]
        except KeyError:
            raise Unfit("the number of no symbol of its enum that is known") from None

    def _union(self, branches: list[WireSchema]) -> Any:
        number = self._long()
        if not 0 <= number < len(branches):
            raise Unfit("the number of no branch of its union")
        return self.read(branches[number])

    def _record(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        record = {}
        for field in schema["fields"]:
            try:
                record[field["name"]] = self.read(field["type"])
            except Unfit as error:
                raise error.inside(field["name"]) from None
        return record

    def _array(self, schema: Mapping[str, Any]) -> list[Any]:
        items: list[Any] = []
        for number in self._blocks():
            before = self.at
            try:
                item = self.read(schema["items"])
                if self.at == before:
                    self._note_empty_item()
            except Unfit as error:
                raise error.inside(str(number)) from None
            if self._converts:
                items.append(item)
        return items

    def _note_empty_item(self) -> None:
        self._empty_items += 1
        if self._empty_items > MAX_EMPTY_ITEMS:
            raise Unfit(f"arrays claim more than {MAX_EMPTY_ITEMS} items that take no bytes")

    def _map(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for _ in self._blocks():
            try:
                key = self._string()
                found[key] = self.read(schema["values"])
            except Unfit as error:
                raise error.inside("?") from None  # keys are data
        return found

    def _blocks(self) -> Iterator[int]:
        number = 0
        while count := self._long():
            if count < 0:
                count = -count
                self._long()  # the size of the block in bytes
            for number in range(number, number + count):  # noqa: B020 - it goes on where the last block ended
                yield number
            number += 1


_PLAIN = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
_COMPOUND: Mapping[str, Callable[[_Walk, Mapping[str, Any]], Any]] = {
    "fixed": _Walk._fixed,
    "enum": _Walk._enum,
    "record": _Walk._record,
    "array": _Walk._array,
    "map": _Walk._map,
}


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except Unfit:
        raise
    except ValidationError as error:
        reason = problems_of(error, _place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = f"a value that Python's type does not take ({located(error)})"
    raise Unfit(reason)


def _place(location: Any, kind: str) -> str:
    """Names come from the schema, but keys of maps, which look the same, are data: they are left out."""
    parts = [str(part) if isinstance(part, int) or part.isidentifier() else "?" for part in location]
    return f"{'.'.join(parts)}: " if parts else ""
