"""The garbage collector of a process that handles many messages.

What an app has loaded when it starts lives until it ends, some hundred thousand objects, yet each full collection walks
over all of them, for tens of milliseconds in which nobody is served. `gc.freeze` takes them out. And the collector of
young objects, which begins after 700 more allocations than deallocations in some versions of Python (2,000 in others),
would run several times for each fetch, finding that all is still needed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""Allocations, less deallocations, between two collections of young objects.

More than what is buffered for handlers, of which nothing is garbage. About ten megabytes may wait for the next one.
"""
DEFAULTS = (700, 2_000)
"""Of Python's versions: another value was chosen by somebody, and stays."""

_FROZEN_BY_PYTHON = gc.get_freeze_count()


class _Tuning:
    """The collector belongs to the process, not to an app: the first app tunes it, the last one undoes that."""

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
    """Until the block is left, garbage among what exists now is not collected, and new garbage later.

    Does nothing where somebody else has frozen the heap already.
    """
    if not wanted or (not _Tuning.holders and gc.get_freeze_count() > _FROZEN_BY_PYTHON):
        yield
        return
    _Tuning.begin()
    try:
        yield
    finally:
        _Tuning.end()
