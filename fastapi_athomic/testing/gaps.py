"""Do messages of ordered handlers wait for one that will be given up?"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from ..consumption.service import ConsumerService

SURE_SECONDS = 3.0
"""So long after a message was set aside, the state store has surely been asked how many there are."""


class Gaps:
    """Knows what was set aside because it came early. Used in the consumers' event loop."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # by handler: set aside so far, and when that last changed

    def open(self, consumers: Iterable[ConsumerService]) -> bool:
        """Whether one of these will go on after its `gap_timeout`. Not if `on_gap` is "wait": that one waits on."""
        ordered = [each for each in consumers if (rules := each.subscription.sequencing) and rules.on_gap != "wait"]
        return any(self._is_open(consumer) for consumer in ordered if consumer.counters.parked)

    def _is_open(self, consumer: ConsumerService) -> bool:
        count, since = self._seen.get(consumer.name, (0, 0.0))
        if count != consumer.counters.parked:
            since = monotonic()
            self._seen[consumer.name] = consumer.counters.parked, since
        return monotonic() - since < SURE_SECONDS or consumer.work({}).parked > 0
