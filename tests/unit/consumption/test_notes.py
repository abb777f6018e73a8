import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.consumption.notes import NOTE_LIMIT, NOTE_SPAN, decode_note, encode_note


@given(st.integers(0, 2**62), st.sets(st.integers(0, 3_000), min_size=1))
def test_a_note_tells_what_was_written(position: int, above: set[int]) -> None:
    note = encode_note(sum(1 << distance for distance in above))
    assert decode_note(position, note) == {position + distance for distance in above}


def test_any_pattern_within_the_span_fits_into_a_note() -> None:
    bits = random.Random(7).getrandbits(NOTE_SPAN) | 1 << NOTE_SPAN - 1
    note = encode_note(bits)
    assert 0 < len(note) <= NOTE_LIMIT
    assert decode_note(0, note) == {offset for offset in range(NOTE_SPAN) if bits >> offset & 1}


def test_what_does_not_fit_is_left_out() -> None:
    assert encode_note(random.Random(7).getrandbits(10 * NOTE_SPAN)) == ""
    assert encode_note(0) == ""


BOMB = "a1:" + base64.b64encode(zlib.compress(b"\xff" * 10_000_000)).decode()


@pytest.mark.parametrize("note", ["hello", "a1:", "a1:!!!", "a1:AAAA", "a2:eJwDAAAAAAE=", BOMB, "a1:" + "é"])
def test_foreign_and_broken_notes_give_nothing_and_a_warning(note: str, caplog: pytest.LogCaptureFixture) -> None:
    assert decode_note(10, note) == frozenset()
    assert "will be handled again" in caplog.text


def test_no_note_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    assert decode_note(10, "") == frozenset()
    assert not caplog.text
