"""One run of an app's consumers: starts what `assembly` wired, inside the app's own lifespan, and stops it in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import monotonic
from typing import NamedTuple

from .assembly import Assembly
from .control.desk import Desk
from .control.parts import DeskParts
from .exceptions import TopicNotFoundError, TransportError
from .exporters.reporters import LineageReporter
from .failures.dead_letters import DeadLetters, Told
from .failures.mailbox import DeadLetterParts
from .loop.blocking import BlockingDetector
from .loop.garbage import tuned_collector
from .loop.isolation import Home
from .loop.load import LoopLag
from .loop.termination import told_of_termination
from .messages import TopicPartition
from .observation.sharing import StatusSharing
from .observation.startup import announce, doubts, server_workers, start_line, stop_line
from .observation.status import ConsumerStatus
from .observation.waiting import still_waiting
from .payload.routing import Payloads
from .settings import AthomicSettings
from .stores.base import StateStore
from .stores.shared import SharedState
from .transports.base import Transport

logger = logging.getLogger(__name__)

END_RESERVE = 1.5
"""Seconds beyond `shutdown_timeout` after which consumers that have not stopped are abandoned."""
LOOK_SECONDS = 1.0
"""How long the broker is asked for the ends of topics, to say what is still waited for."""
ANSWER_SECONDS = 2.0
"""How long the thread of the consumers is waited for to ask the other processes for their status."""
LEAST_CHECK_SECONDS = 0.1
"""How long a health check that was cancelled has to end, where `shutdown_timeout` is used up."""
STOP_RESERVE = 1.5
"""Seconds of `shutdown_timeout`, at most a tenth of it, kept in reserve for services that take too long to stop."""


class RunParts(NamedTuple):
    """What a run is built from."""

    assembly: Assembly
    payloads: Payloads
    settings: AthomicSettings
    transport: Transport
    store: StateStore | None  # of ordered consumers
    shared: SharedState | None  # what processes tell each other
    home: Home
    loop_lag: LoopLag  # of the event loop of the routes


class Run:
    """The consumers of one run of an app's lifespan. They come after its `Uplink`, and go before it.

    `lifespan` is awaited in the event loop of the routes, the other coroutines in that of the consumers:
    `run.home.run(run.wait_until_started)`.
    """

    def __init__(self, parts: RunParts) -> None:
        self.manager, self._lifecycle, self.publisher = parts.assembly
        self.home = parts.home
        self._settings = settings = parts.settings
        self._transport = parts.transport
        self.desk = Desk(
            DeskParts(
                consumers=self.manager.consumers,
                transport=parts.transport,
                shared=parts.shared,
                settings=settings,
                status_of=self._status_of,
            )
        )
        self._payloads = parts.payloads
        self._store = parts.store
        self._shared = parts.shared
        self._routes_lag = parts.loop_lag
        lag = self._routes_lag if settings.isolation == "loop" else LoopLag(settings.health.loop_late)
        """Of the loop that consumers live in."""
        self.manager.process.live_in(lag, lambda: parts.home.ended)
        self._detector = BlockingDetector(lag, settings.blocking_after, self._blame, self._tick)
        self._sharing = StatusSharing(parts.shared, settings, self.manager.statuses)
        self._watching: asyncio.Task[None] | None = None
        self._start_task: asyncio.Task[None] | None = None
        self.seconds_left = settings.shutdown_timeout  # of it, after the stop; 0: they have not stopped

    # --- called in the event loop of the routes

    @asynccontextmanager
    async def lifespan(self, reporter: LineageReporter, ended: Callable[[], None]) -> AsyncIterator[None]:
        """Runs the consumers inside the `async with` block.

        Calls `ended` when they have stopped, before `reporter` reports the end of their runs.
        """
        self._say_what_starts()
        in_thread = self._settings.isolation == "thread"
        watching = asyncio.create_task(self._routes_lag.watch(), name="athomic-loop-lag") if in_thread else None
        checking = asyncio.create_task(self.manager.process.watch(), name="athomic-health")
        reporting = asyncio.create_task(reporter.run(), name="athomic-lineage")
        try:
            with tuned_collector(self._settings.tune_gc), self._told_of_termination(reporter):
                await self.home.run(self.begin)
                yield
        finally:
            if watching is not None:
                watching.cancel()
            checking.cancel()
            end, self.seconds_left = monotonic() + self._settings.shutdown_timeout, 0.0
            reporting.cancel()
            reporter.note_topics()
            try:
                stopped = await self._leave()
            finally:
                ended()
                await self._end_of_checks(checking, end - monotonic())
            await reporter.finish(min(max(0.0, end - monotonic()), self._settings.request_timeout))
            self.seconds_left = max(0.0, end - monotonic()) if stopped else 0.0

    async def _end_of_checks(self, checking: asyncio.Task[None], seconds: float) -> None:
        """A check that was cancelled may still use what the app closes next: a connection that it gives back."""
        limit = max(LEAST_CHECK_SECONDS, min(seconds, self._settings.health.check_timeout))
        _, late = await asyncio.wait([checking], timeout=limit)
        if late:
            logger.warning("a health check of the app goes on although it was cancelled; the app ends without it")

    def _say_what_starts(self) -> None:
        for doubt in doubts(self._settings, server_workers()):
            logger.warning("%s", doubt)
        announce(start_line(self._settings, [consumer.subscription for consumer in self.manager.consumers.values()]))

    @contextmanager
    def _told_of_termination(self, reporter: LineageReporter) -> Iterator[None]:
        """At SIGTERM the consumers begin to drain at once, while the server still answers open requests."""
        draining: list[asyncio.Task[None]] = []

        async def drain() -> None:
            reporter.note_topics()
            try:
                await self.home.run(self.drain)
            except TransportError as error:
                logger.warning("the consumers could not be drained at SIGTERM, they stop with the app: %s", error)

        def begin() -> None:
            draining.append(asyncio.create_task(drain(), name="athomic-drain"))

        if not self._settings.drain_on_sigterm:
            yield
            return
        with told_of_termination(begin):
            try:
                yield
            finally:
                for task in draining:
                    task.cancel()

    async def _leave(self) -> bool:
        """Stops the consumers. Returns even if a handler blocks their event loop; False: they have not stopped."""
        begun = monotonic()
        try:
            async with asyncio.timeout(self._settings.shutdown_timeout + END_RESERVE):
                await self.home.run(self.end)
            announce(stop_line(monotonic() - begun))
        except (TimeoutError, TransportError) as error:
            logger.error(
                "the consumers could not be stopped, some messages will be handled again: %s",
                error or "out of time",
            )
            return False
        return True

    async def group_status(self, handler_id: str | None) -> list[ConsumerStatus]:
        """See `Athomic.group_status`."""
        try:
            return await self.home.run(lambda: self._sharing.of_all(self.manager.groups, handler_id), ANSWER_SECONDS)
        except TransportError as error:
            return self._sharing.alone(f"other processes cannot be asked: {error}", handler_id)

    async def _status_of(self, handler_id: str) -> ConsumerStatus | None:
        """Over all processes that have the handler, as far as this one knows. In the consumers' event loop."""
        return next(iter(await self._sharing.of_all(self.manager.groups, handler_id)), None)

    # --- of one handler

    def dead_letters(self, handler_id: str, told: Told) -> DeadLetters:
        """See `Athomic.dead_letters`."""
        service = self.desk.service(handler_id)
        subscriptions = [other.subscription for other in self.manager.consumers.values()]
        group = {other.handler_id for other in subscriptions if other.group_id == service.subscription.group_id}
        parts = DeadLetterParts(
            subscription=service.subscription,
            group=frozenset(group),
            dlq_handler=service.dlq_handler,
            counters=service.counters,
            transport=self._transport,
            settings=self._settings,
            home=self.home,
            payload_of=partial(self._payloads.of_letter, service.subscription.payload),
        )
        return DeadLetters(parts, told)

    # --- of all consumers

    async def is_drained(self) -> bool:
        """Whether all consumers have fetched, concluded and committed everything that is in their partitions."""
        consumers = self.manager.consumers.values()
        if not (self.manager.consumes and all(consumer.settled() for consumer in consumers)):
            return False
        try:
            ends = await self._ends(self._settings.request_timeout)
            reached = all(
                position is not None and position >= ends[place]
                for consumer in consumers
                for place, position in consumer.positions().items()
                if place in ends
            )
            if not (reached and all(consumer.settled() for consumer in consumers)):  # messages may have come meanwhile
                return False
            # A handler may have published to a topic after its end was read, and before the others' were
            return ends == await self._ends(self._settings.request_timeout)
        except TransportError:  # the broker is away, or a topic was deleted: who waits is told so in the end
            return False

    async def partition_counts(self) -> dict[str, int]:
        """See `Athomic.partition_counts`."""
        counts = {}
        for name, consumer in self.manager.consumers.items():
            topics = consumer.subscription.topics
            found = [await self._transport.bounds(topic, self._settings.request_timeout) for topic in topics]
            if topics:
                counts[name] = sum(map(len, found))
        return counts

    async def _ends(self, timeout: float) -> dict[TopicPartition, int]:
        """Where the broker says that the topics end of which partitions are assigned here."""
        consumers = self.manager.consumers.values()
        topics = {place.topic for consumer in consumers for place in consumer.positions()}
        bounds = {topic: await self._transport.bounds(topic, timeout) for topic in topics}
        return {TopicPartition(topic, number): end for topic in topics for number, (_, end) in bounds[topic].items()}

    async def still_waiting(self) -> str:
        """What keeps the consumers from being ready, or drained, as the end of a sentence."""
        ends, error = dict[TopicPartition, int](), self.manager.broker_error
        try:
            ends = await self._ends(LOOK_SECONDS)
        except TopicNotFoundError:
            pass  # health names it
        except TransportError as caught:
            error = error or caught
        work = [consumer.work(ends) for consumer in self.manager.consumers.values()]
        return still_waiting(work, str(error) if error is not None else None)

    def _tick(self) -> None:
        self.manager.sample_rates()
        self._sharing.tick()

    def _blame(self, handler_id: str, seconds: float) -> None:
        consumer = self.manager.consumers.get(handler_id)
        if consumer is not None:
            consumer.note_blocking(seconds)

    # --- start and end

    async def begin(self) -> None:
        """Starts the services in the background, so that HTTP is up at once.

        With a `startup_timeout` it waits up to that long for them, and raises the error if they could not start.
        """
        self._watching = asyncio.create_task(self._detector.watch(), name="athomic-loop-lag")
        self._start_task = asyncio.create_task(self._start_services(), name="athomic-start")
        if self._settings.startup_timeout:
            await asyncio.wait([self._start_task], timeout=self._settings.startup_timeout)
            if self._start_task.done():
                self._start_task.result()

    async def _start_services(self) -> None:
        await self.desk.begin()
        try:
            await self._lifecycle.start(self._settings.shutdown_timeout)
        except Exception as error:
            self.manager.note_failure(error)
            raise
        self.manager.note_start()

    async def wait_until_started(self) -> None:
        """Returns when all services have started.

        Raises:
            Exception: the error of a required one that could not start.
        """
        if self._start_task is not None:
            await asyncio.shield(self._start_task)

    @property
    def _stop_timeout(self) -> float:
        timeout = self._settings.shutdown_timeout
        return timeout - min(STOP_RESERVE, timeout / 10)

    async def drain(self) -> None:
        """Stops the consumers. The connection to the broker stays: routes can still publish."""
        logger.info("SIGTERM: the consumers stop now, while open requests are still being answered")
        timeout = self._stop_timeout
        await asyncio.gather(*(consumer.stop(timeout) for consumer in self.manager.consumers.values()))

    async def end(self) -> None:
        """Stops the consumers, whether they had started or not, then what they share with others."""
        if self._watching is not None:
            self._watching.cancel()
        if self._start_task is not None:
            self._start_task.cancel()
            await asyncio.wait([self._start_task])
            if not self._start_task.cancelled() and (error := self._start_task.exception()) is not None:
                logger.error("the consumers could not be started: %s", error)
        await self.desk.end()
        await self._lifecycle.stop(self._stop_timeout)
        await self._sharing.leave()
        for store in (self._store, self._shared):
            if store is not None:
                await store.close()
