"""When one broker is asked, on which lane, and how long it may wait for messages.

Lanes that stand ask for everything that is wanted at once, with a session each, and wait at the broker until a message
comes, for seconds if all is quiet. Each partition has one of them as its home. A few partitions share one lane; of many
no lane has more than it must, as the broker looks at all of a lane's for each answer. What is wanted meanwhile (a
partition was resumed, or a buffer has been emptied) cannot be told to the broker on the lane that waits, so a few more
lanes ask for it, for short times, until its home takes it over.

While messages trickle, a lane may rest for some milliseconds after each request (`kafka.fetch_pace`): what is on its
way comes in one answer then. That costs each message about as long, and with 2 ms saves a fifth of the CPU.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Container
from contextvars import Context
from time import monotonic

from aiokafka.errors import FetchSessionIdNotFound, InvalidFetchSessionEpoch, OffsetOutOfRangeError, for_code

from ...messages import TopicPartition
from .client import KafkaClient
from .damage import NothingThereError
from .fetch_lane import OVERDUE, Lane
from .fetch_wire import Answer, Limits, Part
from .options import RETRY_SECONDS
from .reading import Owner, Reading

logger = logging.getLogger(__name__)

PARTITIONS_A_LANE, MOST_STANDING = 5, 16
"""There is another standing lane for each so many partitions, but no more than so many to a broker."""
SHORT_WAIT = 0.25
"""Seconds that the broker may wait for messages on a standing lane, at least. The longer nothing has happened, the
longer it may wait, up to `kafka.fetch_max_wait`."""
OTHER_WAITS = (0.25, 0.1, 0.02)
"""The same for the other lanes. The last one is short: what is wanted while all lanes wait has to wait for it."""
SOON = 0.01
"""A lane whose time is up within so many seconds is waited for, instead of asking on another one."""
GATHER = 0.002
"""Seconds for which a lane waits, at most, until what was fetched has been taken and is wanted again."""
TRICKLE_BYTES = 16 * 1024
"""An answer with more is no trickle: nothing is gathered, the next request goes out as soon as something is wanted."""
EMPTY_ANSWERS = 10
"""Answers in a row without anything of a partition, though it has more, before it is held. They take some seconds."""
GONE = 3
"""The error code of a partition that the broker does not know (any more)."""
MOVED = frozenset({6, 74, 75})
"""Error codes of a partition that is elsewhere now: another leader, another leader's epoch."""
SESSION_LOST = (FetchSessionIdNotFound.errno, InvalidFetchSessionEpoch.errno)


