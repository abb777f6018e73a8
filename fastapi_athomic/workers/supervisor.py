"""Keeps a number of processes running: restarts those that end, replaces them one by one, and stops them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from ..announcements import announce
from ..operation_settings import WorkerSettings
from .channel import Hello
from .process import EndedError, Process, RefusedError, Spawn, said_of_end

logger = logging.getLogger(__name__)

STEADY_SECONDS = 60.0
"""A process that lived for longer was sound: after its end the back-off begins at its shortest."""
STOP_RESERVE = 2.0
"""Seconds beyond `shutdown_timeout` after which a process that has not ended is killed: the app has an end, too."""

Sleep = Callable[[float], Awaitable[None]]
Failure = (RefusedError, EndedError, OSError)
"""What keeps a process from coming up."""


class Place:
    """One of the supervisor's places: a process, and after its end the next one."""

    def __init__(self, number: int) -> None:
        self.number = number  # from 1
        self.process: Process | None = None  # None: none was started yet, or it ended and the next one is not there
        self.successor: Process | None = None  # is loaded; takes the place when the process has ended
        self.restarts = 0  # how often a process had to be started because one had ended unasked
        self.last_end: str | None = None  # how the last of those ended, in words
        self.up = asyncio.Event()  # the consumers of its process consume
        self.was_up = False
        self.woken = asyncio.Event()  # ends the back-off

    @property
    def state(self) -> str:
        """In one word, for status."""
        if self.process is None:
            return "backing_off" if self.last_end else "starting"
        return "running" if self.up.is_set() else "starting"


