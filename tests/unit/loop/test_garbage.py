"""The garbage collector is tuned while an app runs, and what others have set stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, include_athomic
from fastapi_athomic.loop.garbage import YOUNG, tuned_collector
from tests.support.apps import running

DEFAULT = (700, 10, 10)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*DEFAULT)
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def test_while_an_app_runs_the_heap_it_started_with_is_frozen() -> None:
    async with running(include_athomic(FastAPI(), AthomicSettings())):
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() == (YOUNG, *DEFAULT[1:])
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == DEFAULT


async def test_an_app_can_leave_the_collector_alone() -> None:
    async with running(include_athomic(FastAPI(), AthomicSettings(tune_gc=False))):
        assert gc.get_freeze_count() == 0
        assert gc.get_threshold() == DEFAULT


def test_the_last_of_several_apps_undoes_it() -> None:
    with tuned_collector():
        with tuned_collector():
            pass
        assert gc.get_freeze_count()
        assert gc.get_threshold()[0] == YOUNG
    assert not gc.get_freeze_count()
    assert gc.get_threshold() == DEFAULT


def test_what_somebody_has_frozen_stays_frozen() -> None:
    gc.freeze()
    with tuned_collector():
        assert gc.get_threshold() == DEFAULT
    assert gc.get_freeze_count()


def test_thresholds_that_somebody_chose_stay() -> None:
    gc.set_threshold(5_000, 20, 20)
    with tuned_collector():
        assert gc.get_threshold() == (5_000, 20, 20)
    assert gc.get_threshold() == (5_000, 20, 20)


def test_what_is_set_meanwhile_stays() -> None:
    with tuned_collector():
        gc.set_threshold(99, 9, 9)
    assert gc.get_threshold() == (99, 9, 9)
