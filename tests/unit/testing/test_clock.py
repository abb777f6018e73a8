"""The clock of a kit: what waits for a time has it come at once, in order, and nothing else notices."""

from __future__ import annotations

import time

from fastapi_athomic import (
    AthomicSettings,
    RetryPolicy,
    subscribe_to,
)
from fastapi_athomic.testing import TestKit
from tests.support.apps import new_app

SETTINGS = AthomicSettings()


def test_retry_topics_are_gone_through_at_once() -> None:
    seen: list[float] = []

    @subscribe_to(
        "t",
        group_id="g",
        retry=RetryPolicy(max_attempts=1, retry_topics=(10, 60, 600), allow_reordering=True),
        handler_id="h",
    )
    async def handle(message: str) -> None:
        seen.append(kit.clock.now.timestamp())
        if len(seen) < 4:
            raise RuntimeError("not yet")

    with TestKit(new_app(SETTINGS, handle).app, strict=False) as kit:
        began = time.monotonic()
        kit.publish("t", "x")
        kit.drain()
        [handled] = kit.handled(handle)
        assert handled.outcome == "completed"
