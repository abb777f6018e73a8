"""Steps that compress: what others write is read, what we write is read by others, and nothing more than allowed."""

from __future__ import annotations

import gzip
import struct
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadPipeline
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.steps import Incoming, Later, Outgoing
from tests.support.compressed import PEERS, SKIPPABLE, bomb
from tests.support.payloads import arrived, message

Step = Gzip | Zstd | Lz4
STEPS: dict[str, Any] = {"gzip": Gzip, "zstd": Zstd, "lz4": Lz4}
THEIRS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": zstandard.decompress,
    "lz4": lz4.frame.decompress,
}
TEXT = b"".join(b'{"number": %d, "square": %d}' % (number, number * number) for number in range(1_000))


def unpacked(step: Step, data: bytes) -> bytes:
    found = step.decode(data, Incoming("t", None, data, ()))
    assert isinstance(found, bytes)
    return found


async def decoded(step: Step, data: bytes) -> bytes:
    found = step.decode(data, Incoming("t", None, data, ()))
    return await found if isinstance(found, Later) else found


def packed(step: Step, data: bytes) -> bytes:
    found = step.encode(data, Outgoing("t"))
    assert isinstance(found, bytes)
    return found


def refused(step: Step, data: bytes) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        unpacked(step, data)
    assert caught.value.step == step.name
    assert str(caught.value).startswith(f"step {step.name}: the payload ")
    return str(caught.value)


@pytest.mark.parametrize("writer", PEERS)
@pytest.mark.parametrize("off_loop_above", [None, 1_000_000])
def test_what_others_write_is_read(writer: str, off_loop_above: int | None) -> None:
    name, write = PEERS[writer]
    step = STEPS[name](off_loop_above=off_loop_above)
    for data in (b"", b"{}", TEXT[:300], TEXT):
        assert step.recognizes(write(data))
        assert unpacked(step, write(data)) == data
        assert unpacked(step, write(data) + write(b"") + write(data)) == data + data
        if name != "gzip":
            assert unpacked(step, write(data) + SKIPPABLE) == data


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("data", [TEXT[:300], TEXT])
def test_what_is_written_is_read_by_others(name: str, data: bytes) -> None:
    step = STEPS[name]()
    written = packed(step, data)
    assert len(written) < len(data)
    assert THEIRS[name](written) == data
    assert unpacked(step, written) == data


@pytest.mark.parametrize("name", STEPS)
@given(data=st.binary(max_size=2_000))
def test_any_bytes_come_back(name: str, data: bytes) -> None:
    step = STEPS[name](required=True, min_size=0)
    assert unpacked(step, packed(step, data)) == data


@pytest.mark.parametrize(("name", "level"), [("gzip", 1), ("gzip", 9), ("zstd", -7), ("zstd", 19), ("lz4", 12)])
def test_a_level_can_be_chosen(name: str, level: int) -> None:
    step = STEPS[name](level)
    assert THEIRS[name](packed(step, TEXT)) == TEXT
    assert packed(step, TEXT) != packed(STEPS[name](), TEXT)


@pytest.mark.parametrize("name", STEPS)
def test_what_gains_nothing_is_left_alone(name: str) -> None:
    step = STEPS[name]()
    assert packed(step, short := TEXT[:100]) is short
    noise = zstandard.compress(TEXT)  # it grows
    assert packed(step, noise) is noise or name == "zstd"
    assert packed(STEPS[name](min_size=50), TEXT[:100]) != TEXT[:100]


@pytest.mark.parametrize("name", STEPS)
def test_what_looks_compressed_is_compressed_again(name: str) -> None:
    """Else a reader would unpack what the caller has packed."""
    step = STEPS[name]()
    for data in (step.magic, PEERS[name][1](b"x"), step.magic + bytes(range(250))):
        written = packed(step, data)
        assert written != data
        assert unpacked(step, written) == data


@pytest.mark.parametrize("name", STEPS)
def test_a_required_step_compresses_everything(name: str) -> None:
    step = STEPS[name](required=True)
    assert THEIRS[name](packed(step, b"{}")) == b"{}"
    assert "cannot be unpacked" in refused(step, b"{}")


@pytest.mark.parametrize("name", STEPS)
def test_cut_off_or_with_something_behind_it_is_refused(name: str) -> None:
    step = STEPS[name]()
    written = packed(step, TEXT[:2_000])
    for end in range(len(written)):
        refused(step, written[:end])
    for garbage in (b"x", b"\0" * 30, written[:5], written[:-1]):
        refused(step, written + garbage)


