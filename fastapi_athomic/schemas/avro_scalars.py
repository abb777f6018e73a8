"""Values that hold no others become bytes: numbers, text, bytes, enums and the logical types."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel

from ..compatibility import to_jsonable_python
from .avro_binary import DOUBLE, FLOAT, Output, number, put_bytes, put_number
from .avro_logical import Convert, Unfit, writer
from .avro_plans import Put, is_record
from .avro_schema import Node

LISTS = (list, tuple, set, frozenset, deque)
_NO_TEXT = (bool, int, float, Mapping, BaseModel, *LISTS)
_RANGES = {"int": 2**31, "long": 2**63}


def scalar_writer(node: Node) -> Put:
    """What writes the values of a type that holds no others."""
    slow = _Scalar(node).put
    return _FAST[node.kind](slow) if node.logical is None and node.kind in _FAST else slow


def _fast_text(slow: Put) -> Put:
    def put(out: Output, value: Any) -> None:
        if type(value) is str:
            put_bytes(out, utf8(value))
        else:
            slow(out, value)

    return put


def _fast_long(slow: Put) -> Put:
    def put(out: Output, value: Any) -> None:
        if type(value) is int and -0x2000 <= value < 0x2000:
            rest = (value << 1) ^ (value >> 63)
            if rest > 0x7F:
                out.append(rest & 0x7F | 0x80)
                rest >>= 7
            out.append(rest)
        else:
            slow(out, value)

    return put


def _fast_double(slow: Put) -> Put:
    def put(out: Output, value: Any) -> None:
        if type(value) is float:
            out += DOUBLE(value)
        else:
            slow(out, value)

    return put


def _fast_boolean(slow: Put) -> Put:
    def put(out: Output, value: Any) -> None:
        if type(value) is bool:
            out.append(value)
        else:
            slow(out, value)

    return put


_FAST: Mapping[str, Callable[[Put], Put]] = {
    "string": _fast_text,
    "int": _fast_long,
    "long": _fast_long,
    "double": _fast_double,
    "boolean": _fast_boolean,
}


def utf8(text: str) -> bytes:
    """Raises `Unfit` if UTF-8 cannot hold the text."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Unfit("text with half a surrogate pair in it, which UTF-8 cannot hold") from None


