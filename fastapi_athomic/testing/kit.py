"""The kit for sync tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ..exceptions import ConfigurationError
from ..failures.letters import DeadLetter
from ..messages import PublishedMessage
from ..payload.pipeline import PayloadPipeline
from ..publisher import GivenHeaders
from .bench import NOT_OPEN, Bench
from .clock import Clock, running_loop
from .core import KitCore
from .faults import BrokerFaults
from .observer import Handler
from .records import Handled
from .views import KitView

P = ParamSpec("P")
T = TypeVar("T")


class TestKit(KitView):
    """An app in a test, with a broker of its own: `with TestKit(app) as kit`.

    Its lifespan runs inside the `with` block. `client` is a `TestClient` for its routes, `clock` the clock that it goes
    by, `broker` what can go wrong with the broker. At the end of the block what was published is handled, and failures
    of handlers that nobody expected fail the test.
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
        """Starts nothing yet.

        Args:
            name: the attribute of `app.state`, as for `include_athomic`.
            broker: a URL, whatever the app's own settings say; None: what `pytest --athomic-broker` says, else
                `memory://`. On `kafka://` topics and groups have names of their own, and are removed at the end.
            settings: override single ones of the app's: `{"publish_timeout": 1, "kafka": {"linger": 0.1}}`.
            store: the URL of the state store of ordered consumers; None: as with `broker`.
            strict: failures of handlers that nobody expected fail the test.

        Raises:
            NotIncludedError: `include_athomic` has not been called for this app.
            ConfigurationError: it is no FastAPI app, or a setting cannot be changed by a test.
            ValidationError: pydantic's, for a setting that is wrong.
        """
        bench = Bench(app, name=name, broker=broker, settings=settings, store=store)
        super().__init__(bench, strict=strict)
        self._core = KitCore(bench)
        self.client = TestClient(app)
        self.clock = Clock(self._core.clock, self._call)
        self.broker = BrokerFaults(self._core.faults, self._call)
        self._stack = ExitStack()

    def _call(self, work: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.client.portal is None:
            raise ConfigurationError(NOT_OPEN)
        _refuse_in_event_loop()
        return self.client.portal.call(partial(work, *args, **kwargs))

    def __enter__(self) -> Self:
        _refuse_in_event_loop()
        self._begin()
        with ExitStack() as stack:
            stack.callback(self._clean_up)
            stack.enter_context(self._core.clock.installed())
            stack.enter_context(self._bench.set_up())
            stack.enter_context(self.client)
            self._call(self._core.wait_until_ready)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        waiting: str | None = None
        try:
            with self._stack:
                if error is None and self._strict:
                    waiting = self._call(self._core.leave)
                self._call(self._core.clock.hurry)
        except Exception as failure:
            self._keep(error, failure)
        self._judge(waiting, error)

    def _clean_up(self) -> None:
        if not self._bench.on_memory:
            with start_blocking_portal() as portal:
                portal.call(self._bench.clean_up)

    def publish(
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
        return self._call(
            self._core.publish, topic, message, key=key, headers=headers, partition=partition, payload=payload
        )

    def deliver(
        self,
        handler: Handler,
        message: object,
        *,
        key: Any = None,
        headers: GivenHeaders = None,
        topic: str | None = None,
    ) -> Handled:
        """Has this handler alone handle a message, and returns when its fate is known: no broker, no other handler.

        It is written as `publish` would, and goes through headers, decoding, dependencies, the handler and what happens
        to failures: attempts and retry topics follow one another at once, a dead letter is written. The order of an
        ordered consumer, rate limits and circuit breakers are not asked. `topic`: for a handler of several, or of a
        pattern.

        Raises:
            HandlerNotFoundError: the app has no such handler.
            ConfigurationError: the handler needs a `topic`, or its function has several subscriptions.
            SourceNotFoundError: the handler does not consume `topic`.
            PayloadEncodeError: the message cannot be encoded.
            PayloadUnavailableError: what the payload needs is away.
            TransportError: its dead letter could not be written.
        """
        return self._call(self._core.deliver, handler, message, key=key, headers=headers, topic=topic)

    def drain(self, timeout: float = 30.0, *, skip_delays: bool = True) -> None:
        """Returns when all messages are handled. What waits for a time has it come at once: delays, retry topics.

        `skip_delays=False`: it waits for them.

        Raises:
            TimeoutError: that took longer than `timeout` seconds. It says what is left, and what it waits for.
            ConfigurationError: `timeout` is negative or no number.
        """
        self._call(self._core.drain, timeout, skip_delays=skip_delays)

    def dead_letters(self, handler: Handler | None = None) -> list[DeadLetter]:
        """The open dead letters of this handler, or of all, as `athomic.dead_letters(...)` browses them.

        Raises:
            HandlerNotFoundError: the app has no such handler.
        """
        return self._call(self._core.dead_letters, handler)


def _refuse_in_event_loop() -> None:
    """A kit that waits here would stop the loop, and `drain`, which lets each loop come to rest, would never return."""
    if running_loop() is not None:
        raise ConfigurationError(
            "a TestKit waits, and would block the event loop that runs here: in an async test use "
            "`async with AsyncTestKit(app)`, or the fixture athomic_async_kit"
        )
