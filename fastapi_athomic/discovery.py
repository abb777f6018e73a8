"""Finds the handlers of an app by looking through its modules; there is no registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakSet

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Router

from .exceptions import ConfigurationError, DiscoveryError, DuplicateHandlerError, raise_all
from .sightings import claim, place, qualified_name
from .subscriptions import Subscription, subscriptions_of

Handler = Callable[..., Any]


class Discovered(NamedTuple):
    """A handler with one of its subscriptions."""

    function: Handler
    subscription: Subscription


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class Search:
    """Where the handlers of one app are.

    Raises:
        ConfigurationError: `packages` or `handlers` is no list.
    """

    app: FastAPI
    calling_module: str  # the one that called `include_athomic`
    packages: Sequence[str | ModuleType] = ()
    handlers: Sequence[Handler] = ()
    bound: list[Discovered] = field(default_factory=list)  # decorated with a method of `Athomic`

    def __post_init__(self) -> None:
        if isinstance(self.packages, str | ModuleType):
            raise ConfigurationError("packages must be a list: include_athomic(app, packages=[...])")
        if not isinstance(self.handlers, Iterable):
            raise ConfigurationError("handlers must be a list: include_athomic(app, handlers=[...])")
        self.packages, self.handlers = tuple(self.packages), tuple(self.handlers)
        _searches.add(self)

    def find(self) -> list[Discovered]:
        """All handlers of the app, each once, in the order in which they were found.

        It searches the module that called `include_athomic`, the modules of the app's route handlers, and `packages`
        with their sub-packages, which it imports. `handlers` and `bound` are added as they are.

        Raises:
            ConfigurationError: one of `handlers` has no subscription, or is a method without an object. It is named.
            DiscoveryError: a module cannot be imported. The error names it.
            DuplicateHandlerError: two handlers share an id. The error names the id and both handlers.
        Several of these are told in one `ConfigurationError`.
        """
        found: dict[str, Discovered] = {}
        problems: list[ConfigurationError] = []
        modules = (*self._modules_of_app(), *_package_modules(self.packages, problems))
        candidates = [discovered for module in modules for discovered in _in_module(module)]
        for handler in self.handlers:
            with _kept(problems):
                candidates += _given(handler)
        for discovered in (*candidates, *self.bound):
            with _kept(problems):
                _add(found, discovered)
        raise_all(problems)
        return list(found.values())

    def searched(self) -> list[ModuleType]:
        """The modules in which `find` looks, without those that are not imported yet."""
        names = [module.__name__ if isinstance(module, ModuleType) else module for module in self.packages]
        below = tuple(f"{name}." for name in names)
        loaded = [name for name in list(sys.modules) if name in names or name.startswith(below)]
        given = [module for module in self.packages if isinstance(module, ModuleType)]
        return [*self._modules_of_app(), *given, *_loaded(loaded)]

    def claim_all(self) -> None:
        """Claims the handlers that `find` would return, as far as their modules are imported. It imports nothing."""
        for module in self.searched():
            for discovered in _in_module(module):
                claim(discovered.subscription.site)
        for handler in self.handlers:
            for subscription in subscriptions_of(handler):
                claim(subscription.site)

    def _modules_of_app(self) -> Iterator[ModuleType]:
        return _loaded(dict.fromkeys((self.calling_module, *_route_modules(self.app))))


_searches: WeakSet[Search] = WeakSet()


def searches() -> list[Search]:
    """Those of all apps of the process that still exist."""
    return list(_searches)


def _in_module(module: ModuleType) -> Iterator[Discovered]:
    for function in list(vars(module).values()):
        for subscription in subscriptions_of(function):
            yield Discovered(function, subscription)


def _given(handler: Handler) -> Iterator[Discovered]:
    subscriptions = subscriptions_of(handler)
    if not subscriptions:
        raise ConfigurationError(f"{place(handler)} is in `handlers` but has no subscription: {_advice(handler)}")
    for subscription in subscriptions:
        yield Discovered(handler, subscription)


def _advice(given: Handler) -> str:
    """What to do about something in `handlers` that has no subscription."""
    owner = given if isinstance(given, type) else type(given)
    methods = [name for each in owner.__mro__ for name, value in vars(each).items() if subscriptions_of(value)]
    if methods:
        given_object = f"{owner.__name__}(...)" if owner is given else "object"
        return f"give the method of an object, handlers=[{given_object}.{methods[0]}]"
    return "decorate it with subscribe_to"


def _add(found: dict[str, Discovered], new: Discovered) -> None:
    if _lacks_object(new.function):
        raise ConfigurationError(
            f"handler {new.subscription.handler_id}: {place(new.function)} is a method without its object; "
            f"give that of an object: handlers=[{_of_object(new.function)}]"
        )
    claim(new.subscription.site)
    known = found.setdefault(new.subscription.handler_id, new)
    if known is new or _same(known, new):
        return
    if place(known.function) != place(new.function):
        advice = "give one of them another handler_id"
    elif inspect.ismethod(new.function):
        advice = (
            "they are one method of two objects; subscribe each under an id and in a group of its own: "
            "athomic.subscribe_to(topic, group_id=..., handler_id=...)(object.method)"
        )
    elif known.subscription is new.subscription:
        advice = "one of them wraps the other: leave only the one that is to run in searched modules and `handlers`"
    else:
        advice = "give each a handler_id, or use functools.wraps in the decorator or function that made both"
    raise DuplicateHandlerError(
        f"handler id {new.subscription.handler_id} is used twice: by {place(known.function)} and by "
        f"{place(new.function)}; {advice}"
    )


def _same(one: Discovered, other: Discovered) -> bool:
    """The same function may be found twice: through two imports, or because its module was executed under two names.

    A module that is executed twice has two sets of global variables; two functions that one decorator or factory has
    made share theirs, and are two handlers.
    """
    if one.subscription is other.subscription:
        return one.function == other.function
    ours, others = inspect.unwrap(one.function), inspect.unwrap(other.function)
    if not inspect.isfunction(ours) or not inspect.isfunction(others):
        return False
    return place(ours) == place(others) and ours.__globals__ is not others.__globals__


def _lacks_object(function: Handler) -> bool:
    """It is a function that a class defines, and its first parameter wants an object of that class."""
    parent = qualified_name(function).rpartition(".")[0]
    if not inspect.isfunction(function) or not parent or parent.endswith("<locals>"):
        return False
    parameters = inspect.signature(function, follow_wrapped=False).parameters
    return next(iter(parameters), None) == "self"


def _of_object(method: Handler) -> str:
    owner, _, name = qualified_name(method).rpartition(".")
    return f"{owner.rpartition('.')[2]}(...).{name}"


def _route_modules(app: FastAPI) -> Iterator[str]:
    for endpoint in _endpoints(app.routes):
        module = getattr(inspect.unwrap(endpoint), "__module__", None)
        if module and module.partition(".")[0] not in ("fastapi", "starlette", __package__):
            yield module


def _endpoints(routes: Sequence[BaseRoute]) -> Iterator[Handler]:
    """Those of included routers too: FastAPI includes them lazily, while older versions copy their routes.

    And those of mounted apps, as nobody runs their lifespan; not of one that has an `Athomic` of its own.
    """
    try:
        from fastapi.routing import iter_route_contexts
    except ImportError:
        contexts: Iterable[Any] = routes
    else:
        contexts = iter_route_contexts(routes)
    for context in contexts:
        endpoint, mounted = getattr(context, "endpoint", None), getattr(context, "app", None)
        if callable(endpoint):
            yield endpoint
        elif isinstance(mounted, Starlette | Router) and all(each.app is not mounted for each in searches()):
            yield from _endpoints(mounted.routes)


def _loaded(names: Iterable[str]) -> Iterator[ModuleType]:
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            yield module


def _package_modules(packages: Iterable[str | ModuleType], problems: list[ConfigurationError]) -> Iterator[ModuleType]:
    """The packages and what is below them, without what cannot be imported, which is added to `problems`."""
    for package in packages:
        with _kept(problems):
            module = package if isinstance(package, ModuleType) else _import(package)
            yield module
            for found in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + ".", onerror=_known):
                if found.name.rpartition(".")[2] != "__main__":  # importing it would run it
                    with _kept(problems):
                        yield _import(found.name)


@contextmanager
def _kept(problems: list[ConfigurationError]) -> Iterator[None]:
    """Adds the error of the block to `problems`: there may be more, and all are told at once."""
    try:
        yield
    except ConfigurationError as error:
        problems.append(error)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise DiscoveryError(
            f"module {name} cannot be searched for handlers: {type(error).__name__}: {error}"
        ) from error


def _known(name: str) -> None:
    """`walk_packages` imports each package after we did: its error is among the problems already."""
