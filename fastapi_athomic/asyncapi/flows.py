"""What the document tells: which messages flow through which topics, and which way. Names only, no schemas yet."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from ..consumption.service import ConsumerService
from ..declared_publishers import Publisher
from ..messages import RawMessage
from ..observation.effective import ANY_TOPIC
from ..payload.annotations import type_name
from ..payload.pipeline import PayloadPipeline
from ..payload.routing import Payloads
from .schemas import Mode, TypeUse

Action = Literal["receive", "send"]
Purpose = Literal["source", "published", "retry", "redrive", "dlq"]
"""What a topic is for. The last three are made by the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic, or all that match a pattern: then the address has a parameter."""

    address: str
    pattern: str | None = None

    @property
    def name(self) -> str:
        """The name for people, and for the document's own keys."""
        return self.address if self.pattern is None else self.address.replace(PARAMETER, self.pattern)


PARAMETER = "{topic}"
"""Stands for the name of a topic that a pattern matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Messages of one type go through one topic, in one direction."""

    action: Action
    purpose: Purpose
    topic: Topic
    source: str  # where the messages were first published: their payload is that of this topic
    use: TypeUse  # what a message is
    key: Any  # what its key is; None: nobody says
    pipeline: PayloadPipeline | None  # None: a handler takes messages as they came
    who: str  # the handler's id, or how the publisher is called
    title: str | None = None
    description: str | None = None
    group_id: str | None = None  # of who receives
    service: ConsumerService | None = None  # whose flow it is; None: a publisher's
    delay: float | None = None  # seconds, of a retry topic


def flows_of(
    consumers: Iterable[ConsumerService], publishers: Iterable[Publisher[Any]], payloads: Payloads
) -> list[Flow]:
    """All flows: those of handlers, with their own topics, and those of declared publishers."""
    found = [flow for service in consumers for flow in _of_handler(service, payloads)]
    return found + [_of_publisher(publisher, payloads) for publisher in publishers]


def _of_handler(service: ConsumerService, payloads: Payloads) -> Iterator[Flow]:
    subscription = service.subscription
    pattern = subscription.pattern.pattern if subscription.pattern else None
    for source in subscription.topics or (ANY_TOPIC,):
        yield from _of_source(service, source, pattern, _pipeline(service, source, payloads))


def _pipeline(service: ConsumerService, source: str, payloads: Payloads) -> PayloadPipeline | None:
    own = service.subscription.payload
    if service.target_type is RawMessage:
        return None
    if source == ANY_TOPIC:  # it may differ from topic to topic
        return own or payloads.default
    return payloads.read_with(source, own)


def _of_source(
    service: ConsumerService, source: str, pattern: str | None, pipeline: PayloadPipeline | None
) -> Iterator[Flow]:
    subscription, returns = service.subscription, service.dlq_handler.returns

    def flow(action: Action, purpose: Purpose, name: str, delay: float | None = None) -> Flow:
        by_pattern = ANY_TOPIC in name
        return Flow(
            action=action,
            purpose=purpose,
            topic=Topic(address=name.replace(ANY_TOPIC, PARAMETER), pattern=pattern if by_pattern else None),
            source=source,
            use=TypeUse(service.target_type, "validation"),
            key=next(iter(service.key_types), None),
            pipeline=pipeline,
            who=subscription.handler_id,
            description=inspect.getdoc(service.function) if inspect.isroutine(service.function) else None,
            group_id=subscription.group_id if action == "receive" else None,
            service=service,
            delay=delay,
        )

    yield flow("receive", "source", source)
    for delay, topic in zip(returns.delays, returns.retries(source), strict=True):
        yield flow("send", "retry", topic, delay)
        yield flow("receive", "retry", topic, delay)
    dlq = service.dlq_handler.topic_for(source)
    if dlq is not None:
        yield flow("send", "dlq", dlq)
        yield flow("receive", "redrive", returns.redrive(source))


def _of_publisher(publisher: Publisher[Any], payloads: Payloads) -> Flow:
    declared = publisher.declaration
    return Flow(
        action="send",
        purpose="published",
        topic=Topic(address=declared.topic),
        source=declared.topic,
        use=TypeUse(declared.model, _written(declared.model)),
        key=_key_of(declared.key),
        pipeline=declared.payload or payloads.of_topic(declared.topic),
        who=type_name(declared.model),
        title=declared.title,
        description=declared.description,
    )


def _written(model: Any) -> Mode:
    return "serialization" if model is not RawMessage else "validation"


def _key_of(function: Callable[..., Any] | None) -> Any:
    """What a function of keys says that it returns; None if it does not."""
    try:
        found = get_type_hints(function).get("return") if function is not None else None
    except (NameError, TypeError):
        return None
    return None if found is type(None) else found


def identifier(*parts: str) -> str:
    """A key of the document: letters, digits, `.`, `-` and `_`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", ".".join(parts)).strip("_.") or "any"


def unique(wanted: str, taken: Iterable[str]) -> str:
    """The identifier, with a number behind it if it is taken."""
    known = set(taken)
    numbers: Sequence[str] = ["", *(f"-{number}" for number in range(2, len(known) + 3))]
    return next(wanted + number for number in numbers if wanted + number not in known)
