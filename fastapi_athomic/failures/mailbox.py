"""Which dead letters are a handler's, which topics hold them, and which of them nobody has settled yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

from ..exceptions import ConfigurationError, NotAuthorizedError, SourceNotFoundError
from ..loop.isolation import Home
from ..messages import RawMessage, TopicPartition
from ..observation.counters import Counters
from ..payload.pipeline import PayloadPipeline
from ..rights import missing_right
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from ..transports.base import Transport
from .dlq import DLQHandler
from .letters import DeadLetter, read_letter
from .markers import Settled, is_marker
from .own_topics import templates_of


class DeadLetterParts(NamedTuple):
    """What it takes to read and settle the dead letters of one handler."""

    subscription: Subscription
    group: frozenset[str]  # ids of all handlers of the app that are in the handler's consumer group
    dlq_handler: DLQHandler
    counters: Counters
    transport: Transport
    settings: AthomicSettings
    home: Home  # the event loop that the connection to the broker belongs to
    payload_of: Callable[[str, str], PayloadPipeline]  # for a source topic, and the one where a message was first


class Mailbox:
    """Reads the dead letters of one handler that nobody has settled. Writes nothing.

    `DeadLetters` shows them, `Settling` settles them.
    """

    def __init__(self, parts: DeadLetterParts) -> None:
        self._subscription = parts.subscription
        self._group = parts.group
        self._dlq_handler = parts.dlq_handler
        self._transport = parts.transport
        self._settings = parts.settings

    # --- reading

    async def open(
        self, source: str | None, partition: int | None = None, offset: int = 0
    ) -> AsyncIterator[DeadLetter]:
        """The open letters in all DLQ topics of the handler. Arguments and errors as in `open_in` and `topics`."""
        for topic in await self.topics(source):
            async for letter in self.open_in(topic, source, partition, offset):
                yield letter

    async def open_in(
        self, topic: str, source: str | None, partition: int | None, offset: int
    ) -> AsyncIterator[DeadLetter]:
        """The handler's letters in one DLQ topic that are not settled, each once, as of when the call began.

        `source`: of this topic only. `partition`, `offset`: in this partition only, and from this offset of it on.
        """
        for number, (first, end) in sorted((await self.bounds(topic)).items()):
            if partition not in (None, number):
                continue
            place = TopicPartition(topic, number)
            settled, seen = Settled(), set[str]()
            async for message in self.read(place, first, end):
                settled.note(message)
            async for message in self.read(place, max(first, offset), end):
                if is_marker(message) or not self._is_ours(letter := read_letter(message), source):
                    continue
                if letter not in settled and letter.id not in seen:
                    seen.add(letter.id)
                    yield letter

    async def read(self, place: TopicPartition, first: int, end: int) -> AsyncIterator[RawMessage]:
        """The messages in a partition of any topic, from offset `first` up to and without `end`."""
        while first < end:
            messages = await self._transport.read(place, first, self._settings.request_timeout)
            if not messages:
                return
            for message in messages:
                if message.offset < end:
                    yield message
            first = messages[-1].offset + 1

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """For each partition of any topic: its first offset, and the one after its last."""
        return await self._transport.bounds(topic, self._settings.request_timeout)

    # --- which letters are ours

    def _is_ours(self, letter: DeadLetter, source: str | None) -> bool:
        """By group and handler id, as docs/dead-letters.md says. `source`: of this topic only."""
        if source not in (None, self.source_of(letter)):
            return False
        if letter.group_id is None:  # somebody else wrote it
            return not isinstance(self._subscription.dlq, str) and "{group_id}" in self._settings.dlq_topic
        if letter.group_id != self._subscription.group_id:
            return False
        if letter.handler_id == self._subscription.handler_id:
            return True
        return letter.handler_id not in self._group and self.consumes(self.source_of(letter))

    def source_of(self, letter: DeadLetter) -> str:
        """The letter's source topic. For what somebody else wrote: the source that this DLQ topic is for."""
        sources = self._subscription.topics
        return letter.original_topic or next(
            (source for source in sources if letter.topic in self._dlq_topics(source)), letter.topic
        )

    def consumes(self, source: str) -> bool:
        """The handler subscribes to this topic."""
        return self._dlq_handler.returns.consumes(source)

    # --- topics

    async def topics(self, source: str | None) -> list[str]:
        """The handler's DLQ topics that exist. `source`: only those for this topic.

        Raises:
            SourceNotFoundError: the handler does not consume `source`.
            ConfigurationError: it has no DLQ; or it follows a pattern, and `source` must say which topic is meant.
            NotAuthorizedError: a DLQ topic must not be read, or the broker does not say whether it exists.
        """
        sources = self._subscription.topics if source is None else (source,)
        if source is None and self._subscription.pattern is not None and not isinstance(self._subscription.dlq, str):
            raise ConfigurationError(f"{self._subscription.handler_id} follows a pattern: say which topic is meant")
        if source is not None and not self.consumes(source):
            raise SourceNotFoundError(f"{self._subscription.handler_id} does not consume {source}")
        topics = list(dict.fromkeys(topic for name in sources for topic in self._dlq_topics(name)))
        if isinstance(self._subscription.dlq, str) and not topics:  # of a pattern
            topics = [self._subscription.dlq]
        known = await self._transport.partition_counts(topics, self._settings.request_timeout)
        earlier = {topic for name in sources for topic in self._dlq_topics(name)[1:]}
        for topic in topics:  # one of an earlier deploy may be hidden because there never was one
            if known.denies("Read", topic) and (topic in known or topic not in earlier):
                raise NotAuthorizedError(missing_right("Read", "Topic", topic), [topic])
        if not known and self._subscription.dlq is False:
            raise ConfigurationError(f"{self._subscription.handler_id} has no dead letters: its dlq is off")
        return [topic for topic in topics if topic in known]

    def _dlq_topics(self, source: str) -> list[str]:
        """Where dead letters of `source` go now, and where they went before a deploy changed the name."""
        name = self._dlq_handler.returns.name
        usual = [name(template, source) for template in templates_of(self._settings, "dlq_topic")]
        return list(dict.fromkeys([self._dlq_handler.topic_for(source) or usual[0], *usual]))
