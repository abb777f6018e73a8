"""How far a consumer reads ahead."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.consumption.read_ahead import max_buffered
from fastapi_athomic.subscriptions import subscriptions_of


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ({}, {}, 500),
        ({"ordering": "none", "concurrency": 1_000}, {}, 2_000),
        ({"ordering": "key", "concurrency": 1_000}, {}, 5_000),
        ({"ordering": "key", "concurrency": 3_000}, {}, 10_000),
        ({"ordering": "key", "concurrency": 8_000}, {}, 16_000),
        ({"batch_size": 500}, {}, 2_500),
        ({"batch_size": 50}, {}, 500),
        ({"batch_size": 5_000}, {}, 10_000),
        ({}, {"max_poll_messages": 400}, 800),
        ({"batch_size": 500}, {"max_buffered_messages": 1_000}, 1_000),
    ],
)
def test_p16_what_is_taken_in_ahead_depends_on_what_is_in_hand(
    options: dict[str, Any], settings: dict[str, Any], expected: int
) -> None:
    @subscribe_to("t", group_id="g", **options)
    def handle(orders: list[int]) -> None: ...

    (subscription,) = subscriptions_of(handle)
    assert max_buffered(AthomicSettings(**settings), subscription) == expected
