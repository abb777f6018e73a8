"""What makes a batch unreadable, apart from what aiokafka and the broker say."""

from __future__ import annotations

from ...variables import variable


class DamagedError(Exception):
    """What was read is not what was written. The docstring of a subclass is its text in the health report."""

    def __str__(self) -> str:
        return super().__str__() or str(type(self).__doc__)


class WrongChecksumError(DamagedError):
    """a batch has the wrong checksum"""


class WrongOffsetsError(DamagedError):
    """a batch has offsets that it cannot have"""


class NothingThereError(DamagedError):
    """the broker gives nothing, though the partition does not end here"""


class PackingError(DamagedError):
    """a batch cannot be unpacked"""


class TooLargeBatchError(DamagedError):
    """a batch unpacks to more than is allowed"""

    def __init__(self, size: int, limit: int) -> None:
        setting = ("kafka", "max_batch_bytes")
        super().__init__(
            f"a batch of {size:,} bytes unpacks to more than {limit:,}: {'.'.join(setting)} ({variable(setting)}) "
            "allows no more"
        )
