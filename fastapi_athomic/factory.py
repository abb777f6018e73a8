"""The wiring of one consumer: read `ConsumerFactory.create` to see it. `assembly` calls it through `manager`.

No other room knows how a consumer's parts fit together: each gets what it needs from here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from .consumption.account import ServiceParts
from .consumption.controls import Controls
from .consumption.gate import Limits
from .consumption.lanes import create_strategy
from .consumption.parts import SessionParts
from .consumption.positions import StartingPoints
from .consumption.read_ahead import enough, max_buffered
from .consumption.rivals import Rivals
from .consumption.service import ConsumerService
from .consumption.session import ConsumerSession
from .consumption.sources import ensure_sources
from .consumption.strategies import ConsumptionStrategy, Guard, StrategyParts
from .discovery import Discovered
from .exceptions import ConfigurationError
from .failures.dlq import DLQHandler
from .failures.left_behind import LeftBehind
from .failures.name_clashes import NameClashes
from .failures.own_topics import OwnTopics
from .failures.pattern_topics import pattern_topics
from .failures.return_topics import ReturnTopics
from .failures.topic_watch import Heard, TopicWatch
from .handling.injection import HandlerPlan, compile_handler
from .handling.patience import Patience
from .handling.plans import Provider
from .handling.processors import ProcessorParts
from .handling.threads import HandlerThreads
from .loop.blocking import worker_name
from .loop.fairness import LoopShare
from .messages import RawMessage
from .observation.counters import Counters
from .observation.effective import ANY_TOPIC, EffectiveSettings, effective_settings, steps_of
from .observation.gauges import SequenceGauge
from .observers import Observer
from .payload.routing import Decoding, Payloads, Wanted
from .propagation.orchestrators import Orchestrators
from .sequencing.groups import OrderedGroups
from .settings import AthomicSettings, HandlerTuning
from .stores.base import StateStore
from .subscriptions import Subscription
from .transports.base import ConsumerConfig, RebalanceListener, Transport, TransportConsumer


class FactoryParts(NamedTuple):
    """What all consumers of an app share."""

    settings: AthomicSettings
    transport: Transport
    payloads: Payloads
    orchestrators: Orchestrators
    share: LoopShare
    providers: Mapping[type, Provider]  # what handlers get for a parameter of this type
    known: Mapping[Callable[..., Any], Provider]  # dependencies that handlers get without a request
    overrides: Callable[[], Mapping[Callable[..., Any], Callable[..., Any]]]  # the app's `dependency_overrides`
    store: StateStore | None  # of ordered consumers
    observer: Observer | None = None  # of tests


class ConsumerFactory:
    """Builds one self-contained `ConsumerService` for one subscription."""

    def __init__(self, parts: FactoryParts, subscriptions: Collection[Subscription]) -> None:
        """`subscriptions` are those of all handlers of the app: topic patterns leave out the DLQs that they name."""
        self._parts = parts
        self._settings = parts.settings
        self._rivals = Rivals()
        self._ordered_groups = OrderedGroups(parts.settings, parts.store)
        self._name_clashes = NameClashes(create_topics=self._settings.makes_topics)
        self._own_topics = OwnTopics(self._settings, subscriptions)
        self._watch = TopicWatch(
            self._parts.transport,
            timeout=self._settings.request_timeout,
            create_topics=self._settings.makes_topics,
            made=self._own_topics.made_for_us,
        )
        self._left_behind = LeftBehind(self._parts.transport, self._watch, self._settings)

    def create(self, discovered: Discovered, tuning: HandlerTuning | None) -> ConsumerService:
        """Compiles the handler and wires its service; nothing is started.

        Raises:
            ConfigurationError: the handler's signature, its options or the names of its topics do not work.
        """
        subscription = discovered.subscription.tuned(tuning)
        threads = HandlerThreads(subscription.concurrency, f"athomic-{subscription.handler_id}")
        plan = self._compile(discovered, subscription, threads)
        returns = ReturnTopics(subscription, self._settings, self._own_topics)
        self._rivals.admit(discovered, returns)
        gauge = self._ordered_groups.admit(subscription, plan.target_type)
        counters = Counters()
        limits = Limits(subscription.handler_id, subscription.rate_limit, subscription.breaker)
        controls = Controls(
            concurrency=subscription.concurrency,
            paused=tuning is not None and tuning.paused,
            max_buffered=lambda concurrency: max_buffered(self._settings, subscription, concurrency),
            enough=lambda concurrency: enough(self._settings, subscription, concurrency),
            limits=limits,
        )
        controls.listeners.append(threads.resize)
        observer = self._parts.observer
        dlq_handler = DLQHandler(
            subscription,
            self._parts.transport,
            self._settings,
            returns,
            self._watch,
            limits.breaker.excuses,
            observer.witness(subscription) if observer is not None else None,
        )
        dlq_handler.check_names()
        self._name_clashes.admit(dlq_handler.uses)
        self._left_behind.add(dlq_handler)
        self._watch.expect([*subscription.topics, *dlq_handler.uses.dlqs], returns.expected())
        processor_parts = self._processor_parts(subscription, plan, dlq_handler, returns)
        if observer is not None:
            processor_parts = observer.processing(Discovered(discovered.function, subscription), processor_parts)
        session_parts = SessionParts(
            name=subscription.handler_id,
            connect=lambda listener, topics: self._connect(subscription, returns, listener, topics),
            make_strategy=lambda guard: self._strategy(subscription, processor_parts, controls, counters, guard, gauge),
            ensure_topics=lambda: self._ensure_topics(subscription, dlq_handler),
            named=subscription.pattern is None,
            follow=lambda client, followed, heard: self._follow(dlq_handler, client, followed, heard),
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
            controls=controls,
            session_timeout=self._settings.session_timeout,
        )
        return ConsumerService(
            ServiceParts(
                subscription=subscription,
                new_session=lambda: ConsumerSession(session_parts),
                controls=controls,
                dlq_handler=dlq_handler,
                patience=processor_parts.patience,
                orchestrator=processor_parts.orchestrator,
                counters=counters,
                settings=self._settings,
                gauge=gauge,
                target_type=plan.target_type,
                effective=self._effective(subscription, plan),
                function=discovered.function,
                key_types=plan.key_types,
            )
        )

    def _effective(self, subscription: Subscription, plan: HandlerPlan) -> EffectiveSettings:
        return effective_settings(
            subscription,
            self._settings,
            target_type=plan.target_type,
            payloads=self._payloads_of(subscription, plan.target_type),
            max_buffered=max_buffered(self._settings, subscription),
        )

    def _payloads_of(self, subscription: Subscription, target_type: Any) -> dict[str, str]:
        """How the messages of each topic are read, by the names of the steps."""
        names = subscription.topics or (ANY_TOPIC,)
        if target_type is RawMessage:
            return dict.fromkeys(names, "as it came")
        payloads, own = self._parts.payloads, subscription.payload
        if subscription.pattern is not None:
            return {ANY_TOPIC: steps_of(own or payloads.default)}
        return {topic: steps_of(payloads.read_with(topic, own)) for topic in names}

    def _compile(self, discovered: Discovered, subscription: Subscription, threads: HandlerThreads) -> HandlerPlan:
        return compile_handler(
            discovered.function,
            handler_id=subscription.handler_id,
            target_type=subscription.target_type,
            batch=subscription.batch_size is not None,
            providers=self._parts.providers,
            known=self._parts.known,
            overrides=self._parts.overrides,
            threads=threads,
        )

    def _processor_parts(
        self, subscription: Subscription, plan: HandlerPlan, dlq_handler: DLQHandler, returns: ReturnTopics
    ) -> ProcessorParts:
        decoding = self._decoding(subscription, plan, returns)
        orchestrator = self._parts.orchestrators.of_handler(
            subscription.handler_id, subscription.group_id, enable_lineage=subscription.enable_lineage
        )
        return ProcessorParts(
            handler_id=subscription.handler_id,
            group_id=subscription.group_id,
            plan=plan,
            decode=decoding.decode,
            keyed=decoding.keyed,
            hint=decoding.hint,
            patience=Patience(subscription.handler_id),
            orchestrator=orchestrator,
            dlq_handler=dlq_handler,
            max_attempts=subscription.retry.total_attempts,
            timeout=subscription.timeout,
        )

    def _decoding(self, subscription: Subscription, plan: HandlerPlan, returns: ReturnTopics) -> Decoding:
        wanted = Wanted(subscription.topics, subscription.payload, plan.target_type, plan.key_types)
        try:
            return self._parts.payloads.decoding(wanted, returns.first_topic, self._own_topics.made)
        except ConfigurationError as error:
            raise ConfigurationError(f"handler {subscription.handler_id}: {error}") from error

    def _strategy(
        self,
        subscription: Subscription,
        processor_parts: ProcessorParts,
        controls: Controls,
        counters: Counters,
        guard: Guard,
        gauge: SequenceGauge | None,
    ) -> ConsumptionStrategy:
        parts = StrategyParts(
            concurrency=controls.concurrency,
            counters=counters,
            share=self._parts.share,
            guard=guard,
            limits=controls.limits,
            name=worker_name(subscription.handler_id),
        )
        if gauge is not None:
            return self._ordered_groups.create_strategy(subscription, gauge, processor_parts, **parts)
        return create_strategy(subscription, processor_parts, **parts)

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
            pattern=pattern_topics(subscription, returns, lambda topic: self._rivals.take(subscription, topic)),
            followed=tuple(sorted(followed)),
            drain_timeout=settings.drain_timeout,
            max_poll_messages=settings.max_poll_messages,
        )
        return self._parts.transport.consumer(config, listener)

    async def _ensure_topics(self, subscription: Subscription, dlq_handler: DLQHandler) -> frozenset[str]:
        """Creates missing source topics. Returns the retry and redrive topics that exist, which are followed too.

        Missing own topics are created here with `create_topics` "at_start", else when they are first needed.
        """
        if subscription.pattern is not None:
            return frozenset()
        await ensure_sources(subscription, self._watch, self._settings)
        await dlq_handler.make_at_start()
        return await self._watch.readable(dlq_handler.returns.brings_back)

    async def _follow(
        self, dlq_handler: DLQHandler, client: TransportConsumer, followed: frozenset[str], heard: Heard
    ) -> None:
        await self._left_behind.warn(dlq_handler, client)
        await self._watch.follow(client, dlq_handler.returns, followed, heard)
