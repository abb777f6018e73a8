"""Takes messages out of the client, into their partitions and to the strategy.

In bulk the poll loop does that, which shares the event loop with the routes. While messages trickle, waking a task for
each of them would cost as much as taking it in: then a few are taken in where they arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import copy_context
from time import monotonic, time

from ..bell import Bell
from ..messages import RawMessage, TopicPartition
from ..transports.base import TransportConsumer
from .assignment import Assignment
from .partitions import PartitionState
from .parts import SessionParts
from .placement import Placement

logger = logging.getLogger(__name__)

FEW = 10
"""So many messages at most are taken in where they arrive, before the poll loop has to do it."""


class Intake:
    """What one session takes in.

    What the section "status" holds may be read from another thread.
    """

    def __init__(
        self,
        parts: SessionParts,
        assignment: Assignment,
        placement: Placement,
        client: Callable[[], TransportConsumer],
        bell: Bell,
    ) -> None:
        self._name = parts.name
        self._counters = parts.counters
        self._assignment = assignment
        self._placement = placement
        self._client = client
        self._bell = bell  # the poll loop waits at it
        self._context = copy_context()  # not that of whoever sent what arrives: workers are started in it
        self._few = min(FEW, parts.settings.max_poll_messages)  # more at once would be more than may be buffered
        self._taking = False
        self._failure: Exception | None = None  # beside the poll loop
        self.trickles = False  # few came at a time lately: the poll loop need not be woken for them
        self.looks_soon = False  # it will compare positions soon
        self.came = False  # messages have come since the poll loop set this back
        # --- status
        self.last_message_at: float | None = None  # seconds since the epoch
        self.full_since: Mapping[TopicPartition, float] = {}  # partitions without room for more; monotonic

    # --- in the poll loop

    def check(self) -> None:
        """Raises what went wrong where messages arrived. Call it before anything else.

        Messages may have left the client then that no partition has heard of. Whoever takes in more, or compares
        positions, would handle the next ones before them, or commit beyond them.
        """
        if self._failure is not None:
            raise self._failure

    def wanted(self, now: float) -> list[TopicPartition]:
        """The partitions of which messages may be taken in now."""
        states = self._assignment.states
        wanted = [place for place, state in states.items() if self._wants(place, state)]
        if len(wanted) < len(states) or self.full_since:
            self._note_full(wanted, now)
        return wanted

    def _wants(self, place: TopicPartition, state: PartitionState) -> bool:
        return (state.open or not state.paused) and state.has_room() and place not in self._placement.unplaced

    def _note_full(self, wanted: Collection[TopicPartition], now: float) -> None:
        """Which partitions are not fetched because they have no room; others are paused, or are not placed yet."""
        states, asked = self._assignment.states, {*wanted, *self._placement.unplaced}
        full = [place for place, state in states.items() if state.open and place not in asked]
        self.full_since = {place: self.full_since.get(place, now) for place in full}

    def take(self, wanted: Collection[TopicPartition], most: int) -> int:
        """Takes in what there is, at most so many messages. Returns how many came. Raises `TransportError`."""
        count = 0
        for place, messages in self._client().take(wanted, most).items():
            if messages:
                self._accept(place, messages)
                count += len(messages)
        if count:
            self.came = True
        return count

    def _accept(self, place: TopicPartition, messages: Sequence[RawMessage]) -> None:
        state = self._assignment.states.get(place)
        if state is None or state.revoked:
            return
        if messages[0].offset <= state.high_offset:  # handlers that still run for the old position are fenced
            logger.warning(
                "%s: offsets of %s went back to %d: its position or its log was reset; reading goes on from there",
                *(self._name, place, messages[0].offset),
            )
            self._assignment.revoke([state])
            state = self._assignment.add(place, None, state.stamp)
        new = state.receive(messages)
        self._counters.received += len(messages)
        self._counters.redelivered += len(messages) - len(new)
        self.last_message_at = time()
        self._assignment.strategy.accept(state, new)

    # --- where messages arrive

    def arrived(self) -> None:
        """Call it when messages or an error may have arrived. Never raises."""
        if not (self.trickles and self._bell.waited_for and not self._taking and self._take_few_aside()):
            self._bell.ring()

    def _take_few_aside(self) -> bool:
        self._taking = True
        try:
            return self._context.run(self._take_few)
        except Exception as error:
            self._failure = error
            return False
        finally:
            self._taking = False

    def _take_few(self) -> bool:
        """Takes in what there is. False: the poll loop has to look."""
        assignment = self._assignment
        if assignment.closing or assignment.doubtful or monotonic() > assignment.trusted_until:
            return False
        states = assignment.states
        ready = [
            place
            for place in self._client().ready()
            if (state := states.get(place)) is not None and self._wants(place, state)
        ]
        return bool(ready) and 0 < self.take(ready, self._few) < self._few and not self._skips(ready)

    def _skips(self, places: Iterable[TopicPartition]) -> bool:
        """Offsets without a message lie behind the last messages, and the poll loop would not look at them soon."""
        states, client = self._assignment.states, self._client()
        return not self.looks_soon and any(states[place].skips_to(client.position(place)) for place in places)
