"""The topics that a subscription names: they must exist before its consumer starts."""

from __future__ import annotations

from ..exceptions import NotAuthorizedError, TopicNotFoundError
from ..failures.topic_watch import missing
from ..rights import missing_right
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from ..transports.base import Transport


async def ensure_sources(subscription: Subscription, transport: Transport, settings: AthomicSettings) -> None:
    """Creates missing topics, or raises if the settings forbid that: their consumer would wait without an error.

    Raises:
        NotAuthorizedError: names the topics that must not be read, or not be created.
        TopicNotFoundError: names the topics that are missing and may not be created.
    """
    timeout = settings.request_timeout
    counts = await transport.partition_counts(subscription.topics, timeout)
    denied = [topic for topic in subscription.topics if counts.denies("Read", topic)]
    if denied:
        raise NotAuthorizedError(missing_right("Read", "Topic", ", ".join(denied)), denied)
    absent = [topic for topic in subscription.topics if topic not in counts]
    if absent and settings.create_topics:
        await transport.create_topics(dict.fromkeys(absent, -1), timeout)
    elif absent:
        raise TopicNotFoundError(missing(absent))
