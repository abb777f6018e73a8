"""The consumer groups of an app that consume in order. What they need is checked before anything starts."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Unpack
from uuid import uuid4

from ..consumption.strategies import ConsumptionStrategy, StrategyParts
from ..exceptions import ConfigurationError
from ..handling.processors import OrderedMessageProcessor, ProcessorParts
from ..messages import RawMessage
from ..observation.gauges import SequenceGauge
from ..settings import AthomicSettings
from ..stores.base import Member, StateStore
from ..subscriptions import Sequencing, Subscription

NO_STORE = (
    "an ordered consumer needs a state store that outlives the process: "
    "set ATHOMIC_STATE_STORE_URL=redis://host:6379/0 (memory:// works for a single process that may lose its state)"
)


class OrderedGroups:
    """Each group has at most one ordered consumer. `store`: None if the app has none."""

    def __init__(self, settings: AthomicSettings, store: StateStore | None) -> None:
        self._settings = settings
        self._store = store
        self._groups: set[str] = set()

    def admit(self, subscription: Subscription, target_type: Any) -> SequenceGauge | None:
        """The gauge of a new ordered consumer; None for a consumer without sequence numbers.

        `target_type` is what its handler takes.

        Raises:
            ConfigurationError: an ordered consumer lacks something, or its group has another one.
        """
        sequencing = subscription.sequencing
        if sequencing is None:
            return None
        group = subscription.group_id
        if self._store is None:
            problem = NO_STORE
        elif target_type in (RawMessage, bytes, str):
            problem = "an ordered consumer needs a decoded message: annotate it with a model or a dict"
        elif group in self._groups:
            problem = f"group {group} has another ordered consumer: their sequence numbers would mix"
        else:
            # here, because apps without ordered consumers need none of these modules
            from .fields import check_fields

            check_fields(subscription.handler_id, sequencing, target_type)
            self._groups.add(group)
            import_module(".strategy", __package__)  # at the start-up, not when the first session is built
            return SequenceGauge(gap_timeout=sequencing.gap_timeout)
        raise ConfigurationError(f"handler {subscription.handler_id}: {problem}")

    def create_strategy(
        self,
        subscription: Subscription,
        gauge: SequenceGauge,
        processor_parts: ProcessorParts,
        **parts: Unpack[StrategyParts],
    ) -> ConsumptionStrategy:
        """The strategy of one session of a consumer that was admitted; each is a new member of the state store."""
        # here, because apps without ordered consumers need none of the modules behind it
        from .strategy import OrderedParts, OrderedStrategy

        sequencing, store = subscription.sequencing, self._store
        assert sequencing is not None
        assert store is not None, "checked when the service was built"
        ordered = OrderedParts(
            sequencing=sequencing,
            retry=subscription.retry,
            store=store,
            member=self._new_member(subscription.group_id, sequencing),
            gauge=gauge,
            linger=self._settings.commit_interval,
        )
        return OrderedStrategy(OrderedMessageProcessor(processor_parts), ordered, **parts)

    def _new_member(self, group_id: str, sequencing: Sequencing) -> Member:
        settings = self._settings.ordered
        return Member(
            group_id=group_id,
            name=uuid4().hex,
            lease=settings.lease,
            before_first=sequencing.first_sequence - 1,
            room_per_aggregate=settings.room_per_aggregate,
            room_per_group=settings.room_per_group,
        )
