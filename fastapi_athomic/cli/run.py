"""`fastapi-athomic run`: the app's consumers in processes of their own, without its routes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ..announcements import announce
from ..exceptions import AthomicError
from ..operation_settings import WorkerSettings
from ..workers import port
from ..workers.channel import Hello
from ..workers.console import log_as_a_server_does
from ..workers.process import ChildProcess, EndedError
from ..workers.supervisor import Supervisor, logger
from .app import add_app_options
from .terminal import FAILED, INTERRUPTED, OK

CHILD = "fastapi_athomic.cli.worker"
"""The module that each process runs."""
PASSED_ON = ("app", "factory", "app_dir", "name", "traceback", "only", "processes")
"""The options that each process needs."""
SYSTEM = os.name
WINDOWS = (
    "fastapi-athomic run needs an operating system with POSIX signals, which Windows is not: set ATHOMIC_ROLE=worker "
    "and start the app with its server, once for each process"
)
"""What `run` answers there."""


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `run`."""
    command = areas.add_parser(
        "run",
        help="run the app's consumers, without its routes, in one or more processes",
        description="Runs the app's lifespan and its consumers, and serves none of its routes. Processes that end are "
        "started again. SIGHUP replaces them one after the other, by processes that have loaded the code as it is "
        "then. SIGTERM and Ctrl+C stop them within the setting shutdown_timeout, a second Ctrl+C at once. The options "
        "below win against the settings ATHOMIC_WORKER__PROCESSES, __HOST and __PORT.",
    )
    add_app_options(command)
    command.add_argument(
        "--only", action="append", default=[], metavar="HANDLER_ID", help="run only this handler; may be repeated"
    )
    command.add_argument("--processes", type=_count, metavar="N", help="how many processes consume (default: 1)")
    command.add_argument("--host", help="where probes, status and metrics are served (default: 127.0.0.1)")
    command.add_argument("--port", type=_port, help="the same (default: 8081); 0: nowhere")
    command.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a whole number from 0 to 65535")
    return int(text)


async def run(options: argparse.Namespace) -> int:
    """Returns the exit status: 0 after a stop, 1 if processes had to be killed for it, 130 after a second Ctrl+C.

    Raises:
        AthomicError: the app would not start, or the port is taken.
    """
    if SYSTEM == "nt":
        raise AthomicError(WINDOWS)
    log_as_a_server_does()
    stop = Stop()
    async with _signals(stop):
        first = await _spawn(options, 1)
        stop.supervisor = loading = _Loading(first)
        try:
            hello = await first.hello()
        except EndedError as error:
            if loading.stopped:
                return stop.status(True)
            raise AthomicError(f"{options.app} cannot be loaded: {error}") from None
        else:
            return stop.status(await _supervise(options, first, hello, stop))
        finally:
            first.kill()  # of use only after an error
            await first.ended()


class _Loading:
    """Stands for the supervisor until the app has been loaded once: before that its settings are not known."""

    def __init__(self, first: ChildProcess) -> None:
        self._first = first
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self._first.kill()  # it has begun nothing

    stop_at_once = stop

    def replace_all(self) -> None:
        """It is new."""


class Stop:
    """What signals do."""

    def __init__(self) -> None:
        self.supervisor: Supervisor | _Loading | None = None
        self._interrupts = 0
        self._terminal = has_terminal()

    def terminate(self) -> None:
        if self.supervisor is not None:
            self.supervisor.stop()

    def interrupt(self) -> None:
        self._interrupts += 1
        if self.supervisor is not None and self._interrupts > 1:
            self.supervisor.stop_at_once()
        else:
            self.terminate()

    def hang_up(self) -> None:
        if self._terminal and not has_terminal():  # its window was closed: nobody would see it go on
            self.terminate()
        elif self.supervisor is not None:
            self.supervisor.replace_all()

    def status(self, clean: bool) -> int:
        """The exit status of a supervisor that has ended."""
        if self._interrupts > 1:
            return INTERRUPTED
        return OK if clean else FAILED


def has_terminal() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


@asynccontextmanager
async def _signals(stop: Stop) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop.terminate, signal.SIGINT: stop.interrupt, signal.SIGHUP: stop.hang_up}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def _spawn(options: argparse.Namespace, place: int) -> ChildProcess:
    passed = {name: getattr(options, name) for name in PASSED_ON}
    return await ChildProcess.spawned([sys.executable, "-m", CHILD, json.dumps({**passed, "place": place})])


async def _supervise(options: argparse.Namespace, first: ChildProcess, hello: Hello, stop: Stop) -> bool:
    settings = _settings(options, hello.worker)
    supervisor = Supervisor(lambda place: _spawn(options, place), first, hello, settings)
    async with AsyncExitStack() as stack:
        if settings.port:
            answers = port.listening(settings.host, settings.port)
            with_status = not hello.guarded if settings.show_status is None else settings.show_status
            app = port.new_app(supervisor, hello.prefix, with_status=with_status)
            await stack.enter_async_context(port.served(app, answers))
        announce(_start_line(hello, settings), logger)
        stop.supervisor = supervisor
        return await supervisor.run()


def _settings(options: argparse.Namespace, settings: WorkerSettings) -> WorkerSettings:
    given = {name: value for name in ("processes", "host", "port") if (value := getattr(options, name)) is not None}
    return settings.model_copy(update=given)


def _start_line(hello: Hello, settings: WorkerSettings) -> str:
    where = f"http://{settings.host}:{settings.port}{hello.prefix}/health" if settings.port else "no port"
    count = f"{settings.processes} process{'' if settings.processes == 1 else 'es'}"
    return f"supervisor {os.getpid()} runs {', '.join(hello.handlers) or 'no handler'} in {count}, health at {where}"
