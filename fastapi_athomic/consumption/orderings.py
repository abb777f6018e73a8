"""Which strategy keeps which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from ..handling.processors import BatchMessageProcessor, ProcessorParts, SingleMessageProcessor
from ..subscriptions import Subscription
from .batches import BatchStrategy
from .lanes import KeyOrder, LaneStrategy, PartitionOrder, Unordered
from .strategies import ConsumptionStrategy, StrategyParts

STRATEGIES: Mapping[str, type[LaneStrategy]] = {"partition": PartitionOrder, "key": KeyOrder, "none": Unordered}


def create_strategy(
    subscription: Subscription, processor_parts: ProcessorParts, **parts: Unpack[StrategyParts]
) -> ConsumptionStrategy:
    """The strategy of a subscription without sequence numbers, with the processor that it works with."""
    if subscription.batch_size is not None:
        return BatchStrategy(
            BatchMessageProcessor(processor_parts),
            batch_size=subscription.batch_size,
            linger=subscription.batch_linger_ms / 1000,
            **parts,
        )
    return STRATEGIES[subscription.ordering](SingleMessageProcessor(processor_parts), **parts)
