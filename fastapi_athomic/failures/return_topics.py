"""The topics through which failed messages come back to the group that failed, and nobody else.

`{topic}.{group_id}.retry.{delay}s` brings a message back after a delay, `{topic}.{group_id}.redrive` when somebody
sent a dead letter back. The handler's own service follows both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import NamedTuple

from ..decorators import Subscription
from ..messages import MessageHeaders, Origin, RawMessage
from ..settings import AthomicSettings
from .letter_headers import DUE, PREFIX, WRITTEN_TO
from .own_topics import TEMPLATES, OwnTopics, fitting, template_regex, templates_of

CLOCKS_APART = 3600.0
"""Seconds by which the clocks of a group's members may differ."""


class Place(NamedTuple):
    """What a retry or redrive topic is for."""

    source: str  # its messages were there first
    delay: float | None = None  # seconds, of a retry topic


class ReturnTopics:
    """The topics through which messages come back to one handler."""

    def __init__(self, subscription: Subscription, settings: AthomicSettings, own_topics: OwnTopics) -> None:
        self.delays = subscription.retry.retry_topics
        self._subscription = subscription
        self._group_id = subscription.group_id
        self._settings = settings
        self._own_topics = own_topics
        self._places: dict[str, Place | None] = {}  # of topics; None: a source itself
        self._fitting: dict[str, str] = {}  # by source topic: its name as it stands in the names of these topics
        self._full: dict[str, str] = {}  # the reverse, where that is shorter
        self._common_source = next(iter(subscription.topics), "")  # where a template names no topic
        group = re.escape(self._group_id)
        self._retries = [
            re.compile(template_regex(each, group=group)) for each in templates_of(settings, "retry_topic")
        ]
        self._redrives = [
            re.compile(template_regex(each, group=group)) for each in templates_of(settings, "redrive_topic")
        ]

    # --- names

    def retry(self, source: str, stage: int) -> str:
        """The topic of a stage; the first is 1."""
        return self.name(self._settings.retry_topic, source, self.delays[stage - 1])

    def redrive(self, source: str) -> str:
        return self.name(self._settings.redrive_topic, source)

    def retries(self, source: str) -> list[str]:
        return [self.retry(source, stage) for stage in range(1, len(self.delays) + 1)]

    def name(self, template: str, source: str, delay: float = 0) -> str:
        return template.format(topic=self._fit(source), group_id=self._group_id, delay=f"{delay:g}")

    def shortens(self, source: str) -> bool:
        return self._fit(source) != source

    def _fit(self, source: str) -> str:
        """Names of a pattern's topics may be too long for what is made for them; those that are named were checked."""
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
        """None for a source, and for all that is not this handler's."""
        try:
            found = self._places[topic]
        except KeyError:
            found = self._places[topic] = self._look(topic)
        return found if found is None or not self._full else found._replace(source=self.full(found.source))

    def _look(self, topic: str) -> Place | None:
        if topic in self._subscription.topics:
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
        """Of a retry topic, by its name; a template without `{delay}` has one topic for all."""
        if text is None:
            return self.delays[0] if self.delays else 0.0
        try:
            return float(text)
        except ValueError:  # a delay's characters, in no order that makes a number
            return 0.0

    def full(self, source: str) -> str:
        """The source's own name, where it was shortened."""
        return self._full.get(source, source)

    def consumes(self, source: str) -> bool:
        """It is a source of the handler."""
        pattern = self._subscription.pattern
        if pattern is None:
            return source in self._subscription.topics
        return pattern.fullmatch(self.full(source)) is not None and not self._own_topics.made(source)

    def source_of(self, topic: str) -> str:
        """The topic where messages of this one were first."""
        place = self.place(topic)
        return place.source if place is not None else topic

    def is_retry(self, topic: str) -> bool:
        place = self.place(topic)
        return place is not None and place.delay is not None

    def stage_of(self, topic: str) -> int:
        """How many of the handler's delays are behind a message of this topic; 0 for a source and a redrive topic.

        For a retry topic of an earlier deploy, whose delay is none of the handler's any more: those that are not
        longer.
        """
        place = self.place(topic)
        if place is None or place.delay is None:
            return 0
        if place.delay in self.delays:
            return self.delays.index(place.delay) + 1
        return sum(delay <= place.delay for delay in self.delays)

    def expected(self) -> list[str]:
        """The topics that would bring messages of the handler's sources back, whether they exist or not."""
        sources = self._subscription.topics
        return [topic for source in sources for topic in (*self.retries(source), self.redrive(source))]

    def brings_back(self, topic: str) -> bool:
        """It is a retry or redrive topic for a source of this handler, perhaps of an earlier deploy."""
        place = self.place(topic)
        return place is not None and self.consumes(place.source)

    def origin(self, message: RawMessage) -> Origin:
        """What the headers say, if the message came back; else its own place.

        The topic is one of the handler's, whatever the headers say: what fails goes to a topic of that name.
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
        """For a retry topic: how many seconds a message still has to wait."""
        place = self.place(topic)
        return partial(_until_due, place.delay) if place is not None and place.delay is not None else None

    def is_dead_letter(self, message: RawMessage) -> bool:
        """A pattern matched the DLQ or retry topic of another handler, which keeps this message.

        By its name it was not known for one: that app has other templates, or names its DLQ.
        """
        if self._subscription.pattern is None or self.place(message.topic) is not None:
            return False
        return MessageHeaders(message.headers).text(WRITTEN_TO) == message.topic


def _until_due(delay: float, message: RawMessage) -> float:
    """Seconds. What a clock has written that was out of its mind would wait for ever, and all behind it: it is due."""
    due = MessageHeaders(message.headers).text(DUE)
    try:
        wait = int(due or 0) / 1000 - time()
    except (ValueError, OverflowError):
        return 0.0
    return wait if wait <= delay + CLOCKS_APART else 0.0


def _check(origin: Origin) -> None:
    """Raises `ValueError` or `OverflowError` for what cannot be the place of a message, or a time."""
    datetime.fromtimestamp(origin.first_failed_at, UTC)
    if not (0 <= origin.partition < 1 << 31 and 0 <= origin.offset < 1 << 63 and abs(origin.timestamp) < 1 << 63):
        raise ValueError("no message can be there")


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
