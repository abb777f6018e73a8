"""Events by other people's hands are in `test_cloudevents_peers.py`."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel, Field, ValidationError

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadPipeline
from fastapi_athomic.messages import Headers, RawMessage
from fastapi_athomic.payload.cloudevents import CloudEvent, CloudEvents
from fastapi_athomic.payload.cloudevents_reading import EventReader
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.steps import Decoder, Later, Outgoing, Part, Received, Serializer
from tests.support.payloads import arrived
from tests.support.payloads import message as received


class Change(BaseModel):
    number: int


class Order(Change):
    amount: Decimal = Decimal("1.50")


class Cancelled(Change):
    reason: str = "none"


TYPES = {"shop.order.placed": Order, "shop.order.cancelled": Cancelled}
MODES = pytest.mark.parametrize("mode", ["binary", "structured"])
CE: Headers = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"shop.order.placed"),
)


def written(events: CloudEvents, message: Any, **outgoing: Any) -> RawMessage:
    sent = Outgoing("orders", **outgoing)
    value = PayloadPipeline([events]).write(message, sent)
    assert not isinstance(value, Later)
    return arrived(value, sent)


def read(events: CloudEvents, target: Any, message: RawMessage) -> Any:
    return PayloadPipeline([events]).decoder(target)(message)


def refusal(events: CloudEvents, target: Any, message: RawMessage) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        read(events, target, message)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def event(**changes: Any) -> CloudEvent[Order]:
    given: dict[str, Any] = {
        "id": "4711",
        "source": "https://shop.example/orders",
        "type": "shop.order.placed",
        "subject": "größe",
        "time": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "dataschema": "https://schemas.example/order#1",
        "datacontenttype": "application/json",
        "extensions": {"tenant": "acme", "partitionkey": "k"},
        "data": Order(number=7),
    }
    return CloudEvent[Order](**given | changes)


# --- what is written is read again


@MODES
def test_an_event_comes_back_with_all_its_attributes(mode: Any) -> None:
    events = CloudEvents("/shop", mode=mode)
    message = written(events, event())
    assert read(events, CloudEvent[Order], message) == event()
    assert message.key == b"k"


def test_binary_mode_has_the_data_as_the_value_and_the_attributes_in_headers_as_utf_8() -> None:
    message = written(CloudEvents("/shop"), event())
    assert message.value == b'{"number":7,"amount":"1.50"}'
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"4711",
        "ce_source": b"https://shop.example/orders",
        "ce_type": b"shop.order.placed",
        "ce_subject": "größe".encode(),
        "ce_time": b"2026-01-02T03:04:05.000678Z",
        "ce_dataschema": b"https://schemas.example/order#1",
        "ce_tenant": b"acme",
        "ce_partitionkey": b"k",
        "content-type": b"application/json",
    }


def test_structured_mode_is_one_document() -> None:
    message = written(CloudEvents("/shop", mode="structured"), event())
    assert message.headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    assert message.value is not None
    assert json.loads(message.value) == {
        "specversion": "1.0",
        "id": "4711",
        "source": "https://shop.example/orders",
        "type": "shop.order.placed",
        "subject": "größe",
        "time": "2026-01-02T03:04:05.000678Z",
        "dataschema": "https://schemas.example/order#1",
        "tenant": "acme",
        "partitionkey": "k",
        "datacontenttype": "application/json",
        "data": {"number": 7, "amount": "1.50"},
    }


@MODES
def test_data_alone_gets_attributes_and_handlers_that_want_only_data_get_it(mode: Any) -> None:
    events = CloudEvents("/shop", mode=mode, types=TYPES)
    message = written(events, Cancelled(number=1))
    assert read(events, Cancelled, message) == Cancelled(number=1)
    found: CloudEvent[Cancelled] = read(events, CloudEvent[Cancelled], message)
    assert (found.source, found.type, found.specversion) == ("/shop", "shop.order.cancelled", "1.0")
    assert UUID(found.id).version == 4
    assert found.time is not None
    assert abs(datetime.now(UTC) - found.time) < timedelta(minutes=5)
    assert read(events, CloudEvent[Cancelled], written(events, Cancelled(number=1))).id != found.id


@pytest.mark.parametrize(
    ("options", "data", "type_"),
    [
        ({"types": TYPES, "type": "other"}, Order(number=1), "shop.order.placed"),
        ({"types": {"first": Order, "second": Order}}, Order(number=1), "first"),
        ({"types": {"any": Change}}, Order(number=1), "any"),
        ({"type": "shop.order"}, Order(number=1), "shop.order"),
        ({"type": "shop.order"}, {"a": 1}, "shop.order"),
        ({}, Order(number=1), "Order"),
    ],
)
def test_the_type_of_an_event_comes_from_the_mapping_the_option_or_the_class(
    options: Any, data: Any, type_: str
) -> None:
    events = CloudEvents("/shop", **options)
    for message in (data, CloudEvent(data=data)):
        assert dict(written(events, message).headers)["ce_type"] == type_.encode()


@pytest.mark.parametrize("data", [{"a": 1}, [1], "text", b"bytes", 1, UUID(int=1)])
def test_data_of_no_class_needs_a_type(data: Any) -> None:
    with pytest.raises(PayloadEncodeError, match="has no type: publish a CloudEvent with one"):
        written(CloudEvents("/shop"), data)


def test_attributes_that_a_received_event_did_not_have_are_not_made_up_when_it_is_passed_on() -> None:
    events = CloudEvents("/shop")
    found = read(events, CloudEvent[Order], received(b'{"number": 1}', headers=CE))
    assert found.time is None
    again = written(CloudEvents("/other"), found)
    assert dict(again.headers) == dict(CE) | {"content-type": b"application/json"}


def test_a_given_key_wins_over_the_partition_key() -> None:
    assert written(CloudEvents("/shop"), event(), key=b"given").key == b"given"


@MODES
@pytest.mark.parametrize(
    ("data", "target", "content_type"),
    [
        ("text, größe", str, "text/plain; charset=UTF-8"),
        (b"\x00\xff", bytes, "application/octet-stream"),
        (bytearray(b"<a/>"), str, "application/octet-stream"),
    ],
)
def test_text_and_bytes_travel_as_they_are(mode: Any, data: Any, target: Any, content_type: str) -> None:
    events = CloudEvents("/shop", mode=mode, type="t")
    message = written(events, data)
    found = read(events, CloudEvent[target], message)
    assert found.data == (data if target is not str or isinstance(data, str) else "<a/>")
    assert found.datacontenttype == content_type
    assert read(events, target, message) == found.data


@MODES
def test_data_of_another_content_type_is_given_and_taken_as_bytes_or_text(mode: Any) -> None:
    events = CloudEvents("/shop", mode=mode, type="t")
    message = written(events, CloudEvent(data="<größe/>", datacontenttype="application/xml"))
    assert read(events, str, message) == "<größe/>"
    assert read(events, CloudEvent[bytes], message).data == "<größe/>".encode()
    assert read(events, CloudEvent[bytes], message).datacontenttype == "application/xml"
    assert refusal(events, Order, message) == (
        "step cloudevents: the data has a content type that is not read here (but application/json, and any as bytes "
        "or str)"
    )
    with pytest.raises(PayloadEncodeError, match="json does not write the event's datacontenttype"):
        written(events, event(datacontenttype="application/xml"))


@MODES
def test_json_by_another_name_is_json(mode: Any) -> None:
    events = CloudEvents("/shop", mode=mode)
    message = written(events, event(datacontenttype="application/vnd.shop.order+json; v=2"))
    found = read(events, CloudEvent[Order], message)
    assert found.data == Order(number=7)
    assert found.datacontenttype == "application/vnd.shop.order+json; v=2"


def test_json_that_somebody_dumped_is_part_of_the_document() -> None:
    events = CloudEvents("/shop", mode="structured")
    message = written(events, CloudEvent(data=b'{"number": 1}', type="t", datacontenttype="application/json"))
    assert json.loads(message.value or b"")["data"] == {"number": 1}
    assert read(events, Order, message) == Order(number=1)


@MODES
@pytest.mark.parametrize(
    "value", [True, False, -(2**31), 2**31 - 1, "text", b"\x00\xff", datetime(2026, 1, 2, tzinfo=UTC)]
)
def test_extensions_of_every_type_have_the_text_of_the_specification(mode: Any, value: Any) -> None:
    events = CloudEvents("/shop", mode=mode)
    message = written(events, event(extensions={"x1": value}))
    text = {b"\x00\xff": "AP8=", datetime(2026, 1, 2, tzinfo=UTC): "2026-01-02T00:00:00Z"}.get(value, value)
    if mode == "binary":
        text = {True: "true", False: "false"}.get(text, str(text)) if isinstance(text, bool) else str(text)
    assert read(events, CloudEvent[Order], message).extensions == {"x1": text}


# --- no data


def test_an_event_without_data_is_a_null_value_in_binary_mode_and_a_document_in_structured_mode() -> None:
    bare: CloudEvent[Order | None] = CloudEvent[Order | None](id="1", type="t", datacontenttype="application/json")
    binary = written(CloudEvents("/shop"), bare)
    assert binary.value is None
    assert dict(binary.headers)["ce_id"] == b"1"
    structured = written(CloudEvents("/shop", mode="structured"), bare)
    assert set(json.loads(structured.value or b"")) == {
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "datacontenttype",
    }
    for message in (binary, structured):
        found = read(CloudEvents("/shop"), CloudEvent[Order | None], message)
        assert (found.id, found.data) == ("1", None)
        assert read(CloudEvents("/shop"), Order | None, message) is None
        assert "CloudEvent[Order | None] takes such events" in refusal(CloudEvents("/shop"), CloudEvent[Order], message)
        assert "Order does not allow None" in refusal(CloudEvents("/shop"), Order, message)


@MODES
def test_none_is_a_tombstone_without_an_envelope(mode: Any) -> None:
    events = CloudEvents("/shop", mode=mode)
    message = written(events, None, key=b"k")
    assert (message.value, message.headers) == (None, ())
    assert read(events, CloudEvent[Order] | None, message) is None
    assert read(events, Order | None, message) is None
    assert "does not allow None" in refusal(events, CloudEvent[Order], message)
    assert "does not allow None" in refusal(events, Order, message)


def test_an_empty_value_is_no_data_but_not_where_it_may_mean_something() -> None:
    events = CloudEvents("/shop")
    assert read(events, Order | None, received(b"", headers=CE)) is None
    assert (
        read(events, bytes | None, received(b"", headers=(*CE, ("content-type", b"application/octet-stream")))) == b""
    )


# --- which class has the data?


@MODES
@pytest.mark.parametrize("data", [Order(number=1), Cancelled(number=1)])
def test_a_union_gets_what_the_type_of_the_event_says(mode: Any, data: Any) -> None:
    """By their fields alone each could be taken for the other."""
    events = CloudEvents("/shop", mode=mode, types=TYPES)
    message = written(events, data)
    assert read(events, Order | Cancelled, message) == data
    assert read(events, Cancelled | Order, message) == data
    for target in (CloudEvent[Order] | CloudEvent[Cancelled], CloudEvent[Cancelled] | CloudEvent[Order]):
        found = read(events, target, message)
        assert found.data == data
        assert type(found).__name__ == f"CloudEvent[{type(data).__name__}]"
    assert read(events, CloudEvent[Order | Cancelled], message).data == data
    assert read(events, CloudEvent[Any], message).data == data
    assert read(events, CloudEvent, message).data == data
    assert read(events, Change, message) == data


def test_an_event_of_a_type_that_the_handler_does_not_take_is_refused() -> None:
    events = CloudEvents("/shop", types=TYPES)
    message = written(events, Order(number=1))
    for target in (Cancelled, CloudEvent[Cancelled]):
        assert "none of those that the handler takes: shop.order.cancelled" in refusal(events, target, message)
    unknown = written(events, CloudEvent(type="s3cret.type", data=Order(number=1)))
    both = CloudEvent[Order] | CloudEvent[Cancelled]
    assert "takes: shop.order.cancelled, shop.order.placed" in refusal(events, both, unknown)
    assert read(events, CloudEvent[Order], unknown).type == "s3cret.type"
    assert read(events, bytes, message) == b'{"number":1,"amount":"1.50"}'


def test_a_union_of_events_needs_the_mapping() -> None:
    with pytest.raises(ConfigurationError, match=r"which events are CloudEvent\[Order\]\? Say it with"):
        CloudEvents("/shop").decoder(CloudEvent[Order] | CloudEvent[Cancelled])


def test_classes_of_the_users_own_and_annotated_data_are_taken() -> None:
    class Placed(CloudEvent[Order]):
        @property
        def number(self) -> int:
            return self.data.number

    events = CloudEvents("/shop")
    message = received(b'{"number": 7}', headers=CE)
    assert read(events, Placed, message).number == 7
    strict = CloudEvent[Annotated[int, Field(gt=5)]]
    assert read(events, strict, received(b"6", headers=CE)).data == 6
    assert "greater_than" in refusal(events, strict, received(b"5", headers=CE))


# --- messages without an envelope


def test_messages_without_an_envelope_are_refused_unless_they_are_welcome() -> None:
    message = received(b'{"number": 1}', headers=(("content-type", b"application/json"),))
    assert refusal(CloudEvents("/shop"), Order, message) == (
        "step cloudevents: the message is no CloudEvent; CloudEvents(plain=True) reads messages without an envelope, "
        "too"
    )
    welcoming = CloudEvents("/shop", plain=True, types=TYPES)
    assert read(welcoming, Order, message) == Order(number=1)
    assert read(welcoming, CloudEvent[Order] | Order, message) == Order(number=1)
    assert "is no CloudEvent, and the handler takes CloudEvent[Order]" in refusal(welcoming, CloudEvent[Order], message)
    assert read(welcoming, CloudEvent[Order] | Order, written(welcoming, event())) == event()


@MODES
def test_a_pipeline_of_json_can_read_events_before_anybody_writes_them(mode: Any) -> None:
    pipeline = PayloadPipeline([Json()], reads=[CloudEvents("/shop")])
    message = written(CloudEvents("/shop", mode=mode), Order(number=1))
    assert pipeline.decoder(Order)(message) == Order(number=1)
    assert pipeline.decoder(Order)(received(b'{"number": 2}')) == Order(number=2)
    assert pipeline.decoder(CloudEvent[Order])(message).data == Order(number=1)


# --- the serializer inside


class Reversed(Serializer):
    """JSON from right to left, which waits."""

    name = "reversed"
    content_type = "application/reversed"
    waits = True

    def encode(self, message: Any, outgoing: Outgoing) -> Later[bytes | None]:
        async def late() -> bytes | None:
            return (Json().encode(message, outgoing) or b"")[::-1]

        return Later(late)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        decode = Json().decoder(target_type)

        def read(message: Received) -> Later[Any]:
            async def late() -> Any:
                return decode(received((message.value or b"")[::-1]))

            return Later(late)

        return read


@MODES
async def test_any_serializer_may_be_inside_also_one_that_waits(mode: Any) -> None:
    events = CloudEvents("/shop", serializer=Reversed(), mode=mode, type="t")
    pipeline = PayloadPipeline([events])
    assert pipeline.waits
    sent = Outgoing("t")
    value = pipeline.write(Order(number=1), sent)
    assert isinstance(value, Later)
    once, twice = await value, await value
    assert once == twice  # a repeated attempt is the same event
    message = arrived(once, sent)
    found = await pipeline.decoder(CloudEvent[Order])(message)
    assert (found.data, found.datacontenttype) == (Order(number=1), "application/reversed")
    assert await pipeline.decoder(Order)(message) == Order(number=1)


@MODES
async def test_several_serializers_are_told_apart_by_the_content_type(mode: Any) -> None:
    new = CloudEvents("/shop", serializer=Reversed(), reads=[Json()], mode=mode, type="t")
    old = CloudEvents("/shop", mode=mode, type="t")
    assert read(new, Order, written(old, Order(number=1))) == Order(number=1)
    sent = Outgoing("t")
    value = PayloadPipeline([new]).write(Order(number=2), sent)
    assert isinstance(value, Later)
    message = arrived(await value, sent)
    assert await PayloadPipeline([new]).decoder(Order)(message) == Order(number=2)
    assert "content type that is not read here" in refusal(old, Order, message)


# --- what is not a valid event


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ce_specversion": b"0.3"}, "the event's specversion is not 1.0"),
        ({"ce_id": None}, "the event has no attribute id"),
        ({"ce_id": b""}, "the attribute id must not be empty"),
        ({"ce_id": b"a\x00s3cret"}, "the attribute id has a character that is not allowed"),
        ({"ce_id": b"\xffs3cret"}, "the attribute id is not UTF-8"),
        ({"ce_source": None}, "the event has no attribute source"),
        ({"ce_source": b""}, "the attribute source must not be empty"),
        ({"ce_source": b"/a\ns3cret"}, "the attribute source has a character that is not allowed"),
        ({"ce_ext": b"\xffs3cret"}, "an extension attribute is not UTF-8"),
        ({"ce_type": None}, "the event has no attribute type"),
        ({"ce_time": b"s3cret"}, "the attribute time is not a timestamp of RFC 3339"),
        ({"ce_time": b"2026-01-02"}, "the attribute time is not a timestamp of RFC 3339"),
        ({"ce_time": b"2026-01-02T03:04:05"}, "the attribute time is not a timestamp of RFC 3339"),
        ({"ce_time": b"2026-13-02T03:04:05Z"}, "the attribute time is not a timestamp of RFC 3339"),
        ({"content-type": b"s3cret"}, "the attribute datacontenttype is not a media type"),
    ],
)
def test_attributes_are_checked_by_the_specification_and_not_shown(changes: dict[str, Any], words: str) -> None:
    headers = tuple((dict(CE) | changes).items())
    for target in (Order, CloudEvent[Order]):
        assert words in refusal(CloudEvents("/shop"), target, received(b'{"number": 1}', headers=headers))


SLOPPY = {
    "source": "/subscriptions/{id}/M\u00fcnchen",
    "subject": "",
    "time": "",
    "dataschema": "/schemas/1",
    "traceId": "a",
    "correlation_id": "b",
    "tsms": 1578923739738,
    "share": 0.5,
    "tags": ["c"],
}


def test_what_producers_write_beside_the_specification_is_taken() -> None:
    decode = PayloadPipeline([CloudEvents("/shop")]).decoder(CloudEvent[Order])
    document = {"specversion": "1.0", "id": "1", "type": "t", "data": {"number": 1}, **SLOPPY}
    structured = decode(received(json.dumps(document).encode()))
    texts = {name: value for name, value in SLOPPY.items() if isinstance(value, str)}
    headers = dict(CE) | {f"ce_{name}": value.encode() for name, value in texts.items()}
    for _ in range(2):
        binary = decode(received(b'{"number": 1}', headers=tuple(headers.items())))
        for event in (structured, binary):
            assert (event.source, event.dataschema, event.data) == (SLOPPY["source"], "/schemas/1", Order(number=1))
            assert (event.subject, event.time) == (None, None)
    names = ("traceId", "correlation_id", "tsms", "share", "tags")
    assert structured.extensions == {name: SLOPPY[name] for name in names}
    assert binary.extensions == {"traceid": "a", "correlation_id": "b"}


def test_empty_attributes_are_not_remembered_as_something_else() -> None:
    decode = PayloadPipeline([CloudEvents("/shop")]).decoder(CloudEvent[Order])
    for _ in range(2):
        headers = tuple((dict(CE) | {"ce_dataschema": b"", "content-type": b""}).items())
        event = decode(received(b'{"number": 1}', headers=headers))
        assert (event.dataschema, event.datacontenttype) == (None, None)


@pytest.mark.parametrize("spelled", [str.upper, str.title])
def test_headers_are_recognized_however_they_are_spelled(spelled: Callable[[str], str]) -> None:
    """As the SDKs for Go, Java and Python do."""
    headers = tuple((spelled(name), value) for name, value in (*CE, ("content-type", b"text/plain")))
    pipeline = PayloadPipeline([Json()], reads=[CloudEvents("/shop")])
    event = pipeline.decoder(CloudEvent[str])(received(b"plain", headers=headers))
    assert (event.id.encode(), event.datacontenttype, event.data) == (dict(CE)["ce_id"], "text/plain", "plain")
    document = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": "plain"}'
    headers = ((spelled("content-type"), b"application/cloudevents+json"),)
    assert pipeline.decoder(str)(received(document, headers=headers)) == "plain"


@pytest.mark.parametrize("headers", [(), (("content-type", b"application/json"),)])
def test_an_envelope_is_not_read_as_plain_json(headers: Headers) -> None:
    """While it is introduced; Debezium's converter and some SDKs write no content type of an envelope."""

    class Loose(BaseModel):
        number: int = 0

    document = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"number": 7}}'
    read = PayloadPipeline([Json()], reads=[CloudEvents("/shop")]).decoder(Loose)
    assert read(received(document, headers=headers)) == Loose(number=7)
    assert read(received(b'{"number": 8}', headers=headers)) == Loose(number=8)


