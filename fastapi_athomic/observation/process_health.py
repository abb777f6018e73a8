"""What health says of the process, beside its consumers: event loops, and the app's own checks. Awaits nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from ..loop.load import LAG_INTERVAL, LoopLag
from ..operation_settings import HealthSettings
from .app_checks import AppChecks
from .reasons import Reason, ReasonCode, ago
from .registry_health import RegistryHealth


class ProcessHealth:
    """Of one app. `live_in` names the consumers' event loop anew in each run of the app."""

    def __init__(
        self, settings: HealthSettings, routes: LoopLag, checks: AppChecks, parts: Callable[[], Iterable[object]]
    ) -> None:
        self.checks = checks
        self._registries = RegistryHealth(parts, settings.check_interval)  # of these payload steps
        self._settings = settings
        self._routes = routes  # of the event loop of the routes
        self._consumers: LoopLag | None = None  # of that of the consumers, if it is another
        self._ended: Callable[[], bool] = lambda: False  # whether that has ended by itself

    def live_in(self, consumers: LoopLag, ended: Callable[[], bool]) -> None:
        """`consumers`: how late the consumers' event loop is; it may be that of the routes."""
        self._consumers = None if consumers is self._routes else consumers
        self._ended = ended

    async def watch(self) -> None:
        """Does what is to be done in the background, in the event loop of the routes, until it is cancelled."""
        self._registries.begin()
        try:
            await self.checks.watch()  # returns at once if there are none
            await asyncio.get_running_loop().create_future()
        finally:
            self._registries.end()

    def reasons(self) -> Iterator[Reason]:
        """What is not healthy."""
        yield from self._of_consumers_loop()
        yield from self._late(self._routes, "the event loop of the routes")
        if self._consumers is not None:
            yield from self._late(self._consumers, "the event loop of the consumers")
        yield from self._registries.reasons()
        yield from self.checks.reasons()

    def _of_consumers_loop(self) -> Iterator[Reason]:
        if self._ended():
            said = "the consumers' thread has ended: nothing is consumed until the process is restarted"
            yield Reason(code=ReasonCode.CONSUMER_LOOP_ENDED, message=said)
            return
        seconds = self._stands_for()
        said = f"the event loop of the consumers has not turned for {seconds:.0f} s: does a handler block it?"
        late, stalled = self._settings.loop_late, self._settings.loop_stalled
        if seconds > stalled:
            code, limit = ReasonCode.CONSUMER_LOOP_STALLED, stalled
        elif seconds > late:
            code, limit = ReasonCode.CONSUMER_LOOP_BLOCKED, late
        else:
            return
        yield Reason(code=code, message=said, since=ago(seconds), limit_seconds=limit)

    def _stands_for(self) -> float:
        """Seconds by which the routes' loop has gone on turning without that of the consumers: not if both slept."""
        routes, consumers = self._routes.turned_at, self._consumers.turned_at if self._consumers else None
        if routes is None or consumers is None:
            return 0.0
        return max(0.0, routes - consumers - LAG_INTERVAL)

    def _late(self, lag: LoopLag, what: str) -> Iterator[Reason]:
        if lag.late is None:
            return
        at, seconds = lag.late
        passed, limit = monotonic() - at, self._settings.loop_late
        if passed < self._settings.shown_for:
            said = f"{what} turned {seconds:.1f} s late, {passed:.0f} s ago"
            yield Reason(code=ReasonCode.EVENT_LOOP_LATE, message=said, since=ago(passed), limit_seconds=limit)
