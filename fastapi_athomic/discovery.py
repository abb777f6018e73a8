"""Finds the handlers of an app by looking through its modules; there is no registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fastapi import FastAPI

from .exceptions import ConfigurationError, DiscoveryError, DuplicateHandlerError
from .subscriptions import Subscription, subscriptions_of

Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Discovered:
    """A handler with one of its subscriptions."""

    function: Handler
    subscription: Subscription


def discover(
    app: FastAPI,
    *,
    calling_module: str,
    packages: Iterable[str | ModuleType] = (),
    handlers: Iterable[Handler] = (),
    bound: Iterable[Discovered] = (),
) -> list[Discovered]:
    """All handlers of the app, each once, in the order in which they were found.

    It searches the module that called `include_athomic`, the modules of the app's route handlers, and `packages` with
    their sub-packages. `handlers` and `bound` (decorated with a method of `Athomic`) are added as they are.

    Raises:
        ConfigurationError: one of `handlers` has no subscription. The error names it.
        DiscoveryError: a module cannot be imported. The error names it.
        DuplicateHandlerError: two handlers share an id. The error names the id and both handlers.
    """
    found: dict[str, Discovered] = {}
    modules = dict.fromkeys((calling_module, *_route_modules(app)))
    for module in (*_loaded(modules), *_package_modules(packages)):
        for function in list(vars(module).values()):
            for subscription in subscriptions_of(function):
                _add(found, Discovered(function, subscription))
    for handler in handlers:
        _add_given(found, handler)
    for discovered in bound:
        _add(found, discovered)
    return list(found.values())


def _add(found: dict[str, Discovered], new: Discovered) -> None:
    known = found.setdefault(new.subscription.handler_id, new)
    if known is not new and not _same(known.function, new.function, known.subscription is new.subscription):
        raise DuplicateHandlerError(
            f"handler id {new.subscription.handler_id} is used twice: by {_place(known.function)} and by "
            f"{_place(new.function)}; give one of them another handler_id"
        )


def _same(one: Handler, other: Handler, one_subscription: bool) -> bool:
    """The same function may be found twice: through two imports, or because its module was imported under two names."""
    if one_subscription:
        return one == other
    return inspect.isfunction(one) and inspect.isfunction(other) and one is not other and _place(one) == _place(other)


def _add_given(found: dict[str, Discovered], handler: Handler) -> None:
    subscriptions = subscriptions_of(handler)
    if not subscriptions:
        raise ConfigurationError(
            f"{_place(handler)} is in `handlers` but has no subscription: decorate it with subscribe_to"
        )
    for subscription in subscriptions:
        _add(found, Discovered(handler, subscription))


def _place(function: Handler) -> str:
    function = getattr(function, "__func__", function)
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name} ({getattr(function, '__module__', '?')}, line {code.co_firstlineno if code else '?'})"


def _route_modules(app: FastAPI) -> Iterator[str]:
    for endpoint in _endpoints(app):
        module = getattr(inspect.unwrap(endpoint), "__module__", None)
        if module and module.partition(".")[0] not in ("fastapi", "starlette", __package__):
            yield module


def _endpoints(app: FastAPI) -> Iterator[Handler]:
    """Those of included routers too: FastAPI includes them lazily, while older versions copy their routes."""
    try:
        from fastapi.routing import iter_route_contexts
    except ImportError:
        contexts: Iterable[Any] = app.routes
    else:
        contexts = iter_route_contexts(app.routes)
    for context in contexts:
        endpoint = getattr(context, "endpoint", None)
        if callable(endpoint):
            yield endpoint


def _loaded(names: Iterable[str]) -> Iterator[ModuleType]:
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            yield module


def _package_modules(packages: Iterable[str | ModuleType]) -> Iterator[ModuleType]:
    for package in packages:
        module = package if isinstance(package, ModuleType) else _import(package)
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + ".", onerror=_raise):
            if found.name.rpartition(".")[2] != "__main__":  # importing it would run it
                yield _import(found.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise DiscoveryError(
            f"module {name} cannot be searched for handlers: {type(error).__name__}: {error}"
        ) from error


def _raise(name: str) -> None:
    error = sys.exc_info()[1]
    raise DiscoveryError(f"module {name} cannot be searched for handlers: {type(error).__name__}: {error}") from error
