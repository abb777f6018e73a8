"""Makes functions of any kind awaitable: sync ones run in a thread, those that yield become context managers."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from .threads import HandlerThreads

Function = Callable[..., Any]


def is_async(function: Function) -> bool:
    """Whether calling it gives a coroutine. Sees through `partial`, and objects with an async `__call__`."""
    target = function
    while isinstance(target, partial):
        target = target.func
    return inspect.iscoroutinefunction(target) or (
        not inspect.isroutine(target)
        and not inspect.isclass(target)
        and inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004
    )


def caller(function: Function, threads: HandlerThreads) -> Callable[..., Awaitable[Any]]:
    """An async function that calls this one; in a thread if it is sync."""
    if is_async(function):
        return function

    async def call(*args: Any, **kwargs: Any) -> Any:
        result = await threads.run(partial(_uninterrupted, function, *args, **kwargs))
        # a sync wrapper of an async function gives something to await
        return await result if inspect.isawaitable(result) else result

    return call


def _uninterrupted(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Ctrl-C reaches only the main thread: a `KeyboardInterrupt` in another one is an ordinary error."""
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt as error:
        raise RuntimeError("a function that runs in a thread raised KeyboardInterrupt") from error


def context_manager(function: Function, threads: HandlerThreads) -> Callable[..., Any] | None:
    """A maker of async context managers from a function that yields; None if the function does not yield."""
    target = function if inspect.isroutine(function) or isinstance(function, partial) else type(function).__call__
    target = target.func if isinstance(target, partial) else target
    if inspect.isasyncgenfunction(target):
        return asynccontextmanager(function)
    if not inspect.isgeneratorfunction(target):
        return None
    make = contextmanager(function)

    @asynccontextmanager
    async def in_threads(**kwargs: Any) -> AsyncIterator[Any]:
        manager = make(**kwargs)
        # one for both halves: what is set before the yield is seen after it, and its token can be reset there. The
        # handler does not see it: FastAPI, too, calls a sync dependency with a copy of the context
        context = copy_context()
        entered: list[Any] = []
        given = False

        def enter() -> None:
            entered.append(context.run(_uninterrupted, manager.__enter__))

        try:
            await threads.run(enter)
            given = True
            yield entered[0]
        except BaseException as error:
            if not entered:
                raise
            leave = partial(context.run, _uninterrupted, manager.__exit__, type(error), error, error.__traceback__)
            if not await threads.run(leave, withdraw=False) or not given:
                raise
        else:
            await threads.run(partial(context.run, _uninterrupted, manager.__exit__, None, None, None), withdraw=False)

    return in_threads


def limited_call(function: Callable[..., Awaitable[Any]], semaphore: Callable[[], Any]) -> Callable[..., Any]:
    """The same function, called while it holds the semaphore of the current event loop."""

    async def call(**kwargs: Any) -> Any:
        async with semaphore():
            return await function(**kwargs)

    return call


def limited_manager(make: Callable[..., Any], semaphore: Callable[[], Any]) -> Callable[..., Any]:
    """The same context managers, which hold the semaphore of the current event loop until they are left."""

    @asynccontextmanager
    async def manager(**kwargs: Any) -> AsyncIterator[Any]:
        async with semaphore(), make(**kwargs) as value:
            yield value

    return manager
