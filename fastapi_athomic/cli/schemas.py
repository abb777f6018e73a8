"""The schemas of an app's messages beside those of its schema registry: part of `fastapi-athomic check`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..exceptions import ConfigurationError, PayloadError, PayloadUnavailableError
from ..messages import RawMessage
from ..schemas.declared import ComparesTypes, DeclaredSchema, DeclaresSchemas


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
    told = Comparison()
    try:
        await _look_at(consumed, told)
    except PayloadUnavailableError as error:  # it answers, so it has no such schema
        told.warnings.append(str(error))
    except (ConfigurationError, PayloadError) as error:
        told.problems.append(str(error))
    else:
        found.compared += 1
    found.problems += [f"{place}: {problem}" for problem in told.problems]
    found.warnings += [f"{place}: {warning}" for warning in told.warnings]


async def _look_at(consumed: _Consumed, told: Comparison) -> None:
    _, topic, target, serializer = consumed
    declared = serializer.declared(target, topic)
    if declared is not None:
        reasons = await _refusals(serializer, declared)
        begin = f"the registry would not take it as the next version of {declared.subject}: "
        (told.problems if declared.is_written else told.warnings).extend(begin + reason for reason in reasons)
        if not (reasons or serializer.auto_register):
            await serializer.registry.latest(declared.subject)  # raises if there is none
    if isinstance(serializer, ComparesTypes) and not (declared is not None and serializer.auto_register):
        told.problems += await serializer.incompatibilities(target, topic, writes=False)

    if serializer.framing == "header":
        told.warnings += await _without_guid(serializer, f"{topic}-value" if declared is None else declared.subject)


async def _without_guid(serializer: DeclaresSchemas, subject: str) -> list[str]:
    """What is published with the id in a header needs schemas with GUIDs. One that is not there yet tells nothing."""
    try:
        schema = await serializer.registry.latest(subject)
    except PayloadError:
        return []
    if schema.guid is not None:
        return []
    needs = "which framing='header' needs (Confluent's gives them since version 8.0)"
    return [f"the registry gives {subject} no GUID, {needs}: publishing to it would fail; use framing='prefix'"]


async def _refusals(serializer: DeclaresSchemas, declared: DeclaredSchema) -> list[str]:
    """Why the registry would refuse the schema. One that it has is none of these, also if it is not the newest."""
    schema = (declared.subject, declared.type, declared.text, declared.references)
    reasons = await serializer.registry.incompatibilities(*schema)
    if reasons and declared.is_written:
        try:
            await serializer.registry.find(*schema)
        except PayloadError:
            return reasons
        return []
    return reasons