@pytest.mark.parametrize("name", STEPS)
def test_a_flipped_bit_never_gives_another_value(name: str) -> None:
    step, data = STEPS[name](), TEXT[:500]
    written = packed(step, data)
    failures = 0
    for position in range(len(written)):
        for bit in range(8):
            damaged = bytearray(written)
            damaged[position] ^= 1 << bit
            try:
                found = unpacked(step, bytes(damaged))
            except PayloadDecodeError:
                failures += 1
            else:
                assert found in (data, b""), (position, bit)
    assert failures > 7 * len(written), "only the header has bits that do not matter"


@pytest.mark.parametrize("off_loop_above", [None, 300_000])
@pytest.mark.parametrize("writer", PEERS)
def test_the_limit_is_exact(writer: str, off_loop_above: int | None) -> None:
    name, write = PEERS[writer]
    for packed_data in (write(TEXT), write(TEXT[:10]) + write(TEXT[10:])):
        assert unpacked(STEPS[name](max_size=len(TEXT), off_loop_above=off_loop_above), packed_data) == TEXT
        step = STEPS[name](max_size=len(TEXT) - 1, off_loop_above=off_loop_above)
        assert refused(step, packed_data).endswith(f"it unpacks to more than {len(TEXT) - 1} bytes (max_size)")


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("frames", [1, 2])
async def test_a_bomb_takes_no_more_memory_than_the_limit(name: str, frames: int) -> None:
    step, data = STEPS[name](max_size=500_000), bomb(name, 100) * frames
    tracemalloc.start()
    try:
        with pytest.raises(PayloadDecodeError, match=f"step {name}: the payload is refused"):
            await decoded(step, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_500_000


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_memory_is_not_taken_for_the_size_that_a_frame_claims(name: str) -> None:
    claims = {
        "zstd": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 50_000_000) + b"\x09\0\0x",
        "lz4": b"\x04\x22\x4d\x18\x6c\x40" + struct.pack("<Q", 50_000_000) + b"\x99" + bytes(4),
    }
    tracemalloc.start()
    try:
        refused(STEPS[name](off_loop_above=1_000_000), claims[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("name", STEPS)
async def test_large_payloads_are_worked_on_in_a_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, threads = STEPS[name](off_loop_above=10_000), list[str]()
    for method in ("_packed", "_unpacked"):
        original = getattr(step, method)

        def noted(data: bytes, original: Any = original) -> Any:
            threads.append(threading.current_thread().name)
            return original(data)

        monkeypatch.setattr(step, method, noted)
    assert isinstance(step.encode(TEXT[:9_000], Outgoing("t")), bytes)
    assert threads == ["MainThread"]
    await step.open()
    later = step.encode(TEXT, Outgoing("t"))
    assert isinstance(later, Later)
    written = await later
    assert isinstance(again := step.decode(written, Incoming("t", None, written, ())), Later)
    assert await again == TEXT
    assert isinstance(bombs := step.decode(bomb(name, 1), Incoming("t", None, b"", ())), Later)
    assert len(await bombs) == 1_000_000
    await step.close()
    assert len(threads) == 4
    assert all(thread.startswith("athomic-payload") for thread in threads[1:])


@pytest.mark.parametrize("name", STEPS)
def test_messages_with_and_without_it_are_read(name: str) -> None:
    """As its header says, or else its first bytes."""
    pipeline = PayloadPipeline([STEPS[name](off_loop_above=None)])
    read, outgoing = pipeline.decoder(str), Outgoing("t")
    written = pipeline.write(TEXT.decode(), outgoing)
    assert isinstance(written, bytes)
    assert len(written) < len(TEXT)
    assert read(arrived(written, outgoing)) == TEXT.decode()
    assert read(message(written)) == TEXT.decode()
    assert read(message(b"{}")) == "{}"
    with pytest.raises(PayloadDecodeError, match=f"step {name}"):
        read(message(b"{}", headers=(("content-encoding", name.encode()),)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"level": 99}, "level must be a whole number from"),
        ({"level": "fast"}, "level must be"),
        ({"max_size": 0}, "max_size must be"),
        ({"min_size": -1}, "min_size must be"),
        ({"required": "yes"}, "required must be True or False"),
        ({"writes": None}, "writes must be"),
        ({"off_loop_above": 0}, "off_loop_above must be"),
    ],
)
@pytest.mark.parametrize("name", STEPS)
def test_a_wrong_argument_is_a_sentence(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{STEPS[name].__name__}: {said}"):
        STEPS[name](**arguments)