class _Scalar:
    """Converts values by their types to bare Avro values, then writes those."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._by_type: dict[type, tuple[Convert, bool]] = {}  # and whether it is odd to meet the type here
        self._logical = writer(node) if node.logical is not None else {}
        self._put = _BARE[node.kind]
        self._numbers = {symbol: number(place) for place, symbol in enumerate(node.symbols)}

    def put(self, out: Output, value: Any) -> None:
        known = self._by_type.get(type(value))
        if known is None:
            known = self._by_type[type(value)] = self._for(type(value))
        convert, is_odd = known
        out.odd = out.odd or is_odd
        if self._numbers:
            out += self._numbers[convert(value)]
        else:
            self._put(out, convert(value))

    def convert(self, value: Any) -> Any:
        """The bare value."""
        return self._for(type(value))[0](value)

    def _for(self, kind: type) -> tuple[Convert, bool]:
        """How values of a type are converted. Unknown types are refused by what is returned."""
        for known, convert in self._logical.items():
            if issubclass(kind, known) and not (issubclass(kind, datetime) and known is not datetime):
                return convert, kind is not known
        usual = self._usual(kind)
        return (usual, False) if usual is not None and not self._logical else (usual or self._unusual(kind), True)

    def _usual(self, kind: type) -> Convert | None:
        node = self._node
        if node.kind in _RANGES and kind is int:
            return self._of_int
        if node.kind in ("float", "double") and kind is float:
            return self._of_float
        if node.kind in ("bytes", "fixed") and kind is bytes:
            return self._of_bytes
        if (
            (node.kind == "string" and not node.logical and kind is str)
            or (node.kind == "boolean" and kind is bool)
            or (node.kind == "null" and kind is type(None))
        ):
            return _as_it_is
        if node.kind == "enum" and issubclass(kind, Enum):
            return self._of_enum
        return self._of_symbol if node.kind == "enum" and kind is str else None

    def _unusual(self, kind: type) -> Convert:
        node = self._node
        if issubclass(kind, RootModel):
            return lambda value: self.convert(value.root)
        if issubclass(kind, Enum):
            return self._of_enum
        if node.kind in _RANGES and issubclass(kind, int) and kind is not bool:
            return self._of_int
        if node.kind in ("float", "double") and issubclass(kind, int | float) and kind is not bool:
            return self._of_float
        if node.kind in ("bytes", "fixed") and issubclass(kind, bytes | bytearray | memoryview):
            return self._of_bytes
        if node.logical == "decimal" and kind is int:
            return lambda value: self._logical[Decimal](Decimal(value))
        if node.kind == "enum" and issubclass(kind, str):
            return self._of_symbol
        if node.kind == "string" and issubclass(kind, str):
            return _uuid_text if node.logical == "uuid" else str
        return self._of_text if node.kind == "string" and node.logical is None else self._refuse

    def _refuse(self, value: Any) -> Any:
        raise self._refusal(value)

    def _refusal(self, value: Any) -> Unfit:
        wanted = self._node.logical or self._node.name or self._node.kind
        return Unfit(f"the schema has {wanted}, which a {type(value).__name__} does not become")

    def _of_int(self, value: int) -> int:
        limit = _RANGES[self._node.kind]
        if -limit <= value < limit:
            return int(value)
        raise Unfit(f"an int that the {limit.bit_length()} bits of the schema's {self._node.kind} do not hold")

    def _of_float(self, value: float) -> float:
        try:
            found = float(value)
            if found != value and value == value:
                raise Unfit("an int that no float is equal to")
            if self._node.kind == "float":
                FLOAT(found)
        except OverflowError:
            raise Unfit(f"a number that the schema's {self._node.kind} does not reach") from None
        return found

    def _of_bytes(self, value: bytes) -> bytes:
        if self._node.kind == "fixed" and len(value) != self._node.size:
            raise Unfit(f"{len(value)} bytes, and the schema has {self._node.size}")
        return bytes(value)

    def _of_enum(self, value: Enum) -> Any:
        if self._node.kind != "enum":
            return self.convert(value.value)
        return value.value if value.value in self._node.symbols else self._of_symbol(value.name)

    def _of_symbol(self, value: str) -> str:
        if value not in self._node.symbols:
            raise Unfit(f"{self._node.name} has no such symbol")
        return str(value)

    def _of_text(self, value: Any) -> str:
        """As in JSON: from which everyone who declares the type reads the same value."""
        if value is not None and not isinstance(value, _NO_TEXT) and not is_record(value):
            text = text_of(value)
            if text is not None:
                return text
        raise self._refusal(value)


def _put_text(out: Output, text: str) -> None:
    put_bytes(out, utf8(text))


_BARE: Mapping[str, Callable[[Output, Any], None]] = {
    "null": lambda out, value: None,
    "boolean": lambda out, value: out.append(value),
    "int": put_number,
    "long": put_number,
    "float": lambda out, value: out.extend(FLOAT(value)),
    "double": lambda out, value: out.extend(DOUBLE(value)),
    "bytes": put_bytes,
    "string": _put_text,
    "fixed": lambda out, value: out.extend(value),
    "enum": lambda out, value: None,  # by its number
}


def text_of(value: Any) -> str | None:
    """What stands for a value in JSON, if that is text."""
    try:
        text = to_jsonable_python(value)
    except Exception:
        return None
    return text if isinstance(text, str) else None


def _as_it_is(value: Any) -> Any:
    return value


def _uuid_text(value: str) -> str:
    try:
        known = str(UUID(value)) == value.lower()
    except ValueError:
        known = False
    if not known:
        raise Unfit("text that is no UUID, as the schema wants")
    return str(value)
