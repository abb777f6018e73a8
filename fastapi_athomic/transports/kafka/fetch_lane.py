"""Lanes: each sends one fetch request at a time to one broker, on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from ...messages import TopicPartition
from .client import KafkaClient
from .fetch_wire import Answer, FetchQuestion, FetchSession, Limits, answer_of
from .reading import Carried, Reading

NOTHING = object()
OVERDUE = 1.0
"""A lane whose answer is late by so many seconds is doubted: its connection may be dead."""
SILENT_SECONDS = 4.0
"""If nothing has come for so long after that, it is, and is closed. A large answer may take longer to come."""

Tell = Callable[["Lane", Answer | BaseException], None]


class Lane:
    """Fetches partitions from one broker. Calls `tell` with each answer, or with the error. That must not raise.

    With a session it keeps them from one request to the next (until they are dropped); without one it asks for them
    once.
    """

    def __init__(self, client: KafkaClient, node: int, name: str, limits: Limits, tell: Tell, *, session: bool) -> None:
        self.node = node
        self.carried: dict[TopicPartition, Carried] = {}
        self.busy = False  # a request is under way
        self.sent_at = self.ends_at = 0.0  # the request that is, or was, under way; on the monotonic clock
        self.trickles = self.idles = False  # the last answer had little, or nothing
        self.changed_at = float("-inf")  # something was wanted, or came; on the monotonic clock
        self.taken_soon: set[Reading] = set()  # was just fetched, and will be wanted again
        self.rests_until = 0.0  # on the monotonic clock: the next request can wait until then for what is taken soon
        self.doubted_at = 0.0  # from then on it is asked whether anything has come; on the monotonic clock
        self.counted_at = float("-inf")  # an answer was counted for what brings nothing; on the monotonic clock
        self.group = name  # of its connection
        self._client = client
        self._limits = limits
        self._tell = tell
        self._session = FetchSession() if session else None
        self._throttled = 0.0  # so many seconds the broker lets pass before it looks at the request
        self._heard: object = NOTHING
        self._wait = 0.0  # seconds for which the broker may wait for messages
        self._waits = False  # for an answer

    def take(self, reading: Reading) -> bool:
        """Asks for this partition from now on. False: it cannot, as somebody else asks for it from another offset."""
        assert reading.position is not None
        place = reading.place
        carried = self.carried.get(place)
        if carried is None:
            if self.busy:
                return False
            carried = self.carried[place] = Carried(self, place, reading.position)
            if self._session is not None:
                self._session.note(place, reading.position)
        elif carried.offset != reading.position:
            return False
        carried.readers.append(reading)
        reading.carried = carried
        if self._session is not None and reading.highwater is None and place in self._session.ends:
            reading.highwater, reading.last_stable = self._session.ends[place]
        return True

    def drop(self, reading: Reading) -> None:
        """Asks for it no more."""
        carried, reading.carried = reading.carried, None
        if carried is None:
            return
        carried.readers.remove(reading)
        if not carried.readers and self.carried.get(carried.place) is carried:
            del self.carried[carried.place]
            if self._session is not None:
                self._session.note(carried.place, None)

    def release(self) -> list[Reading]:
        """Drops all; returns who wanted something."""
        readers = [reader for carried in self.carried.values() for reader in carried.readers]
        for reading in readers:
            self.drop(reading)
        return readers

    def starts(self, wait: float) -> None:
        """A request is about to be sent."""
        self.busy, self.ends_at, self._wait = True, monotonic() + wait, wait
        self.doubted_at, self._heard = self.ends_at + self._throttled + OVERDUE, NOTHING

    def doubt(self, now: float) -> None:
        """Call it at `doubted_at`: closes the connection if nothing has come since the last call."""
        sent = self._client.waits_since(self.node, self.group)  # later than `sent_at` if it had to be opened
        late_at = (now if sent is None else sent) + self._wait + self._throttled + OVERDUE
        if late_at > now:
            self.doubted_at = late_at
            return
        heard = self._client.heard(self.node, self.group)
        if heard == self._heard:
            self._client.hang_up(self.node, self.group)
        self.doubted_at, self._heard = now + SILENT_SECONDS, heard

    def ask(self, wait: float) -> None:
        """Sends one request for all it carries. The broker answers as soon as there is a message, or after `wait`."""
        milliseconds = round(wait * 1000)
        self._waits = True
        if self._session is not None:
            question = self._session.question(milliseconds, self._limits)
        else:
            asked = {place: carried.offset for place, carried in self.carried.items()}
            question = FetchQuestion(milliseconds, self._limits, asked)
        self.sent_at = monotonic()
        self._client.ask(self.node, question, self.group, self)

    # --- what the connection calls

    def done(self) -> bool:
        """It has got an answer or an error: a connection that closes asks before it tells another one."""
        return not self._waits

    def set_result(self, answer: Any) -> None:
        self._waits = False
        if not isinstance(answer, Answer):
            answer = answer_of(answer)
        self._throttled = answer.throttled
        if self._session is not None:
            if answer.code:
                self._session.reset()
            else:
                self._session.answered(answer)
        self._tell(self, answer)

    def set_exception(self, error: BaseException) -> None:
        self._waits = False
        if self._session is not None:
            self._session.reset()
        self._tell(self, error)
