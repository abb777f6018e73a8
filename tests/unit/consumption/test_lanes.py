"""The lanes that a strategy keeps, on `memory://`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.consumption.lanes import MOST_SPARE
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
        strategy: Any = athomic.manager().consumers["h"].life.session._strategy  # type: ignore[union-attr]
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
