"""Which of an app's topics exist on the broker now: creates missing ones, and follows own topics to consume.

Nothing is remembered for long: other processes create these topics when they need them, and operators may delete them
at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from time import monotonic

from ..clock import utc_now
from ..exceptions import NotAuthorizedError, TopicNotFoundError, TransportError
from ..observation.reasons import Reason, ReasonCode
from ..rights import missing_right
from ..transports.base import TopicCounts, Transport, TransportConsumer
from .return_topics import ReturnTopics
from .topic_maker import TopicMaker

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
"""Seconds between two requests for all topics that the app's handlers name, or would follow."""
LISTING_SECONDS = 60.0
"""Seconds between two listings of all topics of the broker, at least: a listing takes time where there are thousands.

A listing finds retry topics of deploys with other delays. There is one at the start, and one after a rebalance: a
process of another deploy may have left.
"""
COUNT_SECONDS = 1.0
"""For this long the partition count of a topic to write to is taken from memory, and what exists at a start."""
MISSES = 2
"""A topic counts as gone after so many requests in a row without it: not every broker knows a new topic at once."""


Heard = Callable[[TopicCounts], None]
"""Is told what the broker has just said of all topics of the app."""


class TopicWatch:
    """Knows which of an app's topics exist. All handlers of the app share one, and one request serves them all.

    While a handler follows, the broker is asked every `FOLLOW_SECONDS`.
    """

    def __init__(
        self, transport: Transport, *, timeout: float, create_topics: bool, made: Callable[[str], bool]
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._maker = TopicMaker(transport, timeout)
        self._create_topics = create_topics
        self._made = made  # tells by its name whether a topic was made for a group of this app
        self._counts: dict[str, tuple[int, float]] = {}  # by topic to write to: partitions, and when that was heard
        self._questions: dict[str, asyncio.Future[int]] = {}  # by topic: requests under way for its partitions
        self._present: dict[str, int] = {}  # topics that exist, and how many requests in a row have missed them
        self._unreadable: dict[str, datetime] = {}  # those of them that we must not read, and since when
        self._hidden: set[str] = set()  # those of which the broker does not even say whether they exist
        self._named: set[str] = set()  # topics that handlers consume, and their DLQs
        self._wanted: set[str] = set()  # names of topics that handlers would follow
        self._latest = TopicCounts()  # what the broker has said last of all these
        self._asked_at = self._listed_at = float("-inf")
        self._moved = True  # there was a rebalance since the last listing
        self._looking: asyncio.Future[None] | None = None  # the request that is under way
        self._regular: asyncio.Future[None] | None = None  # looks again and again, while somebody follows
        self._news: list[asyncio.Event] = []

    # --- topics to write to

    async def partitions_of(self, topic: str, source: str) -> int:
        """How many partitions the topic has. If it is missing it is created, with as many as its source.

        Raises:
            NotAuthorizedError: it must not be written to, or not be created.
            TransportError: it is missing and may not be created, or the broker does not answer.
        """
        count, heard_at = self._counts.get(topic, (0, float("-inf")))
        if monotonic() - heard_at <= COUNT_SECONDS:
            return count
        asking = self._questions.get(topic)
        if asking is None:  # one request for all who want to write to it now
            asking = self._questions[topic] = asyncio.ensure_future(self._ask_or_make(topic, source))
            asking.add_done_callback(lambda done: self._note_answer(topic, done))
        return await asyncio.shield(asking)

    def _note_answer(self, topic: str, answer: asyncio.Future[int]) -> None:
        del self._questions[topic]
        if answer.cancelled() or answer.exception() is not None:
            return
        self._counts[topic] = answer.result(), monotonic()
        if topic not in self._present:
            self._present[topic] = 0
            self._tell()

    async def _ask_or_make(self, topic: str, source: str) -> int:
        counts = await self._ask_to_write(topic, source)
        if topic not in counts:
            if not self._create_topics:
                raise TopicNotFoundError(missing([topic]))
            await self._maker.make({topic: counts.get(source, -1)})
            logger.info("topic %s was created: it is needed now", topic)
            counts = await self._ask_to_write(topic)
        if topic not in counts:
            raise TopicNotFoundError(f"topic {topic} was created, but the broker does not know it yet")
        self._note_rights(topic, counts)
        return counts[topic]

    async def _ask_to_write(self, topic: str, *others: str) -> TopicCounts:
        counts = await self._transport.partition_counts([topic, *others], self._timeout)
        if counts.denies("Write", topic):
            raise NotAuthorizedError(missing_right("Write", "Topic", topic), [topic])
        return counts

    def forget(self, topic: str) -> None:
        """Called when a write to it failed: it may have been deleted or recreated. The next write asks again."""
        self._counts.pop(topic, None)

    # --- what exists

    def expect(self, named: Collection[str], returns: Collection[str]) -> None:
        """Topics to ask for by name: those that a handler consumes and its DLQs, and those that it would follow.

        Others that were made for this app are found too, but only by a listing.
        """
        self._named.update(named)
        self._wanted.update(returns)

    async def counts(self, topics: Collection[str], *, recent: bool = False) -> TopicCounts:
        """What the broker says of these topics, as of at most `COUNT_SECONDS` ago. `recent`: or `FOLLOW_SECONDS` ago.

        If all of them are expected, others who ask at about the same time get the same answer.

        Raises:
            TransportError: the broker does not answer.
        """
        if not self._named.union(self._wanted).issuperset(topics):
            return await self._transport.partition_counts(topics, self._timeout)
        await self._look(FOLLOW_SECONDS / 2 if recent else COUNT_SECONDS)
        return self._latest

    async def make(self, topics: Mapping[str, int]) -> None:
        """See `TopicMaker.make`."""
        await self._maker.make(topics)
        self._asked_at = float("-inf")

    async def existing(self, belongs: Callable[[str], bool]) -> frozenset[str]:
        """The app's own topics that exist and for which `belongs` is true, as of at most `FOLLOW_SECONDS` ago.

        Raises:
            TransportError: the broker does not answer.
        """
        await self._look(FOLLOW_SECONDS / 2)
        return frozenset(filter(belongs, self._present))

    async def readable(self, belongs: Callable[[str], bool]) -> frozenset[str]:
        """Those of `existing` that may be read: a consumer that followed another would get nowhere with all of them."""
        return await self.existing(belongs) - self._unreadable.keys()

    def problems(self, belongs: Callable[[str], bool]) -> list[Reason]:
        """Which of these topics exist, but must not be read."""
        code = ReasonCode.RETURN_TOPIC_UNREADABLE
        return [
            Reason(code=code, message=f"what comes to {topic} waits: {_unreadable(topic)}", since=since)
            for topic, since in sorted(dict(self._unreadable).items())
            if belongs(topic)
        ]

    def _note_rights(self, topic: str, counts: TopicCounts) -> None:
        if not counts.denies("Read", topic):
            self._unreadable.pop(topic, None)
        else:
            self._unreadable.setdefault(topic, utc_now())

    def note_move(self) -> None:
        """Called after a rebalance: a process of another deploy may have left retry topics."""
        self._moved = True

    async def _look(self, max_age: float) -> None:
        """Has the broker asked, unless that was done less than `max_age` seconds ago or is under way."""
        if monotonic() - self._asked_at < max_age:
            return
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._ask())
            self._looking.add_done_callback(self._note_look)
        await asyncio.shield(self._looking)

    def _note_look(self, look: asyncio.Future[None]) -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # who waited for it may be gone: asyncio would log that nobody has seen the error

    async def _ask(self) -> None:
        now = monotonic()
        own = {*self._wanted, *self._present}
        if self._moved and now - self._listed_at >= LISTING_SECONDS:
            own |= await self._list()
        counts = await self._transport.partition_counts(own | self._named, self._timeout)
        self._asked_at, self._latest = now, counts
        self._note(counts, own)
        self._tell()

    def _note(self, counts: TopicCounts, own: set[str]) -> None:
        hidden = {topic for topic in own & counts.denied.keys() if counts.denies("Describe", topic)}
        self._hidden -= counts.keys()
        self._tell_of_hidden(hidden)
        found = {*own & counts.keys(), *(hidden & self._present.keys())}  # what is hidden need not be gone
        for topic in found:
            self._note_rights(topic, counts)
        missed = {topic: misses + 1 for topic, misses in self._present.items() if topic not in found}
        present = {topic: misses for topic, misses in missed.items() if misses < MISSES} | dict.fromkeys(found, 0)
        self._present = present
        self._unreadable = {topic: since for topic, since in self._unreadable.items() if topic in present}

    async def _list(self) -> set[str]:
        """The topics on the broker that were made for this app."""
        self._moved = False
        try:
            listed = await self._transport.partition_counts(None, self._timeout)
        except TransportError:
            self._moved = True
            raise
        self._listed_at = monotonic()
        return set(filter(self._made, listed))

    def _tell_of_hidden(self, hidden: set[str]) -> None:
        for topic in sorted(hidden - self._hidden - self._present.keys()):
            logger.info("if there is a topic %s, it is not consumed: %s", topic, missing_right("Read", "Topic", topic))
        self._hidden |= hidden

    # --- topics to follow

    async def follow(
        self, client: TransportConsumer, returns: ReturnTopics, followed: frozenset[str], heard: Heard
    ) -> None:
        """Keeps a consumer subscribed to those of its retry and redrive topics that exist. Runs until it is cancelled.

        `followed`: those that it is subscribed to now. `heard` is told each answer of the broker.
        """
        with self._told() as news:
            while True:
                await news.wait()
                news.clear()
                heard(self._latest)
                found = frozenset(filter(returns.brings_back, self._present)) - self._unreadable.keys()
                if found != followed and await _subscribe(client, found):
                    followed = found

    @contextmanager
    def _told(self) -> Iterator[asyncio.Event]:
        """An event that is set when there is something new. The broker is asked regularly meanwhile."""
        news = asyncio.Event()
        self._news.append(news)
        if self._regular is None:
            self._regular = asyncio.create_task(self._look_regularly(), name="athomic-topics")
        try:
            yield news
        finally:
            self._news.remove(news)
            if not self._news:
                self._regular.cancel()
                self._regular = None

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self._look(FOLLOW_SECONDS / 2)
            except TransportError as error:  # the broker is down; the consumers warn of that
                logger.debug("cannot ask for topics now, will ask again: %s", error)
            except Exception:  # else no handler would hear of a topic any more
                logger.exception("asking for topics failed, they will be asked for again")

    def _tell(self) -> None:
        for event in self._news:
            event.set()


def _unreadable(topic: str) -> str:
    return missing_right("Read", "Topic", topic)


def missing(topics: Collection[str]) -> str:
    """What an error says of topics that are missing and may not be created."""
    return f"topic {', '.join(topics)} does not exist and create_topics is off"


async def _subscribe(client: TransportConsumer, topics: frozenset[str]) -> bool:
    try:
        await client.follow(topics)
    except TransportError as error:
        logger.warning("cannot subscribe to retry and redrive topics now, will try again: %s", error)
        return False
    return True
