"""What a test may have meant. pytest shows the log beside a test that fails, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from ..checks import did_you_mean
from ..subscriptions import Subscription
from ..unclaimed import why_unclaimed

logger = logging.getLogger(__name__)


def tell_if_unread(topic: str, subscriptions: Iterable[Subscription]) -> None:
    """Warns where a kit publishes to a topic that no handler of the app consumes."""
    known = list(subscriptions)
    if any(topic in each.topics or (each.pattern and each.pattern.fullmatch(topic)) for each in known):
        return
    topics = sorted({name for each in known for name in each.topics})
    logger.warning(
        "the kit publishes to %s, which no handler of the app consumes%s", topic, did_you_mean(topic, topics)
    )


def tell_if_undrained(published: int) -> None:
    """Warns where a test looks at what was handled, finds nothing, and has not waited since it published."""
    if published:
        logger.warning(
            "nothing is handled yet, and the test has not waited since %s published: kit.drain() does",
            "1 message was" if published == 1 else f"{published} messages were",
        )


def on_stranger(thing: Callable[..., Any]) -> str:
    """Ends the sentence that something is no handler of the app: why, and what to do. Empty if that is not known."""
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return f". The handler comes first; for those of any: error={thing.__name__}"
    why = why_unclaimed(thing)
    return f". It is decorated, but {why}" if why else ""
