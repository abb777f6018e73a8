"""A fixed address in front of the broker, for clients that know only one address."""

from __future__ import annotations

import asyncio
import threading

from tests.support.forwarder import Forwarder


class Door(threading.Thread):
    """A forwarder in a thread with an event loop of its own."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True, name="life-door")
        self._forwarder = Forwarder(port)
        self.address = self._forwarder.address
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._opened = threading.Event()

    @property
    def port(self) -> int:
        return self._forwarder.port

    @port.setter
    def port(self, port: int) -> None:
        self._forwarder.port = port

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with self._forwarder.open():
            self._opened.set()
            await self._ended.wait()

    def start(self) -> None:
        super().start()
        assert self._opened.wait(10), "the forwarder did not open"

    def stop(self) -> None:
        if self.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self.join()
