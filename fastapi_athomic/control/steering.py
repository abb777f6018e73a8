"""What an app can do to its consumers while they run. `Athomic` inherits it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from inspect import isawaitable
from typing import Any, Literal, Protocol, TypeVar

from ..clock import utc_now
from ..error_text import exc_info, one_line, type_name
from ..exceptions import AthomicError, ConfigurationError, NotFoundError, PublishError
from ..failures.settling import SettlingReport
from ..loop.isolation import Home
from ..observation.process import this_process
from ..observation.status import PauseStatus
from ..settings import AthomicSettings
from .actions import BREAKER, THE_APP, Actor, ControlAction, ControlEvent
from .desk import Desk
from .results import Outcome, ProcessResult, SteeringResult
from .seek_plans import PartitionSeek, SeekPlan, Target

__all__ = [
    "Listener",
    "Outcome",
    "PartitionSeek",
    "PauseStatus",
    "ProcessResult",
    "SeekPlan",
    "Steering",
    "SteeringResult",
    "Target",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Listener = Callable[[ControlEvent], Any]
"""Gets each event; may be a coroutine function."""
L = TypeVar("L", bound=Listener)


class Running(Protocol):
    """A run of the app's consumers."""

    @property
    def home(self) -> Home:
        """The event loop that the consumers run in."""
        ...

    @property
    def desk(self) -> Desk:
        """Does what is asked here, in that loop."""
        ...


