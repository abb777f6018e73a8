from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.messages import RawMessage
from fastapi_athomic.sequencing.packing import pack, unpack

maybe_bytes = st.none() | st.binary()
messages = st.builds(
    RawMessage,
    topic=st.text("abc.-_", min_size=1),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-1, 2**62),
    key=maybe_bytes,
    value=maybe_bytes,
    headers=st.lists(st.tuples(st.text(st.characters(exclude_categories=())), maybe_bytes)).map(tuple),
)


@given(messages)
def test_a_message_comes_back_as_it_was(message: RawMessage) -> None:
    assert unpack(pack(message)) == message


def test_what_another_version_wrote_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="version 7, this release reads version 1"):
        unpack(b"\x07" + pack(RawMessage("t", 0, 0, 0, None, None, ()))[1:])
