"""Which partition a key belongs to, as Kafka's Java client decides it."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(4_096)
def partition_for(key: bytes, count: int) -> int:
    """The partition of a key, as Kafka's `BuiltInPartitioner.partitionForKey` chooses it."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's Java client."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    result = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * factor & mask
        word = (word ^ (word >> 24)) * factor & mask
        result = (result * factor & mask) ^ word
    if rest := data[whole:]:
        result = (result ^ int.from_bytes(rest, "little")) * factor & mask
    result = (result ^ (result >> 13)) * factor & mask
    return result ^ (result >> 15)
