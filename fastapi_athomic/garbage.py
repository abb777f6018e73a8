"""What an app has loaded when it starts is not looked at again in every collection of garbage.

Each full collection walks over all that lives: of a FastAPI app some hundred thousand objects, for tens of
milliseconds, in which nobody is served and nothing is consumed. `gc.freeze` takes what is there out of it, at no cost.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_FROM_THE_BEGINNING = gc.get_freeze_count()  # some versions of Python freeze a few objects of their own


class _Holders:
    """The collector belongs to the process, not to an app: the first app freezes, the last one undoes it."""

    count = 0


@contextmanager
def frozen_heap(wanted: bool = True) -> Iterator[None]:
    """Until the block is left, garbage among what exists now is not collected.

    Does nothing where somebody else has frozen the heap already.
    """
    if not wanted or (not _Holders.count and gc.get_freeze_count() > _FROM_THE_BEGINNING):
        yield
        return
    _Holders.count += 1
    gc.freeze()
    try:
        yield
    finally:
        _Holders.count -= 1
        if not _Holders.count:
            gc.unfreeze()
