"""The topics that a subscription names: they must exist before its consumer starts."""

from __future__ import annotations

from ..exceptions import NotAuthorizedError, TopicNotFoundError
from ..failures.topic_watch import TopicWatch, missing
from ..rights import missing_right
from ..settings import AthomicSettings
from ..subscriptions import Subscription


async def ensure_sources(subscription: Subscription, watch: TopicWatch, settings: AthomicSettings) -> None:
    """Creates missing topics, or raises if the settings forbid that: their consumer would wait without an error.

    Raises:
        NotAuthorizedError: names the topics that must not be read, or not be created.
        TopicNotFoundError: names the topics that are missing and may not be created.
    """
    counts = await watch.counts(subscription.topics)
    denied = [topic for topic in subscription.topics if counts.denies("Read", topic)]
    if denied:
        raise NotAuthorizedError(missing_right("Read", "Topic", ", ".join(denied)), denied)
    absent = [topic for topic in subscription.topics if topic not in counts]
    if absent and settings.makes_topics:
        await watch.make(dict.fromkeys(absent, -1))
    elif absent:
        raise TopicNotFoundError(missing(absent))
