"""The embedded broker's choice of partitions."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as reference_murmur2
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.transports.memory.partitioner import murmur2


@given(st.binary(max_size=64))
def test_keys_are_hashed_as_kafka_does(key: bytes) -> None:
    assert murmur2(key) & 0x7FFFFFFF == reference_murmur2(key) & 0x7FFFFFFF
