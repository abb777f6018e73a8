"""Whether anything waits at the sockets of a loop, and how often it turns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from fastapi_athomic.loop.load import QUIET_SECONDS, RequestGauge
from fastapi_athomic.loop.turns import TURNS, TURNS_FOR_REQUESTS, Turns, readiness


@contextmanager
def something_waits() -> Iterator[None]:
    """At a socket of the running loop, which nobody reads from."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    with ours, theirs:
        theirs.send(b"x")
        loop.add_reader(ours, lambda: None)
        yield
        loop.remove_reader(ours)


async def test_a_loop_is_ready_while_something_waits_at_its_sockets() -> None:
    ready = readiness(asyncio.get_running_loop())
    assert ready is not None
    assert not ready()
    with something_waits():
        assert ready()
    assert not ready()


def test_some_loops_cannot_be_asked() -> None:
    without_selector = asyncio.BaseEventLoop()
    assert readiness(without_selector) is None
    without_selector.close()


@pytest.mark.parametrize(
    ("in_flight", "ago", "ready", "wanted"),
    [
        (0, 0.0, 0, TURNS),
        (0, 0.0, 2, TURNS + 2),
        (0, 0.0, 100, TURNS + TURNS_FOR_REQUESTS),
        (0, QUIET_SECONDS + 1, 100, TURNS),
        (1, 0.0, 0, TURNS + TURNS_FOR_REQUESTS),
    ],
)
async def test_a_loop_turns_until_nothing_waits(in_flight: int, ago: float, ready: int, wanted: int) -> None:
    requests, looks, turns = RequestGauge(), iter([True] * ready), 0
    requests.in_flight, requests.ended_at = in_flight, monotonic() - ago
    over = asyncio.Event()
    Turns(asyncio.get_running_loop(), requests, lambda: next(looks, False), over.set).begin()
    while not over.is_set():
        await asyncio.sleep(0)
        turns += 1
    assert turns == wanted
