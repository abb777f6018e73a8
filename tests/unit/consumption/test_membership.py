"""What a member does when its process was frozen, on `memory://`.

Whether that is enough, tests/chaos tells.
"""

from __future__ import annotations

from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from tests.support.apps import Gate, Record, new_app, running
from tests.support.clock import SESSION, set_clock


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_p4_who_was_away_asks_whether_it_still_belongs_before_it_goes_on(
    ordering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, gate, ahead = Record(), Gate(), [0.0]
    set_clock(monkeypatch, lambda: monotonic() + ahead[0], *SESSION, "consumption.lanes")

    @subscribe_to("t", group_id="g", handler_id="h", ordering=ordering)
    async def handle(number: int) -> None:
        if number == 0:
            await gate.wait()
            ahead[0] = 10_000.0  # as if the whole process were frozen
        record.note(number)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        stall_timeout=20_000.0,
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, handle)
    async with running(athomic):
        session: Any = athomic.manager().consumers["h"]._session  # type: ignore[union-attr]
        confirm = session._membership.confirm

        async def confirm_membership() -> None:
            record.note("confirmed")
            await confirm()

        monkeypatch.setattr(session._membership, "confirm", confirm_membership)
        await athomic.publish_many("t", list(range(5)), key=str)
        session._assignment._away_limit = 5_000.0
        session._assignment.note_poll(monotonic())
        gate.set()
        await record.count(6)
        await athomic.drain()
    assert record.seen == [0, "confirmed", 1, 2, 3, 4]
