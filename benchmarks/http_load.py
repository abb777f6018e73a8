"""Open-loop HTTP load, by wrk2's method: requests are due on a schedule, however slow the answers are.

The latency of a request counts from when it was due, not from when a connection was free. Otherwise a server that
stalls would get fewer requests while it stalls (coordinated omission). Delays of the load itself therefore count
against the server, so its clock is exact to microseconds, and it has priority on a busy machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import sys
from contextlib import suppress
from time import perf_counter
from typing import Any

CONNECTIONS = 16
REQUEST = b"GET /ping HTTP/1.1\r\nHost: bench\r\n\r\n"


class Load:
    """Sends `rate` requests per second for `seconds`, over keep-alive connections."""

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self._port = port
        self._interval = 1 / rate
        self._count = int(rate * seconds)
        self._due: asyncio.Queue[float] = asyncio.Queue()
        self.latencies: list[float] = []  # seconds

    async def run(self) -> None:
        connections = [asyncio.create_task(self._connection()) for _ in range(CONNECTIONS)]
        began = perf_counter()
        for number in range(self._count):
            due = began + number * self._interval
            await asyncio.sleep(max(0.0, due - perf_counter()))
            self._due.put_nowait(due)
        await self._due.join()
        for connection in connections:
            connection.cancel()

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                due = await self._due.get()
                writer.write(REQUEST)
                await _answer(reader)
                self.latencies.append(perf_counter() - due)
                self._due.task_done()
        finally:
            writer.close()

    def result(self) -> dict[str, Any]:
        """Percentiles in milliseconds."""
        ordered = sorted(self.latencies)
        shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        found = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in shares.items()}
        return {name: value * 1_000 for name, value in (found | {"longest": ordered[-1]}).items()}


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the app answered {head.splitlines()[0]!r}")
    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def main(port: str, rate: str, seconds: str) -> None:
    load = Load(int(port), float(rate), float(seconds))
    await load.run()
    print(json.dumps(load.result()))


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop with `select`, as the default `epoll` rounds timers up to a millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with suppress(PermissionError):
        os.nice(-10)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(*sys.argv[1:]))
