"""Damaged messages: a failure of this step or a value that fits, quickly, and nothing else."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from fastapi_athomic import PayloadDecodeError
from fastapi_athomic.payload.steps import Decoder, Outgoing
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, message, settled
from tests.support.shop_proto import Order, register_shop, shop_pb2

ORDER = shop_pb2.Order(
    id="o-1", number=7, status=2, placed_at={"seconds": 5}, lines=[{"sku": "a", "price": 1.5}], counts={"a": 1}
)
FRAME = 6  # bytes: the schema's id and the index of the first message


async def ready(target: Any, *, framing: Any = "prefix") -> tuple[Decoder, Any]:
    """A decoder that knows the schema, and a message that it reads."""
    registry = SchemaRegistry("memory://", unknown_after=0.0)
    await register_shop(registry, "t-value")
    protobuf, outgoing = Protobuf(registry, framing=framing), Outgoing("t")
    found = arrived(await settled(protobuf.encode(ORDER, outgoing)), outgoing)
    decode = protobuf.decoder(target)
    await settled(decode(found))
    return decode, found


async def outcome(decode: Decoder, damaged: Any, target: Any) -> Any:
    """What became of it; the error, if it was refused as it should be."""
    try:
        value = await settled(decode(damaged))
    except PayloadDecodeError as error:
        return error
    assert type(value) is target
    return value


@pytest.mark.parametrize("target", [Order, shop_pb2.Order])
async def test_truncated(target: Any) -> None:
    """What is cut between two fields is a shorter message: the format cannot tell."""
    decode, whole = await ready(target)
    refused = 0
    for length in range(len(whole.value)):
        found = await outcome(decode, message(whole.value[:length]), target)
        refused += isinstance(found, PayloadDecodeError)
        assert length >= FRAME or isinstance(found, PayloadDecodeError)
    assert refused > len(whole.value) / 2


@pytest.mark.parametrize("target", [Order, shop_pb2.Order])
async def test_bits_flipped_at_every_position(target: Any) -> None:
    decode, whole = await ready(target)
    for position in range(len(whole.value)):
        for bit in range(8):
            damaged = bytearray(whole.value)
            damaged[position] ^= 1 << bit
            found = await outcome(decode, message(bytes(damaged)), target)
            assert position >= FRAME or isinstance(found, PayloadDecodeError)


async def test_bits_flipped_in_the_header() -> None:
    decode, whole = await ready(Order, framing="header")
    ((name, header),) = whole.headers
    for position in range(len(header)):
        for bit in range(8):
            damaged = bytearray(header)
            damaged[position] ^= 1 << bit
            found = await outcome(decode, message(whole.value, headers=((name, bytes(damaged)),)), Order)
            assert isinstance(found, PayloadDecodeError)
    for length in range(len(header)):
        cut = message(whole.value, headers=((name, header[:length]),))
        assert isinstance(await outcome(decode, cut, Order), PayloadDecodeError)
    with pytest.raises(PayloadDecodeError, match="more than a message index"):
        await settled(decode(message(whole.value, headers=((name, header + b"\0"),))))


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\x01",
        b"\x0a\xff\xff\xff\xff\x0f",  # a text of 4 GiB
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # of 2 ** 64
        b"\x0a\x05abc",
        b"\x0a\x02\xff\xfe",  # no UTF-8
        b"\x10" + 11 * b"\xff",  # a number of more than ten bytes
        b"\x10\x80",
        b"\x32\x01",
        b"\x0b",  # a group that does not end
        b"\x0c",  # one that does not begin
        b"\x0f",  # a wire type that does not exist
        b"\xfa\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)
async def test_no_valid_message(data: bytes) -> None:
    for target in (Order, shop_pb2.Order):
        decode, whole = await ready(target)

        with pytest.raises(PayloadDecodeError, match=r"the payload is no valid athomic\.shop\.Order"):
            await settled(decode(message(whole.value[:FRAME] + data)))


@pytest.mark.parametrize("depth", [90, 101, 1_000, 100_000])
async def test_deep_nesting(depth: int) -> None:
    """Protobuf's library takes messages that are nested 100 deep."""
    decode, whole = await ready(dict)
    value = b""
    for _ in range(min(depth, 1_000)):
        value = b"\x82\x02" + length(value) + value  # the field `inner`, 32
    value = value if depth <= 1_000 else b"\x83\x02" * depth
    prefix = whole.value[:5] + b"\x02\x08"

    found = await outcome(decode, message(prefix + value), dict)

    assert isinstance(found, PayloadDecodeError) == (depth > 100)


def length(value: bytes) -> bytes:
    found, number = bytearray(), len(value)
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


async def test_refusing_takes_no_memory() -> None:
    """Neither long lengths, nor indexes in many ways of writing."""
    decode, whole = await ready(Order)
    damaged = [
        whole.value[:FRAME] + b"\x0a" + length(bytes(1 << 20))[:-1] + bytes([0x7F, number]) for number in range(200)
    ]
    damaged += [whole.value[:5] + b"\x82" + number * b"\x80" + b"\0" + whole.value[FRAME:] for number in range(4)]
    damaged += [whole.value[:5] + bytes([2, 2 * number]) for number in range(7, 100)]
    tracemalloc.start()
    for _ in range(3):
        for data in damaged:
            await outcome(decode, message(data), Order)
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        for data in damaged:
            await outcome(decode, message(data), Order)
    grown = tracemalloc.get_traced_memory()[0] - first
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert grown < 50_000
    assert peak < 5_000_000


async def test_garbage_behind_the_message_is_no_message() -> None:
    decode, whole = await ready(Order)

    with pytest.raises(PayloadDecodeError):
        await settled(decode(message(whole.value + b"\0garbage")))


async def test_the_older_way_of_writing_indexes_is_not_taken_for_another_message() -> None:
    """Unsigned varints, which Confluent's Python client wrote before version 1.8: `1, 1` is the count -1 here."""
    decode, whole = await ready(shop_pb2.Order)

    with pytest.raises(PayloadDecodeError, match="no valid message index"):
        await settled(decode(message(whole.value[:5] + b"\x01\x01")))
