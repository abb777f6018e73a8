"""The extension: `include_athomic` and the object an app gets from it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from time import monotonic
from types import ModuleType
from typing import Any, Protocol, Self, TypeVar, Unpack

from fastapi import FastAPI
from fastapi.params import Depends
from opentelemetry import metrics
from opentelemetry.metrics._internal import _ProxyMeterProvider
from starlette.requests import HTTPConnection

from .consumption.service import ConsumerService
from .decorators import (
    ConsumerOptions,
    OrderedOptions,
    Subscription,
    Topics,
    build_ordered_subscription,
    build_subscription,
)
from .discovery import Discovered, discover
from .exceptions import ConfigurationError, PublishError, TransportError
from .exporters.metrics import Collector, observe_with_opentelemetry, record_durations
from .factory import ConsumerFactory, FactoryParts
from .failures.dead_letters import DeadLetters
from .failures.mailbox import DeadLetterParts
from .lifecycle import LifecycleManager
from .loop.blocking import BlockingDetector
from .loop.fairness import LoopShare
from .loop.garbage import tuned_collector
from .loop.isolation import Home, LoopThread, SameLoop
from .loop.lag import LoopLag
from .loop.requests import RequestGauge
from .loop.termination import told_of_termination
from .manager import ConsumerManager
from .messages import PublishedMessage, TopicPartition
from .observation.status import ConsumerStatus, HealthReport
from .payload.pipeline import PayloadPipeline
from .propagation.app_tracing import instrument_app, resolve_tracer_provider
from .propagation.lineage import dataset_namespace
from .propagation.middleware import AthomicMiddleware, Identify
from .propagation.orchestrators import Orchestrators
from .publisher import GivenHeaders, Key, Publisher
from .settings import AthomicSettings, read_settings, tell_unknown_variables
from .stores.base import StateStore
from .stores.schemes import create_store
from .transports.base import Transport
from .transports.schemes import create_transport
from .web.routes import add_routes, new_router

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

END_RESERVE = 1.5
"""Seconds beyond `shutdown_timeout` after which consumers that do not end are abandoned."""
STOP_RESERVE = 1.5
"""Seconds of `shutdown_timeout`, a tenth of it at most, that are kept for what does not end when it is asked to."""


class Athomic:
    """What one app gets from `include_athomic`; owns everything below. Two of them never meet, also in one process."""

    def __init__(
        self,
        app: FastAPI,
        settings: AthomicSettings,
        *,
        calling_module: str,
        packages: Sequence[str | ModuleType] = (),
        handlers: Sequence[Callable[..., Any]] = (),
        prefix: str = "/consumers",
        name: str = "athomic",
    ) -> None:
        self.app = app
        self.settings = settings
        self.name = name
        self._prefix = prefix
        self.requests = RequestGauge()
        self.loop_lag = LoopLag()
        self._durations: metrics.Histogram | None = None
        self._calling_module = calling_module
        self._packages = tuple(packages)
        self._handlers = tuple(handlers)
        self._bound: list[Discovered] = []
        self._pipeline = PayloadPipeline()
        self._transport = create_transport(settings)
        self._store = create_store(settings)
        self._run: Run | None = None

    # --- publishing

    async def publish(
        self,
        topic: str,
        message: object,
        *,
        key: Key = None,
        headers: GivenHeaders = None,
        partition: int | None = None,
    ) -> PublishedMessage:
        """Publishes one message and waits until all in-sync replicas have it; says where it is.

        The message is a pydantic model, a dataclass or anything JSON can hold, `bytes` and `str` as they are, or None
        (a tombstone). The current trace, context and lineage go with it. Messages of one key go to one partition.

        Raises:
            PublishError: it was not acknowledged within `publish_timeout` seconds, or the app is not running.
            PayloadEncodeError: the message cannot be encoded.
            ConfigurationError: the topic name is invalid.
        """
        run = self._running()
        return await run.publishing(
            lambda: run.publisher.publish(topic, message, key=key, headers=headers, partition=partition)
        )

    async def publish_many(
        self,
        topic: str,
        messages: Iterable[Any],
        *,
        key: Callable[[Any], Key] | None = None,
        headers: GivenHeaders = None,
    ) -> list[PublishedMessage]:
        """Publishes messages in their order, in few requests; `key` gives each message its key.

        Raises:
            PublishError: some were not acknowledged (it says how many, the others are published), or the app is not
            running.
            PayloadEncodeError: a message cannot be encoded; none is published.
        """
        run = self._running()
        return await run.publishing(lambda: run.publisher.publish_many(topic, messages, key=key, headers=headers))

    # --- subscribing

    def subscribe_to(self, topic: Topics, *, group_id: str, **options: Unpack[ConsumerOptions]) -> Callable[[F], F]:
        """`fastapi_athomic.subscribe_to` for this app only: for closures and app factories."""

        def bind(function: F) -> F:
            return self._bind(function, build_subscription(function, topic, group_id, dict(options)))

        return bind

    def ordered_consumer(
        self,
        topic: Topics,
        *,
        group_id: str,
        aggregate_key_field: str,
        sequence_id_field: str,
        **options: Unpack[OrderedOptions],
    ) -> Callable[[F], F]:
        """`fastapi_athomic.ordered_consumer` for this app only: for closures and app factories."""

        def bind(function: F) -> F:
            fields = (aggregate_key_field, sequence_id_field)
            return self._bind(function, build_ordered_subscription(function, topic, group_id, fields, dict(options)))

        return bind

    def _bind(self, function: F, subscription: Subscription) -> F:
        if self._run is not None:
            raise ConfigurationError(f"handler {subscription.handler_id}: the app runs already; define it before")
        self._bound.append(Discovered(function, subscription))
        return function

    # --- dead letters

    def dead_letters(self, handler_id: str) -> DeadLetters:
        """The dead letters of one handler: to look at, to send back, to discard.

        Raises:
            ConfigurationError: there is no such handler.
            PublishError: the app is not running; see `offline`.
        """
        return self._running().dead_letters(handler_id)

    @asynccontextmanager
    async def offline(self) -> AsyncIterator[Callable[[str], DeadLetters]]:
        """Connects to the broker without starting a consumer; gives `dead_letters`. For tools.

        Raises:
            ConfigurationError: something is wrong with a handler.
            TransportError: the broker cannot be reached.
        """
        parts = self._assemble()
        await self._transport.start(self.settings.request_timeout)
        try:
            yield self._new_run(parts, SameLoop()).dead_letters
        finally:
            await self._transport.stop(self.settings.request_timeout)

    # --- positions

    async def seek(self, handler_id: str, topic: str, partition: int, offset: int) -> None:
        """Lets a handler go on at `offset` of a partition: back, to handle again, or ahead, past what cannot be read.

        To be called in the process that has the partition. What runs may finish before (`drain_timeout`); the offset is
        committed, so it holds after a restart, too. Messages that are passed over are not handled.

        Raises:
            ConfigurationError: there is no such handler.
            PublishError: the app is not running.
            TransportError: the partition is not assigned here, it has no such offset, or the broker cannot be reached.
        """
        run = self._running()
        await run.home.run(lambda: run.seek(handler_id, TopicPartition(topic, partition), offset))

    # --- looking

    def health(self) -> HealthReport | None:
        """The health of all consumers; None while the app does not run."""
        return self._run.manager.health() if self._run else None

    def consumers(self) -> list[ConsumerStatus]:
        """The status of all consumers; empty while the app does not run."""
        return self._run.manager.statuses() if self._run else []

    async def wait_until_ready(self, timeout: float = 30.0) -> Self:
        """Returns when all consumers have their partitions.

        Raises:
            TimeoutError: they had not within `timeout` seconds.
            Exception: what kept a required service from starting.
        """
        run = self._running()
        async with asyncio.timeout(timeout):
            await run.home.run(run.started)
        return self

    async def drain(self, timeout: float = 30.0) -> None:
        """Returns when all that has been published has been handled and committed. For tests.

        Raises:
            TimeoutError: it had not within `timeout` seconds.
        """
        run = self._running()
        async with asyncio.timeout(timeout):
            while not await run.home.run(run.is_drained):  # noqa: ASYNC110 - nobody tells when the last commit is done
                await asyncio.sleep(0.005)

    def _running(self) -> Run:
        if self._run is None:
            raise PublishError("the app is not running: this works between its start-up and its shutdown")
        return self._run

    def manager(self) -> ConsumerManager | None:
        return self._run.manager if self._run else None

    # --- life

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Consumers live inside the app's own lifespan: its resources are up before them, and go down after them."""
        in_thread = self.settings.isolation == "thread"
        home = LoopThread(self.settings.request_timeout) if in_thread else SameLoop()
        run = self._new_run(self._assemble(), home)
        self._run = run
        self._meter(run.manager)
        watching = asyncio.create_task(self.loop_lag.watch(), name="athomic-loop-lag") if in_thread else None
        events = self._lineage_events(run.manager)
        reporting = asyncio.create_task(events.run(), name="athomic-lineage") if events is not None else None
        try:
            await home.open()
            with tuned_collector(self.settings.tune_gc), self._told_of_termination(run, events):
                await home.run(run.begin)
                yield
        finally:
            if watching is not None:
                watching.cancel()
            end = monotonic() + self.settings.shutdown_timeout
            if events is not None and reporting is not None:
                reporting.cancel()
                events.note_topics()
            await self._end(run)
            self._run = None
            if events is not None:
                await events.finish(min(max(0.0, end - monotonic()), self.settings.request_timeout))

    @contextmanager
    def _told_of_termination(self, run: Run, events: LineageReporter | None) -> Iterator[None]:
        draining: list[asyncio.Task[None]] = []

        async def drain() -> None:
            if events is not None:
                events.note_topics()
            try:
                await run.home.run(run.drain)
            except TransportError as error:
                logger.warning("the consumers do not stop yet: %s", error)

        def begin() -> None:
            draining.append(asyncio.create_task(drain(), name="athomic-drain"))

        if not self.settings.drain_on_sigterm:
            yield
            return
        with told_of_termination(begin):
            try:
                yield
            finally:
                for task in draining:
                    task.cancel()

    def _new_run(self, parts: tuple[ConsumerManager, LifecycleManager, Publisher], home: Home) -> Run:
        lag = self.loop_lag if self.settings.isolation == "loop" else LoopLag()  # of the loop that consumers live in
        return Run(parts, self.settings, self._transport, home, lag, self._store)

    async def _end(self, run: Run) -> None:
        """Ends also where a handler blocks the consumers' own loop."""
        patience = END_RESERVE
        try:
            async with asyncio.timeout(self.settings.shutdown_timeout + END_RESERVE):
                await run.home.run(run.end)
        except (TimeoutError, TransportError) as error:
            logger.error("the consumers could not be stopped, some messages will repeat: %s", error or "out of time")
            patience = 0.0
        await run.home.close(patience)

    def _meter(self, manager: ConsumerManager) -> None:
        """OpenTelemetry metrics, where the app has a meter provider. Instruments stay, so once is enough."""
        provider = metrics.get_meter_provider()
        if isinstance(provider, metrics.NoOpMeterProvider | _ProxyMeterProvider):
            return
        system = self._transport.scheme
        if self._durations is None:
            self._durations = observe_with_opentelemetry(provider, self.manager, system)
        record_durations(self._durations, manager, system)

    def _lineage_events(self, manager: ConsumerManager) -> LineageReporter | None:
        """None where nothing is to be reported."""
        wanted = self.settings.lineage_events
        if wanted is None:
            wanted = (
                any(name.startswith("OPENLINEAGE_") for name in os.environ) and find_spec("openlineage") is not None
            )
        if not wanted:
            return None
        try:
            from .exporters.openlineage import LineageEvents
        except ImportError:
            raise ConfigurationError("lineage_events needs fastapi-athomic[lineage]") from None
        namespace = dataset_namespace(self._transport.scheme, self._transport.address)
        return LineageEvents(lambda: manager.consumers.values(), namespace, self.settings.lineage_interval)

    def prometheus_collector(self) -> Collector:
        """For a registry of the app's own: `registry.register(athomic.prometheus_collector())`.

        Raises:
            ConfigurationError: the extra `prometheus` is not installed.
        """
        try:
            from .exporters.prometheus import PrometheusCollector
        except ImportError:
            raise ConfigurationError("metrics for Prometheus need fastapi-athomic[prometheus]") from None
        return PrometheusCollector(self.manager, self.loop_lag)

    def _assemble(self) -> tuple[ConsumerManager, LifecycleManager, Publisher]:
        """Everything that one run of the app needs.

        Raises:
            ConfigurationError: what no waiting cures stops the start-up.
        """
        instrument_app(self.app, prefix=self._prefix)
        orchestrators = Orchestrators(
            self.settings,
            resolve_tracer_provider(self.app),
            scheme=self._transport.scheme,
            address=self._transport.address,
        )
        lifecycle = LifecycleManager()
        publisher = Publisher(self._transport, self._pipeline, orchestrators.of_publisher(), self.settings)
        lifecycle.register(publisher)
        factory = ConsumerFactory(
            FactoryParts(
                settings=self.settings,
                transport=self._transport,
                pipeline=self._pipeline,
                orchestrators=orchestrators,
                share=self._share(),
                providers={Athomic: lambda _: self},
                known={get_athomic: lambda _: self},
                overrides=lambda: self.app.dependency_overrides,
                store=self._store,
            )
        )
        manager = ConsumerManager(
            find_handlers=self._find_handlers,
            factory=factory,
            tuning=self.settings.tuning_by_handler(),
            lifecycle=lifecycle,
            publisher=publisher,
        )
        manager.assemble()
        return manager, lifecycle, publisher

    def _share(self) -> LoopShare:
        own_thread = self.settings.isolation == "thread"
        return LoopShare(
            self.settings.slice_seconds,
            self.requests,
            self.loop_lag,
            routes=asyncio.get_running_loop(),
            own_thread=own_thread,
        )

    def _find_handlers(self) -> list[Discovered]:
        return discover(
            self.app,
            calling_module=self._calling_module,
            packages=self._packages,
            handlers=self._handlers,
            bound=self._bound,
        )


