from __future__ import annotations

from functools import partial

import pytest

from fastapi_athomic.loop.load import LOAD_SECONDS, ThreadLoad


def test_how_much_of_its_time_a_thread_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"monotonic": 10.0, "thread_time": 1.0}
    for name in clocks:
        monkeypatch.setattr(f"fastapi_athomic.loop.load.{name}", partial(clocks.__getitem__, name))
    load = ThreadLoad()
    load.share()
    clocks |= {"monotonic": 12.0, "thread_time": 2.5}
    assert load.share() == 0.75
    clocks |= {"monotonic": 12.0 + LOAD_SECONDS / 2, "thread_time": 2.5 + LOAD_SECONDS / 2}
    assert load.share() == 0.75, "too short to tell"
    clocks |= {"monotonic": 12.0 + LOAD_SECONDS}
    assert load.share() == 0.5
    clocks |= {"monotonic": 11.0, "thread_time": 4.0}
    assert load.share() == 0.5, "a clock that was put forward is back"
    clocks |= {"monotonic": 11.0 + LOAD_SECONDS, "thread_time": 4.0 + LOAD_SECONDS}
    assert load.share() == 1.0