def test_what_was_valid_once_is_remembered_and_nothing_else_is() -> None:
    events = CloudEvents("/shop")
    decode = PayloadPipeline([events]).decoder(CloudEvent[Order])
    for source in (b"/shop", b"/shop", b"/other"):
        headers = tuple((dict(CE) | {"ce_source": source, "ce_type": source}).items())
        found = decode(received(b'{"number": 1}', headers=headers))
        assert (found.source, found.type) == (source.decode(), source.decode())
    for name in ("ce_specversion", "ce_source", "ce_type"):
        for value in (b"", b"\xff", b"/shop\n"):
            with pytest.raises(PayloadDecodeError):
                decode(received(b'{"number": 1}', headers=tuple((dict(CE) | {name: value}).items())))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02t03:04:05.123456789z", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("2026-01-02T03:04:05.1-05:30", datetime(2026, 1, 2, 3, 4, 5, 100000, timezone(-timedelta(hours=5.5)))),
    ],
)
def test_times_of_rfc_3339_are_read(text: str, moment: datetime) -> None:
    message = received(b'{"number": 1}', headers=(*CE, ("ce_time", text.encode())))
    assert read(CloudEvents("/shop"), CloudEvent[Order], message).time == moment


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "is not a JSON object"),
        (b"[]", "is not a JSON object"),
        (b'{"id": "s3cret"', "is not a JSON object"),
        (b'{"id": "s3cret"} x', "is not a JSON object"),
        (b'{"id" "s3cret"}', "is not a JSON object"),
        (b'{"data": 1, "data_base64": "AA=="}', "is not a JSON object with valid members"),
        (b'{"data_base64": "s3cret"}', "is not a JSON object with valid members"),
        (b'{"datacontenttype": "text/plain", "data": {"s3cret": 1}}', "is not a JSON object with valid members"),
        (b'{"data": "\\ud800", "datacontenttype": "text/plain"}', "is not a JSON object with valid members"),
        (b"[" * 100_000, "is not a JSON object"),
        (b'{"a":' + b"[" * 100_000, "is not a JSON object"),
        (b"{}", "specversion is not 1.0"),
        (b'{"specversion": 1.0}', "specversion is not 1.0"),
        (b'{"specversion": "1.0", "source": "/s", "type": "t"}', "has no attribute id"),
        (b'{"specversion": "1.0", "id": 1, "source": "/s", "type": "t"}', "the attribute id is no string"),
    ],
)
def test_documents_are_checked_and_not_shown(document: bytes, words: str) -> None:
    headers = (("content-type", b"Application/CloudEvents+JSON"),)
    assert words in refusal(CloudEvents("/shop"), CloudEvent[Order], received(document, headers=headers))


