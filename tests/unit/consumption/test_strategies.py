"""What strategies keep, on `memory://`; what they do is tested by delivery."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from tests.support.apps import Gate, Record, eventually, new_app, running

NEARLY_FULL, COUNT = 375, 1_000


@pytest.mark.parametrize(
    "options", [{}, {"ordering": "key"}, {"ordering": "none"}, {"batch_size": 100, "batch_linger_ms": 1}]
)
async def test_p16_a_full_partition_takes_in_more_as_soon_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    record, gate = Record(), Gate()

    async def handle(number: int) -> None:
        await gate.wait()
        record.note(number)

    async def handle_batch(numbers: list[int]) -> None:
        for number in numbers:
            await handle(number)

    handler: Any = handle_batch if "batch_size" in options else handle
    subscribe_to("t", group_id="g", **options)(handler)
    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        commit_interval=3600,  # a commit would notice the room, too
        commit_count=1_000_000,
        stall_timeout=36_000,  # polls can be far apart
        health={"poll_late": 36_000},  # type: ignore[arg-type]
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    async with running(new_app(settings, handler)) as athomic:
        for looks in ("session.POLL_SECONDS", "commits.LOOK_SECONDS"):  # nobody who waits for room looks by himself
            monkeypatch.setattr(f"fastapi_athomic.consumption.{looks}", 3600.0)
        await athomic.publish_many("t", list(range(COUNT)), key=str)
        await eventually(lambda: athomic.consumers()[0].counters.received > NEARLY_FULL)
        gate.set()
        assert sorted(await record.count(COUNT)) == list(range(COUNT))
        monkeypatch.undo()
        await athomic.publish("t", -1)  # ends the last look, which is a long one
        await record.count(COUNT + 1)
