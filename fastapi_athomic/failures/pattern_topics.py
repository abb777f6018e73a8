"""Which topics a subscription by pattern consumes, and which of those that match it leaves out."""

from __future__ import annotations

import logging
import re

from ..decorators import Subscription
from .return_topics import ReturnTopics

logger = logging.getLogger(__name__)

LEFT_OUT_SHOWN = 20
"""So many topics that a pattern leaves out are logged."""


class PatternTopics:
    """What a subscription by pattern follows: the topics that match as a whole, and what comes back from them.

    It leaves out what the product makes for any handler (DLQ, retry and redrive topics): a handler that fails on the
    dead letters of others would make dead letters without end.
    """

    def __init__(self, handler_id: str, pattern: re.Pattern[str], returns: ReturnTopics) -> None:
        self.pattern = pattern.pattern
        self._handler_id = handler_id
        self._sources = pattern
        self._returns = returns
        self._decided: dict[str, bool] = {}
        self._left_out: set[str] = set()

    def fullmatch(self, topic: str) -> bool:
        known = self._decided.get(topic)
        if known is None:
            known = self._decided[topic] = self._decide(topic)
        return known

    def _decide(self, topic: str) -> bool:
        if self._returns.consumes(topic):
            if self._returns.shortens(topic):  # what comes back from it can be told from now on
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
                "%s: the pattern leaves out %s, which is made for dead letters or retries: name it to consume it%s",
                self._handler_id,
                topic,
                " (others of the kind are left out without a word)" if len(self._left_out) == LEFT_OUT_SHOWN else "",
            )


def pattern_topics(subscription: Subscription, returns: ReturnTopics) -> PatternTopics | None:
    """None for a subscription by names."""
    pattern = subscription.pattern
    return PatternTopics(subscription.handler_id, pattern, returns) if pattern is not None else None
