"""Makes the garbage collector fit a process that handles many messages.

The objects that an app has loaded at its start, some hundred thousand, live until it ends. Yet each full collection
walks over all of them, and nothing else runs for tens of milliseconds. `gc.freeze` keeps the collector away from them.
The collection of young objects begins after 700 more allocations than deallocations (2,000 in some versions of Python).
It would run several times for each fetch, and find everything still in use.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""Allocations, less deallocations, between two collections of young objects.

It is more than what handlers have buffered, none of which is garbage. About ten megabytes of garbage may pile up.
"""
DEFAULTS = (700, 2_000)
"""The thresholds that versions of Python start with. Another value was chosen by somebody, and is kept."""

_FROZEN_BY_PYTHON = gc.get_freeze_count()


class _Tuning:
    """The collector belongs to the process, not to an app: the first app tunes it, the last one restores it."""

    holders = 0
    thresholds = gc.get_threshold()

    @classmethod
    def begin(cls) -> None:
        cls.holders += 1
        if cls.holders > 1:
            return
        cls.thresholds = gc.get_threshold()
        if cls.thresholds[0] in DEFAULTS:
            gc.set_threshold(YOUNG, *cls.thresholds[1:])
        gc.freeze()

    @classmethod
    def end(cls) -> None:
        cls.holders -= 1
        if cls.holders:
            return
        gc.unfreeze()
        if gc.get_threshold()[0] == YOUNG:
            gc.set_threshold(*cls.thresholds)


@contextmanager
def tuned_collector(wanted: bool = True) -> Iterator[None]:
    """Within the block, objects that exist now are not collected, and newer ones are collected less often.

    Does nothing if someone else has frozen the heap already.
    """
    if not wanted or (not _Tuning.holders and gc.get_freeze_count() > _FROZEN_BY_PYTHON):
        yield
        return
    _Tuning.begin()
    try:
        yield
    finally:
        _Tuning.end()
