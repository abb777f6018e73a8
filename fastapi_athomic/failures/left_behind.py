"""What did earlier deploys leave in topics that no handler of the app uses any more? Warns of it at the start."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress

from ..exceptions import NotAuthorizedError, TransportError
from ..messages import TopicPartition
from ..settings import AthomicSettings
from ..transports.base import Transport, TransportConsumer
from .dlq import DLQHandler
from .own_topics import template_regex, templates_of
from .topic_watch import TopicWatch

logger = logging.getLogger(__name__)

SHOWN = 10
"""At most this many topics are named. There may be many if several apps have handlers of the same group."""
PATIENCE = "this warning comes at each start as long as the topic holds messages"


class LeftBehind:
    """Warns once per handler about own topics that still hold messages after the handler's options changed.

    All handlers of an app share one: a topic that one handler no longer uses may be another's.
    """

    def __init__(self, transport: Transport, watch: TopicWatch, settings: AthomicSettings) -> None:
        self._transport = transport
        self._watch = watch
        self._settings = settings
        self._timeout = settings.request_timeout
        self._handlers: list[DLQHandler] = []
        self._unsaid: set[DLQHandler] = set()  # handlers whose topics were not looked for yet
        self._named: set[str] = set()  # topics that were warned of

    def add(self, handler: DLQHandler) -> None:
        """Called for each handler, before any of them starts."""
        self._handlers.append(handler)
        self._unsaid.add(handler)

    async def warn(self, handler: DLQHandler, client: TransportConsumer) -> None:
        """Logs the warnings for this handler, the first time that the broker answers. Does not raise if it does not.

        `client`: the handler's consumer, for the group's commits.
        """
        if handler not in self._unsaid:
            return
        try:
            topics = sorted(await self._watch.existing(lambda topic: True))
            for topic, source in self._old_dead_letters(handler, topics):
                with suppress(NotAuthorizedError):  # then these are not ours to tell of
                    if count := await self._kept(topic):
                        self._warn_of_letters(handler, topic, source, count)
            for topic, source in self._unfollowed(handler, topics):
                with suppress(NotAuthorizedError):
                    if count := await self._not_handled(topic, client):
                        self._warn_of_messages(handler, topic, source, count)
            self._unsaid.discard(handler)
        except TransportError as error:
            logger.debug("cannot look for topics of earlier deploys now, will try again: %s", error)

    def _old_dead_letters(self, handler: DLQHandler, topics: list[str]) -> Iterator[tuple[str, str]]:
        """DLQ topics that a template made for this group and that no handler writes to, and their sources."""
        if not topics:
            return
        group = re.escape(handler.group_id)
        regexes = [re.compile(template_regex(each, group=group)) for each in templates_of(self._settings, "dlq_topic")]
        for topic in topics:
            match = next(filter(None, (regex.fullmatch(topic) for regex in regexes)), None)
            if match is None:
                continue
            source = match.groupdict().get("source") or topic
            if not any(each.topic_for(each.returns.full(source)) == topic for each in self._consuming(source)):
                yield topic, source

    def _consuming(self, source: str) -> list[DLQHandler]:
        return [each for each in self._handlers if each.returns.consumes(source)]

    def _unfollowed(self, handler: DLQHandler, topics: list[str]) -> Iterator[tuple[str, str]]:
        """Retry and redrive topics of this group whose source no handler consumes."""
        for topic in topics:
            place = handler.returns.place(topic)
            if place is not None and not any(each.returns.brings_back(topic) for each in self._handlers):
                yield topic, place.source

    async def _kept(self, topic: str) -> int:
        bounds = await self._transport.bounds(topic, self._timeout)
        return sum(end - first for first, end in bounds.values())

    async def _not_handled(self, topic: str, client: TransportConsumer) -> int:
        bounds = await self._transport.bounds(topic, self._timeout)
        places = {TopicPartition(topic, number): ends for number, ends in bounds.items()}
        committed = await client.committed(list(places), self._timeout)
        reached = {place: committed[place].offset if place in committed else 0 for place in places}
        return sum(max(0, end - max(first, reached[place])) for place, (first, end) in places.items())

    def _warn_of_letters(self, handler: DLQHandler, topic: str, source: str, count: int) -> None:
        still = f"They are listed, sent back and discarded as before: fastapi-athomic dlq list {handler.handler_id}"
        now = handler.topic_for(source)
        if not handler.returns.consumes(source):
            change = f"no handler of this app consumes {source} for group {handler.group_id} any more"
            still = "To send them back, consume it again"
        elif now is not None:
            change = f"dead letters of {source} go to {now} now"
        else:
            change = "the handler has none any more (dlq=False)"
        self._warn(
            handler,
            topic,
            f"topic {topic} holds {count} records, dead letters of an earlier deploy; {change}. {still}; or delete the "
            f"topic ({PATIENCE})",
        )

    def _warn_of_messages(self, handler: DLQHandler, topic: str, source: str, count: int) -> None:
        self._warn(
            handler,
            topic,
            f"topic {topic} holds {count} messages that wait for group {handler.group_id}, but no handler of this app "
            f"consumes {source} any more. Subscribe to {source} again until they are handled, or delete the topic "
            f"({PATIENCE})",
        )

    def _warn(self, handler: DLQHandler, topic: str, text: str) -> None:
        if topic not in self._named:
            self._named.add(topic)
            if len(self._named) <= SHOWN:
                more = " (further topics like it are not named)" if len(self._named) == SHOWN else ""
                logger.warning("%s: %s%s", handler.handler_id, text, more)
