"""What both kits do in the event loop of the app's routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..failures.letters import DeadLetter
from ..messages import PublishedMessage
from ..payload.pipeline import PayloadPipeline
from ..publisher import GivenHeaders
from .bench import Bench
from .clock import AsyncClock, check_seconds
from .deliveries import Deliveries
from .faults import AsyncBrokerFaults
from .gaps import Gaps
from .hints import tell_if_unread
from .observer import Handler
from .records import Handled

READY_SECONDS = 30.0
"""How long the consumers may take to get their partitions."""
END_SECONDS = 10.0
"""How long the end of a test waits for what is not handled."""
MOST_LETTERS = 10_000


class KitCore:
    """The verbs of a kit. Used in the event loop of the routes, while the app runs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.clock = AsyncClock(bench)
        self.faults = AsyncBrokerFaults(bench)
        self._gaps = Gaps()
        self._deliveries = Deliveries(bench.athomic, bench.transport)

    async def wait_until_ready(self) -> None:
        await self.bench.athomic.wait_until_ready(READY_SECONDS)

    async def publish(
        self,
        topic: str,
        message: object,
        *,
        key: Any,
        headers: GivenHeaders,
        partition: int | None,
        payload: PayloadPipeline | None,
    ) -> PublishedMessage:
        self.bench.check_open()
        tell_if_unread(topic, self.bench.observer.subscriptions())
        return await self.bench.athomic.publish(
            topic, message, key=key, headers=headers, partition=partition, payload=payload
        )

    async def deliver(
        self, handler: Handler, message: object, *, key: Any, headers: GivenHeaders, topic: str | None
    ) -> Handled:
        self.bench.check_open()
        watch = self.bench.observer.one(handler)
        return await self._deliveries.deliver(watch, message, key=key, headers=headers, topic=topic)

    async def drain(self, timeout: float, *, skip_delays: bool) -> None:
        self.bench.check_open()
        check_seconds(timeout)
        athomic = self.bench.athomic
        self.bench.records.note_drain()
        if not (skip_delays and self.clock.skips):
            await athomic.drain(timeout)
        elif not await self.clock.skip_until(self._is_drained, timeout):
            waiting = await athomic.still_waiting()
            raise TimeoutError(f"not all messages are handled and committed after {timeout:g} s: {waiting}")

    async def _is_drained(self) -> bool:
        athomic = self.bench.athomic
        return await athomic.is_drained() and not await athomic.at_home(self._waits_for_gaps)

    async def _waits_for_gaps(self) -> bool:
        manager = self.bench.athomic.manager()
        return manager is not None and self._gaps.open(manager.consumers.values())

    async def dead_letters(self, handler: Handler | None) -> list[DeadLetter]:
        self.bench.check_open()
        observer = self.bench.observer
        ids = observer.watches if handler is None else observer.ids(handler)
        found = dict[tuple[str, int, int], DeadLetter]()  # several sources may have one DLQ
        for handler_id in sorted(ids):
            letters = self.bench.athomic.dead_letters(handler_id)
            for source in self._sources(handler_id):
                for letter in await letters.browse(source=source, limit=MOST_LETTERS):
                    found[letter.topic, letter.partition, letter.offset] = letter
        return list(found.values())

    def _sources(self, handler_id: str) -> Sequence[str | None]:
        """The topics whose dead letters are asked for; None: all that the handler names."""
        subscription = self.bench.observer.watches[handler_id].handler.subscription
        if subscription.dlq is False:
            return []
        if subscription.pattern is None or isinstance(subscription.dlq, str):
            return [None]
        own = (each for each in self.bench.records.handled if each.handler_id == handler_id)
        return sorted({each.topic for each in own if each.outcome == "dead_lettered"})

    async def leave(self) -> str | None:
        """Has what was published handled before the test ends. Returns what was not, as `drain` says it.

        Not if a message waits in a retry topic: the test looks at a moment in between, and leaves it at that.
        """
        await self.faults.mend()
        if self.bench.records.deferred():
            return None
        try:
            await self.drain(END_SECONDS, skip_delays=True)
        except TimeoutError as error:
            return str(error)
        return None
