"""All of what others have compressed, and never more than a limit."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.unpacking import Codec, TooLargeError, UnpackError, at_most, unpack
from tests.support.compressed import PEERS, SKIPPABLE, bomb, lz4_linked, zstd_stream

WRITERS: dict[str, tuple[Codec, Callable[[bytes], bytes]]] = {
    **PEERS,
    "snappy": ("snappy", lambda data: bytes(codec.snappy_encode(data))),
    "snappy raw": ("snappy", lambda data: bytes(cramjam.snappy.compress_raw(data))),
}
WITH_FRAMES = sorted(PEERS)
SIZES = (1, 300, 70_000, 2_000_000)
NAMES: list[Codec] = ["gzip", "zstd", "lz4"]


def text(size: int) -> bytes:
    words = b"".join(b'{"number": %d, "square": %d}' % (number, number * number) for number in range(size // 25 + 1))
    return words[:size]


def cut_and_grown(data: bytes) -> list[bytes]:
    """Truncations, and garbage at the end."""
    step = max(1, len(data) // 100)
    return [*(data[:end] for end in range(0, len(data), step)), data[:-1], data + b"x", data + bytes(30)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_others_write_is_read_whole(writer: str, size: int) -> None:
    kind, write = WRITERS[writer]
    data = text(size)
    packed = write(data)
    assert bytes(unpack(kind, packed, size)) == data
    assert bytes(unpack(kind, packed, 10 * size + 100, b"head")) == b"head" + data
    assert at_most(kind, packed) >= size
    with pytest.raises(TooLargeError, match=f"more than {size - 1} bytes"):
        unpack(kind, packed, size - 1)


@pytest.mark.parametrize("writer", WITH_FRAMES)
def test_frames_in_a_row_are_read_all(writer: str) -> None:
    kind, write = PEERS[writer]
    data = text(5_000)
    between = SKIPPABLE if kind != "gzip" else b""
    packed = between + write(data) + write(b"") + between + write(data) + between
    assert bytes(unpack(kind, packed, 10_000)) == data + data
    with pytest.raises(TooLargeError):
        unpack(kind, packed, 9_999)


@pytest.mark.parametrize("writer", WITH_FRAMES)
def test_nothing_is_a_frame_too(writer: str) -> None:
    kind, write = PEERS[writer]
    assert bytes(unpack(kind, write(b""), 10)) == b""


@pytest.mark.parametrize("size", [300, 70_000])
@pytest.mark.parametrize("writer", WITH_FRAMES)
def test_what_is_cut_off_or_has_something_behind_it_is_refused(writer: str, size: int) -> None:
    kind, write = PEERS[writer]
    for damaged in cut_and_grown(write(text(size))):
        with pytest.raises(UnpackError):
            unpack(kind, damaged, 10 * size)


@pytest.mark.parametrize("writer", ["gzip", "zstd stream", "lz4 linked"])
def test_a_flipped_bit_never_gives_something_else(writer: str) -> None:
    kind, write = PEERS[writer]
    data = text(600)
    packed = write(data)
    for position in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[position] ^= 1 << bit
            try:
                found = bytes(unpack(kind, bytes(damaged), 100_000))
            except UnpackError:
                continue
            # a name, a time, or a mark for the whole frame to be skipped
            assert found in (data, b""), (position, bit)


@given(st.binary(max_size=200), st.sampled_from([*NAMES, "snappy"]))
def test_any_bytes_are_unpacked_or_refused(data: bytes, kind: Codec) -> None:
    begin = {"gzip": b"\x1f\x8b\x08\0", "zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18", "snappy": b""}
    for each in (data, begin[kind] + data):
        at_most(kind, each)
        try:
            found = unpack(kind, each, 1_000)
        except UnpackError:
            continue
        assert len(found) <= 1_000


@pytest.mark.parametrize("kind", NAMES)
def test_of_a_bomb_no_more_is_unpacked_than_allowed(kind: Codec) -> None:
    packed = bomb(kind, 200)
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            unpack(kind, packed, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000, "no more than the limit, and what is needed around it"
    assert len(unpack(kind, packed, 200_000_000)) == 200_000_000


@pytest.mark.parametrize("kind", NAMES)
def test_memory_is_not_taken_for_what_a_frame_says_of_itself(kind: Codec) -> None:
    claims = {
        "gzip": PEERS["gzip"][1](b"x" * 100)[:-4] + b"\xff\xff\xff\x7f",
        "zstd": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x09\0\0x",
        "lz4": b"\x04\x22\x4d\x18\x6c\x40" + struct.pack("<Q", 1 << 40) + b"\x99" + bytes(4),
    }
    tracemalloc.start()
    try:
        with pytest.raises(UnpackError):
            unpack(kind, claims[kind], 1 << 30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_many_tiny_members_do_not_take_long() -> None:
    """zlib copies what is behind each of them."""
    packed = PEERS["gzip"][1](b"") * 30_000
    assert bytes(unpack("gzip", packed, 10)) == b""


def test_a_window_beyond_128_mib_is_refused() -> None:
    packed = bytearray(zstd_stream(text(100)))
    assert packed[4] & 0x20 == 0
    packed[5] = (28 - 10) << 3
    with pytest.raises(UnpackError, match="memory"):
        unpack("zstd", bytes(packed), 1 << 30)


def test_blocks_of_lz4_that_refer_to_others_are_read() -> None:
    data = text(70_000) * 4
    assert bytes(unpack("lz4", lz4_linked(data), len(data))) == data
