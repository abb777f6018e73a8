"""What the decorators have seen: each decorated function, where it stands, and whether an app has taken it in.

An entry stands for a place in the source, not for one function: a factory that is called a thousand times is one entry.
Functions are held weakly.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from types import FrameType, MethodType
from typing import Any, Literal, NamedTuple
from weakref import ReferenceType, ref

Function = Callable[..., Any]

_PACKAGE = __name__.partition(".")[0]
_MAIN = ("__main__", "__mp_main__")  # how Python names the module that was started; the second in a spawned process


class Site(NamedTuple):
    """The place of a decorated function in the source."""

    module: str  # as it would be imported
    name: str  # the function's qualified name
    line: int | None
    kind: Literal["module", "class", "function"]  # what it was decorated in

    def __str__(self) -> str:
        return f"{self.name} ({self.module}, line {self.line or '?'})"


@dataclass(slots=True)
class Sighting:
    """The last function that was decorated at a site."""

    site: Site
    function: ReferenceType[Any] | None  # None: it cannot be held weakly
    namespace: str  # its module's key in `sys.modules`
    spec: object  # its module's `__spec__`, another one after a reload
    in_file: bool  # it stands in the file of its module: not in a notebook, at a prompt or in a doctest
    claimed: bool = False  # an app has taken it in
    named: bool = False  # a warning has named it

    @property
    def lives(self) -> bool:
        """The function still exists."""
        return self.function is None or self.function() is not None

    @property
    def is_stale(self) -> bool:
        """Its module has been taken away or executed anew, and may no longer define the function."""
        module = sys.modules.get(self.namespace)
        return module is None or getattr(module, "__spec__", None) is not self.spec


_seen: dict[Site, Sighting] = {}


def see(function: Function) -> Site:
    """Notes that the caller's caller, whoever that is outside this package, decorated the function. Returns where."""
    name = qualified_name(function)
    parent = name.rpartition(".")[0]
    frame = _frame_outside()
    at_module_level = frame is not None and frame.f_code.co_name == "<module>"
    kind: Literal["module", "class", "function"] = "function"
    if parent and not parent.endswith("<locals>"):
        kind = "class"
    elif at_module_level or not parent:
        kind = "module"
    namespace, variables = str(getattr(_plain(function), "__module__", "?")), _globals(function)
    if frame is not None and at_module_level and kind == "module":
        # a decorator below may have replaced the function by one of another module: what counts is who holds it
        namespace, variables = str(frame.f_globals.get("__name__", "?")), frame.f_globals
    site = Site(importable_name(namespace, variables), name, line_of(function), kind)
    before = _seen.get(site)
    _seen[site] = Sighting(
        site,
        _weakly(function),
        namespace,
        variables.get("__spec__"),
        in_file=_in_file(namespace, variables),
        claimed=before is not None and before.claimed,
        named=before is not None and before.named,
    )
    return site


def claim(site: Site | None) -> None:
    """An app takes in what was decorated at the site. It stays claimed: an app that has stopped may start again."""
    if site is not None and site in _seen:
        _seen[site].claimed = True


def unclaimed() -> list[Sighting]:
    """What no app has taken in, in the order in which it was first seen."""
    return [sighting for sighting in list(_seen.values()) if not sighting.claimed and not sighting.is_stale]


# --- names and places of functions


def place(function: Function) -> str:
    """Where a function stands, for people: its name, module and line."""
    return f"{qualified_name(function)} ({module_of(function)}, line {line_of(function) or '?'})"


def qualified_name(function: Function) -> str:
    """The function's, or that of the class of a callable object."""
    plain = _plain(function)
    return str(getattr(plain, "__qualname__", type(plain).__qualname__))


def module_of(function: Function) -> str:
    """The module that defines the function, by the name by which it would be imported, however the app was started."""
    return importable_name(str(getattr(_plain(function), "__module__", "?")), _globals(function))


def importable_name(name: str, variables: Mapping[str, Any]) -> str:
    """The name by which others import a module. `variables` are the module's.

    `python -m shop.main` and `python main.py` execute a module by the name `__main__`; the first notes the other name
    in `__spec__` (Python's reference, "import-related attributes of module objects"), the second only the file.
    """
    if name not in _MAIN:
        return name
    spec = getattr(variables.get("__spec__"), "name", None)
    stem = PurePath(str(variables.get("__file__") or "")).stem
    return next((other for other in (spec, stem) if other and other not in _MAIN), "__main__")


def line_of(function: Function) -> int | None:
    """Its first line, where decorators count as lines of it; None for what Python has not compiled."""
    plain = inspect.unwrap(_plain(function))
    code = getattr(plain, "__code__", None) or getattr(vars(type(plain)).get("__call__"), "__code__", None)
    return code.co_firstlineno if code is not None else None


def _plain(function: Any) -> Any:
    """The function behind a method, or behind a `partial`."""
    while isinstance(function, partial):
        function = function.func
    return function.__func__ if isinstance(function, MethodType | staticmethod | classmethod) else function


def _globals(function: Function) -> Mapping[str, Any]:
    plain = inspect.unwrap(_plain(function))
    module = sys.modules.get(str(getattr(plain, "__module__", "")))
    found: Mapping[str, Any] | None = getattr(plain, "__globals__", None)
    return found if found is not None else vars(module) if module is not None else {}


def _in_file(namespace: str, variables: Mapping[str, Any]) -> bool:
    module = sys.modules.get(namespace)
    return module is not None and vars(module) is variables and variables.get("__file__") is not None


def _frame_outside() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    return frame


def _weakly(function: Any) -> ReferenceType[Any] | None:
    try:
        return ref(_plain(function) if not isinstance(function, partial) else function)
    except TypeError:
        return None