class Run:
    """One run of an app's lifespan."""

    def __init__(
        self,
        parts: tuple[ConsumerManager, LifecycleManager, Publisher],
        settings: AthomicSettings,
        transport: Transport,
        home: Home,
        lag: LoopLag,
        store: StateStore | None,
    ) -> None:
        self._store = store
        self.manager, self.lifecycle, self.publisher = parts
        self.home = home
        self._settings = settings
        self._transport = transport
        self._detector = BlockingDetector(lag, settings.blocking_after, self._blame)
        self._watching: asyncio.Task[None] | None = None
        self.starting: asyncio.Task[None] | None = None

    def _blame(self, handler_id: str, seconds: float) -> None:
        consumer = self.manager.consumers.get(handler_id)
        if consumer is not None:
            consumer.note_blocking(seconds)

    async def publishing(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self.home.run(work)
        except TransportError as error:
            raise PublishError(str(error)) from error

    def dead_letters(self, handler_id: str) -> DeadLetters:
        service = self._service(handler_id)
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
        )
        return DeadLetters(parts)

    async def seek(self, handler_id: str, place: TopicPartition, offset: int) -> None:
        service = self._service(handler_id)
        bounds = (await self._transport.bounds(place.topic, self._settings.request_timeout)).get(place.partition)
        if bounds is None or not bounds[0] <= offset <= bounds[1]:
            kept = f"from {bounds[0]} to {bounds[1]}" if bounds is not None else "none, there is no such partition"
            raise TransportError(f"{place} cannot go on at offset {offset}: its offsets are {kept}")
        await service.seek(place, offset)

    def _service(self, handler_id: str) -> ConsumerService:
        service = self.manager.consumers.get(handler_id)
        if service is None:
            known = ", ".join(self.manager.consumers) or "none"
            raise ConfigurationError(f"there is no handler {handler_id}; the handlers are: {known}")
        return service

    async def is_drained(self) -> bool:
        """Nothing of the partitions of any consumer is left to fetch, to conclude or to commit."""
        consumers = self.manager.consumers.values()
        if not (self.manager.ready and all(consumer.settled() for consumer in consumers)):
            return False
        topics = {place.topic for consumer in consumers for place in consumer.positions()}
        ends = {topic: await self._transport.bounds(topic, self._settings.request_timeout) for topic in topics}
        reached = all(
            position is not None and position >= ends[place.topic][place.partition][1]
            for consumer in consumers
            for place, position in consumer.positions().items()
            if place.topic in ends
        )
        return reached and all(consumer.settled() for consumer in consumers)  # again: what was reached came meanwhile

    async def begin(self) -> None:
        """HTTP is up at once; consumers connect in the background, unless `startup_timeout` says to wait for them."""
        self._watching = asyncio.create_task(self._detector.watch(), name="athomic-loop-lag")
        self.starting = asyncio.create_task(self._start(), name="athomic-start")
        if self._settings.startup_timeout:
            await asyncio.wait([self.starting], timeout=self._settings.startup_timeout)
            if self.starting.done():
                self.starting.result()

    async def _start(self) -> None:
        try:
            await self.lifecycle.start(self._settings.shutdown_timeout)
        except Exception as error:
            self.manager.failure = error
            raise

    async def started(self) -> None:
        """Returns when all services have started.

        Raises:
            Exception: what kept a required one from starting.
        """
        if self.starting is not None:
            await asyncio.shield(self.starting)

    @property
    def _stop_timeout(self) -> float:
        timeout = self._settings.shutdown_timeout
        return timeout - min(STOP_RESERVE, timeout / 10)

    async def drain(self) -> None:
        """Stops the consumers. Routes may go on to publish."""
        logger.info("the process is told to end: consumers stop, while open requests are still being answered")
        timeout = self._stop_timeout
        await asyncio.gather(*(consumer.stop(timeout) for consumer in self.manager.consumers.values()))

    async def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self.starting is not None:
            self.starting.cancel()
            await asyncio.wait([self.starting])
            if not self.starting.cancelled() and (error := self.starting.exception()) is not None:
                logger.error("the consumers had not started: %s", error)
        await self.lifecycle.stop(self._stop_timeout)
        if self._store is not None:
            await self._store.close()