class Supervisor:
    """`run` is awaited once. `stop`, `stop_at_once` and `replace_all` may be called from then on, in the event loop.

    `first` has said `hello` and takes the first place. `sleep` is for tests.
    """

    def __init__(
        self, spawn: Spawn, first: Process, hello: Hello, settings: WorkerSettings, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._spawn = spawn
        self._settings = settings
        self._sleep = sleep
        self._stop_seconds = hello.shutdown_timeout + STOP_RESERVE
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._asked = asyncio.Event()  # to replace all processes
        self._alive: dict[Process, asyncio.Task[int]] = {}  # all that were started and have not ended
        self.places = [Place(number) for number in range(1, settings.processes + 1)]
        self.places[0].successor = first
        self._know(first)

    def stop(self) -> None:
        """All processes finish what runs, commit, and end."""
        self._stopping.set()

    def stop_at_once(self) -> None:
        """All processes are killed: what ran is handled again by others."""
        self._at_once.set()
        self._stopping.set()

    def replace_all(self) -> None:
        """Replaces one process after the other. If it is asked again meanwhile, it does so once more afterwards."""
        self._asked.set()

    async def run(self) -> bool:
        """Returns when all processes have ended, after `stop`. False: some had to be killed."""
        keeping = [asyncio.create_task(self._keep(place)) for place in self.places]
        tasks = [*keeping, asyncio.create_task(self._replace()), asyncio.create_task(self._listen())]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.wait(tasks)
            clean = await self._end(list(self._alive))
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return clean

    # --- one place

    async def _keep(self, place: Place) -> None:
        delay = self._settings.restart_backoff
        while True:
            began = monotonic()
            place.process = process = await self._next_process(place)
            if process is not None and await self._live(place, process):
                continue  # its successor is there
            if monotonic() - began > STEADY_SECONDS:
                delay = self._settings.restart_backoff
            place.restarts += 1
            await self._back_off(place, delay)
            delay = min(delay * 2, self._settings.restart_backoff_max)

    async def _next_process(self, place: Place) -> Process | None:
        """A process that is loaded; None: it came to nothing, which is logged."""
        loaded: Process | None = None
        if place.successor is None:
            try:
                loaded = await self._loaded(place)
            except Failure as error:
                place.last_end = str(error)
                logger.error("the process of place %d did not come up: %s", place.number, error)
        if place.successor is not None:  # perhaps it has come meanwhile
            if loaded is not None:
                loaded.kill()
            loaded, place.successor = place.successor, None
        return loaded

    async def _live(self, place: Place, process: Process) -> bool:
        """The life of a process. True: it made room for its successor; False: it ended unasked, which is logged."""
        place.up.clear()
        process.go()
        announce(f"process {process.pid} starts its consumers, {place.number} of {len(self.places)}", logger)
        noting = asyncio.create_task(self._note_ready(place, process))
        try:
            code = await process.ended()
        finally:
            noting.cancel()
        place.process = None
        place.up.clear()
        if place.successor is not None:
            return True
        place.last_end = f"process {process.pid} {said_of_end(code)}"
        logger.error("%s, unasked; it will be replaced", place.last_end)
        return False

    async def _note_ready(self, place: Place, process: Process) -> None:
        await process.ready.wait()
        if not any(each.was_up for each in self.places):
            self._warn_of_idle(process)
        place.was_up = True
        if place.successor is None:
            place.up.set()
        announce(f"process {process.pid} is ready", logger)

    def _warn_of_idle(self, process: Process) -> None:
        processes = len(self.places)
        for handler_id, partitions in process.partitions.items():
            if partitions < processes:
                logger.warning(
                    "handler %s: its topics have %d partition%s, so at least %d of %d processes will get none of them",
                    *(handler_id, partitions, "" if partitions == 1 else "s", processes - partitions, processes),
                )

    async def _loaded(self, place: Place) -> Process:
        """A new process that would start the app. Raises one of `Failure`."""
        process = await self._spawn(place.number)
        self._know(process)
        try:
            await process.hello()
        except BaseException:
            process.kill()
            raise
        return process

    def _know(self, process: Process) -> None:
        ending = self._alive[process] = asyncio.create_task(process.ended())
        ending.add_done_callback(lambda _: self._alive.pop(process, None))

    async def _back_off(self, place: Place, delay: float) -> None:
        place.woken.clear()
        if place.successor is not None:
            return
        waiting = [asyncio.ensure_future(place.woken.wait()), asyncio.ensure_future(self._sleep(delay))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    # --- all places

    async def _replace(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            announce("the processes are replaced, one after the other", logger)
            if await self._replace_each():
                announce("all processes are replaced", logger)

    async def _replace_each(self) -> bool:
        """The new process is loaded before the old one is told to end, and starts when that has ended."""
        for place in self.places:
            try:
                place.successor = await self._loaded(place)
            except Failure as error:
                logger.error("the processes are not replaced, those that run go on: %s", error)
                return False
            place.up.clear()
            place.woken.set()
            if place.process is not None:
                await self._end([place.process])
            await place.up.wait()
        return True

    async def _end(self, processes: list[Process]) -> bool:
        """Returns when they have ended. False: some had to be killed."""
        endings = [self._alive[process] for process in processes if process in self._alive]
        if not endings:
            return True
        for process in processes:
            process.terminate()
        at_once = asyncio.create_task(self._at_once.wait())
        ended = asyncio.ensure_future(asyncio.wait(endings))
        try:
            await asyncio.wait([at_once, ended], timeout=self._stop_seconds, return_when=asyncio.FIRST_COMPLETED)
            late = [process for process in processes if process in self._alive]
            for process in late:
                logger.error("process %d is killed: what it had begun will be handled again", process.pid)
                process.kill()
            await ended
        finally:
            at_once.cancel()
        return not late

    async def _listen(self) -> None:
        """Kills processes whose event loop stands still: they can do nothing any more, not even end."""
        while True:
            await self._sleep(self._settings.silent_timeout / 4)
            await asyncio.gather(*(self._hear(place.process) for place in self.places if place.up.is_set()))

    async def _hear(self, process: Process | None) -> None:
        if process is None or await process.ask("sign of life", self._settings.silent_timeout) is not None:
            return
        if process in self._alive:
            seconds = self._settings.silent_timeout
            logger.error("process %d has not answered for %g s: it is killed, and replaced", process.pid, seconds)
            process.kill()
