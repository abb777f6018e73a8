"""Which of the product's own topics exist. They are made when they are needed, and operators may do with them what they
like at any time: what is known of them is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from time import monotonic

from ..exceptions import TopicNotFoundError, TransportError
from ..transports.base import Transport, TransportConsumer
from .return_topics import ReturnTopics

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
"""Between two looks for retry and redrive topics that others have made or deleted: one question for all handlers."""
LISTING_SECONDS = 60.0
"""Between two looks at all topics of the broker, at least, for those of deploys with other delays: where there are
thousands such a look takes time. There is one at the start, and one after the group's partitions have moved, as they do
when a process of another deploy has gone.
"""
COUNT_SECONDS = 1.0
"""For so long it is believed that a topic that is written to exists, with so many partitions."""
MISSES = 2
"""So many looks in a row must miss a topic before it counts as gone: not all brokers hear of a new one at once."""


class TopicWatch:
    """One for all handlers of an app.

    Handlers ask for the topics to follow every `FOLLOW_SECONDS`; the answer to the first of them is shared by all.
    """

    def __init__(
        self, transport: Transport, *, timeout: float, create_topics: bool, made: Callable[[str], bool]
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._create_topics = create_topics
        self._made = made  # tells by their names what was made for the groups of this app
        self._counts: dict[str, tuple[int, float]] = {}  # partitions of what is written to, and when that was heard
        self._questions: dict[str, asyncio.Future[int]] = {}  # whether it exists: on their way
        self._present: dict[str, int] = {}  # topics that exist, and how many looks in a row have missed them
        self._wanted: set[str] = set()  # names that handlers would follow
        self._asked_at = self._listed_at = float("-inf")
        self._moved = True  # partitions of a group, since all topics were looked at
        self._asking = asyncio.Lock()
        self._news: list[asyncio.Event] = []

    # --- to write to

    async def partitions_of(self, topic: str, source: str) -> int:
        """How many partitions the topic has. Where it is missing it is made, with as many as its source.

        Raises:
            TransportError: it is missing and may not be made, or the broker cannot tell.
        """
        count, heard_at = self._counts.get(topic, (0, float("-inf")))
        if monotonic() - heard_at <= COUNT_SECONDS:
            return count
        asking = self._questions.get(topic)
        if asking is None:  # many may want to write to it at once
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
        counts = await self._transport.partition_counts([topic, source], self._timeout)
        if topic not in counts:
            if not self._create_topics:
                raise TopicNotFoundError(missing([topic]))
            await self._transport.create_topics({topic: counts.get(source, -1)}, self._timeout)
            logger.info("topic %s was made: it is needed now", topic)
            counts = await self._transport.partition_counts([topic], self._timeout)
        if topic not in counts:
            raise TopicNotFoundError(f"topic {topic} was made, but the broker does not know it yet")
        return counts[topic]

    def forget(self, topic: str) -> None:
        """Writing to it failed: it may be gone, or be another one of that name."""
        self._counts.pop(topic, None)

    # --- to follow

    def expect(self, topics: Collection[str]) -> None:
        """These are asked for. What was made under other names is found, too, but not as soon."""
        self._wanted.update(topics)

    async def existing(self, belongs: Callable[[str], bool]) -> frozenset[str]:
        """The topics of this app that exist, as of `FOLLOW_SECONDS` ago at most, and for which `belongs` is true.

        Raises:
            TransportError: the broker cannot tell.
        """
        async with self._asking:
            if monotonic() - self._asked_at >= FOLLOW_SECONDS / 2:
                await self._look()
        return self._belonging(belongs)

    def _belonging(self, belongs: Callable[[str], bool]) -> frozenset[str]:
        return frozenset(filter(belongs, self._present))

    def note_move(self) -> None:
        """The group's partitions have moved: a process of another deploy may have left topics behind."""
        self._moved = True

    async def _look(self) -> None:
        now = monotonic()
        if self._moved and now - self._listed_at >= LISTING_SECONDS:
            found = await self._list()
        else:
            found = set(await self._transport.partition_counts({*self._wanted, *self._present}, self._timeout))
        self._asked_at = now
        missed = {topic: misses + 1 for topic, misses in self._present.items() if topic not in found}
        present = {topic: misses for topic, misses in missed.items() if misses < MISSES} | dict.fromkeys(found, 0)
        self._present = present

    async def _list(self) -> set[str]:
        self._moved = False
        try:
            listed = await self._transport.partition_counts(None, self._timeout)
        except TransportError:
            self._moved = True
            raise
        self._listed_at = monotonic()
        return {topic for topic in listed if topic in self._wanted or self._made(topic)}

    async def follow(self, client: TransportConsumer, returns: ReturnTopics, followed: frozenset[str]) -> None:
        """Lets a consumer follow what brings its messages back, as it comes and goes. Ends when it is cancelled."""
        news = asyncio.Event()
        self._news.append(news)
        try:
            while True:
                if not await _comes(news, FOLLOW_SECONDS):
                    await self._look_again(returns)
                news.clear()
                found = self._belonging(returns.brings_back)
                if found != followed and await _changed(client, found):
                    followed = found
        finally:
            self._news.remove(news)

    async def _look_again(self, returns: ReturnTopics) -> None:
        try:
            await self.existing(returns.brings_back)
        except TransportError as error:  # the broker is away, which others say louder
            logger.debug("topics to follow cannot be told now: %s", error)

    def _tell(self) -> None:
        for event in self._news:
            event.set()


def missing(topics: Collection[str]) -> str:
    return f"topic {', '.join(topics)} does not exist and create_topics is off"


async def _comes(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _changed(client: TransportConsumer, topics: frozenset[str]) -> bool:
    try:
        await client.follow(topics)
    except TransportError as error:
        logger.warning("topics that bring messages back are followed later: %s", error)
        return False
    return True