def test_batches_and_other_formats_are_refused_by_name() -> None:
    for kind, words in (
        (b"application/cloudevents-batch+json", "a batch of CloudEvents, which Kafka's binding does not have"),
        (b"application/cloudevents+avro", "another format than JSON"),
    ):
        assert words in refusal(CloudEvents("/shop"), Order, received(b"[]", headers=(("content-type", kind),)))


def test_an_error_in_the_data_names_step_and_field() -> None:
    for message in (
        received(b'{"number": "s3cret"}', headers=CE),
        received(
            b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"number":"s3cret"}}',
            headers=(("content-type", b"application/cloudevents+json"),),
        ),
    ):
        words = refusal(CloudEvents("/shop"), CloudEvent[Order], message)
        assert words.startswith("step json: the payload is not a valid Order: number: int_parsing")


def test_what_is_called_json_and_is_none_does_not_break_the_document() -> None:
    events = CloudEvents("/shop", mode="structured", type="t")
    for data in (b'"} x', b"\x00\x01", b"NaN"):
        message = written(events, CloudEvent(data=data, datacontenttype="application/json"))
        json.loads(message.value or b"", parse_constant=pytest.fail)
        assert read(events, bytes, message) == data


def test_only_so_many_values_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.payload.cloudevents_reading.MOST_SEEN", 3)
    reader = EventReader([Json()], {}, Order, plain=False)
    for number in range(10):
        headers = tuple((dict(CE) | {"ce_source": b"/%d" % number}).items())
        assert reader.decode(received(b'{"number": 1}', headers=headers)) == Order(number=1)
    assert len(reader._seen) == 3