class LineageReporter(Protocol):
    """Sends the run events of an app's handlers."""

    async def run(self) -> None: ...

    def note_topics(self) -> None: ...

    async def finish(self, timeout: float) -> None: ...


def include_athomic(
    app: FastAPI,
    settings: AthomicSettings | None = None,
    *,
    packages: Sequence[str | ModuleType] = (),
    handlers: Sequence[Callable[..., Any]] = (),
    prefix: str = "/consumers",
    dependencies: Sequence[Depends] = (),
    name: str = "athomic",
    identify: Identify | None = None,
) -> Athomic:
    """Runs the consumers of `app` inside its lifespan, and adds their routes.

    Args:
        settings: None reads the environment (prefix `ATHOMIC_`, nested by `__`).
        packages: dotted names or modules to search for handlers, sub-packages included; beside the calling module and
        those of the app's routes.
        handlers: handlers given by hand (closures, tests).
        prefix: where the routes go.
        dependencies: FastAPI dependencies put on every route of the plugin.
        name: under which the object is found in `app.state`; a second call on the same app needs another name and
        prefix.
        identify: gives a request its identity: called with the ASGI scope and the `ExecutionContext` so far.

    Raises:
        ConfigurationError: the settings are wrong, or the app has a plugin of that name.
    """
    if getattr(app.state, name, None) is not None:
        raise ConfigurationError(f"the app has {name!r} already: give the second one another name and prefix")
    calling_module = _calling_module()
    tell_unknown_variables(os.environ)
    athomic = Athomic(
        app,
        settings or read_settings(),
        calling_module=calling_module,
        packages=packages,
        handlers=handlers,
        prefix=prefix,
        name=name,
    )
    setattr(app.state, name, athomic)
    router = new_router(prefix, dependencies, athomic.lifespan)
    add_routes(router, athomic.manager, athomic.loop_lag)
    app.include_router(router)
    app.add_middleware(AthomicMiddleware, settings=athomic.settings, gauge=athomic.requests, identify=identify)
    return athomic


def get_athomic(connection: HTTPConnection) -> Athomic:
    """A FastAPI dependency: the app's `Athomic`, in routes and in handlers."""
    athomic = getattr(connection.app.state, "athomic", None)
    if not isinstance(athomic, Athomic):
        raise ConfigurationError("this app has no athomic: call app.include_athomic() first")
    return athomic


def install() -> None:
    """Gives `FastAPI` its method, unless it has one of that name."""
    if not hasattr(FastAPI, "include_athomic"):
        FastAPI.include_athomic = include_athomic  # type: ignore[attr-defined]


def _calling_module() -> str:
    """The module from outside this package that called `include_athomic`."""
    frame = sys._getframe(2)
    return str(frame.f_globals.get("__name__", "__main__"))