class BrokerSchedule:
    """Asks one broker for the partitions that are wanted of it.

    Args:
        longest_wait: seconds that the broker may wait for messages.
        pace: seconds between two requests on one lane while messages trickle.
        on_moved: called with a partition that this broker may not lead any more.
        on_gone: called with a partition that this broker does not know, or of which it could not be asked.
        context: of all that it does by itself. It lives for long, and so do connections that are opened in it.
    """

    def __init__(
        self,
        client: KafkaClient,
        node: int,
        limits: Limits,
        longest_wait: float,
        pace: float,
        on_moved: Callable[[Reading], None],
        on_gone: Callable[[Reading], None],
        context: Context,
    ) -> None:
        self.node = node
        self._client = client
        self._limits = limits
        self._longest_wait = longest_wait
        self._pace = pace
        self._on_moved, self._on_gone = on_moved, on_gone
        self._loop = asyncio.get_running_loop()
        self._standing: list[Lane] = []
        self._homes: dict[TopicPartition, Lane] = {}
        self._lives = Counter[Lane]()  # for how many partitions each is the home
        self._others = [
            Lane(client, node, f"fetch-{number}", limits, self._hear, session=False)
            for number in range(1, len(OTHER_WAITS) + 1)
        ]
        self._hungry: dict[Reading, None] = {}  # wanted, and on no lane yet
        self._context = context
        self._look: asyncio.Handle | None = None
        self._looks_at = 0.0  # on the monotonic clock
        self._watching: asyncio.TimerHandle | None = None
        self._watches_at = 0.0  # on the monotonic clock
        self._delivering = False  # an answer is given on: whoever takes it in has their turn before the next request
        self._closed = False

    # --- what is wanted

    def want(self, reading: Reading) -> None:
        """Fetch this partition from its position on, once: what comes goes into its buffer."""
        home = self._homes.get(reading.place) or self._home(reading)
        home.taken_soon.discard(reading)
        home.changed_at = monotonic()
        if not home.take(reading):
            self._hungry[reading] = None
        self._look_soon()

    def _home(self, reading: Reading) -> Lane:
        """The standing lane of its partition."""
        home = self._homes.get(reading.place)
        if home is None:
            home = self._homes[reading.place] = self._emptiest()
            self._lives[home] += 1
        return home

    def _emptiest(self) -> Lane:
        emptiest = min(self._standing, key=self._lives.__getitem__, default=None)
        number = len(self._standing)
        if emptiest is None or (self._lives[emptiest] >= PARTITIONS_A_LANE and number < MOST_STANDING):
            emptiest = Lane(self._client, self.node, f"standing-{number}", self._limits, self._hear, session=True)
            self._standing.append(emptiest)
        return emptiest

    def keep_only(self, led: Container[TopicPartition]) -> None:
        """Other partitions have no home here any more: the broker does not lead them."""
        for place in [place for place in self._homes if place not in led]:
            home = self._homes.pop(place)
            self._lives[home] -= 1
            home.taken_soon -= {reading for reading in home.taken_soon if reading.place == place}

    def forget(self, reading: Reading) -> None:
        """Fetch it no more."""
        self._hungry.pop(reading, None)
        if (home := self._homes.get(reading.place)) is not None:
            home.taken_soon.discard(reading)

    def readings(self) -> list[Reading]:
        """All that are wanted of this broker."""
        lanes = (*self._standing, *self._others)
        carried = [reading for lane in lanes for carried in lane.carried.values() for reading in carried.readers]
        return [*carried, *self._hungry]

    def close(self) -> None:
        """Asks no more."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        if self._watching is not None:
            self._watching.cancel()

    # --- when

    def _look_soon(self, delay: float = 0.0) -> None:
        if self._delivering:
            return
        at = monotonic() + delay
        if self._look is not None:
            if self._looks_at <= at:
                return
            self._look.cancel()
        self._looks_at = at
        if delay:
            self._look = self._loop.call_later(delay, self._act, context=self._context)
        else:
            self._look = self._loop.call_soon(self._act, context=self._context)

    def _act(self) -> None:
        self._look = None
        try:
            self._ask()
        except Exception:  # a fault of ours must not end the fetching of all members
            logger.exception("broker %d cannot be asked, trying again", self.node)
            self._look_soon(RETRY_SECONDS)

    def _ask(self) -> None:
        now = monotonic()
        if self._hungry:
            self._take_home()
        for lane in self._standing:
            if not lane.busy and lane.carried:
                self._use(lane, now)
        if self._hungry:
            self._send_others(now)

    def _use(self, lane: Lane, now: float) -> None:
        rest = self._rest(lane, now)
        if rest > 0:
            self._look_soon(rest)
        else:
            self._send(lane, min(self._longest_wait, max(SHORT_WAIT, now - lane.changed_at)))

    def _take_home(self) -> None:
        """What waits for a lane that is free goes on it."""
        for reading in list(self._hungry):
            if self._home(reading).take(reading):
                del self._hungry[reading]

    def _rest(self, lane: Lane, now: float) -> float:
        """Seconds until the lane should be used."""
        if lane.idles:  # other lanes that are about to end bring what this one takes over
            ends = [other.ends_at for other in self._others if other.busy and other.ends_at - now <= SOON]
            return max(ends, default=now) - now
        gather = lane.rests_until - now if lane.taken_soon else 0.0
        return max(gather, lane.sent_at + self._pace - now) if lane.trickles else 0.0

    def _send_others(self, now: float) -> None:
        """Asks for what its home cannot ask for now, unless that is about to end."""
        waiting = [reading for reading in self._hungry if not -OVERDUE < self._home(reading).ends_at - now <= SOON]
        for lane, wait in zip(self._others, OTHER_WAITS, strict=True):
            if lane.busy or not waiting:
                continue
            rest = lane.sent_at + self._pace - now if lane.trickles else 0.0
            if rest > 0:
                self._look_soon(rest)
                return
            taken = [reading for reading in waiting if lane.take(reading)]
            waiting = [reading for reading in waiting if reading.carried is None]
            for reading in taken:
                del self._hungry[reading]
            ends = [self._home(reading).ends_at for reading in taken]
            self._send(lane, min([wait, *(end - now for end in ends if end > now)]))

    # --- asking

    def _send(self, lane: Lane, wait: float) -> None:
        lane.starts(wait)
        self._watch_from(lane.doubted_at)
        try:
            lane.ask(wait)
        except Exception as error:  # a fault of ours must not leave the lane waiting for ever
            logger.exception("broker %d cannot be asked, trying again", self.node)
            lane.set_exception(error)

    def _watch_from(self, at: float) -> None:
        if self._watching is not None:
            if self._watches_at <= at:
                return
            self._watching.cancel()
        self._watches_at = at
        self._watching = self._loop.call_later(at - monotonic(), self._watch)

    def _watch(self) -> None:
        """Answers may be late."""
        self._watching, now = None, monotonic()
        busy = [lane for lane in (*self._standing, *self._others) if lane.busy]
        late = [lane for lane in busy if lane.doubted_at <= now]
        for lane in late:
            lane.doubt(now)
        if late:
            self._look_soon()  # what has its home there need not wait for it any more
        if busy:
            self._watch_from(min(lane.doubted_at for lane in busy))

    def _hear(self, lane: Lane, heard: Answer | BaseException) -> None:
        """What came of a request. Never raises: whatever it is, the next request may go through."""
        if self._closed:
            return
        if isinstance(heard, Answer) and heard.code and heard.code not in SESSION_LOST:
            heard = for_code(heard.code)()
        if isinstance(heard, Answer):
            self._go_on(lane, heard)
        else:
            logger.info("fetching from broker %d failed: %s", self.node, str(heard) or type(heard).__name__)
            self._loop.call_later(RETRY_SECONDS, self._go_on, lane, None)

    def _go_on(self, lane: Lane, answer: Answer | None) -> None:
        """The lane is free. Without an answer, all it carried may be elsewhere."""
        if self._closed:
            return
        lane.busy, self._delivering = False, True
        try:
            if answer is not None:
                self._deliver(lane, answer)
            else:
                for reading in lane.release():
                    self._on_gone(reading)  # perhaps it is, and nobody could say so; else it comes back at once
        except Exception:  # a fault of ours must not end the fetching of all members
            logger.exception("an answer of broker %d cannot be given on", self.node)
        finally:
            self._delivering = False
        if lane in self._others:
            self._hungry |= dict.fromkeys(reading for reading in lane.release() if reading.wanted)
        if self._look is not None:  # of a lane in the same turn of the loop: who takes in this answer comes first
            self._look.cancel()
            self._look = None
        self._look_soon()

    def _deliver(self, lane: Lane, answer: Answer) -> None:
        told: set[Owner] = set()
        size = 0
        for part in answer.parts:
            size += len(part.data)
        lane.trickles, lane.idles = 0 < size < TRICKLE_BYTES, not size
        if size:
            lane.changed_at = now = monotonic()
            lane.rests_until = now + GATHER
        for part in answer.parts:
            carried = lane.carried.get(part.place)
            if carried is not None:
                for reading in list(carried.readers):
                    self._hand_over(lane, reading, part, told)
        if not answer.code and not answer.throttled and size <= self._limits.most_bytes // 2:
            self._count_empty(lane, told, others_came=size > 0)
        for owner in told:
            owner.on_arrival()

    def _hand_over(self, lane: Lane, reading: Reading, part: Part, told: set[Owner]) -> None:
        if not part.code:
            reading.highwater, reading.last_stable = part.highwater, part.last_stable
            if not part.data:
                return
            reading.empty_answers = 0
            lane.drop(reading)
            try:
                reading.arrived(part.data, part.aborted)
            except Exception as error:  # of this partition only
                reading.hold(error)
            if lane.trickles and lane is self._homes.get(reading.place):  # else nobody would look at it, nor drop it
                lane.taken_soon.add(reading)
        else:
            lane.drop(reading)
            if part.code in MOVED:
                self._on_moved(reading)
                return
            if part.code == GONE:
                self._on_gone(reading)
                return
            if part.code == OffsetOutOfRangeError.errno:
                reading.misplace()
            else:
                reading.hold(for_code(part.code)(part.place.topic))
        told.add(reading.owner)

    def _count_empty(self, lane: Lane, told: set[Owner], *, others_came: bool) -> None:
        """If the length of a batch on disk is wrong, the broker finds no whole batch, however often it is asked.

        Where other partitions are busy, answers come fast: few of them are counted.
        """
        now = monotonic()
        if others_came and now < lane.counted_at + SHORT_WAIT:
            return
        lane.counted_at = now
        for reading in [reading for carried in lane.carried.values() for reading in carried.readers if reading.lags]:
            self._home(reading).changed_at = now  # so that it is asked again before long
            reading.empty_answers += 1
            if reading.empty_answers >= EMPTY_ANSWERS:
                reading.empty_answers = 0
                lane.drop(reading)
                reading.hold(NothingThereError())
                told.add(reading.owner)
