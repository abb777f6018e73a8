"""The schemas of an app's messages beside those of its schema registry: part of `fastapi-athomic check`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadUnavailableError
from ..messages import RawMessage
from ..schemas.declared import DeclaredSchema, DeclaresSchemas
from ..schemas.registered import SchemaSource


@dataclass(slots=True)
class Comparison:
    """What came out of it."""

    compared: int = 0
    problems: list[str] = field(default_factory=list)  # schemas that the registry would refuse
    warnings: list[str] = field(default_factory=list)


class _Declared(NamedTuple):
    handler_id: str
    topic: str
    serializer: DeclaresSchemas
    schema: DeclaredSchema


async def compare(athomic: Athomic, consumers: Iterable[ConsumerService]) -> Comparison:
    """Asks the registry whether what the handlers' types declare goes with the versions that are there.

    Nothing is registered. A registry that cannot be reached is a warning.
    """
    found = Comparison()
    away: set[int] = set()  # ids of registries that are not asked any more
    for each in _declared(athomic, consumers, found):
        registry = each.serializer.registry
        if id(registry) in away:
            continue
        try:
            await _compare(each, registry, found)
        except PayloadUnavailableError as error:
            away.add(id(registry))
            found.warnings.append(f"schemas were not compared: {error}")
    return found


def _declared(athomic: Athomic, consumers: Iterable[ConsumerService], found: Comparison) -> Iterator[_Declared]:
    for service in consumers:
        subscription, target = service.subscription, service.target_type
        if target is RawMessage:
            continue
        for topic in subscription.topics:
            serializer = athomic.payloads.read_with(topic, subscription.payload).serializer
            if not isinstance(serializer, DeclaresSchemas):
                continue
            try:
                schema = serializer.declared(target, topic)
            except (ConfigurationError, PayloadEncodeError) as error:
                found.problems.append(f"handler {subscription.handler_id}: topic {topic}: {error}")
                continue
            if schema is not None:
                yield _Declared(subscription.handler_id, topic, serializer, schema)


async def _compare(declared: _Declared, registry: SchemaSource, found: Comparison) -> None:
    schema, place = declared.schema, f"handler {declared.handler_id}: topic {declared.topic}"
    try:
        reasons = await registry.incompatibilities(schema.subject, schema.type, schema.text, schema.references)
    except (PayloadDecodeError, PayloadEncodeError) as error:
        reasons = [str(error)]
    found.compared += 1
    if reasons:
        found.problems.append(
            f"{place}: the schema registry would refuse this schema as the next version of {schema.subject}: "
            f"{'; '.join(reasons)}"
        )
    elif not declared.serializer.auto_register and not await _has_versions(registry, schema.subject):
        found.warnings.append(
            f"{place}: the schema registry has no subject {schema.subject}: what is published waits until a schema is "
            "registered; register it before the deploy"
        )


async def _has_versions(registry: SchemaSource, subject: str) -> bool:
    """Whether the subject is known. The registry has just answered, so it is not away."""
    try:
        await registry.latest(subject)
    except PayloadUnavailableError:
        return False
    return True
