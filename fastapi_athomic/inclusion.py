"""`include_athomic`: puts the consumers into an app, with their routes, lifespan and middleware."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from fastapi.params import Depends
from starlette.routing import Router

from .athomic import Athomic
from .exceptions import ConfigurationError
from .observation.app_checks import Check
from .payload.pipeline import PayloadPipeline
from .payload.routing import TopicPayloads
from .propagation.middleware import AthomicMiddleware, Identify
from .settings import AthomicSettings, read_settings
from .web.control_parts import ActorOf, ControlOptions, Mask
from .web.not_found import answer_not_found
from .web.routes import RouteOptions


def include_athomic(
    app: FastAPI,
    settings: AthomicSettings | None = None,
    *,
    packages: Sequence[str | ModuleType] = (),
    handlers: Sequence[Callable[..., Any]] = (),
    prefix: str = "/consumers",
    dependencies: Sequence[Depends] = (),
    probe_dependencies: Sequence[Depends] | None = None,
    include_in_schema: bool = True,
    name: str = "athomic",
    identify: Identify | None = None,
    payload: PayloadPipeline | None = None,
    topic_payloads: TopicPayloads | None = None,
    control_dependencies: Sequence[Depends] = (),
    payload_dependencies: Sequence[Depends] = (),
    mask: Mask | None = None,
    actor: ActorOf | None = None,
    health_checks: Mapping[str, Check] | None = None,
) -> Athomic:
    """Runs the consumers of `app` inside its lifespan, and adds their routes.

    Args:
        settings: None reads the environment (prefix `ATHOMIC_`, nested by `__`).
        packages: dotted names or modules to search for handlers, with their sub-packages. The calling module and the
            modules of the app's routes are always searched.
        handlers: handlers that no search would find (closures, tests).
        prefix: the path under which the routes are added.
        dependencies: FastAPI dependencies of every one of these routes. Those of `FastAPI(dependencies=...)` hold for
            them, too, and for the probes in any case.
        probe_dependencies: those of the probes (`/health/live`, `/health/ready`, `/health/startup`) in place of
            `dependencies`; `()` opens them, and their answers say no more than yes or no. None: `dependencies`.
        include_in_schema: whether the OpenAPI document shows these routes.
        name: the attribute of `app.state` that holds the `Athomic`. A second one on the same app needs another name
            and another prefix.
        identify: sets the identity of a request: it gets the ASGI scope and the `ExecutionContext` so far, and returns
            the one to use.
        payload: how messages are written and read where nothing else is said; None: as the settings say, which is JSON.
        topic_payloads: the same for single topics, by name or compiled pattern; the first that fits counts. What is
            published to a topic and what is consumed from it use the same pipeline. A handler's own `payload` comes
            before.
        control_dependencies: those of the routes that steer consumers and of dead letters, besides `dependencies`.
            There are such routes with the setting `control.enabled` only; a warning says so where it is not set at all.
        payload_dependencies: those of the route that shows the payload of a dead letter, besides both. Without any
            there is no such route.
        mask: gets a `DeadLetter` whose payload is asked for, and returns what may be shown of it; may be async.
        actor: gets a request that changes something, and returns the name of who sends it, for logs and events; may be
            async. None: `user_id` of the `ExecutionContext`.
        health_checks: checks of the app's own, by name: sync or async functions without arguments, which fail if they
            raise, return False, or take longer than `health.check_timeout`. They run in the background while the app
            runs, never in a request; a sync one in a thread of its own.

    Raises:
        ConfigurationError: the settings or another option are wrong, or `app` is no FastAPI app, has started, or has
            an `Athomic` of that name already; or anybody could steer consumers, and `control.allow_anonymous` is off.
    """
    _check_app(app)
    _check_settings(settings)
    if getattr(app.state, name, None) is not None:
        raise ConfigurationError(
            f"app.state.{name} exists already: give the second include_athomic() another name and another prefix"
        )
    routes = RouteOptions(
        prefix=prefix,
        dependencies=dependencies,
        probe_dependencies=probe_dependencies,
        include_in_schema=include_in_schema,
        control=ControlOptions(
            control_dependencies=control_dependencies,
            payload_dependencies=payload_dependencies,
            mask=mask,
            actor=actor,
        ),
    )
    settings = settings or read_settings()
    routes.control.check(settings.control)
    calling_module = _calling_module()
    athomic = Athomic(
        app,
        settings,
        calling_module=calling_module,
        packages=packages,
        handlers=handlers,
        prefix=prefix,
        name=name,
        payload=payload,
        topic_payloads=topic_payloads,
        health_checks=health_checks,
    )
    setattr(app.state, name, athomic)
    athomic.add_routes(routes)
    app.router.lifespan_context = athomic.around(app.router.lifespan_context)
    answer_not_found(app)
    app.add_middleware(
        AthomicMiddleware,
        settings=athomic.settings,
        gauge=athomic.requests,
        identify=identify,
        started=lambda: athomic.manager() is not None,
    )
    return athomic


def install() -> None:
    """Gives `FastAPI` the method `include_athomic`, unless it already has one of that name."""
    if not hasattr(FastAPI, "include_athomic"):
        FastAPI.include_athomic = include_athomic  # type: ignore[attr-defined]


def _check_app(app: object) -> None:
    if isinstance(app, Router):
        raise ConfigurationError(
            "include_athomic needs the FastAPI app, not a router: call include_athomic(app) once, and "
            "app.include_router(router); handlers beside the router's routes are found"
        )
    if not isinstance(app, FastAPI):
        kind = f"the class {app.__name__}" if isinstance(app, type) else f"an object of {type(app).__name__}"
        raise ConfigurationError(f"include_athomic needs a FastAPI app, not {kind}")
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "include_athomic comes too late, as the app has started (its lifespan and events belong to that): call it "
            "where the app is made"
        )


def _check_settings(settings: object) -> None:
    if settings is not None and not isinstance(settings, AthomicSettings):
        raise ConfigurationError(
            f"settings must be an AthomicSettings(...), not an object of {type(settings).__name__}"
        )


def _calling_module() -> str:
    """The module that called `include_athomic`, which calls this: two frames up."""
    frame = sys._getframe(2)
    return str(frame.f_globals.get("__name__", "__main__"))
