"""What runs in a process of a supervisor: the app's lifespan with its consumers, and answers to the supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp

from ..athomic import Athomic
from ..exceptions import AthomicError
from .channel import Channel, Hello, Message
from .console import log_as_a_server_does
from .lifespan import lifespan_of

logger = logging.getLogger(__name__)

EXIT_RESERVE = 3.0
"""Seconds beyond `shutdown_timeout` after which a process without a supervisor ends, whatever still runs in it."""
NO_LIMIT = 1e9
"""The supervisor decides how long is waited."""
OK, FAILED = 0, 1
"""Exit statuses."""


class Lifeline:
    """Ends this process when its supervisor has died: a thread, as the event loop may be blocked.

    `descriptor` is the reading end of a pipe whose writing end only the supervisor has.
    """

    def __init__(self, descriptor: int) -> None:
        self.seconds = 5.0  # for an end in good order
        threading.Thread(target=self._watch, args=(descriptor,), name="athomic-lifeline", daemon=True).start()

    def _watch(self, descriptor: int) -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self.seconds)
        os._exit(FAILED)


Load = Callable[[], tuple[ASGIApp, Sequence[Athomic]]]
"""Imports the app: what runs its lifespan, and the `Athomic`s whose consumers run here, at least one."""


class Child:
    """The app in this process, and its supervisor at the other end of `channel`."""

    def __init__(self, load: Load, channel: Channel, lifeline: Lifeline) -> None:
        self._load = load
        self._channel = channel
        self._lifeline = lifeline
        self._athomics: Sequence[Athomic] = ()
        self._stop = asyncio.Event()
        self._status = OK

    async def run(self) -> int:
        """Returns the exit status, when the supervisor or a signal has ended it."""
        try:
            app, self._athomics = self._load()
            _metrics(())  # imports what the first scrape would have to import in the event loop
            hello = await self._hello()
        except AthomicError as error:
            self._channel.send("refused", error=str(error))
            return FAILED
        self._lifeline.seconds = hello.shutdown_timeout + EXIT_RESERVE
        self._channel.send("hello", **hello.model_dump())
        message = await self._channel.receive()
        if message is None or message["kind"] != "go":
            return OK
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(self._stop.set))
        answering = asyncio.create_task(self._answer_all(), name="athomic-answers")
        try:
            await self._live(app)
        except AthomicError as error:
            logger.error("the app does not run: %s", error)
            self._status = FAILED
        finally:
            answering.cancel()
        return self._status

    async def _hello(self) -> Hello:
        """Checks that the app would start. Raises `AthomicError`."""
        logging.disable(logging.WARNING)  # the start will say all that again
        try:
            handlers = [handler for athomic in self._athomics for handler in (await athomic.check()).consumers]
        finally:
            logging.disable(logging.NOTSET)
        first = self._athomics[0]
        return Hello(
            handlers=handlers,
            prefix=first.prefix,
            guarded=any(athomic.guarded for athomic in self._athomics),
            shutdown_timeout=max(athomic.settings.shutdown_timeout for athomic in self._athomics),
            worker=first.settings.worker,
        )

    async def _live(self, app: ASGIApp) -> None:
        async with lifespan_of(app):
            telling = asyncio.create_task(self._tell_ready(), name="athomic-ready")
            try:
                await self._stop.wait()
            finally:
                telling.cancel()

    async def _tell_ready(self) -> None:
        try:
            for athomic in self._athomics:
                await athomic.wait_until_ready(NO_LIMIT)
            counts = [await athomic.partition_counts() for athomic in self._athomics]
        except Exception as error:  # a required service cannot start: a new process may
            logger.error("the consumers cannot start: %s", error)
            self._status = FAILED
            self._stop.set()
        else:
            self._channel.send("ready", partitions=dict(ChainMap(*counts)))

    # --- answers

    async def _answer_all(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if message["kind"] == "ask":
                self._channel.send("answer", number=message["number"], body=self._answer(message))

    def _answer(self, message: Message) -> Any:
        try:
            return ANSWERS[message["what"]](self._athomics)
        except Exception as error:  # the supervisor shall not wait in vain
            logger.exception("the supervisor gets no answer")
            return {"error": type(error).__name__}


def _health(athomics: Sequence[Athomic]) -> Any:
    reports = [report for athomic in athomics if (report := athomic.health()) is not None]
    return [report.model_dump(mode="json") for report in reports]


def _ready(athomics: Sequence[Athomic]) -> bool:
    """Whether all consumers consume; one that is paused does."""
    return all(consumer.ready for athomic in athomics for consumer in athomic.consumers())


def _consumers(athomics: Sequence[Athomic]) -> Any:
    return [status.model_dump(mode="json") for athomic in athomics for status in athomic.consumers()]


def _metrics(athomics: Sequence[Athomic]) -> Any:
    """The expositions of the `Athomic`s; None without the extra `prometheus`."""
    try:
        from ..exporters.prometheus import PrometheusCollector, exposition
    except ImportError:
        return None
    collectors = [PrometheusCollector(each.manager, each.loop_lag, each.settings) for each in athomics]
    return [exposition(collector)[0].decode() for collector in collectors]


ANSWERS: dict[str, Callable[[Sequence[Athomic]], Any]] = {
    "sign of life": lambda _: True,
    "health": _health,
    "ready": _ready,
    "consumers": _consumers,
    "metrics": _metrics,
}
"""What a supervisor may ask."""


def serve(load: Load, channel: int, lifeline: int) -> int:
    """Runs the app in this process until it is told to end. Returns the exit status.

    `channel` and `lifeline` are file descriptors that `ChildProcess.spawned` has made. What a terminal sends to all its
    processes is the supervisor's to decide.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch = Lifeline(lifeline)
    log_as_a_server_does()

    async def run() -> int:
        end = await Channel.opened(socket.socket(fileno=channel))
        try:
            return await Child(load, end, watch).run()
        finally:
            await end.flushed()

    return asyncio.run(run())
