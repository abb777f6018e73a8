"""What the tests of this folder share."""

from __future__ import annotations

import pytest

from fastapi_athomic.failures import topic_watch
from tests.unit.failures.topic_shop import Shop


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(topic_watch, "FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(topic_watch, "COUNT_SECONDS", 0.0)
    return Shop()
