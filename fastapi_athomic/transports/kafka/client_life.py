"""Opening and closing clients of aiokafka, also one that hangs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection

from .boundary import abandon, within
from .client_log import client_context

TEARDOWN_SECONDS = 0.3
"""Seconds of the time for closing that are reserved to take apart a client that does not stop."""
TEARDOWN_ROUNDS = 3
"""How often the tasks of a client are cancelled: some wait for others when they are cancelled the first time."""


async def open_client(client: Any, seconds: float, doing: str) -> None:
    """Starts a client of aiokafka. Raises `TransportError`, and leaves nothing open then."""
    start = client.bootstrap if isinstance(client, AIOKafkaClient) else client.start
    try:
        await within(start(), seconds, doing)
    except BaseException:
        await close_client(client, TEARDOWN_SECONDS * 2)
        raise


async def close_client(client: Any, seconds: float) -> None:
    """Stops a client of aiokafka within about `seconds`. Never raises.

    If the broker is dead, aiokafka's `stop` hangs, or raises a `CancelledError` half-way and leaves connections and
    tasks behind. Then this cancels its tasks and closes its connections, so that none of them logs a warning or
    connects again later.
    """
    stop: Callable[[], Coroutine[Any, Any, None]] = client.close if isinstance(client, AIOKafkaClient) else client.stop
    stopping = asyncio.create_task(stop(), context=client_context())
    try:
        await asyncio.wait({stopping}, timeout=max(0.0, seconds - TEARDOWN_SECONDS))
    finally:
        if not stopping.done():
            abandon(stopping)
        elif stopping.cancelled() or stopping.exception() is not None:
            pass
        else:
            return
        await _take_apart(client)


async def _take_apart(client: Any) -> None:
    for _ in range(TEARDOWN_ROUNDS):
        tasks, connections = _belongings(client)
        for task in tasks:
            abandon(task)
        for connection in connections:  # after the tasks: their requests are cancelled by now, so none of them fails
            connection.close()
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=TEARDOWN_SECONDS / TEARDOWN_ROUNDS)


def _belongings(client: Any) -> tuple[set[asyncio.Task[Any]], set[AIOKafkaConnection]]:
    """The tasks that run methods of the client's objects, and the connections that the client or these tasks hold.

    aiokafka keeps some of both only in local variables, so this searches the frames of all tasks.
    """
    objects = _objects_of(client)
    tasks = set()
    connections = {thing for thing in objects.values() if isinstance(thing, AIOKafkaConnection)}
    for task in asyncio.all_tasks():
        frames = list(_frames(task.get_coro()))
        if frames and id(frames[0].f_locals.get("self")) in objects:
            tasks.add(task)
            found = (value for frame in frames for value in frame.f_locals.values())
            connections.update(value for value in found if isinstance(value, AIOKafkaConnection))
    return tasks, connections


def _frames(waiting: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, from the outermost in."""
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        yield frame
        waiting = waiting.cr_await


def _objects_of(client: Any) -> dict[int, Any]:
    """All objects of aiokafka's classes that can be reached from the client, by id."""
    objects: dict[int, Any] = {}
    pending: list[Any] = [client]
    while pending:
        thing = pending.pop()
        if id(thing) in objects:
            continue
        if isinstance(thing, dict):
            pending.extend(thing.values())
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            pending.extend(thing)
        elif isinstance(thing, asyncio.Event):
            objects[id(thing)] = thing
        elif any(kind.__module__.startswith("aiokafka.") for kind in type(thing).__mro__):
            objects[id(thing)] = thing
            pending.extend(getattr(thing, "__dict__", {}).values())
    return objects
