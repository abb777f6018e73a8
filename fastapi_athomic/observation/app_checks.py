"""The app's own checks (of a database, say): run in the background, so that no answer about health waits for them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Any

from ..clock import utc_now
from ..error_text import text_of, type_name
from ..exceptions import ConfigurationError
from ..operation_settings import HealthSettings
from .reasons import Reason, ReasonCode, ago
from .status import CheckStatus

Check = Callable[[], object]
"""A sync or async function without arguments. It fails if it raises, returns False, or takes too long."""


class _Watched:
    """One check, and what it said last. Times are monotonic, in seconds."""

    def __init__(self, name: str, check: Check) -> None:
        self.name = name
        self.check = check
        self.answer: tuple[str | None, float, float] | None = None  # what is wrong, when it ended, how long it took
        self.failing_since: datetime | None = None
        self.in_thread = False  # a call of a sync check has not returned yet

    def note(self, problem: str | None, took: float) -> None:
        """The check has ended just now."""
        self.failing_since = None if problem is None else self.failing_since or utc_now()
        self.answer = problem, monotonic(), took


class AppChecks:
    """Runs the checks of one app while `watch` runs, in its event loop; sync ones in a thread of their own each.

    Often while somebody asks (`asked`), else slowly. What was answered last may be read from any thread.

    Raises:
        ConfigurationError: `checks` is no mapping of functions by name.
    """

    def __init__(self, checks: Mapping[str, Check], settings: HealthSettings, *, exposed: bool = True) -> None:
        if not isinstance(checks, Mapping) or not all(
            isinstance(name, str) and callable(check) for name, check in checks.items()
        ):
            raise ConfigurationError('include_athomic: health_checks must be a dict of functions: {"database": check}')
        self._watched = [_Watched(name, check) for name, check in checks.items()]
        self._settings = settings
        self._exposed = exposed  # show what exceptions say
        self._asked_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()

    def asked(self) -> None:
        """Somebody wants to know: for a while the checks run often."""
        before, self._asked_at = self._asked_at, monotonic()
        if self._loop is not None and self._asked_at - before > self._settings.check_interval:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._asked.set)

    async def watch(self) -> None:
        """Runs the checks until it is cancelled."""
        self._loop, self._asked = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                for each in self._watched:
                    group.create_task(self._watch(each), name=f"athomic-check-{each.name}")
        finally:
            self._loop = None

    async def _watch(self, each: _Watched) -> None:
        while True:
            began = monotonic()
            problem = await self._problem(each)
            each.note(problem, monotonic() - began)
            await self._pause()

    async def _pause(self) -> None:
        """Until the next run is due: a short while after somebody asked, or a long one."""
        often, seldom = self._settings.check_interval, self._settings.check_idle_interval
        if monotonic() - self._asked_at > seldom:
            self._asked.clear()
            try:
                async with asyncio.timeout(max(0.0, seldom - often)):
                    await self._asked.wait()
                return
            except TimeoutError:
                pass
        await asyncio.sleep(often)

    async def _problem(self, each: _Watched) -> str | None:
        """Why the check fails; None: it does not."""
        limit = asyncio.timeout(self._settings.check_timeout)
        try:
            async with limit:
                answer = await self._call(each)
        except Exception as error:
            if limit.expired():
                return f"no answer within {self._settings.check_timeout:g} s"
            said = text_of(error, exposed=self._exposed)
            return f"{type_name(error)}: {said}" if said else type_name(error)
        return "it returned False" if answer is False else None

    async def _call(self, each: _Watched) -> object:
        if inspect.iscoroutinefunction(each.check):
            return await each.check()
        answer = await self._in_thread(each)
        return await answer if inspect.isawaitable(answer) else answer

    async def _in_thread(self, each: _Watched) -> Any:
        """Calls a sync check. A thread that hangs cannot be ended: no second one is started beside it."""
        if each.in_thread:
            raise TimeoutError("the last call has not returned yet")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def tell(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_it(value)

        def run() -> None:
            try:
                outcome = future.set_result, each.check()
            except BaseException as error:
                kept = error if isinstance(error, Exception) else RuntimeError(type_name(error))
                outcome = future.set_exception, kept
            each.in_thread = False
            with suppress(RuntimeError):  # the app has ended meanwhile
                loop.call_soon_threadsafe(tell, *outcome)

        each.in_thread = True
        try:
            threading.Thread(target=run, name=f"athomic-check-{each.name}", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            each.in_thread = False
            raise
        return await future

    # --- what they said

    def reasons(self) -> Iterator[Reason]:
        """Those that fail, and those that have not answered yet."""
        limit = self._settings.check_timeout
        for each in self._watched:
            if each.answer is None:
                said = f"check {each.name} has not answered yet"
                yield Reason(code=ReasonCode.CHECK_PENDING, message=said, limit_seconds=limit)
            elif (problem := each.answer[0]) is not None:
                said, code = f"check {each.name} fails: {problem}", ReasonCode.CHECK_FAILED
                yield Reason(code=code, message=said, since=each.failing_since, limit_seconds=limit)

    def statuses(self) -> dict[str, CheckStatus]:
        """The last answer of each check, by name."""
        return {each.name: _status(each) for each in self._watched}


def _status(each: _Watched) -> CheckStatus:
    if each.answer is None:
        return CheckStatus()
    problem, ended, took = each.answer
    age = monotonic() - ended
    return CheckStatus(
        ok=problem is None, message=problem, checked_at=ago(age), age_seconds=round(age, 3), took_seconds=round(took, 3)
    )
