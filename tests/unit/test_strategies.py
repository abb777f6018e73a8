"""What strategies keep, on `memory://`; what they do is tested by delivery."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.strategies import MOST_SPARE
from tests.support.apps import Gate, Record, eventually, new_app, running


async def test_p16_lanes_of_keys_that_are_done_are_used_again_and_bounded() -> None:
    begun, record, gate = Record(), Record(), Gate()
    keys = MOST_SPARE + 500

    @subscribe_to("t", group_id="g", handler_id="h", ordering="key", concurrency=keys)
    async def handle(number: int) -> None:
        begun.note(number)
        await gate.wait()
        record.note(number)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        max_buffered_messages=2 * keys,
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, handle)
    async with running(athomic):
        strategy: Any = athomic.manager().consumers["h"]._session._strategy  # type: ignore[union-attr]
        await athomic.publish_many("t", list(range(keys)), key=str)
        await begun.count(keys)
        gate.set()
        await record.count(keys)
        await athomic.drain()
        (state,) = [state for state in strategy._spare if state.topic_partition.topic == "t"]
        await eventually(lambda: strategy._lanes[state] == {})  # workers may rest before they leave a lane
        spare = list(strategy._spare[state])
        assert len(spare) == MOST_SPARE
        await athomic.publish("t", keys, key="another")
        await record.count(keys + 1)
        await athomic.drain()
        await eventually(lambda: strategy._lanes[state] == {})
        assert strategy._spare[state] == spare, "it was used, and given back"
        assert spare[-1].key == b"another"
    assert strategy._spare == {}, "they go with their partition"


async def test_p16_a_full_partition_takes_in_more_as_soon_as_a_batch_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.session.POLL_SECONDS", 2.0)  # nobody who waits for room looks sooner
    record = Record()

    @subscribe_to("t", group_id="g", batch_size=10)
    async def handle(numbers: list[int]) -> None:
        for number in numbers:
            record.note(number)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        max_buffered_messages=20,
        max_poll_messages=10,
        commit_interval=3600,  # a commit would notice the room, too
        commit_count=1_000_000,
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    async with running(new_app(settings, handle)) as athomic:
        await athomic.publish_many("t", list(range(1_000)), key=str)
        assert await record.count(1_000) == list(range(1_000))
