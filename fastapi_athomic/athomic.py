"""What an app gets from `include_athomic`: an `Athomic`, to publish, to subscribe, and to look at its consumers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any, Self, TypeVar, Unpack

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import Lifespan

from .assembly import AppParts, Assembly, assemble, new_publisher, note_payloads
from .asyncapi.documents import Described, Documents
from .broker import NOT_RUNNING, BrokerConnection
from .control.steering import Steering
from .declared_publishers import Declaring
from .decorators import build_ordered_subscription, build_subscription, with_brackets
from .discovery import Discovered, Search
from .exceptions import ConfigurationError, NotIncludedError, PublishError, TransportError
from .exporters.metrics import Collector, Metering
from .exporters.reporters import lineage_reporter
from .failures.dead_letters import DeadLetters
from .loop.isolation import Home, LoopThread, SameLoop, Work
from .loop.load import LoopLag, RequestGauge
from .manager import ConsumerManager
from .messages import RawMessage
from .observation.app_checks import AppChecks, Check
from .observation.process_health import ProcessHealth
from .observation.startup import doubts
from .observation.status import ConsumerStatus, HealthReport
from .observers import Observer, StandIns
from .operation_settings import Role
from .payload.pipeline import PayloadPipeline
from .payload.routing import Payloads, Reader, TopicPayloads
from .pipelines import new_payloads
from .run import LOOK_SECONDS, Run, RunParts
from .settings import AthomicSettings, of_place
from .stores.schemes import create_shared_state, create_store
from .subscriptions import ConsumerOptions, OrderedOptions, Subscription, Topics, check_topic
from .transports.schemes import create_transport
from .uplink import LEAST_SECONDS, Uplink
from .web.overlaps import overlaps
from .web.routes import RouteOptions, RouteParts, new_routers
from .web.streams import Streams

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

NOT_CONSUMING = (
    "the app is not running its consumers: they start when the app's own lifespan has come to its `yield`, and stop "
    "before it goes on behind it; in a test stay inside `with TestKit(app)` or `with TestClient(app)`"
)
"""The text of a `PublishError`."""


class Athomic(Declaring, Steering):
    """The consumers of one app, and its way to publish. `include_athomic` creates it.

    Several in one process are independent: each has connections, settings and consumers of its own. `requests` counts
    the HTTP requests under way, `loop_lag` says how late the event loop of the routes is.
    """

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
        payload: PayloadPipeline | None = None,
        topic_payloads: TopicPayloads | None = None,
        health_checks: Mapping[str, Check] | None = None,
    ) -> None:
        super().__init__()
        self.app = app
        self.settings = settings
        self.name = name
        self.prefix = prefix  # of the package's own routes
        self.guarded = False  # these routes have dependencies: not everybody may see the status
        self._observer: Observer | None = None  # of tests
        self._only: frozenset[str] = frozenset()  # ids of the handlers that run here; empty: all
        self._endpoints: list[Callable[..., Any]] = []  # of the routes that were added to the app
        self.requests = RequestGauge()
        self.loop_lag = LoopLag(settings.health.loop_late)
        self._streams = Streams(settings, self.manager, self.group_status)
        self._search = Search(app=app, calling_module=calling_module, packages=packages, handlers=handlers)
        self.given_payloads = (payload, topic_payloads)
        self._payloads = new_payloads(settings.payload, payload, topic_payloads)
        for topic in topic_payloads or ():
            if isinstance(topic, str):
                check_topic(topic, "topic_payloads")
        checks = AppChecks(health_checks or {}, settings.health, exposed=settings.expose_error_messages)
        self._process = ProcessHealth(settings.health, self.loop_lag, checks, lambda: self._payloads.open_parts)
        self._transport = create_transport(settings)
        self._store = create_store(settings)
        self._shared = create_shared_state(settings)  # with the other processes of the service
        self._payloads.find_handlers = self._note_payloads
        self._metering = Metering(self.manager, self._transport.scheme)
        self._uplink: Uplink | None = None  # what publishes, around the app's own lifespan
        self._run: Run | None = None  # the consumers, inside it
        self._documents = Documents()  # of AsyncAPI

    # --- subscribing

    @with_brackets
    def subscribe_to(self, topic: Topics, *, group_id: str, **options: Unpack[ConsumerOptions]) -> Callable[[F], F]:
        """`fastapi_athomic.subscribe_to` for this app only, with the same options: for closures and app factories."""

        def bind(function: F) -> F:
            return self._bind(function, build_subscription(function, topic, group_id, options))

        return bind

    @with_brackets
    def ordered_consumer(
        self,
        topic: Topics,
        *,
        group_id: str,
        aggregate_key_field: str,
        sequence_id_field: str,
        **options: Unpack[OrderedOptions],
    ) -> Callable[[F], F]:
        """`fastapi_athomic.ordered_consumer` for this app only, with the same options."""

        def bind(function: F) -> F:
            fields = (aggregate_key_field, sequence_id_field)
            return self._bind(function, build_ordered_subscription(function, topic, group_id, fields, options))

        return bind

    # --- dead letters

    def dead_letters(self, handler_id: str) -> DeadLetters:
        """The dead letters of one handler, to browse, redrive or discard.

        Raises:
            HandlerNotFoundError: there is no such handler. A route that lets it escape answers 404.
            PublishError: the consumers are not running; see `offline`.
        """
        return self._running().dead_letters(handler_id, self.note_settling)

    @asynccontextmanager
    async def offline(self) -> AsyncIterator[Callable[[str], DeadLetters]]:
        """Connects to the broker without starting consumers, and yields a function like `dead_letters`. For tools.

        Raises:
            ConfigurationError: something is wrong with a handler.
            TransportError: the broker cannot be reached.
        """
        run = self._new_run(SameLoop(self.settings.request_timeout), self._new_connection())
        await self._transport.start(self.settings.request_timeout)
        try:
            await self._open_payloads(run.home)
            yield lambda handler_id: run.dead_letters(handler_id, self.note_settling)
        finally:
            await self._payloads.close(self.settings.request_timeout)
            await self._transport.stop(self.settings.request_timeout)

    # --- before a deploy

    async def check(self) -> ConsumerManager:
        """Finds and wires the handlers as a start does, and starts nothing: what passes would start. Asks no broker.

        For tests and `fastapi-athomic check`. What a start would warn of is logged. Returns the consumers, not started.

        Raises:
            ConfigurationError: the app would not start. `problems` has the single errors, if there are several.
        """
        manager = self._assemble().manager
        lineage_reporter(manager, self._transport, self.settings)
        self._warn_of_overlaps(manager)
        self._warn_of_pipelines(manager)
        for doubt in doubts(self.settings, workers=1):
            logger.warning("%s", doubt)
        return manager

    def asyncapi(self) -> dict[str, Any]:
        """The AsyncAPI document of all handlers and declared publishers. Starts nothing, asks no broker.

        It may be called at any time, in any thread, with and without an event loop. While the app runs it is made once,
        and again after a publisher was declared.

        Raises:
            ConfigurationError: something is wrong with a handler, so the app would not start.
        """
        run = self._run  # it may end meanwhile
        described = Described(
            app=self.app,
            settings=self.settings,
            payloads=self._payloads,
            manager=run.manager if run is not None else self._wired(),
            publishers=self.publishers.all,
        )
        return self._documents.of(described)

    def _wired(self) -> ConsumerManager:
        """The consumers as a start would make them, to be looked at."""

        async def wired() -> ConsumerManager:
            return self._assemble().manager

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(wired())  # what is wired asks for the loop that it would run in
        return self._assemble().manager

    def take_role(self, role: Role, only: Collection[str] = (), place: int | None = None) -> None:
        """Says what this process does, whatever the settings say. `fastapi-athomic run` calls it before the start.

        `only`: ids of the handlers that run here; empty: all. Unknown ones refuse the start. `place`: the number of
        this process among those with the same settings; it makes ids differ that have no `{pid}`.
        """
        self.settings = of_place(self.settings.model_copy(update={"role": role}), place)
        self._transport = create_transport(self.settings)  # it has the group_instance_id
        self._only = frozenset(only)

    async def at_home(self, work: Work[T]) -> T:
        """Does work in the event loop of the consumers. For `fastapi_athomic.testing`.

        Raises:
            PublishError: the consumers are not running.
        """
        return await self._running().home.run(work)

    @contextmanager
    def standing_in(self, parts: StandIns) -> Iterator[None]:
        """Inside the `with` block the app runs with these parts in place of its own. For `fastapi_athomic.testing`.

        What has been built of the settings already stays as it is: the routes, the middleware, the payload pipelines.

        Raises:
            ConfigurationError: the app is running.
        """
        if self._uplink is not None:
            raise ConfigurationError("the app is running already")
        own = self.settings, self._transport, self._store, self._shared, self._payloads, self._observer
        self.settings, self._transport, self._observer = parts.settings, parts.transport, parts.observer
        self._store, self._shared = parts.store, parts.shared
        if parts.payloads is not None:
            self._payloads = parts.payloads
            self._payloads.find_handlers = self._note_payloads
        try:
            yield
        finally:
            self.settings, self._transport, self._store, self._shared, self._payloads, self._observer = own

    async def partition_counts(self) -> dict[str, int]:
        """How many partitions the topics of each handler have, by its id; without those that follow a pattern.

        Raises:
            PublishError: the consumers are not running.
            TransportError: the broker cannot be reached.
        """
        run = self._running()
        return await run.home.run(run.partition_counts)

    # --- status

    def health(self) -> HealthReport | None:
        """The health of all consumers; None while the app does not run."""
        return self._run.manager.health() if self._run else None

    def consumers(self) -> list[ConsumerStatus]:
        """The status of all consumers in this process; empty while the app does not run."""
        return self._run.manager.statuses() if self._run else []

    async def group_status(self, handler_id: str | None = None) -> list[ConsumerStatus]:
        """The status of all consumers, or of one, over all processes that have them; empty while the app does not run.

        Processes know of each other by a state store in Redis (`state_store_url`). Where there is none, or it does not
        answer, this process speaks for itself: `scope` and `scope_note` of each status say so. Each process has told
        its part within the last 15 s (`members`, `seen_at`). docs/status.md has the meaning of every field.
        """
        return await self._run.group_status(handler_id) if self._run else []

    async def wait_until_ready(self, timeout: float = 30.0) -> Self:
        """Returns when all consumers have their partitions.

        Raises:
            TimeoutError: they did not get them within `timeout` seconds. It says which one waits, and for what.
            PublishError: the consumers are not running.
            Exception: the error of a required service that could not start.
        """
        run = self._running()
        async with _within(timeout, run, "the consumers are not ready"):
            await run.home.run(run.wait_until_started)
        return self

    async def drain(self, timeout: float = 30.0) -> None:
        """Returns when every message in the consumers' partitions has been handled and committed. For tests.

        Under a `TestClient` call it in the app's event loop: `client.portal.call(athomic.drain)`.

        Raises:
            TimeoutError: that took longer than `timeout` seconds. It says what is left, and what it waits for: a
                handler, a retry topic, an operator who paused the consumer.
            PublishError: the consumers are not running.
        """
        run = self._running()
        async with _within(timeout, run, "not all messages are handled and committed"):
            while not await run.home.run(run.is_drained):  # noqa: ASYNC110 - there is no event for the last commit
                await asyncio.sleep(0.005)

    async def is_drained(self) -> bool:
        """Whether `drain` would return at once. For `fastapi_athomic.testing`. Raises as that does."""
        run = self._running()
        return await run.home.run(run.is_drained)

    async def still_waiting(self) -> str:
        """What `drain` would wait for, as the end of a sentence. For `fastapi_athomic.testing`."""
        run = self._running()
        return await run.home.run(run.still_waiting)

    def manager(self) -> ConsumerManager | None:
        """The consumers themselves, for routes and exporters; None while the app does not run."""
        return self._run.manager if self._run else None

    def prometheus_collector(self) -> Collector:
        """For a registry of the app's own: `registry.register(athomic.prometheus_collector())`.

        Raises:
            ConfigurationError: the extra `prometheus` is not installed.
        """
        try:
            from .exporters.prometheus import PrometheusCollector
        except ImportError:
            raise ConfigurationError("metrics for Prometheus need fastapi-athomic[prometheus]") from None
        return PrometheusCollector(self.manager, self.loop_lag, self.settings)

    @property
    def payloads(self) -> Payloads:
        """The pipelines of the app, for tools."""
        return self._payloads

    # --- lifespan

    def around(self, lifespan: Lifespan[Any]) -> Lifespan[Any]:
        """The app's own lifespan with ours around it and within it.

        The connection to the broker is there first and goes last: both ends of the app's own lifespan may publish. The
        consumers run inside it: the app's resources start before them and stop after.
        """

        @asynccontextmanager
        async def around(app: Any) -> AsyncIterator[Any]:
            async with self._linked_up() as link, lifespan(app) as state, self._consuming(link):
                with self._streams.running():
                    yield state

        return around

    @asynccontextmanager
    async def _linked_up(self) -> AsyncIterator[Uplink]:
        in_thread = self.settings.isolation == "thread"
        home = (LoopThread if in_thread else SameLoop)(self.settings.request_timeout)
        connection = self._new_connection()
        link = Uplink(home, connection, new_publisher(self._parts(), connection), self.settings)
        self._uplink = link
        try:
            async with link.opened():
                try:
                    await self._open_payloads(home)
                    yield link
                finally:
                    await self._close_payloads(link)
        finally:
            self._uplink = None

    async def _open_payloads(self, home: Home) -> None:
        seconds = self.settings.request_timeout
        await home.run(lambda: self._payloads.open(seconds))

    async def _close_payloads(self, link: Uplink) -> None:
        seconds = min(self.settings.request_timeout, max(LEAST_SECONDS, link.seconds_left))
        try:
            await link.home.run(lambda: self._payloads.close(seconds), seconds + LEAST_SECONDS)
        except TransportError as error:
            logger.warning("what payloads need could not be closed: %s", error)

    @asynccontextmanager
    async def _consuming(self, link: Uplink) -> AsyncIterator[None]:
        run = self._new_run(link.home, link.connection)
        await self._open_payloads(link.home)  # those of handlers are known only now
        link.publisher = run.publisher
        self._warn_of_overlaps(run.manager)
        self._warn_of_pipelines(run.manager)
        reporter = lineage_reporter(run.manager, self._transport, self.settings)
        self._metering.begin(run.manager)
        self._run = run
        try:
            async with run.lifespan(reporter, self._forget_run):
                yield
        finally:
            link.seconds_left = run.seconds_left
            await self._finish_listeners(link)

    async def _finish_listeners(self, link: Uplink) -> None:
        seconds = min(self.settings.request_timeout, max(LEAST_SECONDS, link.seconds_left))
        try:
            await link.home.run(lambda: self._finish_telling(seconds), seconds + LEAST_SECONDS)
        except TransportError as error:
            logger.warning("listeners of `on_control` were not waited for: %s", error)

    # --- internals

    def _note_payloads(self) -> None:
        """What is published before the consumers are wired must fit their own pipelines, too."""
        note_payloads(self._payloads, self._search.find())

    def add_routes(self, options: RouteOptions) -> None:
        """Adds the package's routes to the app. `include_athomic` calls it, once."""
        self.guarded = bool(options.dependencies or self.app.router.dependencies)
        parts = RouteParts(
            manager=self.manager,
            lag=self.loop_lag,
            settings=self.settings,
            streams=self._streams,
            requests=self.requests,
            steering=self,
            letters=self.dead_letters,
            group_status=self.group_status,
            asyncapi=self.asyncapi,
        )
        for router in new_routers(parts, options):
            self._endpoints += [route.endpoint for route in router.routes if isinstance(route, APIRoute)]
            self.app.include_router(router)

    def _warn_of_overlaps(self, manager: ConsumerManager) -> None:
        for problem in overlaps(self.app, self.prefix, self._endpoints, manager.consumers):
            logger.warning("routes: %s", problem)

    def _warn_of_pipelines(self, manager: ConsumerManager) -> None:
        consumers = [each for each in manager.consumers.values() if each.target_type is not RawMessage]
        readers = [
            Reader(each.subscription.handler_id, each.dlq_handler.returns.consumes, each.subscription.payload)
            for each in consumers
        ]
        topics = [
            topic for each in consumers if each.subscription.payload is None for topic in each.subscription.topics
        ]
        for problem in (*self._payloads.disagreements(readers), *self._payloads.misspelt(topics)):
            logger.warning("payloads: %s", problem)

    def _bind(self, function: F, subscription: Subscription) -> F:
        if self._run is not None:
            raise ConfigurationError(
                f"handler {subscription.handler_id}: the app is already running; define handlers before it starts"
            )
        self._search.bound.append(Discovered(function, subscription))
        return function

    def _link(self) -> Uplink:
        if self._uplink is None:
            raise PublishError(NOT_RUNNING)
        self._uplink.check_process()
        return self._uplink

    def _running(self) -> Run:
        if self._run is None:
            raise PublishError(NOT_CONSUMING)
        return self._run

    def _forget_run(self) -> None:
        self._run = None

    def _new_connection(self) -> BrokerConnection:
        return BrokerConnection(self._transport, self.settings)

    def _new_run(self, home: Home, connection: BrokerConnection) -> Run:
        run = Run(
            RunParts(
                assembly=self._assemble(connection),
                payloads=self._payloads,
                settings=self.settings,
                transport=self._transport,
                store=self._store,
                shared=self._shared,
                home=home,
                loop_lag=self.loop_lag,
            )
        )
        self._listen_to_breakers(run)
        return run

    def _assemble(self, connection: BrokerConnection | None = None) -> Assembly:
        return assemble(self._parts(), connection or self._new_connection())

    def _parts(self) -> AppParts:
        return AppParts(
            app=self.app,
            prefix=self.prefix,
            settings=self.settings,
            transport=self._transport,
            store=self._store,
            payloads=self._payloads,
            requests=self.requests,
            loop_lag=self.loop_lag,
            process=self._process,
            search=self._search,
            only=self._only,
            providers={Athomic: lambda _: self},
            known={get_athomic: lambda _: self},
            observer=self._observer,
        )


@asynccontextmanager
async def _within(seconds: float, run: Run, failure: str) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, with an error that says what is still waited for."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        try:
            waiting = await run.home.run(run.still_waiting, LOOK_SECONDS + 1)
        except TransportError as error:
            waiting = str(error)
        raise TimeoutError(f"{failure} after {seconds:g} s: {waiting}") from None


def get_athomic(connection: HTTPConnection) -> Athomic:
    """A FastAPI dependency: the app's `Athomic`, in routes and in handlers."""
    athomic = getattr(connection.app.state, "athomic", None)
    if not isinstance(athomic, Athomic):
        raise NotIncludedError(_not_included(connection.app))
    return athomic


def _not_included(app: Any) -> str:
    named = [name for name, value in getattr(app.state, "_state", {}).items() if isinstance(value, Athomic)]
    if named:
        return (
            f"get_athomic finds app.state.athomic, but this app has {', '.join(f'app.state.{name}' for name in named)}"
        )
    return (
        "this app has no athomic: call include_athomic(app) first, for the very app whose route this is; the routes of "
        "a mounted app do not get that of the app around it"
    )
