"""The topics that a consumer reads from, as it starts."""

from __future__ import annotations

from ..decorators import Subscription
from ..exceptions import TopicNotFoundError
from ..failures.topic_watch import missing
from ..settings import AthomicSettings
from ..transports.base import Transport


async def ensure_sources(subscription: Subscription, transport: Transport, settings: AthomicSettings) -> None:
    """A consumer of a topic that does not exist would wait for it without a word.

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
