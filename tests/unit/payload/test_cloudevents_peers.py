"""The CloudEvents SDK reads our events, and its own are read: both of its APIs, both modes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as core
from cloudevents.core.v1.event import CloudEvent as CoreEvent
from cloudevents.v1 import kafka as v1
from cloudevents.v1.http import CloudEvent as V1Event
from pydantic import BaseModel

from fastapi_athomic import PayloadPipeline
from fastapi_athomic.messages import RawMessage
from fastapi_athomic.payload.cloudevents import CloudEvent, CloudEvents
from fastapi_athomic.payload.steps import Later, Outgoing
from tests.support.payloads import message as received

TIME = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
MODES = pytest.mark.parametrize("mode", ["binary", "structured"])


class Order(BaseModel):
    number: int
    amount: Decimal


OURS = CloudEvent[Order](
    id="4711",
    source="https://shop.example/orders",
    type="shop.order.placed",
    subject="größe",
    time=TIME,
    dataschema="https://schemas.example/order",
    extensions={"tenant": "acme", "partitionkey": "k"},
    data=Order(number=7, amount=Decimal("12.50")),
)
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "4711",
    "source": "https://shop.example/orders",
    "type": "shop.order.placed",
    "subject": "größe",
    "dataschema": "https://schemas.example/order",
    "datacontenttype": "application/json",
    "tenant": "acme",
    "partitionkey": "k",
}
DATA = {"number": 7, "amount": "12.50"}


def sent(mode: Any, event: CloudEvent[Any]) -> tuple[dict[str, bytes], bytes | None, Any]:
    outgoing = Outgoing("orders")
    value = PayloadPipeline([CloudEvents("/shop", mode=mode)]).write(event, outgoing)
    assert not isinstance(value, Later)
    return {name: raw or b"" for name, raw in outgoing.headers}, outgoing.key, value


def taken(message: Any) -> RawMessage:
    key = message.key.encode() if isinstance(message.key, str) else message.key
    value = message.value.encode() if isinstance(message.value, str) else message.value
    return received(value, key=key, headers=tuple(message.headers.items()))


def read(target: Any, message: Any) -> Any:
    return PayloadPipeline([CloudEvents("/shop")]).decoder(target)(taken(message))


@MODES
def test_the_core_api_reads_ours(mode: Any) -> None:
    headers, key, value = sent(mode, OURS)
    event = core.from_kafka_event(core.KafkaMessage(headers, key, value))
    assert event.get_attributes() == ATTRIBUTES | {"time": TIME}
    assert event.get_data() == DATA


@MODES
def test_the_core_api_reads_our_text_and_bytes(mode: Any) -> None:
    for data, kind in (("größe", "text/plain"), (b"\x00\xff", "application/octet-stream")):
        headers, key, value = sent(mode, CloudEvent(type="t", data=data, datacontenttype=kind))
        assert core.from_kafka_event(core.KafkaMessage(headers, key, value)).get_data() == data


@MODES
def test_the_v1_api_reads_ours(mode: Any) -> None:
    headers, key, value = sent(mode, OURS)
    assert value is not None
    convert: Any = v1.from_binary if mode == "binary" else v1.from_structured
    event = convert(v1.KafkaMessage(headers, key, value))
    expected: dict[str, Any] = ATTRIBUTES | {"time": "2026-01-02T03:04:05.000678Z"}
    if mode == "structured":  # it takes the header for the content type of the data
        expected["datacontenttype"] = "application/cloudevents+json; charset=UTF-8"
    else:
        expected["partitionkey"] = key
    assert event.get_attributes() == expected
    assert event.get_data() == DATA


@MODES
def test_events_of_the_core_api_are_read(mode: Any) -> None:
    convert = core.to_binary_event if mode == "binary" else core.to_structured_event
    message = convert(CoreEvent(dict(ATTRIBUTES) | {"time": TIME}, DATA))
    assert read(CloudEvent[Order], message) == OURS.model_copy(update={"datacontenttype": "application/json"})
    assert read(Order, message) == OURS.data


@MODES
@pytest.mark.parametrize(("data", "kind"), [("größe", "text/plain"), (b"\x00\xff", "application/octet-stream")])
def test_text_and_bytes_of_the_core_api_are_read(mode: Any, data: Any, kind: str) -> None:
    convert = core.to_binary_event if mode == "binary" else core.to_structured_event
    message = convert(CoreEvent({"type": "t", "source": "/s", "datacontenttype": kind}, data))
    assert read(CloudEvent[type(data)], message).data == data  # type: ignore[misc]


@MODES
def test_events_of_the_core_api_without_data_are_read(mode: Any) -> None:
    convert = core.to_binary_event if mode == "binary" else core.to_structured_event
    message = convert(CoreEvent({"type": "t", "source": "/s", "id": "1"}))
    found = read(CloudEvent[Order | None], message)
    assert (found.id, found.data) == ("1", None)


@MODES
def test_events_of_the_v1_api_are_read(mode: Any) -> None:
    """In structured mode its header says the content type of the data: only the document shows what it is."""
    convert: Any = v1.to_binary if mode == "binary" else v1.to_structured
    message = convert(V1Event(dict(ATTRIBUTES) | {"time": "2026-01-02T03:04:05.000678+00:00"}, DATA))
    assert message.headers["content-type"] == b"application/json"
    found = read(CloudEvent[Order], message)
    expected = OURS.model_copy(update={"datacontenttype": "application/json"})
    if mode == "binary":  # it leaves out the extension that became the key
        expected = expected.model_copy(update={"extensions": {"tenant": "acme"}})
    assert found == expected
    assert read(Order, message) == OURS.data


@MODES
def test_bytes_and_no_data_of_the_v1_api_are_read(mode: Any) -> None:
    attributes = {"type": "t", "source": "/s", "datacontenttype": "application/octet-stream"}
    if mode == "structured":
        message: Any = v1.to_structured(V1Event(attributes, b"\x00\xff"))
    else:
        message = v1.to_binary(V1Event(attributes, b"\x00\xff"), data_marshaller=bytes)
    assert read(CloudEvent[bytes], message).data == b"\x00\xff"
    convert: Any = v1.to_binary if mode == "binary" else v1.to_structured
    nothing = convert(V1Event({"type": "t", "source": "/s", "datacontenttype": "application/json"}))
    assert json.loads(nothing.value) is None or mode == "structured"
    assert read(CloudEvent[Order | None], nothing).data is None
