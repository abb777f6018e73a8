"""Apps that are steered: one handler of each kind of consumption, which notes what it gets."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast
from uuid import uuid4

from pydantic import BaseModel

from fastapi_athomic import Athomic, AthomicSettings, RawMessage, ordered_consumer, subscribe_to
from tests.support.apps import Gate, Record, new_app

KINDS = ["partition", "key", "none", "batch", "ordered"]


class Step(BaseModel):
    order: str
    number: int


class Steered:
    """An app with the handler `h` of the topic `t`, which waits at a gate. `record` has (order, number), as begun."""

    def __init__(self, kind: str = "partition", **settings: Any) -> None:
        self.record, self.gate = Record(), Gate()
        self.gate.set()
        self.active = self.most = 0  # calls at once
        self.calls = 0  # in all
        self.error: BaseException | None = None  # what calls raise
        self.errors: list[BaseException] = []  # what the next calls raise, one each
        own = ("rate_limit", "breaker", "retry", "batch_size")
        options = {"concurrency": settings.pop("concurrency", 3)}
        options |= {name: settings.pop(name) for name in own if name in settings}
        self.settings = AthomicSettings(
            **{
                "broker_url": f"memory://{uuid4().hex}",
                "memory": {"partitions": 3},
                "restart_backoff": 0.01,
                "restart_backoff_max": 0.01,
                **settings,
            }
        )
        self.athomic = new_app(self.settings, self._handler(kind, options))

    def again(self, **settings: Any) -> Athomic:
        """The same service in another process: an app with the same handler on the same broker."""
        return new_app(self.settings.model_copy(update=settings), *self.athomic._search.handlers)

    def _handler(self, kind: str, more: dict[str, Any]) -> Any:
        options: dict[str, Any] = {"group_id": "g", "handler_id": "h", **more}
        if kind == "batch":

            @subscribe_to("t", batch_linger_ms=1, **{"batch_size": 4, **options})
            async def handle_batch(steps: list[Step]) -> None:
                for step in steps:
                    self.record.note((step.order, step.number))
                await self._stay()

            return handle_batch
        if kind == "ordered":

            @ordered_consumer("t", aggregate_key_field="order", sequence_id_field="number", **options)
            async def handle_ordered(step: Step) -> None:
                self.record.note((step.order, step.number))
                await self._stay()

            return handle_ordered

        @subscribe_to("t", ordering=cast(Any, kind), **options)
        async def handle(step: Step, raw: RawMessage) -> None:
            self.record.note((step.order, step.number))
            await self._stay()

        return handle

    async def _stay(self) -> None:
        self.active += 1
        self.calls += 1
        self.most = max(self.most, self.active)
        try:
            await self.gate.wait()
            if self.errors:
                raise self.errors.pop(0)
            if self.error is not None:
                raise self.error
        finally:
            self.active -= 1

    async def publish(self, order: str, numbers: range, partition: int | None = None) -> None:
        for number in numbers:
            await self.athomic.publish("t", Step(order=order, number=number), key=order, partition=partition)

    def by_order(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for order, number in self.record.seen:
            found[order].append(number)
        return dict(found)