class Steering:
    """Pauses, resumes, restarts, tunes and moves consumers. For all of its coroutines:

    - They may be awaited in any event loop of the process, at any time while the app runs: while consumers start, wait
      for the broker, are rebalanced or stop.
    - `actor` says who does it, and why. Each action is one log line of level INFO, and is told to `on_control`.
    - They raise `HandlerNotFoundError` if there is no such handler; `ConfigurationError` if an argument is wrong
      (`SourceNotFoundError`: the handler does not consume the topic); `ControlRefusedError` if it cannot be done now;
      `PublishError` if the app does not run its consumers.
    """

    settings: AthomicSettings

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._telling = set[asyncio.Task[None]]()  # of what circuit breakers did

    def _running(self) -> Running:
        raise NotImplementedError

    # --- pauses

    async def pause(
        self,
        handler_id: str,
        *,
        topic: str | None = None,
        partition: int | None = None,
        seconds: float | None = None,
        actor: Actor = THE_APP,
    ) -> list[PauseStatus]:
        """Stops a handler from getting messages: all of them, or those of one topic or partition.

        Running calls finish. What was fetched stays in order. It lasts until `resume`, or `seconds`; over rebalances;
        with a state store also over restarts, and for all members of the group (see `pauses_note`). The same scope
        again replaces the pause. A handler's retry topics are topics of their own. Returns the pauses in force.
        """
        details = {"topic": topic, "partition": partition, "seconds": seconds}
        return await self._act(
            ControlAction.PAUSE,
            handler_id,
            actor,
            details,
            lambda desk: desk.pause(handler_id, topic, partition, seconds, actor),
        )

    async def resume(
        self, handler_id: str, *, topic: str | None = None, partition: int | None = None, actor: Actor = THE_APP
    ) -> list[PauseStatus]:
        """Ends pauses: all of the handler; those of a topic and its partitions; or that of one partition.

        Does nothing if there are none. Returns those that are still in force: a partition stays paused while its topic
        or the whole handler is.
        """
        details = {"topic": topic, "partition": partition}
        return await self._act(
            ControlAction.RESUME, handler_id, actor, details, lambda desk: desk.resume(handler_id, topic, partition)
        )

    @property
    def pauses_note(self) -> str | None:
        """Why what was paused or resumed does not hold for all members of the group yet: the state store is away.

        None: it holds, or there is no store. Raises `PublishError` if the app does not run its consumers.
        """
        return self._running().desk.pauses_note

    # --- the consumer

    # For all of these: with a state store, and `control.enabled`, all processes that have the handler do it, whichever
    # is asked, also one of the role web. Each answers; the result says what became of it in each of them.

    async def restart(self, handler_id: str, *, actor: Actor = THE_APP) -> SteeringResult:
        """Closes the handler's membership gently, as a stop does, and begins a new one. Nothing concluded repeats.

        Returns when the new one begins, after up to `drain_timeout` seconds; of several processes, which do it one
        after the other, when all have done it, or after 50 seconds. A consumer that backs off starts at once. Pauses
        and what was set stay.
        """
        return await self._tell_all(ControlAction.RESTART, handler_id, actor, {})

    async def set_concurrency(self, handler_id: str, value: int | None, *, actor: Actor = THE_APP) -> SteeringResult:
        """How many messages or batches each process handles at once for the handler, from now on.

        None: as in code or settings. Running calls go on; no order is lost. With a state store it is kept there, for
        processes that start later, until it is set to None; else it holds until this process ends.
        """
        return await self._tell_all(ControlAction.CONCURRENCY, handler_id, actor, {"value": value})

    async def set_rate(
        self,
        handler_id: str,
        messages_per_second: float | None,
        *,
        burst: int | None = None,
        actor: Actor = THE_APP,
    ) -> SteeringResult:
        """How many messages a second each process begins at most for the handler, from now on; see `RateLimit`.

        None: as in code or settings. `burst`: how many may begin at once after a pause; None: what comes in a second.
        It holds for as long as `set_concurrency` says.
        """
        values = {"messages_per_second": messages_per_second, "burst": burst}
        return await self._tell_all(ControlAction.RATE, handler_id, actor, values)

    async def set_breaker(
        self, handler_id: str, state: Literal["open", "closed", "auto"], *, actor: Actor = THE_APP
    ) -> SteeringResult:
        """Opens the circuit breaker of a handler, closes it, or leaves it to itself. It need not have one in code.

        Opened here it stays open, and no message is tried, until it is closed here, or left to itself; for as long as
        `set_concurrency` says. Closing one that opened by itself ends its pause at once, and forgets the failures.
        `auto`: one that is open tries one message now, which decides.
        """
        return await self._tell_all(ControlAction.BREAKER, handler_id, actor, {"state": state})

    async def _tell_all(
        self, action: ControlAction, handler_id: str, actor: Actor, values: dict[str, Any]
    ) -> SteeringResult:
        return await self._act(
            action,
            handler_id,
            actor,
            values,
            lambda desk: desk.tell_all(handler_id, action, values, actor),
            lambda result: result.named() if len(result.processes) != 1 or not result.done else {},
        )

    # --- positions

    async def plan_seek(self, handler_id: str, topic: str, *, partition: int | None = None, to: Target) -> SeekPlan:
        """What `seek` would do now, and why it would be refused; changes nothing. See `Target`.

        Exact while the handler is paused: else it may handle more messages before the seek.
        """
        run = self._running()
        return await run.home.run(lambda: run.desk.plan_seek(handler_id, topic, partition, to))

    async def seek(
        self,
        handler_id: str,
        topic: str,
        partition: int | None = None,
        offset: int | None = None,
        *,
        to: Target | None = None,
        force: bool = False,
        actor: Actor = THE_APP,
    ) -> SeekPlan:
        """Makes a handler go on elsewhere in a partition, or in all partitions of a topic: see `Target`.

        Back, to handle messages again, or ahead, to skip some. Running calls have `drain_timeout` seconds to finish.
        The new position is committed, so it also holds after a restart. If other members of the group have some of the
        partitions, nothing is done, unless `force` is set: then it is done for those that are assigned here, and
        handed over for the others, if there is a state store. Returns what was skipped and repeated.

        Raises:
            TopicNotFoundError, PartitionNotFoundError: there is none.
            ControlRefusedError: a partition is not assigned here or has no such offset; nothing has changed.
            TransportError: the broker cannot be reached, or refused the commit.
        """
        target = offset if to is None else to
        if target is None or (to is not None and offset is not None):
            raise ConfigurationError("seek needs either an offset or `to`: an offset, a datetime, 'beginning' or 'end'")
        details = {"topic": topic, "partition": partition, "to": target, "force": force or None}
        return await self._act(
            ControlAction.SEEK,
            handler_id,
            actor,
            details,
            lambda desk: desk.seek(handler_id, topic, partition, target, force=force),
            lambda plan: {
                "offsets": {str(each.partition): each.to_offset for each in plan.partitions if each.done},
                "skipped": plan.skipped,
                "repeated": plan.repeated,
            },
        )

    # --- who hears of it

    def on_control(self, callback: L) -> L:
        """Calls `callback` with a `ControlEvent` after each action, done or refused, by code, by HTTP or by a command.

        It may be a coroutine function; the action returns after it. It is called in the event loop of whoever acted;
        its errors are logged. Returns `callback`, so that this can be a decorator.
        """
        self._listeners.append(callback)
        return callback

    async def note_action(
        self, action: ControlAction, handler_id: str, actor: Actor, details: dict[str, Any], *, done: bool = True
    ) -> None:
        """Logs an action, and tells those who listen."""
        event = ControlEvent(
            action=action,
            consumer=handler_id,
            actor=actor.name,
            reason=actor.reason,
            at=utc_now(),
            process=this_process(self.settings.instance_id),
            details={name: _plain(value) for name, value in details.items() if value is not None},
            done=done,
        )
        said = one_line(", ".join(f"{name} {value}" for name, value in event.details.items()))
        why = f": {one_line(actor.reason)}" if actor.reason else ""
        outcome = "" if done else " was refused or failed"
        logger.info(
            "%s: %s%s%s, by %s%s",
            *(handler_id, action, f" ({said})" if said else "", outcome, one_line(actor.name), why),
        )
        for listener in list(self._listeners):
            try:
                result = listener(event)
                if isawaitable(result):
                    await result
            except Exception as error:
                shown = exc_info(error, exposed=self.settings.expose_error_messages)
                logger.error("a listener of `on_control` failed", exc_info=shown)

    def _listen_to_breakers(self, run: Running) -> None:
        """Changes of circuit breakers are told like actions. Call it before the run begins."""

        def told(handler_id: str, details: dict[str, Any]) -> None:
            note = self.note_action(ControlAction.BREAKER, handler_id, BREAKER, details)
            task = asyncio.get_running_loop().create_task(note, name="athomic-breaker")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

        run.desk.listen_to_breakers(told)

    async def _finish_telling(self, seconds: float) -> None:
        """Listeners may use what the app closes next. In the consumers' event loop."""
        if self._telling:
            _, late = await asyncio.wait(self._telling, timeout=seconds)
            if late:
                logger.warning("a listener of `on_control` has not returned; the app ends without it")

    async def _act(
        self,
        action: ControlAction,
        handler_id: str,
        actor: Actor,
        details: dict[str, Any],
        work: Callable[[Desk], Awaitable[T]],
        more: Callable[[T], dict[str, Any]] = lambda _: {},
    ) -> T:
        run = self._running()
        return await self._noted(action, handler_id, actor, details, lambda: run.home.run(lambda: work(run.desk)), more)

    async def note_settling(
        self,
        action: str,
        handler_id: str,
        actor: Actor,
        details: dict[str, Any],
        work: Callable[[], Awaitable[SettlingReport]],
    ) -> SettlingReport:
        """Has dead letters settled by `work`, and tells it: `action` is redrive or discard."""
        return await self._noted(
            *(ControlAction(action), handler_id, actor, details, work),
            lambda report: {"selected": report.selected, "settled": report.settled},
        )

    async def _noted(
        self,
        action: ControlAction,
        handler_id: str,
        actor: Actor,
        details: dict[str, Any],
        work: Callable[[], Awaitable[T]],
        more: Callable[[T], dict[str, Any]],
    ) -> T:
        try:
            result = await work()
        except (ConfigurationError, NotFoundError, PublishError):
            raise  # nobody was asked anything that makes sense
        except (Exception, asyncio.CancelledError) as error:
            await self.note_action(action, handler_id, actor, {**details, "error": _why(error)}, done=False)
            raise
        await self.note_action(action, handler_id, actor, {**details, **more(result)})
        return result


def _why(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled while it was being done: a part of it may be done"
    return str(error) if isinstance(error, AthomicError) else type_name(error)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
