"""The wall clock. All of the package reads its clocks by names that can be replaced: the test kit puts them forward.

These names are `monotonic` and `time`, imported from `time` by each module that reads them, which costs no call more
than the standard library's own; and `utc_now` for a moment as people read it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import time


def utc_now() -> datetime:
    """What `datetime.now(UTC)` is, by the clock that the test kit can put forward."""
    return datetime.fromtimestamp(time(), UTC)
