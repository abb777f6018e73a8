"""Types beside the schemas of the registry, before a message is there."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import PayloadUnavailableError
from fastapi_athomic.schemas.declared import ComparesTypes, DeclaresSchemas
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.protobuf_files import as_text
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.protoc import generated
from tests.support.shop_proto import Card, Cash, Order, shop_pb2

PARCEL = """
syntax = "proto3";
package athomic.parcels;
message Parcel { string id = 1; int32 grams = 2; }
"""
parcel_pb2 = generated("athomic_parcel.proto", PARCEL)


class Parcel(BaseModel):
    id: str
    grams: int = 0


class Heavy(BaseModel):
    id: str
    tons: int


@pytest.fixture
def registry() -> SchemaRegistry:
    return SchemaRegistry("memory://")


def test_it_is_what_the_command_asks_for(registry: SchemaRegistry) -> None:
    protobuf = Protobuf(registry, auto_register=True)

    assert isinstance(protobuf, DeclaresSchemas)
    assert isinstance(protobuf, ComparesTypes)
    assert protobuf.registry is registry
    assert protobuf.auto_register


def test_what_would_be_registered(registry: SchemaRegistry) -> None:
    protobuf = Protobuf(registry, messages={Parcel: parcel_pb2.Parcel}, subject="topic_record")

    for target in (parcel_pb2.Parcel, parcel_pb2.Parcel | None, Parcel):
        declared = protobuf.declared(target, "t")
        assert declared is not None
        assert (declared.subject, declared.type) == ("t-athomic.parcels.Parcel", "PROTOBUF")
        assert declared.text == as_text(parcel_pb2.DESCRIPTOR)
    for target in (Heavy, dict, parcel_pb2.Parcel | shop_pb2.Card, shop_pb2.Order, list[int]):
        assert protobuf.declared(target, "t") is None


@pytest.mark.parametrize(
    ("text", "target", "writes", "problems"),
    [
        (PARCEL, parcel_pb2.Parcel, True, []),
        (PARCEL, Parcel, True, []),
        (PARCEL, Heavy, False, ["tons of Heavy is not in the message athomic.parcels.Parcel"]),
        (PARCEL, dict, False, []),
        (PARCEL, parcel_pb2.Parcel | shop_pb2.Card, False, ["the schema of t-value has no message athomic.shop.Card"]),
        (PARCEL.replace("int32 grams = 2;", ""), parcel_pb2.Parcel, False, []),
        (
            PARCEL.replace("int32 grams = 2;", ""),
            parcel_pb2.Parcel,
            True,
            ["grams is not in the schema of t-value"],
        ),
        (
            PARCEL.replace("int32", "string"),
            parcel_pb2.Parcel | None,
            False,
            ["grams is read as int, and was written as text or bytes"],
        ),
        ("no proto;", Parcel, False, ["the schema of t-value cannot be used: it is no valid .proto file: line 1"]),
    ],
)
async def test_what_does_not_fit(
    registry: SchemaRegistry, text: str, target: Any, writes: bool, problems: list[str]
) -> None:
    await registry.register("t-value", "PROTOBUF", text)

    assert await Protobuf(registry).incompatibilities(target, "t", writes=writes) == problems


async def test_models_of_a_union_are_compared_with_their_messages(registry: SchemaRegistry) -> None:
    from tests.support.shop_proto import register_shop

    await register_shop(registry, "t-value")
    protobuf = Protobuf(registry)

    assert await protobuf.incompatibilities(Order | Card | Cash, "t", writes=True) == []


async def test_without_a_subject_there_is_nothing_to_compare(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadUnavailableError, match="t-value"):
        await Protobuf(registry).incompatibilities(Order, "t", writes=False)
