"""Tells of decorated functions that no app takes in: they would silently get no messages."""

from __future__ import annotations

import inspect
import logging
import sys
from types import ModuleType
from typing import Any, Literal

from .discovery import Search, searches
from .exceptions import DiscoveryError
from .sightings import Function, Sighting, place, unclaimed

logger = logging.getLogger(__name__)

Policy = Literal["warn", "refuse", "ignore"]


def tell_unclaimed(search: Search, policy: Policy) -> None:
    """Names each handler that none of the apps in this process takes in, with the reason and what to do.

    Call it after `search.find()`. The apps that exist count, whether they have started or not; what an app that is
    made later will take in is named. A warning names each handler once in a process.

    Raises:
        DiscoveryError: the policy is `refuse` and there are such handlers. It names all of them.
    """
    if policy == "ignore":
        return
    searched = {module.__name__ for module in search.searched()}
    concerning = _to_tell(search, searched, policy)
    if not concerning:
        return  # nearly always: a process may have hundreds of apps, as test suites do, and each would be searched
    for each in searches():
        each.claim_all()
    concerning = _to_tell(search, searched, policy)
    lines = [
        f"handler {each.site} belongs to no app, so it gets no messages: {_reason(each, searched)}"
        for each in concerning
    ]
    if policy == "refuse" and lines:
        raise DiscoveryError("\n".join([*lines, 'set unclaimed_handlers="warn" to start all the same']))
    for line in lines:
        logger.warning("%s", line)
    for sighting in concerning:
        sighting.named = True


def why_unclaimed(function: Function) -> str | None:
    """Why no app of this process takes in this decorated function, and what to do; None if one does."""
    apps = searches()
    for each in apps:
        each.claim_all()
    searched = {module.__name__ for each in apps for module in each.searched()}
    for sighting in unclaimed():
        if sighting.function is not None and sighting.function() is function:
            return _reason(sighting, searched)
    return None


def _to_tell(search: Search, searched: set[str], policy: Policy) -> list[Sighting]:
    return [
        sighting
        for sighting in unclaimed()
        if (policy == "refuse" or not sighting.named) and _concerns(sighting, search, searched)
    ]


def _concerns(sighting: Sighting, search: Search, searched: set[str]) -> bool:
    """What was made inside a function, and is gone again, may be from a test or another app: it must be near this app.

    A function's own names are gone when it returns, so a handler that an app factory forgets is always gone. What is
    gone from a notebook or a prompt was written anew there.
    """
    if not sighting.lives and not sighting.in_file:
        return False
    if sighting.lives or "<locals>" not in sighting.site.name:
        return True
    package = search.calling_module.partition(".")[0]
    return sighting.namespace in searched or sighting.namespace.partition(".")[0] == package


def _reason(sighting: Sighting, searched: set[str]) -> str:
    """Why it was not found, and what to do."""
    site, module = sighting.site, sys.modules[sighting.namespace]
    name = site.name.rpartition(".")[2]
    if site.kind == "class":
        return _reason_of_method(sighting, module)
    if site.kind == "function":
        made_in = site.name.partition(".<locals>")[0]
        return (
            f"it is made inside {made_in}(), where no search can look; decorate it with athomic.subscribe_to, or give "
            f"it by handlers=[{name}]"
        )
    if sighting.namespace not in searched:
        if sighting.namespace != site.module:  # the module that was started: importing it would run it again
            return f"the module that was started is not searched; give it by handlers=[{name}]"
        return f'its module is imported but not searched; add packages=["{site.module}"] to include_athomic'
    now = vars(module).get(name)
    if now is None:
        return (
            f"no name in {site.module} holds it; use functools.wraps in the decorators above it, assign it to a name, "
            "or give it by handlers=[...]"
        )
    code = getattr(inspect.unwrap(now) if callable(now) else now, "__code__", None)
    if getattr(code, "co_qualname", None) == site.name:
        return f"{place(now)} was defined later by the same name; give one of them another name"
    return (
        f"a decorator above it made {_described(now)} of it, which does not carry the subscription; use "
        "functools.wraps in that decorator, or write the subscription above it"
    )


def _reason_of_method(sighting: Sighting, module: ModuleType) -> str:
    owner, _, name = sighting.site.name.rpartition(".")
    cls: Any = module
    for part in owner.split("."):
        cls = vars(cls).get(part) if isinstance(cls, ModuleType | type) else None
    bare = owner.rpartition(".")[2]
    kinds: dict[type, str] = {staticmethod: "a static method", classmethod: "a class method"}
    kind = kinds.get(type(vars(cls).get(name))) if isinstance(cls, type) else None
    if kind is not None:
        return f"it is {kind}, and classes are not searched; give it by handlers=[{bare}.{name}]"
    return f"it is a method, and classes are not searched; give that of an object by handlers=[{bare}(...).{name}]"


def _described(thing: Any) -> str:
    return place(thing) if callable(thing) else f"something of type {type(thing).__name__}"
