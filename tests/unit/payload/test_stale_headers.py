"""Messages that are passed on with all of their headers: which of them are not true any more."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import PayloadPipeline
from fastapi_athomic.messages import Headers
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.compression import Gzip
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import Decoder, Outgoing, Part, Serializer
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, settled

OTHERS: Headers = (("trace", b"1"), ("a", None))


class Order(BaseModel):
    number: int


class Own(Serializer):
    """A user's, that leaves headers to those who publish."""

    name = "own"

    def encode(self, message: Any, outgoing: Outgoing) -> bytes:
        return b"own"

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        return lambda _: target_type


def left(pipeline: PayloadPipeline, given: Headers, message: Any = None) -> Headers:
    outgoing = Outgoing("t", None, (OTHERS[0], *given, OTHERS[1]))
    assert isinstance(pipeline.write(Order(number=1) if message is None else message, outgoing), bytes)
    return tuple(each for each in outgoing.headers if each not in OTHERS)


def avro() -> Avro:
    return Avro(SchemaRegistry("memory://"), auto_register=True, framing="header")


@pytest.mark.parametrize("steps", [[], [CloudEvents("/shop")]], ids=["plain", "events"])
async def test_json_made_of_an_avro_message_is_read_as_json(steps: Any) -> None:
    of_avro = Outgoing("t")
    await settled(PayloadPipeline([avro()]).write(Order(number=1), of_avro))
    assert {name for name, _ in of_avro.headers} == {"__value_schema_id", "content-type"}
    given = tuple(each for each in of_avro.headers if not steps or each[0] != "content-type")  # that is the event's own
    outgoing = Outgoing("t", None, (*OTHERS, *given))
    data: Any = PayloadPipeline(steps).write(Order(number=2), outgoing)
    assert outgoing.headers[:2] == OTHERS
    assert "__value_schema_id" not in dict(outgoing.headers)
    assert b"application/avro" not in dict(outgoing.headers).values()
    moving = PayloadPipeline(steps or [Json()], reads=[avro()])
    assert await settled(moving.decoder(Order)(arrived(data, outgoing))) == Order(number=2)


@pytest.mark.parametrize(
    ("said", "stays"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/vnd.shop.order+json", True),
        (b"application/cloudevents+json; charset=utf-8", True),  # one that was written by hand
        (b"text/plain", True),
        (None, True),
        (b"application/vnd.msgpack", False),
        (b"Application/Avro", False),
        (b"application/protobuf", False),
        (b"application/vnd.confluent.json-schema", False),
    ],
)
def test_of_content_types_those_of_other_formats_are_left_out(said: bytes | None, stays: bool) -> None:
    header = ("content-type", said)
    assert left(PayloadPipeline(), (header,)) == ((header,) if stays else ())


@pytest.mark.parametrize(
    ("said", "now"),
    [
        (b"application/json", b"application/vnd.msgpack"),
        (b"application/x-msgpack", b"application/x-msgpack"),
        (b"text/mine", b"text/mine"),
    ],
)
def test_what_the_pipeline_writes_takes_the_place_of_another_format(said: bytes, now: bytes) -> None:
    assert left(PayloadPipeline([MessagePack()]), (("content-type", said),)) == (("content-type", now),)


def test_encodings_are_left_out() -> None:
    assert left(PayloadPipeline(), (("content-encoding", b"gzip"),)) == ()


@pytest.mark.parametrize("steps", [[], [Json(), Gzip()]], ids=["plain", "compressed"])
def test_bytes_are_published_as_they_are_and_so_is_what_is_said_of_them(steps: Any) -> None:
    given = (("content-type", b"application/avro"), ("content-encoding", b"br"), ("__value_schema_id", b"\1"))
    kept = left(PayloadPipeline(steps), given, b"as it came")
    assert [each for each in kept if each in given] == list(given)


def test_serializers_of_users_get_what_the_caller_gives() -> None:
    given = (("content-type", b"application/avro"), ("__value_schema_id", b"\1"))
    assert left(PayloadPipeline([Own()]), given)[:2] == given
