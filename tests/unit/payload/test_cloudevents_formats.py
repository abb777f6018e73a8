"""CloudEvents around every serializer of the package, and before every kind of step."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.claim_check import ClaimCheck, Folder
from fastapi_athomic.payload.cloudevents import CloudEvent, CloudEvents
from fastapi_athomic.payload.compression import Zstd
from fastapi_athomic.payload.encryption import AesGcm
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import Later, Outgoing, Serializer
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived

MODES = pytest.mark.parametrize("mode", ["binary", "structured"])
AVRO, SCHEMAS = SchemaRegistry("memory://events-avro"), SchemaRegistry("memory://events-json")
FORMATS: Mapping[str, Callable[[], Serializer]] = {
    "json": Json,
    "messagepack": MessagePack,
    "avro": lambda: Avro(AVRO, auto_register=True, subject="topic_record"),
    "avro, id in a header": lambda: Avro(AVRO, framing="header", auto_register=True, subject="topic_record"),
    "json schema": lambda: JsonSchema(SCHEMAS, auto_register=True, subject="topic_record"),
    "json schema, id in a header": lambda: JsonSchema(
        SCHEMAS, framing="header", auto_register=True, subject="topic_record"
    ),
}
KEY = SecretStr(b64encode(bytes(32)).decode())


class Order(BaseModel):
    number: int
    note: str = ""


class Cancelled(BaseModel):
    number: int
    reason: str = ""


TYPES: Mapping[str, Any] = {"order.placed": Order, "order.cancelled": Cancelled}


async def settled(value: Any) -> Any:
    return await value if isinstance(value, Later) else value


async def passed(pipeline: PayloadPipeline, message: Any, target: Any, topic: str = "t") -> Any:
    sent = Outgoing(topic)
    value = await settled(pipeline.write(message, sent))
    return await settled(pipeline.decoder(target)(arrived(value, sent)))


@MODES
@pytest.mark.parametrize("name", FORMATS)
async def test_every_serializer_may_be_inside(mode: Any, name: str) -> None:
    pipeline = PayloadPipeline([CloudEvents("/shop", serializer=FORMATS[name](), mode=mode, types=TYPES)])
    for data in (Order(number=1, note="größe"), Cancelled(number=2)):
        event = await passed(pipeline, data, CloudEvent[Order] | CloudEvent[Cancelled])
        assert (event.data, event.source) == (data, "/shop")
        assert await passed(pipeline, data, Order | Cancelled) == data
    nothing = await passed(pipeline, CloudEvent[Order | None](id="1", type="order.placed"), CloudEvent[Order | None])
    assert (nothing.id, nothing.data) == ("1", None)


@MODES
@pytest.mark.parametrize(
    ("old", "new"), list(itertools.permutations(["json", "messagepack", "avro, id in a header"], 2))
)
async def test_a_topic_can_move_from_one_serializer_to_another(mode: Any, old: str, new: str) -> None:
    before = CloudEvents("/shop", serializer=FORMATS[old](), mode=mode, types=TYPES)
    after = CloudEvents("/shop", serializer=FORMATS[new](), reads=[FORMATS[old]()], mode=mode, types=TYPES)
    sent = Outgoing("t")
    value = await settled(PayloadPipeline([before]).write(Order(number=1), sent))
    assert await settled(PayloadPipeline([after]).decoder(Order)(arrived(value, sent))) == Order(number=1)
    assert await passed(PayloadPipeline([after]), Order(number=2), Order) == Order(number=2)


@MODES
async def test_every_kind_of_step_may_follow(mode: Any, tmp_path: Path) -> None:
    steps = [Zstd(), AesGcm({"k1": KEY}), ClaimCheck(Folder(tmp_path), threshold=0)]
    pipeline = PayloadPipeline([CloudEvents("/shop", mode=mode, types=TYPES), *steps])
    event = CloudEvent[Order](
        type="order.placed", data=Order(number=1, note="x" * 100_000), extensions={"partitionkey": "k"}
    )
    sent = Outgoing("orders")
    value = await settled(pipeline.write(event, sent))
    message = arrived(value, sent)
    assert message.key == b"k"
    assert dict(message.headers)["content-encoding"] == b"zstd, aes-gcm, claim-check"
    found = await settled(pipeline.decoder(CloudEvent[Order])(message))
    assert (found.id, found.data) == (event.id, event.data)
