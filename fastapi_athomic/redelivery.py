"""The topics through which failed messages come back to the group that failed, and nobody else.

`{topic}.{group_id}.retry.{delay}s` brings a message back after a delay, `{topic}.{group_id}.redrive` when somebody
sent a dead letter back. The handler's own service follows both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from time import time

from .decorators import Subscription
from .messages import MessageHeaders, Origin, RawMessage
from .settings import AthomicSettings

PREFIX = "athomic-"
DUE, STAGE = f"{PREFIX}retry-due", f"{PREFIX}retry-stage"
_ANY_TOPIC = r"[a-zA-Z0-9._-]+"


class ReturnTopics:
    """The topics through which messages come back to one handler."""

    def __init__(self, subscription: Subscription, settings: AthomicSettings) -> None:
        self.delays = subscription.retry.retry_topics
        self._group_id = subscription.group_id
        self._settings = settings
        self._own_dlq = subscription.dlq if isinstance(subscription.dlq, str) else settings.dlq_topic
        self._known: dict[str, tuple[str, int] | None] = {}  # topic to its source and stage; None: a source itself

    def retry(self, source: str, stage: int) -> str:
        """The topic of a stage; the first is 1."""
        return self._name(self._settings.retry_topic, source, self.delays[stage - 1])

    def redrive(self, source: str) -> str:
        return self._name(self._settings.redrive_topic, source)

    def retries(self, source: str) -> list[str]:
        return [self.retry(source, stage) for stage in range(1, len(self.delays) + 1)]

    def source_of(self, topic: str) -> str:
        """The topic where messages of this one were first."""
        known = self._place(topic)
        return known[0] if known is not None else topic

    def stage_of(self, topic: str) -> int:
        """1 for the first retry topic; 0 for a source and for the redrive topic."""
        known = self._place(topic)
        return known[1] if known is not None else 0

    def origin(self, message: RawMessage) -> Origin:
        """What the headers say, if the message came back; else its own place."""
        own = Origin(message.topic, message.partition, message.offset, message.timestamp)
        if self._place(message.topic) is None:
            return own
        headers = MessageHeaders(message.headers)
        try:
            found = Origin(
                headers.text(f"{PREFIX}original-topic") or self.source_of(message.topic),
                int(headers.text(f"{PREFIX}original-partition") or ""),
                int(headers.text(f"{PREFIX}original-offset") or ""),
                int(headers.text(f"{PREFIX}original-timestamp") or ""),
                int(headers.text(f"{PREFIX}attempts") or 0),
                _seconds(headers.text(f"{PREFIX}first-failed-at")),
            )
        except ValueError:  # written by somebody else
            return own
        return found if self.stage_of(message.topic) else found._replace(attempts=0, first_failed_at=0.0)

    def delay_of(self, topic: str) -> Callable[[RawMessage], float] | None:
        """For a retry topic: how many seconds a message still has to wait."""
        return _until_due if self.stage_of(topic) else None

    def pattern(self, sources: re.Pattern[str]) -> re.Pattern[str]:
        """The sources, and what comes back from them; never the handler's own dead letters."""
        inner = f"(?:{sources.pattern})"
        templates = [self._settings.redrive_topic, *([self._settings.retry_topic] * len(self.delays))]
        delays = [0.0, *self.delays]
        returning = [self._regex(template, inner, delay) for template, delay in zip(templates, delays, strict=True)]
        own_dead_letters = self._regex(self._own_dlq, _ANY_TOPIC)
        return re.compile(f"(?!{own_dead_letters}$)(?:{'|'.join([inner, *returning])})", sources.flags)

    def _place(self, topic: str) -> tuple[str, int] | None:
        try:
            return self._known[topic]
        except KeyError:
            return self._known.setdefault(topic, self._look(topic))

    def _look(self, topic: str) -> tuple[str, int] | None:
        named = f"(?P<source>{_ANY_TOPIC})"
        for stage, delay in enumerate(self.delays, 1):
            if match := re.fullmatch(self._regex(self._settings.retry_topic, named, delay), topic):
                return match["source"], stage
        if match := re.fullmatch(self._regex(self._settings.redrive_topic, named), topic):
            return match["source"], 0
        return None

    def _name(self, template: str, source: str, delay: float = 0) -> str:
        return template.format(topic=source, group_id=self._group_id, delay=f"{delay:g}")

    def _regex(self, template: str, topic: str, delay: float = 0) -> str:
        placeholder = "TOPIC"
        while placeholder in template or placeholder in self._group_id:
            placeholder += "X"
        return re.escape(self._name(template, placeholder, delay)).replace(placeholder, topic, 1)


def _until_due(message: RawMessage) -> float:
    due = MessageHeaders(message.headers).text(DUE)
    return int(due) / 1000 - time() if due is not None and due.isdecimal() else 0.0


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
