"""The life of a consumer: sessions that follow each other, each built after the one before it broke."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

from ..clock import utc_now
from ..complaints import Complaints
from ..error_text import exc_info
from ..exceptions import AthomicError, ControlRefusedError, StateStoreError, TransportError
from ..settings import AthomicSettings
from .session import ConsumerSession
from .states import TRANSITIONS, ServiceState

logger = logging.getLogger(__name__)

STEADY_SECONDS = 60.0
"""After a session that lived for longer, the back-off starts again at its shortest."""
BREAK_SECONDS = 300.0
"""Between two log lines about the same error that keeps a consumer from consuming."""
MOST_BREAKS = 100
"""So many of the last breaks are remembered, to tell how often it broke lately."""


class Supervision:
    """Runs one session after the other until it is stopped, with a back-off after each that broke.

    `entered` is called when the group has given a session its partitions. Its attributes are for others to read.
    """

    def __init__(
        self,
        name: str,
        new_session: Callable[[], ConsumerSession],
        settings: AthomicSettings,
        entered: Callable[[], None],
    ) -> None:
        self.name = name
        self.state = ServiceState.NEW
        self.changed_at = utc_now()  # when `state` changed
        self.session: ConsumerSession | None = None
        self.restarts = 0
        self.restart_error: BaseException | None = None  # why a session broke for the last time
        self.broke_at: deque[float] = deque(maxlen=MOST_BREAKS)  # on the monotonic clock
        self._new_session = new_session
        self._settings = settings
        self._entered = entered
        self._breaks = _new_breaks()
        self._repeats = False  # it has broken off again with an error that was told
        self._supervisor: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._restart = asyncio.Event()  # an operator wants a new session
        self._restart_began: asyncio.Future[bool] | None = None  # False: it was stopped instead
        self._stop_timeout = settings.shutdown_timeout
        self._ready = asyncio.Event()  # has been ready once

    async def start(self) -> None:
        """Returns when the group has given it partitions, perhaps none; keeps trying while the broker is away."""
        if self._supervisor is None and not self._stop.is_set():
            self._supervisor = asyncio.create_task(self._supervise(), name=f"athomic-{self.name}")
        await self._ready.wait()

    def leave_to_workers(self) -> None:
        """Call it instead of `start` where others consume: nothing is started, and nothing is wrong with that."""
        self._become(ServiceState.ELSEWHERE)

    async def stop(self, timeout: float) -> None:
        """Finishes what runs, commits and leaves within `timeout` seconds. Never raises; may be called twice."""
        self._stop_timeout = timeout
        self._stop.set()
        if self._supervisor is None:
            if self.state is not ServiceState.ELSEWHERE:  # others consume, still: nothing has stopped
                self._become(ServiceState.STOPPED)
            return
        _, late = await asyncio.wait([self._supervisor], timeout=timeout + 1)
        if late:
            logger.error("%s did not stop within %.1f s and is abandoned", self.name, timeout)
            self._supervisor.cancel()
            self._note_restart(began=False)

    async def restart(self) -> None:
        """Closes the session as a stop does, and begins the next one at once. Returns when that begins.

        Does nothing before the first session: it is about to begin. Raises `ControlRefusedError` if it stops.
        """
        if self._stop.is_set() or self.state in (ServiceState.STOPPING, ServiceState.STOPPED):
            raise ControlRefusedError(f"{self.name} cannot be restarted: it is stopping, or has stopped")
        if self.state is ServiceState.NEW:
            return
        if self._restart_began is None or self._restart_began.done():  # else somebody restarts it already
            self._restart_began = asyncio.get_running_loop().create_future()
        self._restart.set()
        if not await asyncio.shield(self._restart_began):
            raise ControlRefusedError(f"{self.name} was stopped before it began anew")

    @property
    def stopping(self) -> bool:
        """It was told to stop, and may have."""
        return self._stop.is_set()

    @property
    def ready(self) -> bool:
        """The session that runs has joined the group."""
        return self.state is ServiceState.RUNNING

    @property
    def has_been_ready(self) -> bool:
        """Some session had its partitions."""
        return self._ready.is_set()

    @property
    def died(self) -> bool:
        """What builds sessions has ended, though nobody stopped it: a fault of ours."""
        return self._supervisor is not None and self._supervisor.done() and not self._stop.is_set()

    # --- sessions

    def _become(self, state: ServiceState) -> None:
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise AthomicError(f"{self.name} cannot go from {self.state} to {state}")
        again = self._repeats and state in (ServiceState.STARTING, ServiceState.BACKING_OFF)
        logger.log(logging.DEBUG if again else logging.INFO, "%s: %s", self.name, state)
        self.state, self.changed_at = state, utc_now()

    async def _supervise(self) -> None:
        delay = self._settings.restart_backoff
        while not self._stop.is_set():
            self._become(ServiceState.STARTING)
            self._note_restart(began=True)
            began = monotonic()
            try:
                await self._live_one_session()
            except Exception as error:  # by a fault of ours; what consumes no more must not look as if it did
                self._note_break(error)
            if self._stop.is_set():
                break
            if self._restart.is_set() or monotonic() - began > STEADY_SECONDS:
                delay = self._settings.restart_backoff
            if self._restart.is_set():
                continue
            if self.state is ServiceState.RUNNING:  # else it has not come so far: the broker may be away
                self.broke_at.append(monotonic())
            self._become(ServiceState.BACKING_OFF)
            await self._pause_before_restart(delay)
            delay = min(delay * 2, self._settings.restart_backoff_max)
        self._become(ServiceState.STOPPING)
        self._become(ServiceState.STOPPED)
        self._note_restart(began=False)

    def _note_restart(self, *, began: bool) -> None:
        self._restart.clear()
        if self._restart_began is not None and not self._restart_began.done():
            self._restart_began.set_result(began)

    async def _live_one_session(self) -> None:
        session = self.session = self._new_session()
        running = asyncio.create_task(session.run(), name=f"athomic-{self.name}-session")
        stopping = asyncio.create_task(self._told_to_end())
        joining = asyncio.create_task(session.joined.wait())
        try:
            await asyncio.wait([running, stopping, joining], return_when=asyncio.FIRST_COMPLETED)
            if joining.done() and not running.done() and not stopping.done():
                self._note_ready()
                await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            joining.cancel()
            stopping.cancel()
            if self._stop.is_set():
                self._become(ServiceState.STOPPING)
            await self._close(session, running)

    async def _told_to_end(self) -> None:
        """Returns when the service is stopped or restarted."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._restart)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _close(self, session: ConsumerSession, running: asyncio.Task[None]) -> None:
        broke = running.done()
        await session.close(self._stop_timeout if self._stop.is_set() else self._settings.drain_timeout)
        if not running.done():
            running.cancel()
        await asyncio.wait([running], timeout=1)
        if broke and not running.cancelled() and (error := running.exception()) is not None:
            self._note_break(error)

    def _note_break(self, error: BaseException) -> None:
        """The same error is told once, and every five minutes, until it consumes again."""
        self.restart_error = error
        if (more := self._breaks.due(describe(error))) is None:
            self._repeats = True
            return
        # no traceback where the broker or the store is the cause: it says nothing beyond the error's own words
        unforeseen = not isinstance(error, TransportError | StateStoreError)
        shown = exc_info(error, exposed=self._settings.expose_error_messages) if unforeseen else None
        since = f" ({more} more times since this was logged)" if more else ""
        what = "consumption broke off (%s), it will be started again"
        logger.error(f"%s: {what}%s", self.name, describe(error), since, exc_info=shown)

    def _note_ready(self) -> None:
        self._become(ServiceState.RUNNING)
        self._breaks, self._repeats = _new_breaks(), False
        self._entered()
        self._ready.set()

    async def _pause_before_restart(self, delay: float) -> None:
        self.restarts += 1
        try:
            async with asyncio.timeout(delay):
                await self._told_to_end()
        except TimeoutError:
            pass


def _new_breaks() -> Complaints:
    return Complaints(burst=1, interval=BREAK_SECONDS)


def describe(error: BaseException) -> str:
    """Our own errors in full; of other errors only the type, as their text may hold data."""
    return str(error) if isinstance(error, AthomicError) else type(error).__name__