def test_numbers_in_documents_keep_their_digits() -> None:
    document = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"number":1,"amount":%b}}'
    digits = b"1234567890123456789.123456789012345678901"
    message = received(document % digits, headers=(("content-type", b"application/cloudevents+json"),))
    assert b'"amount":%b}' % digits in read(CloudEvents("/shop"), bytes, message)


def test_null_members_are_unset_and_a_string_is_a_string() -> None:
    document = b' {"specversion":"1.0","id":"1","source":"/s","type":"t","time":null,"x":null,"data":"just \\"text"} '
    message = received(document, headers=(("content-type", b"application/cloudevents+json"),))
    found = read(CloudEvents("/shop"), CloudEvent[str], message)
    assert (found.time, found.extensions, found.data) == (None, {}, 'just "text')


@pytest.mark.parametrize(
    "attributes",
    [
        {"id": ""},
        {"source": "a b"},
        {"source": ""},
        {"type": ""},
        {"subject": ""},
        {"time": datetime(2026, 1, 2)},
        {"time": datetime(1890, 1, 1, tzinfo=timezone(timedelta(seconds=3208)))},
        {"dataschema": "relative"},
        {"datacontenttype": "no media type"},
        {"extensions": {"Upper": "x"}},
        {"extensions": {"": "x"}},
        {"extensions": {"id": "x"}},
        {"extensions": {"data": "x"}},
        {"extensions": {"x": 1.5}},
        {"extensions": {"x": 2**31}},
        {"extensions": {"x": "\n"}},
        {"extensions": {"x": None}},
        {"unknown": 1},
    ],
)
def test_an_event_with_invalid_attributes_cannot_be_made(attributes: Any) -> None:
    with pytest.raises(ValidationError):
        event(**attributes)


