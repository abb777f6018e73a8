"""The topics that a subscription names: they must exist before its consumer starts."""

from __future__ import annotations

from ..exceptions import TopicNotFoundError
from ..failures.topic_watch import missing
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from ..transports.base import Transport


async def ensure_sources(subscription: Subscription, transport: Transport, settings: AthomicSettings) -> None:
    """Creates missing topics, or raises if the settings forbid that: their consumer would wait without an error.

    Raises:
        TopicNotFoundError: names the topics that are missing and may not be created.
    """
    timeout = settings.request_timeout
    counts = await transport.partition_counts(subscription.topics, timeout)
    absent = [topic for topic in subscription.topics if topic not in counts]
    if absent and settings.create_topics:
        await transport.create_topics(dict.fromkeys(absent, -1), timeout)
    elif absent:
        raise TopicNotFoundError(missing(absent))
