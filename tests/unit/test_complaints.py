from __future__ import annotations

import pytest

from fastapi_athomic import complaints as module


def test_what_was_held_back_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    held = module.Complaints(burst=2)
    assert [held.due("a") for _ in range(5)] == [0, 0, None, None, None]
    assert held.due("b") == 0
    now = module.INTERVAL
    assert held.due("a") == 3
    assert held.due("a") == 0
    assert held.due("a") is None
