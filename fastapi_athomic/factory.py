"""Builds what an app consists of.

The only place that knows concrete classes: read `ConsumerFactory.create` to see the wiring.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from opentelemetry.trace import TracerProvider

from .consumption.batches import BatchStrategy
from .consumption.lanes import KeyOrder, LaneStrategy, PartitionOrder, Unordered
from .consumption.parts import SessionParts
from .consumption.positions import StartingPoints
from .consumption.service import ConsumerService, ServiceParts
from .consumption.session import ConsumerSession
from .consumption.strategies import ConsumptionStrategy, Guard, StrategyParts
from .decorators import Subscription
from .discovery import Discovered
from .exceptions import ConfigurationError, TopicNotFoundError
from .failures.dlq import DLQHandler
from .failures.left_behind import LeftBehind
from .failures.own_topics import OwnTopics
from .failures.pattern_topics import pattern_topics
from .failures.return_topics import ReturnTopics
from .failures.topic_watch import TopicWatch
from .handling.injection import HandlerPlan, compile_handler
from .handling.plans import Provider
from .handling.processors import BatchMessageProcessor, OrderedMessageProcessor, ProcessorParts, SingleMessageProcessor
from .handling.threads import HandlerThreads
from .loop.blocking import worker_name
from .loop.fairness import LoopShare
from .messages import RawMessage
from .observation.counters import Counters
from .observation.gauges import SequenceGauge
from .payload.pipeline import PayloadPipeline
from .propagation.context import ContextAdapter
from .propagation.headers import HeadersOrchestrator
from .propagation.lineage import LineageAdapter, dataset_namespace
from .propagation.telemetry import MessagingTelemetryAdapter
from .sequencing.strategy import OrderedParts, OrderedStrategy
from .settings import AthomicSettings, HandlerTuning
from .stores.base import Member, StateStore
from .stores.memory import store_named
from .transports.base import ConsumerConfig, RebalanceListener, Transport, TransportConsumer
from .transports.memory.transport import MemoryTransport

logger = logging.getLogger(__name__)

NO_STORE = (
    "an ordered consumer needs a state store that outlives the process: "
    "set ATHOMIC_STATE_STORE_URL=redis://host:6379/0 (memory:// works for a single process that may forget)"
)

BUFFERED = 500
"""Messages of a partition that are taken in ahead of the handler, if it does not need more."""
AHEAD, FAR_AHEAD = 2, 5
"""Times as many as can be in hand at once: one behind each. More where those of a frequent key wait for each other, and
with batches, which are done before the broker has answered.
"""
MOST_BUFFERED = 10_000
"""Messages of a partition that are taken in far ahead; notes in commits tell 22,000 apart."""

STRATEGIES: Mapping[str, type[LaneStrategy]] = {"partition": PartitionOrder, "key": KeyOrder, "none": Unordered}


def create_transport(settings: AthomicSettings) -> Transport:
    """The transport that the URL of the broker asks for; a client library is imported only when it is used."""
    if settings.scheme == "kafka":
        from .transports.kafka.transport import KafkaTransport

        return KafkaTransport(settings)
    return MemoryTransport(settings)


def create_store(settings: AthomicSettings) -> StateStore | None:
    """The state store that the settings ask for; None: there is none that would outlive the process.

    Raises:
        ConfigurationError: the extra `redis` is not installed.
    """
    url = settings.state_store_url.get_secret_value() if settings.state_store_url is not None else None
    if url is None and settings.scheme != "memory":
        return None
    if url is None or url.startswith("memory://"):
        return store_named(settings.broker_address if settings.scheme == "memory" else "")
    try:
        from .stores.redis import RedisStateStore
    except ImportError:
        raise ConfigurationError("state_store_url needs fastapi-athomic[redis]") from None
    return RedisStateStore(url, prefix=settings.ordered.key_prefix, timeout=settings.ordered.timeout)


OrchestratorFactory = Callable[[Subscription | None], HeadersOrchestrator]


def create_orchestrator(
    settings: AthomicSettings, transport: Transport, tracer_provider: TracerProvider | None
) -> OrchestratorFactory:
    """Makes the orchestrators of one run of an app: one per subscription; for None, that of what the app publishes."""
    context = ContextAdapter(settings.context.max_value_length)
    dataset = dataset_namespace(transport.scheme, transport.address)

    def create(subscription: Subscription | None) -> HeadersOrchestrator:
        lineage = None
        if subscription is None or subscription.enable_lineage:
            job = subscription.handler_id if subscription is not None else settings.client_id
            lineage = LineageAdapter(job_name=job, dataset_namespace=dataset)
        telemetry = MessagingTelemetryAdapter(
            tracer_provider,
            system=transport.scheme,
            client_id=settings.client_id,
            group_id=subscription.group_id if subscription is not None else "",
            record_keys=settings.trace_message_keys,
        )
        handler_id = subscription.handler_id if subscription is not None else ""
        return HeadersOrchestrator(telemetry, lineage, context, handler_id)

    return create


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryParts:
    """What all consumers of an app share."""

    settings: AthomicSettings
    transport: Transport
    pipeline: PayloadPipeline
    orchestrator: OrchestratorFactory
    share: LoopShare
    providers: Mapping[type, Provider]
    known: Mapping[Callable[..., Any], Provider]
    overrides: Callable[[], Mapping[Callable[..., Any], Callable[..., Any]]]
    store: StateStore | None  # of ordered consumers


class ConsumerFactory:
    """Builds one self-contained `ConsumerService` for one subscription."""

    def __init__(self, parts: FactoryParts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._ordered_groups: set[str] = set()
        self.expect(())

    def expect(self, subscriptions: Collection[Subscription]) -> None:
        """All that will be created: what one handler makes (a DLQ that it names) is no source of another's pattern."""
        self._own_topics = OwnTopics(self._settings, subscriptions)
        self._watch = TopicWatch(
            self._parts.transport,
            timeout=self._settings.request_timeout,
            create_topics=self._settings.create_topics,
            made=self._own_topics.made_for_us,
        )
        self._left_behind = LeftBehind(self._parts.transport, self._watch, self._settings)

    def create(self, discovered: Discovered, tuning: HandlerTuning | None) -> ConsumerService:
        """Compiles the handler and wires its service; nothing is started.

        Raises:
            ConfigurationError: the signature makes no sense, or the subscription asks for what is not there.
        """
        subscription = tuned(discovered.subscription, tuning)
        plan = self._compile(discovered, subscription)
        gauge = self._gauge(subscription, plan)
        counters = Counters()
        returns = ReturnTopics(subscription, self._settings, self._own_topics)
        dlq_handler = DLQHandler(subscription, self._parts.transport, self._settings, returns, self._watch)
        dlq_handler.check_names()
        self._left_behind.add(dlq_handler)
        self._watch.expect(returns.expected())
        processor_parts = self._processor_parts(subscription, plan, dlq_handler)
        session_parts = SessionParts(
            name=subscription.handler_id,
            connect=lambda listener, topics: self._connect(subscription, returns, listener, topics),
            make_strategy=lambda guard: self._strategy(subscription, processor_parts, counters, guard, gauge),
            ensure_topics=lambda: self._ensure_topics(subscription, returns),
            follow=lambda client, followed: self._follow(dlq_handler, client, followed),
            prepare=dlq_handler.prepare,
            delay_of=returns.delay_of,
            forget=dlq_handler.forget,
            starting_points=StartingPoints(
                reset=subscription.auto_offset_reset,
                is_own=returns.brings_back,
                pattern=subscription.pattern is not None,
            ),
            settings=self._settings,
            counters=counters,
            share=self._parts.share,
            max_buffered=max_buffered(self._settings, subscription),
            session_timeout=self._settings.kafka.session_timeout if self._settings.scheme == "kafka" else None,
        )
        return ConsumerService(
            ServiceParts(
                subscription=subscription,
                new_session=lambda paused: ConsumerSession(session_parts, paused=paused),
                dlq_handler=dlq_handler,
                orchestrator=processor_parts.orchestrator,
                counters=counters,
                settings=self._settings,
                paused=tuning is not None and tuning.paused,
                gauge=gauge,
            )
        )

    def _gauge(self, subscription: Subscription, plan: HandlerPlan) -> SequenceGauge | None:
        """None for a consumer without sequence numbers. Checks what an ordered one needs."""
        sequencing = subscription.sequencing
        if sequencing is None:
            return None
        group = subscription.group_id
        if self._parts.store is None:
            problem = NO_STORE
        elif plan.target_type in (RawMessage, bytes, str):
            problem = "an ordered consumer needs a decoded message: annotate it with a model or a dict"
        elif group in self._ordered_groups:
            problem = f"group {group} has another ordered consumer: their sequence numbers would mix"
        else:
            self._ordered_groups.add(group)
            return SequenceGauge(gap_timeout=sequencing.gap_timeout)
        raise ConfigurationError(f"handler {subscription.handler_id}: {problem}")

    def _compile(self, discovered: Discovered, subscription: Subscription) -> HandlerPlan:
        return compile_handler(
            discovered.function,
            handler_id=subscription.handler_id,
            target_type=subscription.target_type,
            batch=subscription.batch_size is not None,
            providers=self._parts.providers,
            known=self._parts.known,
            overrides=self._parts.overrides,
            threads=HandlerThreads(subscription.concurrency, f"athomic-{subscription.handler_id}"),
        )

    def _processor_parts(
        self, subscription: Subscription, plan: HandlerPlan, dlq_handler: DLQHandler
    ) -> ProcessorParts:
        pipeline = subscription.payload or self._parts.pipeline
        return ProcessorParts(
            handler_id=subscription.handler_id,
            group_id=subscription.group_id,
            plan=plan,
            decode=None if plan.target_type is RawMessage else pipeline.decoder(plan.target_type),
            orchestrator=self._parts.orchestrator(subscription),
            dlq_handler=dlq_handler,
            max_attempts=subscription.retry.total_attempts,
            timeout=subscription.timeout,
        )

    def _strategy(
        self,
        subscription: Subscription,
        processor_parts: ProcessorParts,
        counters: Counters,
        guard: Guard,
        gauge: SequenceGauge | None,
    ) -> ConsumptionStrategy:
        parts = StrategyParts(
            concurrency=subscription.concurrency,
            counters=counters,
            share=self._parts.share,
            guard=guard,
            name=worker_name(subscription.handler_id),
        )
        if gauge is not None:
            ordered = self._ordered_parts(subscription, gauge)
            return OrderedStrategy(OrderedMessageProcessor(processor_parts), ordered, **parts)
        if subscription.batch_size is not None:
            return BatchStrategy(
                BatchMessageProcessor(processor_parts),
                batch_size=subscription.batch_size,
                linger=subscription.batch_linger_ms / 1000,
                **parts,
            )
        return STRATEGIES[subscription.ordering](SingleMessageProcessor(processor_parts), **parts)

    def _ordered_parts(self, subscription: Subscription, gauge: SequenceGauge) -> OrderedParts:
        settings, sequencing, store = self._settings.ordered, subscription.sequencing, self._parts.store
        assert sequencing is not None
        assert store is not None, "checked when the service was built"
        member = Member(
            group_id=subscription.group_id,
            name=uuid4().hex,
            lease=settings.lease,
            before_first=sequencing.first_sequence - 1,
            room_per_aggregate=settings.room_per_aggregate,
            room_per_group=settings.room_per_group,
        )
        return OrderedParts(
            sequencing=sequencing,
            retry=subscription.retry,
            store=store,
            member=member,
            gauge=gauge,
            linger=self._settings.commit_interval,
        )

    def _connect(
        self,
        subscription: Subscription,
        returns: ReturnTopics,
        listener: RebalanceListener,
        followed: frozenset[str],
    ) -> TransportConsumer:
        settings = self._settings
        config = ConsumerConfig(
            group_id=subscription.group_id,
            handler_id=subscription.handler_id,
            client_id=settings.client_id,
            topics=subscription.topics,
            pattern=pattern_topics(subscription, returns),
            followed=tuple(sorted(followed)),
            drain_timeout=settings.drain_timeout,
            max_poll_messages=settings.max_poll_messages,
        )
        return self._parts.transport.consumer(config, listener)

    async def _ensure_topics(self, subscription: Subscription, returns: ReturnTopics) -> frozenset[str]:
        """A consumer of a topic that does not exist would wait for it without a word.

        Gives what else there is to follow now: retry and redrive topics, none of which is made before it is needed.

        Raises:
            TopicNotFoundError: names the topics that are missing and may not be created.
        """
        if subscription.pattern is not None:
            return frozenset()
        transport, timeout = self._parts.transport, self._settings.request_timeout
        counts = await transport.partition_counts(subscription.topics, timeout)
        missing = [topic for topic in subscription.topics if topic not in counts]
        if missing and self._settings.create_topics:
            await transport.create_topics(dict.fromkeys(missing, -1), timeout)
        elif missing:
            raise TopicNotFoundError(f"topic {', '.join(missing)} does not exist and create_topics is off")
        return await self._watch.existing(returns.brings_back)

    async def _follow(self, dlq_handler: DLQHandler, client: TransportConsumer, followed: frozenset[str]) -> None:
        await self._left_behind.name(dlq_handler, client)
        await self._watch.follow(client, dlq_handler.returns, followed)


def max_buffered(settings: AthomicSettings, subscription: Subscription) -> int:
    """How many messages of a partition may wait or run: enough to keep the handler busy while more are fetched."""
    if settings.max_buffered_messages is not None:
        return settings.max_buffered_messages
    in_hand = max(subscription.concurrency, subscription.batch_size or 0)
    ahead = FAR_AHEAD if subscription.ordering == "key" or subscription.batch_size is not None else AHEAD
    return max(BUFFERED, min(ahead * in_hand, MOST_BUFFERED), 2 * in_hand, 2 * settings.max_poll_messages)


def tuned(subscription: Subscription, tuning: HandlerTuning | None) -> Subscription:
    """The subscription with what an operator set for this handler."""
    if tuning is None:
        return subscription
    names = ("concurrency", "batch_size", "batch_linger_ms", "timeout", "auto_offset_reset", "enable_lineage")
    changes = {name: value for name in names if (value := getattr(tuning, name)) is not None}
    if "batch_size" in changes and subscription.batch_size is None:
        raise ConfigurationError(
            f"handler {subscription.handler_id}: tuning sets batch_size, but the handler takes single messages"
        )
    return replace(subscription, retry=subscription.retry.tuned(tuning.retry), **changes)
