"""Handlers of one app that would take each other's messages: they consume one topic in one group."""

from __future__ import annotations

import logging

from ..discovery import Discovered
from ..exceptions import ConfigurationError
from ..failures.return_topics import ReturnTopics
from ..sightings import place
from ..subscriptions import Subscription

logger = logging.getLogger(__name__)

ADVICE = "give each a group_id of its own, or make one handler of both"


class Rivals:
    """Finds them. A group gives each partition to one of its members, so each handler would get a part of the messages.

    Two different patterns may match one topic: that shows only when there is such a topic.
    """

    def __init__(self) -> None:
        self._admitted: list[tuple[Discovered, ReturnTopics]] = []
        self._takers: dict[tuple[str, str], str] = {}  # of a topic in a group: the first handler whose pattern matched
        self._told: set[tuple[str, str, str]] = set()

    def admit(self, new: Discovered, returns: ReturnTopics) -> None:
        """Admits a handler beside those that were admitted before. `returns`: its retry and redrive topics.

        Raises:
            ConfigurationError: another one would take its messages. The error names both, the topic and the group.
        """
        for other, its_returns in self._admitted:
            if other.subscription.group_id == new.subscription.group_id:
                topic = _common(other.subscription, its_returns, new.subscription, returns)
                if topic is not None:
                    raise ConfigurationError(_sentence(other, new, topic))
        self._admitted.append((new, returns))

    def take(self, subscription: Subscription, topic: str) -> None:
        """Call it with each topic that the subscription's pattern takes: warns if another pattern takes it, too."""
        handler_id = subscription.handler_id
        first = self._takers.setdefault((subscription.group_id, topic), handler_id)
        if first != handler_id and (first, handler_id, topic) not in self._told:
            self._told.add((first, handler_id, topic))
            logger.warning(
                "handlers %s and %s both consume %s in group %s, because both patterns match it: each gets a part of "
                "its messages; %s",
                first,
                handler_id,
                topic,
                subscription.group_id,
                ADVICE,
            )


def _common(one: Subscription, ones: ReturnTopics, other: Subscription, others: ReturnTopics) -> str | None:
    """A topic that both consume, or the pattern of both."""
    if one.pattern is not None and one.pattern == other.pattern:
        return one.source
    for topic in one.topics:
        if others.consumes(topic) or others.brings_back(topic):
            return topic
    for topic in other.topics:
        if ones.consumes(topic) or ones.brings_back(topic):
            return topic
    return None


def _sentence(one: Discovered, other: Discovered, topic: str) -> str:
    return (
        f"handlers {_named(one)} and {_named(other)} both consume {topic} in group {one.subscription.group_id}: each "
        f"would get a part of its messages; {ADVICE}"
    )


def _named(handler: Discovered) -> str:
    return f"{handler.subscription.handler_id}, {place(handler.function)},"
