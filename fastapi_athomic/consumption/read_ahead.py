"""How far a consumer reads ahead of its handler."""

from __future__ import annotations

from math import inf

from ..settings import AthomicSettings
from ..subscriptions import Subscription

BUFFERED = 500
"""Messages of a partition that may wait or run, unless the handler needs more."""
BUFFERED_IN_ORDER = 750
"""The same for an ordered consumer: messages of the same aggregate share a write to the state store."""
WAITING = BUFFERED // 2
"""How many of them may wait while more would not let more calls run."""
AHEAD, FAR_AHEAD = 2, 5
"""Multiples of what the handler can have in hand at once: one more message waits behind each. More for key order and
batches, because messages of a frequent key wait for each other, and a batch may be handled before the broker has
answered the next fetch.
"""
MOST_BUFFERED = 10_000
"""Messages: the limit for these multiples. The note in a commit can tell 22,000 apart."""


def max_buffered(settings: AthomicSettings, subscription: Subscription, concurrency: int | None = None) -> int:
    """How many messages of a partition may wait or run at most: they keep the handler busy while more are fetched.

    `concurrency`: how many calls run at once; None: as the subscription says.
    """
    if settings.max_buffered_messages is not None:
        return settings.max_buffered_messages
    in_hand = max(concurrency or subscription.concurrency, subscription.batch_size or 0)
    ahead = FAR_AHEAD if subscription.ordering == "key" or subscription.batch_size is not None else AHEAD
    usual = BUFFERED if subscription.sequencing is None else BUFFERED_IN_ORDER
    return max(usual, min(ahead * in_hand, MOST_BUFFERED), 2 * in_hand, 2 * settings.max_poll_messages)


def enough(settings: AthomicSettings, subscription: Subscription, concurrency: int | None = None) -> float:
    """How many messages of a partition may wait for their turn while more of them would not let more calls run.

    More would only get cold: when their turn comes, the processor's caches have forgotten them, and each message costs
    up to a tenth more. Infinite where `max_buffered` is as little as for any handler, or was set by an operator, and
    for an ordered consumer, as the message that all others wait for may come next.
    """
    if settings.max_buffered_messages is not None or subscription.sequencing is not None:
        return inf
    if max_buffered(settings, subscription, concurrency) <= max(BUFFERED, 2 * settings.max_poll_messages):
        return inf
    if subscription.batch_size is not None:
        return max(BUFFERED, 2 * subscription.batch_size)  # with the batch that is handled now
    return WAITING
