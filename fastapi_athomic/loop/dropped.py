"""A coroutine that nobody awaits does nothing. Where that loses a message, the log says so, and which line did it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Coroutine, Generator, Mapping
from functools import wraps
from types import CodeType, FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def told_if_dropped(
    loss: Callable[[Mapping[str, Any]], str], of: str = "athomic"
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Decorates an async function: a call of it that is never awaited is logged as an error, with its place.

    `loss` says what did not happen because of that, and what to do, from the arguments by name; `of`: how the object is
    called whose method it is. Python's own `RuntimeWarning` is shown beside it, so that tests with warnings as errors
    fail.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
            return _Promise(function(*args, **kwargs), sys._getframe(1), of, loss)

        _mark(call)
        return call

    return decorate


def _mark(function: Callable[..., Any]) -> None:
    """Makes `iscoroutinefunction` true of it: `BackgroundTasks` would call it in a thread otherwise, and drop it."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


class _Promise(Coroutine[Any, Any, T]):
    """A coroutine like any other, for `await`, tasks, `gather` and `run_coroutine_threadsafe`."""

    __slots__ = ("__weakref__", "_begun", "_code", "_coroutine", "_globals", "_instruction", "_loss", "_of")

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], caller: FrameType, of: str, loss: Callable[[Mapping[str, Any]], str]
    ) -> None:
        self._begun = False  # `await` drops this object before the coroutine itself begins
        self._coroutine = coroutine
        self._code = caller.f_code  # not the frame, which would keep its variables alive
        self._instruction = caller.f_lasti
        self._globals = caller.f_globals
        self._loss = loss
        self._of = of

    def __await__(self) -> Generator[Any, Any, T]:
        self._begun = True
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        self._begun = True
        return self._coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        self._begun = True
        if value is None and trace is None:
            return self._coroutine.throw(kind)
        return self._coroutine.throw(kind, value, trace)

    def close(self) -> None:
        self._begun = True
        self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        """`cr_frame`, `__qualname__` and what else debuggers and asyncio's messages look for."""
        return getattr(self._coroutine, name)

    def __del__(self) -> None:
        if self._begun:
            return
        module, code = self._globals.get("__name__"), self._code
        logger.error(
            "%s.%s(...) at %s.%s, line %s, was never awaited: %s",
            *(self._of, self.__name__, module, code.co_qualname, _line(code, self._instruction)),
            self._loss(self.cr_frame.f_locals),
        )


def _line(code: CodeType, instruction: int) -> int | None:
    """Found only when it is wanted: a frame takes its time to tell its line."""
    return next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
