"""How long the embedded broker takes for an answer: no time, unless a test has made it slow."""

from __future__ import annotations

import asyncio
from time import monotonic

from ...exceptions import TransportError
from .broker import MemoryBroker

LOOK_SECONDS = 0.02
"""So often it is seen that the broker is not slow any more."""


async def answer(broker: MemoryBroker, timeout: float) -> None:
    """Returns when the broker would have answered. Other tasks get a turn at least, as they do with a network.

    Raises:
        TransportError: that takes longer than `timeout` seconds.
    """
    began = monotonic()
    await asyncio.sleep(0)
    while (left := began + min(broker.delay, timeout) - monotonic()) > 0:  # noqa: ASYNC110 - no event for it
        await asyncio.sleep(min(left, LOOK_SECONDS))
    if broker.delay > timeout:
        raise TransportError(f"the broker has not answered within {timeout:g} s")