@pytest.mark.parametrize(
    "changes", [{"id": ""}, {"source": "a b"}, {"time": datetime(2026, 1, 2)}, {"extensions": {"Bad": "x"}}]
)
def test_copies_are_checked_when_they_are_published(changes: Any) -> None:
    with pytest.raises(PayloadEncodeError, match="step cloudevents: "):
        written(CloudEvents("/shop"), event().model_copy(update=changes))


def test_a_class_of_the_users_own_has_no_more_fields() -> None:
    with pytest.raises(TypeError, match="has fields of its own, which no event carries: more"):

        class Placed(CloudEvent[Order]):
            more: int = 0


def test_headers_that_are_the_envelopes_are_not_given_by_hand() -> None:
    with pytest.raises(PayloadEncodeError, match="publish a CloudEvent with the attributes"):
        written(CloudEvents("/shop"), Order(number=1), headers=(("ce_id", b"1"),))
    with pytest.raises(PayloadEncodeError, match="does not fit structured mode"):
        written(CloudEvents("/shop", mode="structured"), event(), headers=(("content-type", b"application/json"),))
    with pytest.raises(PayloadEncodeError, match="not that of the given header content-type"):
        written(CloudEvents("/shop"), event(), headers=(("content-type", b"text/json"),))
    given = written(CloudEvents("/shop", type="t"), b"<a/>", headers=(("content-type", b"text/xml"),))
    assert read(CloudEvents("/shop"), CloudEvent[bytes], given).datacontenttype == "text/xml"


