"""The kit for async tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from ..exceptions import ConfigurationError
from ..failures.letters import DeadLetter
from ..messages import PublishedMessage
from ..payload.pipeline import PayloadPipeline
from ..publisher import GivenHeaders
from .bench import Bench
from .core import KitCore
from .observer import Handler
from .records import Handled
from .views import KitView
from .virtual_time import in_app

try:
    import httpx2 as httpx
except ModuleNotFoundError:
    import httpx  # type: ignore[no-redef]


class AsyncTestKit(KitView):
    """An app in an async test, with a broker of its own: `async with AsyncTestKit(app) as kit`.

    Like `TestKit`, in the event loop of the test: what waits is awaited. `client` is an `httpx.AsyncClient` for the
    app's routes.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        name: str = "athomic",
        broker: str | None = None,
        settings: Mapping[str, Any] | None = None,
        store: str | None = None,
        strict: bool = True,
    ) -> None:
        """Starts nothing yet. Arguments and errors are those of `TestKit`."""
        bench = Bench(app, name=name, broker=broker, settings=settings, store=store)
        super().__init__(bench, strict=strict)
        self._core = KitCore(bench)
        self._lifespan = _Lifespan(app)
        transport = httpx.ASGITransport(self._lifespan.serve)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://testserver")
        self.clock, self.broker = self._core.clock, self._core.faults
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        loop = _running_loop()
        self._begin()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._bench.clean_up)
            stack.enter_context(self._core.clock.installed(loop))
            stack.enter_context(self._bench.set_up())
            await stack.enter_async_context(self._lifespan)
            await stack.enter_async_context(self.client)
            await self._core.wait_until_ready()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        waiting: str | None = None
        try:
            async with self._stack:
                if error is None and self._strict:
                    waiting = await self._core.leave()
                await self._core.clock.hurry()
        except Exception as failure:
            self._keep(error, failure)
        self._judge(waiting, error)

    async def publish(
        self,
        topic: str,
        message: object,
        *,
        key: Any = None,
        headers: GivenHeaders = None,
        partition: int | None = None,
        payload: PayloadPipeline | None = None,
    ) -> PublishedMessage:
        """Publishes a message, as `athomic.publish` does."""
        return await self._core.publish(topic, message, key=key, headers=headers, partition=partition, payload=payload)

    async def deliver(
        self,
        handler: Handler,
        message: object,
        *,
        key: Any = None,
        headers: GivenHeaders = None,
        topic: str | None = None,
    ) -> Handled:
        """Has this handler alone handle a message, and returns when its fate is known: see `TestKit.deliver`."""
        return await self._core.deliver(handler, message, key=key, headers=headers, topic=topic)

    async def drain(self, timeout: float = 30.0, *, skip_delays: bool = True) -> None:
        """Returns when all messages are handled: see `TestKit.drain`."""
        await self._core.drain(timeout, skip_delays=skip_delays)

    async def dead_letters(self, handler: Handler | None = None) -> list[DeadLetter]:
        """The open dead letters of this handler, or of all: see `TestKit.dead_letters`."""
        return await self._core.dead_letters(handler)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            'AsyncTestKit needs an event loop of asyncio: with anyio, a fixture anyio_backend that returns "asyncio"'
        ) from None


class _Lifespan:
    """Runs an app's lifespan in a task of its own: a fixture may be left in another task than it was entered in."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._state: Mapping[str, Any] = {}

    async def __aenter__(self) -> None:
        self._leave = asyncio.Event()
        started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(started), name="athomic-test-lifespan")
        await asyncio.wait([self._task, started], return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await self._task

    async def __aexit__(self, *_: object) -> None:
        self._leave.set()
        await self._task

    async def _live(self, started: asyncio.Future[None]) -> None:
        with in_app():
            async with self._app.router.lifespan_context(self._app) as state:
                self._state = state or {}
                started.set_result(None)
                await self._leave.wait()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, with the state that its lifespan yields: `ASGITransport` knows nothing of it."""
        with in_app():
            await self._app({**scope, "state": dict(self._state)}, receive, send)
