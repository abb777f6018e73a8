"""The package's clocks, ahead of the real ones by as much as a test has skipped.

One for the process, as the names are that read it: `monotonic` and `time` in the package's modules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic as real_monotonic
from time import time as real_time
from types import ModuleType

from ..exceptions import ConfigurationError

PACKAGE = __name__.partition(".")[0]
OF_THE_MACHINE = {f"{PACKAGE}.{name}" for name in ("loop.blocking", "loop.load", "observation.process_health")}
"""How late the event loop is, and who blocks it: that is measured on the real clock. No jump must look like a block."""

_of_app: ContextVar[bool] = ContextVar("athomic_of_app", default=False)


class _Time:
    ahead = 0.0  # seconds
    replaced = False
    seen = 0  # modules, when their names were replaced last


def ahead() -> float:
    """The seconds that were skipped."""
    return _Time.ahead


def monotonic() -> float:
    """Stands in for `time.monotonic`."""
    return real_monotonic() + _Time.ahead


def time() -> float:
    """Stands in for `time.time`."""
    return real_time() + _Time.ahead


def skip(seconds: float) -> None:
    """Puts the clocks forward, also those of modules that were imported meanwhile."""
    _Time.ahead += seconds
    if len(sys.modules) != _Time.seen:
        _replace_all()


@contextmanager
def replaced() -> Iterator[None]:
    """Inside the `with` block the package reads these clocks. After it, it reads the real ones again.

    Raises:
        ConfigurationError: it does so already.
    """
    if _Time.replaced:
        raise ConfigurationError(
            "another test kit is open in this process, which has one clock: leave that kit first. Where a test needs "
            "several apps, give one of them to the kit, and start the others yourself"
        )
    _Time.replaced = True
    try:
        _replace_all()
        yield
    finally:
        for module in _modules():
            _replace(module, {monotonic: real_monotonic, time: real_time})
        _Time.replaced, _Time.ahead = False, 0.0


@contextmanager
def in_app() -> Iterator[None]:
    """What is begun inside the `with` block belongs to the app: its timers go by these clocks, a test's own do not."""
    token = _of_app.set(True)
    try:
        yield
    finally:
        _of_app.reset(token)


def is_of_app() -> bool:
    """Whether what runs now was begun `in_app`."""
    return _of_app.get()


def _replace_all() -> None:
    _Time.seen = len(sys.modules)
    for module in _modules():
        _replace(module, {real_monotonic: monotonic, real_time: time})


def _modules() -> list[ModuleType]:
    left_out = {*OF_THE_MACHINE, __name__}
    inside = f"{PACKAGE}."
    return [module for name, module in list(sys.modules.items()) if name.startswith(inside) and name not in left_out]


def _replace(module: ModuleType, others: dict[object, object]) -> None:
    for name in ("monotonic", "time"):
        found = vars(module).get(name)
        if callable(found) and found in others:
            setattr(module, name, others[found])