@pytest.mark.parametrize(
    "make",
    [
        lambda: CloudEvents("a b"),
        lambda: CloudEvents(""),
        lambda: CloudEvents("/shop", type=""),
        lambda: CloudEvents("/shop", types={"": Order}),
        lambda: CloudEvents("/shop", mode="batch"),  # type: ignore[arg-type]
        lambda: CloudEvents("/shop", serializer=CloudEvents("/shop")),
        lambda: CloudEvents("/shop").decoder(str, "key"),
        lambda: CloudEvents(1),  # type: ignore[arg-type]
    ],
)
def test_wrong_options_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


# --- traces


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@MODES
def test_an_event_says_in_which_trace_it_began(mode: Any) -> None:
    provider = TracerProvider()
    events = CloudEvents("/shop", mode=mode)
    with provider.get_tracer("test").start_as_current_span("request") as span:
        message = written(events, Order(number=1))
        passed_on = written(events, event(extensions={"traceparent": PARENT}))
        untraced = written(CloudEvents("/shop", mode=mode, tracing=False), Order(number=1))
    own = span.get_span_context()
    found = read(events, CloudEvent[Order], message).extensions
    assert found == {"traceparent": f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"}
    assert read(events, CloudEvent[Order], passed_on).extensions == {"traceparent": PARENT}
    assert read(events, CloudEvent[Order], untraced).extensions == {}
    assert read(events, CloudEvent[Order], written(events, Order(number=1))).extensions == {}
    provider.shutdown()
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_the_trace_of_given_headers_is_that_of_the_event() -> None:
    message = written(CloudEvents("/shop"), Order(number=1), headers=(("traceparent", PARENT.encode()),))
    assert dict(message.headers)["ce_traceparent"] == PARENT.encode()


@pytest.mark.parametrize("options", [{"serializer": Json}, {"reads": ["json"]}])
def test_what_is_no_serializer_of_data_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"takes serializers, such as Json\(\), and was given (Json|str)"):
        CloudEvents("/shop", **options)
