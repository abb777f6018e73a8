"""Which topics a subscription by pattern consumes: all that match, without those that the package makes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from ..subscriptions import Subscription
from .return_topics import ReturnTopics

logger = logging.getLogger(__name__)

LEFT_OUT_SHOWN = 20
"""How many of the topics that a pattern leaves out are logged."""


class PatternTopics:
    """A `TopicPattern` for the transport: topics whose whole name matches, and their retry and redrive topics.

    It leaves out all DLQ topics, and the retry and redrive topics of other handlers: two handlers that fail on each
    other's dead letters would make dead letters without end.
    """

    def __init__(
        self, handler_id: str, pattern: re.Pattern[str], returns: ReturnTopics, taken: Callable[[str], None]
    ) -> None:
        """`taken` is called with each source topic that it takes."""
        self.pattern = pattern.pattern
        self._handler_id = handler_id
        self._sources = pattern
        self._returns = returns
        self._taken = taken
        self._decided: dict[str, bool] = {}
        self._left_out: set[str] = set()

    def fullmatch(self, topic: str) -> bool:
        """Whether to consume the topic."""
        known = self._decided.get(topic)
        if known is None:
            known = self._decided[topic] = self._decide(topic)
        return known

    def _decide(self, topic: str) -> bool:
        if self._returns.consumes(topic):
            self._taken(topic)
            if self._returns.shortens(topic):  # its retry and redrive topics are recognized from now on: decide again
                self._decided = {name: followed for name, followed in self._decided.items() if followed}
            return True
        if self._returns.brings_back(topic):
            return True
        if self._sources.fullmatch(topic) is not None and topic not in self._left_out:
            self._leave_out(topic)
        return False

    def _leave_out(self, topic: str) -> None:
        self._left_out.add(topic)
        if len(self._left_out) <= LEFT_OUT_SHOWN:
            logger.info(
                "%s: the pattern leaves out %s, a topic of dead letters or retries: to consume it, subscribe by name%s",
                self._handler_id,
                topic,
                " (further topics that it leaves out are not logged)" if len(self._left_out) == LEFT_OUT_SHOWN else "",
            )


def pattern_topics(
    subscription: Subscription, returns: ReturnTopics, taken: Callable[[str], None]
) -> PatternTopics | None:
    """Which topics the subscription consumes, if it is by pattern; None if it is by names. `taken`: see above."""
    pattern = subscription.pattern
    return PatternTopics(subscription.handler_id, pattern, returns, taken) if pattern is not None else None
