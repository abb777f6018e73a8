"""Which of an app's own routes hide a route of this package, or are hidden by one. Nothing else would tell.

Starlette and FastAPI give a request to the first route that matches, in the order in which routes were added.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.routing import Mount, WebSocketRoute, compile_path

_SAMPLES = {"int": "1", "float": "1.0", "uuid": "00000000-0000-4000-8000-000000000000"}
"""What stands for a parameter in a path, by the name of its convertor. For the others any text does."""
_PARAMETER = re.compile(r"\{\w+(?::(\w+))?\}")


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """A route of the app as requests meet it."""

    path: str  # as it was written, with the prefixes of the routers that it is in
    regex: re.Pattern[str]
    endpoint: Any  # the function, or the app that is mounted
    mounted: bool
    own: bool  # of this package
    methods: frozenset[str]  # that it answers; empty: all

    def __str__(self) -> str:
        if self.mounted:
            return f"what is mounted at {self.path or '/'}"
        function = inspect.unwrap(self.endpoint)
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{self.path} ({getattr(function, '__module__', '?')}.{name})"


def overlaps(app: FastAPI, prefix: str, own: Collection[Callable[..., Any]], ids: Iterable[str]) -> Iterator[str]:
    """A sentence for each route that gets no request because another one comes first, and for ids without a route.

    `own`: the endpoints of this package's routes, which were added under `prefix`. `ids`: those of the handlers.
    """
    routes = list(_routes(app, own))
    yield from _hidden(routes, prefix)
    yield from _hiding(routes, prefix)
    fixed = {route.path for route in routes if route.own}
    for handler_id in ids:
        if f"{prefix}/{handler_id}" in fixed or "/" in handler_id:
            reason = "its id has a slash" if "/" in handler_id else f"{prefix}/{handler_id} is another route"
            yield (
                f"handler {handler_id}: its status has no address of its own, as {reason}; "
                f"look into the answer of {prefix}, or give the handler another handler_id"
            )


def _hidden(routes: Sequence[_Route], prefix: str) -> Iterator[str]:
    """Routes of this package that get no request."""
    by_rival: dict[_Route, list[str]] = {}
    for route in routes:
        for method in route.methods if route.own else ():
            first = _first(routes, _sample(route.path), method)
            if first is not None and not first.own:
                by_rival.setdefault(first, []).append(route.path)
    for rival, paths in by_rival.items():
        yield (
            f"{rival} comes first and gets the requests for {', '.join(paths)}: call include_athomic() before that "
            f"route is added, or give it a prefix other than {prefix!r}"
        )


def _hiding(routes: Sequence[_Route], prefix: str) -> Iterator[str]:
    """Routes of the app below the prefix that get no request. One such as `/{path:path}` is meant to get what is left.

    Of what is mounted below it only a part may be hidden, which is told too.
    """
    for route in routes:
        if route.own or not (route.path == prefix or route.path.startswith(f"{prefix}/")):
            continue
        sample = _sample(route.path + ("/x" if route.mounted else ""))
        firsts = (_first(routes, sample, method) for method in sorted(route.methods) or ("GET", "POST"))
        first = next((each for each in firsts if each is not None and each.own), None)
        if first is not None:
            yield (
                f"{route} gets no request for what {first.path} of fastapi_athomic answers, which comes first: "
                f"call include_athomic() after that route is added, or give it a prefix other than {prefix!r}"
            )


def _first(routes: Iterable[_Route], path: str, method: str) -> _Route | None:
    """What gets such a request: Starlette passes over routes of other methods if a later one fits."""
    fitting = (route for route in routes if not route.methods or method in route.methods)
    return next((route for route in fitting if route.regex.match(path)), None)


def _sample(path: str) -> str:
    """A path that the route matches. The text for a parameter is one that no route of this package has."""
    return _PARAMETER.sub(lambda parameter: _SAMPLES.get(parameter[1] or "str", "any"), path)


def _routes(app: FastAPI, own: Collection[Callable[..., Any]]) -> Iterator[_Route]:
    """The routes and mounts in the order in which requests meet them."""
    for context in route_contexts(app):
        path, methods = getattr(context, "path", None), getattr(context, "methods", None)
        original = getattr(context, "original_route", context)
        if path is None or isinstance(original, WebSocketRoute):
            continue
        mounted = isinstance(original, Mount)
        endpoint = original.app if isinstance(original, Mount) else getattr(context, "endpoint", None)
        regex, _, _ = compile_path(f"{path}/{{path:path}}" if mounted else path)
        is_own = any(endpoint is each for each in own)
        yield _Route(path, regex, endpoint, mounted, is_own, frozenset(methods or ()))


def route_contexts(app: FastAPI) -> Iterable[Any]:
    """The routes of an app as requests meet them. FastAPI includes routers lazily; older versions copy their routes."""
    try:
        from fastapi.routing import iter_route_contexts
    except ImportError:
        return app.routes
    return iter_route_contexts(app.routes)
