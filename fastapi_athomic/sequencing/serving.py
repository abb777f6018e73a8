"""Who acts next on an aggregate (a worker, the store or nobody), and what the workers do."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Unpack

from ..consumption.gate import Gate
from ..consumption.lanes import LANE_TURN
from ..consumption.strategies import StrategyParts
from ..consumption.workers import Worker, WorkerPool
from ..outcomes import FailureContext
from .aggregates import Aggregate, Item
from .assignment import Assignment, Refusals
from .attempts import Attempts
from .burials import Burials
from .calls import Agenda
from .holdings import Holdings

Lane = Aggregate | Refusals
"""What a worker serves. No second worker serves it meanwhile: `busy` says so."""


class Serving:
    """Serves up to `concurrency` aggregates at once, and one message at a time of each."""

    def __init__(
        self,
        attempts: Attempts,
        burials: Burials,
        assignment: Assignment,
        agenda: Agenda,
        holdings: Holdings,
        gate: Gate[Lane],
        **parts: Unpack[StrategyParts],
    ) -> None:
        self._attempts = attempts
        self._burials = burials
        self._assignment = assignment
        self._agenda = agenda
        self._holdings = holdings
        self._gate = gate
        self._counters = parts["counters"]
        self._timings = self._counters.timings
        self._share = parts["share"]
        self._guard = parts["guard"]
        self.pool: WorkerPool[Lane] = WorkerPool(parts["concurrency"], self._serve, parts["name"], self._guard.wake)

    # --- who acts next

    def dispatch(self, aggregate: Aggregate) -> None:
        """Called after anything has happened to an aggregate: passes it on to a worker, to the store, or to nobody."""
        if aggregate.busy or self._to_worker(aggregate):
            return
        if aggregate.idle:
            self._holdings.keep_idle(aggregate)
        elif self._needs_store(aggregate):
            self._agenda.mark(aggregate)

    def _to_worker(self, aggregate: Aggregate) -> bool:
        """Passes it to a worker. False: it has no work that may start now."""
        now = monotonic()
        if self._assignment.closed or not aggregate.held(now):
            return False
        if now >= self._agenda.silent_from:
            self._agenda.hindered[aggregate] = None
            return False
        if aggregate.burials:
            startable = self._assignment.host() is not None
        else:
            item = aggregate.next_item()
            startable = item is not None and self._may_start(aggregate, item, now)
        if startable:
            aggregate.busy = True
            self.enqueue(aggregate)
        return startable

    def _may_start(self, aggregate: Aggregate, item: Item, now: float) -> bool:
        if aggregate.rests_until > now or not aggregate.held(now) or now >= self._agenda.silent_from:
            return False
        if item.partition is not None:
            return item.partition.open
        return self._assignment.host() is not None and not self._guard.paused(item.message.topic_partition)

    def _needs_store(self, aggregate: Aggregate) -> bool:
        """It has something to claim, to write, to park or to renew."""
        if aggregate.token is None and not aggregate.refused:
            return self._assignment.active()
        if aggregate.unwritten or aggregate.buried:
            return True
        if aggregate.early_items():
            return not aggregate.full
        return aggregate.token is not None and not aggregate.held(monotonic()) and self._assignment.active()

    def refuse(self, refusals: Refusals, failure: FailureContext) -> None:
        """The message of this failure has no place in any sequence: it goes to the DLQ."""
        refusals.letters.append(failure)
        self._counters.failed += 1
        self.enqueue_refusals(refusals)

    def enqueue_refusals(self, refusals: Refusals) -> None:
        """Passes them to a worker, if there are any and their partition is open."""
        if refusals.letters and not refusals.busy and refusals.partition.open:
            refusals.busy = True
            self.enqueue(refusals)

    def enqueue(self, lane: Lane) -> None:
        """Has a lane served that is `busy`."""
        self._agenda.lanes += 1
        self.pool.put(lane)

    def _enqueue_later(self, lane: Lane, delay: float) -> None:
        asyncio.get_running_loop().call_later(delay, self.enqueue, lane)

    # --- what workers do

    async def _serve(self, worker: Worker, lane: Lane) -> None:
        self._guard.suspect(monotonic())
        try:
            if isinstance(lane, Refusals):
                if (delay := await self._burials.refuse(worker, lane)) is not None:
                    self._enqueue_later(lane, delay)
                else:
                    lane.busy = False
            elif lane.burials:
                if (delay := await self._burials.bury(worker, lane)) is not None:
                    self._enqueue_later(lane, delay)
                else:
                    self._leave(lane)
            else:
                await self._serve_aggregate(worker, lane)
        except asyncio.CancelledError:
            self._agenda.lanes += 1  # the pool puts it back, unless it is closing
            raise
        finally:
            worker.started_at = None
            self._agenda.lanes -= 1
            if self._gate.active:
                self._gate.left(lane)
            self._agenda.hurry()

    async def _serve_aggregate(self, worker: Worker, aggregate: Aggregate) -> None:
        """Handles the next message, and the next, until one is missing or has to wait, or others want the worker."""
        share, pool, gate = self._share, self.pool, self._gate
        now = monotonic()
        turn_ends = now + LANE_TURN
        while (item := aggregate.next_item()) is not None and self._may_start(aggregate, item, now):
            if gate.active and aggregate.letter is None and not gate.admits(aggregate):
                return
            worker.started_at = now
            if (delay := await self._attempts.make(aggregate, item)) is not None:
                if monotonic() >= share.deadline:
                    await share.give_way()
                self._enqueue_later(aggregate, delay)
                return
            now, began = monotonic(), now
            self._timings.note(began, now, item.message.timestamp)
            if now >= share.deadline and not share.turned(began, now):
                await share.give_way()
                now = monotonic()
            if now > self._guard.trusted_until:
                self._guard.suspect(now)
            if pool.excess or (now >= turn_ends and pool.waiting):
                self.enqueue(aggregate)
                return
        self._leave(aggregate)

    def _leave(self, aggregate: Aggregate) -> None:
        aggregate.busy = False
        self.dispatch(aggregate)
