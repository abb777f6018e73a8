"""Avro's binary encoding, as far as it is written here: numbers, and what is in front of bytes."""

from __future__ import annotations

from struct import Struct

DOUBLE, FLOAT = Struct("<d").pack, Struct("<f").pack


class Output(bytearray):
    """The bytes of a message that is written.

    `odd`: a value was not of the type that its place usually has, so that it has to be proved that it is read back.
    """

    __slots__ = ("odd",)

    def __init__(self) -> None:
        super().__init__()
        self.odd = False


def put_number(out: bytearray, number: int) -> None:
    """Zigzag, then seven bits a byte, the lowest first."""
    rest = (number << 1) ^ (number >> 63)
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)


def number(value: int) -> bytes:
    """The bytes of an int or a long."""
    out = bytearray()
    put_number(out, value)
    return bytes(out)


LENGTHS = tuple(map(number, range(256)))
"""What is in front of short texts."""


def put_bytes(out: bytearray, data: bytes) -> None:
    """The length, then the bytes themselves."""
    size = len(data)
    if size < 256:
        out += LENGTHS[size]
    else:
        put_number(out, size)
    out += data
