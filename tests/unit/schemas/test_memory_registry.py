"""The registry inside the process."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from fastapi_athomic import PayloadEncodeError
from fastapi_athomic.schemas.registered import Reference, SchemaType
from fastapi_athomic.schemas.registry import SchemaRegistry

INT, LONG = '"int"', '"long"'


async def test_the_same_schema_has_one_id_and_guid_in_all_subjects() -> None:
    registry = SchemaRegistry("memory://")
    first = await registry.register("a-value", "AVRO", INT)
    other = await registry.register("b-value", "AVRO", ' "int" ')
    second = await registry.register("b-value", "AVRO", LONG)
    assert (first.id, first.version, first.subject) == (1, 1, "a-value")
    assert (other.id, other.guid, other.version, other.subject) == (1, first.guid, 1, "b-value")
    assert (second.id, second.version) == (2, 2)
    assert second.guid != first.guid
    assert first.guid is not None
    assert (await registry.by_id(first.guid)).id == 1


async def test_what_is_registered_again_is_no_new_version() -> None:
    registry = SchemaRegistry("memory://r")
    await registry.register("a-value", "JSON", '{"type": "object"}')
    again = await SchemaRegistry("memory://r").register("a-value", "JSON", '{"type":"object"}')
    assert again.version == 1


async def test_named_registries_are_shared_and_others_are_not() -> None:
    name = f"memory://{uuid4().hex}"
    await SchemaRegistry(name).register("a-value", "AVRO", INT)
    assert (await SchemaRegistry(name).latest("a-value")).text == INT
    assert await SchemaRegistry("memory://").incompatibilities("a-value", "AVRO", '"string"') == []
    assert await SchemaRegistry(name).incompatibilities("a-value", "AVRO", '"string"') == [
        "it: int cannot be read as string"
    ]


async def test_an_incompatible_version_is_refused() -> None:
    registry = SchemaRegistry("memory://")
    await registry.register("a-value", "AVRO", INT)
    with pytest.raises(PayloadEncodeError, match="memory:// refuses the schema for a-value: it: int cannot be read as"):
        await registry.register("a-value", "AVRO", '"string"')
    with pytest.raises(PayloadEncodeError, match="it is JSON, and the version before is AVRO"):
        await registry.register("a-value", "JSON", "{}")


@pytest.mark.parametrize(("kind", "text"), [("AVRO", "{no"), ("JSON", "")])
async def test_what_is_no_json_is_refused(kind: SchemaType, text: str) -> None:
    with pytest.raises(PayloadEncodeError, match=f"the {kind} schema is no JSON"):
        await SchemaRegistry("memory://").register("a-value", kind, text)


async def test_what_a_schema_uses_must_be_there() -> None:
    registry = SchemaRegistry("memory://")
    uses = [Reference("shop.Money", "money", 1)]
    text = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "price", "type": "shop.Money"}]})
    with pytest.raises(PayloadEncodeError, match=r"no version 1 of money, which it uses as shop\.Money"):
        await registry.register("a-value", "AVRO", text, uses)
    money = json.dumps({"type": "record", "name": "Money", "namespace": "shop", "fields": []})
    await registry.register("money", "AVRO", money)
    schema = await registry.register("b-value", "AVRO", text, uses)
    assert (await registry.referenced(schema))["shop.Money"].text == money


async def test_it_is_always_there() -> None:
    await SchemaRegistry("memory://").check()
