"""The wiring of one run of an app: read `assemble` to see it. For one consumer `factory` does that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI

from .broker import BrokerConnection
from .discovery import Discovered, Search
from .factory import ConsumerFactory, FactoryParts
from .handling.plans import Provider
from .lifecycle import LifecycleManager
from .loop.fairness import LoopShare
from .loop.load import LoopLag, RequestGauge
from .manager import ConsumerManager
from .observation.process_health import ProcessHealth
from .observers import Observer
from .payload.routing import Payloads
from .propagation.app_tracing import instrument_app, resolve_tracer_provider
from .propagation.orchestrators import Orchestrators
from .publisher import Publisher
from .settings import AthomicSettings
from .stores.base import StateStore
from .transports.base import Transport
from .unclaimed import tell_unclaimed


class AppParts(NamedTuple):
    """What the runs of an app have in common."""

    app: FastAPI
    prefix: str  # of the package's own routes, which get no spans
    settings: AthomicSettings
    transport: Transport
    store: StateStore | None  # of ordered consumers
    payloads: Payloads
    requests: RequestGauge
    loop_lag: LoopLag  # of the event loop of the routes
    process: ProcessHealth
    search: Search  # for handlers
    only: Collection[str]  # ids of the handlers that this process takes part in; empty: all
    providers: Mapping[type, Provider]  # what handlers get for a parameter of this type
    known: Mapping[Callable[..., Any], Provider]  # dependencies that handlers get without a request
    observer: Observer | None = None  # of tests


class Assembly(NamedTuple):
    """What one run of an app consists of. Nothing of it has been started."""

    manager: ConsumerManager
    lifecycle: LifecycleManager
    publisher: Publisher


def new_publisher(parts: AppParts, connection: BrokerConnection) -> Publisher:
    """What the app publishes with. Its spans go to the tracer provider that the app has now."""
    transport = parts.transport if parts.observer is None else parts.observer.publishing(parts.transport)
    return Publisher(transport, connection, parts.payloads, _orchestrators(parts).of_publisher(), parts.settings)


def note_payloads(payloads: Payloads, handlers: Iterable[Discovered]) -> None:
    """Tells which handlers have pipelines of their own: what is published to their topics must fit."""
    for handler in handlers:
        if handler.subscription.payload is not None:
            payloads.add_handler(handler.subscription.topics, handler.subscription.payload)


def _orchestrators(parts: AppParts) -> Orchestrators:
    transport = parts.transport
    provider = resolve_tracer_provider(parts.app)
    return Orchestrators(parts.settings, provider, scheme=transport.scheme, address=transport.address)


def assemble(parts: AppParts, connection: BrokerConnection) -> Assembly:
    """Finds the handlers and wires everything that they need. They wait for `connection`.

    Raises:
        ConfigurationError: something is wrong with a handler or with the settings; the app must not start.
    """
    settings, transport = parts.settings, parts.transport
    instrument_app(parts.app, prefix=parts.prefix)
    lifecycle = LifecycleManager()
    lifecycle.register(connection)
    handlers = parts.search.find()
    note_payloads(parts.payloads, handlers)
    tell_unclaimed(parts.search, settings.unclaimed_handlers)
    share = LoopShare(
        settings.slice_seconds,
        parts.requests,
        parts.loop_lag,
        routes=asyncio.get_running_loop(),
        own_thread=settings.isolation == "thread",
    )
    factory_parts = FactoryParts(
        settings=settings,
        transport=transport,
        payloads=parts.payloads,
        orchestrators=_orchestrators(parts),
        share=share,
        providers=parts.providers,
        known=parts.known,
        overrides=lambda: parts.app.dependency_overrides,
        store=parts.store,
        observer=parts.observer,
    )
    manager = ConsumerManager(
        handlers=handlers,
        factory=ConsumerFactory(factory_parts, [handler.subscription for handler in handlers]),
        settings=settings,
        lifecycle=lifecycle,
        broker=connection,
        process=parts.process,
        only=parts.only,
    )
    return Assembly(manager, lifecycle, new_publisher(parts, connection))
