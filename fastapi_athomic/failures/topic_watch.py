"""Which own topics exist on the broker now: creates the missing ones to write to, and follows those to consume.

Nothing is remembered for long: other processes create these topics when they need them, and operators may delete them
at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime
from time import monotonic

from ..clock import utc_now
from ..exceptions import NotAuthorizedError, TopicNotFoundError, TransportError
from ..observation.reasons import Reason, ReasonCode
from ..rights import missing_right
from ..transports.base import TopicCounts, Transport, TransportConsumer
from .return_topics import ReturnTopics

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
"""Seconds between two requests for the retry and redrive topics that exist. One request serves all handlers."""
LISTING_SECONDS = 60.0
"""Seconds between two listings of all topics of the broker, at least: a listing takes time where there are thousands.

A listing finds retry topics of deploys with other delays. There is one at the start, and one after a rebalance: a
process of another deploy may have left.
"""
COUNT_SECONDS = 1.0
"""For this long the partition count of a topic to write to is taken from memory."""
MISSES = 2
"""A topic counts as gone after so many requests in a row without it: not every broker knows a new topic at once."""


class TopicWatch:
    """Knows which of an app's own topics exist. All handlers of the app share one.

    Each handler asks every `FOLLOW_SECONDS`, and the first one's answer serves the others.
    """

    def __init__(
        self, transport: Transport, *, timeout: float, create_topics: bool, made: Callable[[str], bool]
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._create_topics = create_topics
        self._made = made  # tells by its name whether a topic was made for a group of this app
        self._counts: dict[str, tuple[int, float]] = {}  # by topic to write to: partitions, and when that was heard
        self._questions: dict[str, asyncio.Future[int]] = {}  # by topic: requests under way for its partitions
        self._present: dict[str, int] = {}  # topics that exist, and how many requests in a row have missed them
        self._unreadable: dict[str, datetime] = {}  # those of them that we must not read, and since when
        self._hidden: set[str] = set()  # those of which the broker does not even say whether they exist
        self._wanted: set[str] = set()  # names of topics that handlers would follow
        self._asked_at = self._listed_at = float("-inf")
        self._moved = True  # there was a rebalance since the last listing
        self._asking = asyncio.Lock()
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
            await self._transport.create_topics({topic: counts.get(source, -1)}, self._timeout)
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

    # --- topics to follow

    def expect(self, topics: Collection[str]) -> None:
        """Topics to ask for by name. Others that were made for this app are found too, but only by a listing."""
        self._wanted.update(topics)

    async def existing(self, belongs: Callable[[str], bool]) -> frozenset[str]:
        """The app's own topics that exist and for which `belongs` is true, as of at most `FOLLOW_SECONDS` ago.

        Raises:
            TransportError: the broker does not answer.
        """
        async with self._asking:
            if monotonic() - self._asked_at >= FOLLOW_SECONDS / 2:
                await self._look()
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

    async def _look(self) -> None:
        now = monotonic()
        if self._moved and now - self._listed_at >= LISTING_SECONDS:
            counts = await self._list()
        else:
            counts = await self._transport.partition_counts({*self._wanted, *self._present}, self._timeout)
        self._asked_at = now
        hidden = {topic for topic in counts.denied if counts.denies("Describe", topic)}
        self._hidden -= counts.keys()
        self._tell_of_hidden(hidden)
        found = {*counts, *(hidden & self._present.keys())}  # what is hidden need not be gone
        for topic in found:
            self._note_rights(topic, counts)
        missed = {topic: misses + 1 for topic, misses in self._present.items() if topic not in found}
        present = {topic: misses for topic, misses in missed.items() if misses < MISSES} | dict.fromkeys(found, 0)
        self._present = present
        self._unreadable = {topic: since for topic, since in self._unreadable.items() if topic in present}

    async def _list(self) -> TopicCounts:
        self._moved = False
        try:
            listed = await self._transport.partition_counts(None, self._timeout)
        except TransportError:
            self._moved = True
            raise
        self._listed_at = monotonic()
        ours = {topic: count for topic, count in listed.items() if topic in self._wanted or self._made(topic)}
        return TopicCounts(ours, {topic: listed.denied[topic] for topic in ours if topic in listed.denied})

    def _tell_of_hidden(self, hidden: set[str]) -> None:
        for topic in sorted(hidden - self._hidden - self._present.keys()):
            logger.info("if there is a topic %s, it is not consumed: %s", topic, missing_right("Read", "Topic", topic))
        self._hidden |= hidden

    async def follow(self, client: TransportConsumer, returns: ReturnTopics, followed: frozenset[str]) -> None:
        """Keeps a consumer subscribed to those of its retry and redrive topics that exist. Runs until it is cancelled.

        `followed`: those that it is subscribed to now.
        """
        news = asyncio.Event()
        self._news.append(news)
        try:
            while True:
                if not await _comes(news, FOLLOW_SECONDS):
                    await self._look_again(returns)
                news.clear()
                found = frozenset(filter(returns.brings_back, self._present)) - self._unreadable.keys()
                if found != followed and await _subscribe(client, found):
                    followed = found
        finally:
            self._news.remove(news)

    async def _look_again(self, returns: ReturnTopics) -> None:
        try:
            await self.existing(returns.brings_back)
        except TransportError as error:  # the broker is down; the consumer warns of that
            logger.debug("cannot ask for retry and redrive topics now, will ask again: %s", error)

    def _tell(self) -> None:
        for event in self._news:
            event.set()


def _unreadable(topic: str) -> str:
    return missing_right("Read", "Topic", topic)


def missing(topics: Collection[str]) -> str:
    """What an error says of topics that are missing and may not be created."""
    return f"topic {', '.join(topics)} does not exist and create_topics is off"


async def _comes(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _subscribe(client: TransportConsumer, topics: frozenset[str]) -> bool:
    try:
        await client.follow(topics)
    except TransportError as error:
        logger.warning("cannot subscribe to retry and redrive topics now, will try again: %s", error)
        return False
    return True
