"""The schemas of an app's messages beside those of its schema registry: part of `fastapi-athomic check`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..exceptions import ConfigurationError, PayloadError, PayloadUnavailableError
from ..messages import RawMessage
from ..schemas.declared import ComparesTypes, DeclaresSchemas


@dataclass(slots=True)
class Comparison:
    """What came out of it."""

    compared: int = 0  # types with subjects
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Consumed(NamedTuple):
    handler_id: str
    topic: str
    target_type: Any
    serializer: DeclaresSchemas


async def compare(athomic: Athomic, consumers: Iterable[ConsumerService]) -> Comparison:
    """Asks the registry whether the handlers' types go with the schemas that it has. Nothing is registered.

    A registry that cannot be reached, or has no schema yet, is a warning.
    """
    found = Comparison()
    away: dict[int, bool] = {}  # by the id of the registry
    for each in _consumed(athomic, consumers):
        registry = each.serializer.registry
        if id(registry) not in away:
            away[id(registry)] = not await _answers(registry, found)
        if not away[id(registry)]:
            await _compare(each, found)
    return found


def _consumed(athomic: Athomic, consumers: Iterable[ConsumerService]) -> Iterator[_Consumed]:
    for service in consumers:
        subscription, target = service.subscription, service.target_type
        for topic in subscription.topics if target is not RawMessage else ():
            serializer = athomic.payloads.read_with(topic, subscription.payload).serializer
            if isinstance(serializer, DeclaresSchemas):
                yield _Consumed(subscription.handler_id, topic, target, serializer)


async def _answers(registry: Any, found: Comparison) -> bool:
    try:
        await registry.check()
    except PayloadUnavailableError as error:
        found.warnings.append(f"schemas were not compared: {error}")
        return False
    return True


async def _compare(consumed: _Consumed, found: Comparison) -> None:
    place = f"handler {consumed.handler_id}: topic {consumed.topic}"
    try:
        problems = await _problems(consumed)
    except PayloadUnavailableError as error:  # it answers, so it has no such schema
        found.warnings.append(f"{place}: {error}")
    except (ConfigurationError, PayloadError) as error:
        found.problems.append(f"{place}: {error}")
    else:
        found.compared += 1
        found.problems += [f"{place}: {problem}" for problem in problems]


async def _problems(consumed: _Consumed) -> list[str]:
    _, topic, target, serializer = consumed
    registry, problems = serializer.registry, []
    declared = serializer.declared(target, topic)
    if declared is not None:
        subject, kind, text, references = declared
        reasons = await registry.incompatibilities(subject, kind, text, references)
        problems += [f"the registry would not take it as the next version of {subject}: {reason}" for reason in reasons]
        if not (reasons or serializer.auto_register):
            await registry.latest(subject)  # raises if there is none
    if isinstance(serializer, ComparesTypes) and not (declared is not None and serializer.auto_register):
        problems += await serializer.incompatibilities(target, topic, writes=False)
    return problems
