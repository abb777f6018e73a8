"""The retry and redrive topics of one handler: their names, how far a message in one has come, and when it is due.

A retry topic (`{topic}.{group_id}.retry.{delay}s`) brings a message back after a delay, a redrive topic
(`{topic}.{group_id}.redrive`) when somebody has sent a dead letter back. Only the group that failed consumes them, with
the same consumer as the source topics.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property, partial
from time import time
from typing import NamedTuple

from ..messages import Headers, MessageHeaders, Origin, RawMessage
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .letter_headers import DUE, GROUP, PREFIX, WRITTEN_TO, earlier_headers, read_earlier
from .own_topics import TEMPLATES, OwnTopics, fitting, template_regex, templates_of

CLOCKS_APART = 3600.0
"""Seconds by which a due time may exceed the topic's delay, because clocks differ. A later one counts as wrong."""


class Place(NamedTuple):
    """What a retry or redrive topic is for."""

    source: str  # the topic in which its messages were first
    delay: float | None = None  # seconds; None: a redrive topic


class ReturnTopics:
    """The retry and redrive topics of one handler.

    Names them, recognizes them (those of earlier deploys, too, with other delays or the default templates), and reads
    what the headers of a message in them say.
    """

    def __init__(self, subscription: Subscription, settings: AthomicSettings, own_topics: OwnTopics) -> None:
        self.delays = subscription.retry.retry_topics
        self._subscription = subscription
        self._group_id = subscription.group_id
        self._settings = settings
        self._own_topics = own_topics
        self._places: dict[str, Place | None] = {}  # by topic; None: it is neither a retry nor a redrive topic
        self._fitting: dict[str, str] = {}  # by source topic: its name as it stands in the names of these topics
        self._full: dict[str, str] = {}  # the reverse, for names that were shortened
        self._common_source = next(iter(subscription.topics), "")  # for a template without `{topic}`
        self._plain: set[str] = set()  # topics seen whose messages were first published in them

    # --- names

    def retry(self, source: str, stage: int) -> str:
        """The retry topic of a stage: 1 for the first of the policy's delays."""
        return self.name(self._settings.retry_topic, source, self.delays[stage - 1])

    def redrive(self, source: str) -> str:
        """The redrive topic."""
        return self.name(self._settings.redrive_topic, source)

    def retries(self, source: str) -> list[str]:
        """The retry topics of all stages."""
        return [self.retry(source, stage) for stage in range(1, len(self.delays) + 1)]

    def name(self, template: str, source: str, delay: float = 0) -> str:
        """The name that a template of the settings makes. `delay` is in seconds."""
        return template.format(topic=self._fit(source), group_id=self._group_id, delay=f"{delay:g}")

    def shortens(self, source: str) -> bool:
        """The source's name is too long to stand in these names as it is."""
        return self._fit(source) != source

    def _fit(self, source: str) -> str:
        """Shortens long names of a pattern's topics. (Names in a subscription were checked at the start.)"""
        if self._subscription.pattern is None:
            return source
        known = self._fitting.get(source)
        if known is None:
            templates = [getattr(self._settings, name) for name in TEMPLATES]
            known = self._fitting[source] = fitting(source, self._group_id, templates)
            if known != source:
                self._full[known] = source
        return known

    # --- topics

    def place(self, topic: str) -> Place | None:
        """What the topic is for, if it is a retry or redrive topic of this handler; else None."""
        try:
            found = self._places[topic]
        except KeyError:
            found = self._places[topic] = self._look(topic)
        return found if found is None or not self._full else found._replace(source=self.full(found.source))

    @cached_property
    def _retries(self) -> list[re.Pattern[str]]:
        return self._regexes("retry_topic")

    @cached_property
    def _redrives(self) -> list[re.Pattern[str]]:
        return self._regexes("redrive_topic")

    def _regexes(self, template: str) -> list[re.Pattern[str]]:
        """They match the names that a template makes for this group. Compiled late: there may be no such topics."""
        group = re.escape(self._group_id)
        return [re.compile(template_regex(each, group=group)) for each in templates_of(self._settings, template)]

    def _look(self, topic: str) -> Place | None:
        if topic in self._subscription.topics or not self._own_topics.may_return(topic):
            return None
        for regex in self._retries:
            if match := regex.fullmatch(topic):
                parts = match.groupdict()
                return Place(parts.get("source") or self._common_source, self._delay(parts.get("delay")))
        for regex in self._redrives:
            if match := regex.fullmatch(topic):
                return Place(match.groupdict().get("source") or self._common_source)
        return None

    def _delay(self, text: str | None) -> float:
        """Seconds, as the name of a retry topic says. A template without `{delay}` makes one topic for all delays."""
        if text is None:
            return self.delays[0] if self.delays else 0.0
        try:
            return float(text)
        except ValueError:  # characters of a number that make none, such as "1.2.3"
            return 0.0

    def full(self, source: str) -> str:
        """The whole name of a source from its shortened one. Other names are returned as they are."""
        return self._full.get(source, source)

    def consumes(self, source: str) -> bool:
        """The handler subscribes to this topic (it is a source)."""
        pattern = self._subscription.pattern
        if pattern is None:
            return source in self._subscription.topics
        return pattern.fullmatch(self.full(source)) is not None and not self._own_topics.made(source)

    def source_of(self, topic: str) -> str:
        """The topic in which messages of this topic were first: itself, unless it is a retry or redrive topic."""
        place = self.place(topic)
        return place.source if place is not None else topic

    def first_topic(self, message: RawMessage) -> str:
        """The topic in which the message was first published: that of its payload's associated data, schema and so on.

        Of a message that came back it is a source of this handler; of a dead letter of another handler the source that
        its headers name, if the topic's own name confirms them. In any other topic, headers are not asked.
        """
        topic = message.topic
        if topic in self._plain:
            return topic
        source: str | None
        if self.place(topic) is not None:
            source = self.origin(message).topic
        elif self._own_topics.made(topic):
            source = self._own_topics.source_of_letter(message)
            if source is None:
                return topic
        else:
            self._plain.add(topic)
            return topic
        if source in self._plain or not self._own_topics.made(source):
            return source
        return self._own_topics.first_topic(source, message)

    def earlier(self, message: RawMessage) -> Headers:
        """The header that a message needs when it fails, so that `first_topic` still knows; mostly none."""
        headers = MessageHeaders(message.headers)
        if self.place(message.topic) is not None:
            return earlier_headers(read_earlier(headers))
        source = self._own_topics.source_of_letter(message) if self._own_topics.made(message.topic) else None
        if source is None:
            return ()
        return earlier_headers([*read_earlier(headers), (source, headers.text(GROUP) or "")])

    def is_retry(self, topic: str) -> bool:
        """It is a retry topic of the handler."""
        place = self.place(topic)
        return place is not None and place.delay is not None

    def stage_of(self, topic: str) -> int:
        """How many of the policy's delays a message of this topic has used; 0 in a source or redrive topic.

        A retry topic of an earlier deploy may have a delay that the policy no longer has: then all delays up to
        this one count as used.
        """
        place = self.place(topic)
        if place is None or place.delay is None:
            return 0
        if place.delay in self.delays:
            return self.delays.index(place.delay) + 1
        return sum(delay <= place.delay for delay in self.delays)

    def expected(self) -> list[str]:
        """The retry and redrive topics of the sources that the handler names, whether they exist or not."""
        sources = self._subscription.topics
        return [topic for source in sources for topic in (*self.retries(source), self.redrive(source))]

    def brings_back(self, topic: str) -> bool:
        """It is a retry or redrive topic, perhaps of an earlier deploy, whose source the handler still consumes."""
        place = self.place(topic)
        return place is not None and self.consumes(place.source)

    def origin(self, message: RawMessage) -> Origin:
        """Where the message was first: as its headers say if it came back, else where it is.

        The topic is always a source of the handler, whatever the headers say: the next topic is named after it.
        """
        source = self.source_of(message.topic)
        own = Origin(source, message.partition, message.offset, message.timestamp)
        if self.place(message.topic) is None:
            return own
        headers = MessageHeaders(message.headers)
        try:
            original = headers.text(f"{PREFIX}original-topic")
            found = Origin(
                original if original is not None and self.consumes(original) else source,
                int(headers.text(f"{PREFIX}original-partition") or ""),
                int(headers.text(f"{PREFIX}original-offset") or ""),
                int(headers.text(f"{PREFIX}original-timestamp") or ""),
                int(headers.text(f"{PREFIX}attempts") or 0),
                _seconds(headers.text(f"{PREFIX}first-failed-at")),
            )
            _check(found)
        except (ValueError, OverflowError):  # written by somebody else
            return own
        return found if self.is_retry(message.topic) else found._replace(attempts=0, first_failed_at=0.0)

    def delay_of(self, topic: str) -> Callable[[RawMessage], float] | None:
        """For a retry topic: a function that says how many seconds a message still has to wait. None for others."""
        place = self.place(topic)
        return partial(_until_due, place.delay) if place is not None and place.delay is not None else None

    def is_dead_letter(self, message: RawMessage) -> bool:
        """The message is in the DLQ or retry topic of another handler, which a pattern of this one matched.

        Its name does not show that, as the other app has other templates, or a DLQ with a name of its own.
        """
        if self._subscription.pattern is None or self.place(message.topic) is not None:
            return False
        return MessageHeaders(message.headers).text(WRITTEN_TO) == message.topic


def _until_due(delay: float, message: RawMessage) -> float:
    """Seconds. A due time that a wrong clock put far ahead would hold up the partition: such a message is due now."""
    due = MessageHeaders(message.headers).text(DUE)
    try:
        wait = int(due or 0) / 1000 - time()
    except (ValueError, OverflowError):
        return 0.0
    return wait if wait <= delay + CLOCKS_APART else 0.0


def _check(origin: Origin) -> None:
    """Raises `ValueError` or `OverflowError` if no message can have this place or time."""
    datetime.fromtimestamp(origin.first_failed_at, UTC)
    if not (0 <= origin.partition < 1 << 31 and 0 <= origin.offset < 1 << 63 and abs(origin.timestamp) < 1 << 63):
        raise ValueError("no message can have this place")


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
