"""Spans by OpenTelemetry's messaging conventions, and the trace they belong to."""

from __future__ import annotations

import asyncio
import re
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import Link, SpanKind, StatusCode
from pydantic import TypeAdapter, ValidationError

from fastapi_athomic.messages import PublishedMessage
from fastapi_athomic.propagation import telemetry
from tests.support.spans import (
    SPAN_ID,
    TRACE_ID,
    TRACEPARENT,
    Exported,
    attributes_of,
    current_span_id,
    message,
    orchestrator,
)

# --- one message


def test_a_message_is_a_child_of_its_producers_span(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    scope = tested.open(message(("traceparent", TRACEPARENT), ("tracestate", b"vendor=1")))
    inside = current_span_id()
    tested.close(scope, None)
    span = exported.only()
    assert span.name == "process orders"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.parent.is_remote) == (TRACE_ID, SPAN_ID, True)
    assert span.context.trace_id == TRACE_ID
    assert span.context.trace_state == {"vendor": "1"}
    assert inside == span.context.span_id, "the span is current in the handler"
    assert span.status.status_code is StatusCode.UNSET


def test_its_attributes_follow_the_conventions(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message()), None)
    assert attributes_of(exported.only()) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "1",
        "messaging.kafka.offset": 2,
        "messaging.consumer.group.name": "billing",
        "messaging.client.id": "shop",
        "messaging.message.body.size": 5,
    }


def test_the_names_are_those_of_the_conventions_package() -> None:
    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    known.add(error_attributes.ERROR_TYPE)
    ours = {
        value
        for name, value in vars(telemetry).items()
        if name.isupper() and isinstance(value, str) and value.startswith(("messaging.", "error."))
    }
    assert len(ours) == 13
    assert ours <= known


def test_a_tombstone_has_no_size(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message(value=None)), None)
    attributes = attributes_of(exported.only())
    assert attributes["messaging.kafka.message.tombstone"] is True
    assert "messaging.message.body.size" not in attributes


def test_p15_keys_are_on_spans_only_where_asked_for(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message()), None)
    assert "s3cret" not in exported.only().to_json()
    exported.clear()
    tested = orchestrator(exported.provider, record_keys=True)
    tested.close(tested.open(message()), None)
    assert attributes_of(exported.only())["messaging.kafka.message.key"] == "s3cret-key"


class OrderError(Exception):
    def __str__(self) -> str:
        return "card\nrefused"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def the_exception(span: ReadableSpan) -> dict[str, Any]:
    (event,) = span.events
    assert event.name == "exception"
    return dict(event.attributes or {})


def test_an_error_is_recorded_as_the_conventions_say(exported: Exported) -> None:
    """https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/"""
    tested = orchestrator(exported.provider)
    for error in (LookupError("no such order"), OrderError(), asyncio.CancelledError()):
        tested.close(tested.open(message()), raised(error))
    builtin, own, cancelled = exported.get_finished_spans()
    assert {span.status.status_code for span in (builtin, own, cancelled)} == {StatusCode.ERROR}
    assert builtin.status.description == "LookupError: no such order"
    assert attributes_of(builtin)["error.type"] == the_exception(builtin)["exception.type"] == "LookupError"
    assert the_exception(builtin)["exception.message"] == "no such order"
    assert re.search(r"^Traceback .*in raised.*LookupError: no such order$", stacktrace(builtin), re.DOTALL)
    name = f"{__name__}.OrderError"
    assert attributes_of(own)["error.type"] == the_exception(own)["exception.type"] == name
    assert own.status.description == f"{name}: card refused", "one line"
    assert attributes_of(cancelled)["error.type"] == "asyncio.exceptions.CancelledError"


def stacktrace(span: ReadableSpan) -> str:
    return str(the_exception(span)["exception.stacktrace"]).strip()


def test_p15_inputs_of_validation_errors_are_not_recorded(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    planted = "".join(("s3", "cret"))  # the traceback shows the line below
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python([planted])
    tested.close(tested.open(message()), caught.value)
    span = exported.only()
    assert "s3cret" not in span.to_json()
    assert "0: int_parsing (Input should be a valid integer" in the_exception(span)["exception.message"]
    assert the_exception(span)["exception.type"].endswith(".ValidationError")


def test_p15_without_its_words_an_error_is_its_type_and_where_it_was_raised(exported: Exported) -> None:
    tested = orchestrator(exported.provider, expose_errors=False)
    tested.close(tested.open(message()), raised(LookupError("s3cret")))
    span = exported.only()
    assert "s3cret" not in span.to_json()
    assert span.status.description == "LookupError"
    assert (the_exception(span)["exception.type"], the_exception(span)["exception.message"]) == ("LookupError", "")
    assert "in raised" in stacktrace(span)
    assert attributes_of(span)["error.type"] == "LookupError"


def test_a_span_whose_error_cannot_be_recorded_ends_all_the_same(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise LookupError

    monkeypatch.setattr(telemetry, "presentable", broken)
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message()), ValueError())
    assert exported.only().status.status_code is StatusCode.ERROR


def test_a_retry_is_linked_to_the_first_attempt(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    for attempt in (1, 2, 3):
        tested.close(tested.open(message(("traceparent", TRACEPARENT)), attempt), LookupError())
    tested.close(tested.open(message(offset=9), 2), None)
    first, *others, stranger = exported.get_finished_spans()
    assert first.links == ()
    assert [[link.context.span_id for link in span.links] for span in others] == [[first.context.span_id]] * 2
    assert stranger.links == (), "the first attempt was made elsewhere"


def test_first_attempts_are_remembered_within_bounds(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FIRST_ATTEMPTS", 2)
    tested = orchestrator(exported.provider)
    for offset in (1, 2, 3):
        tested.close(tested.open(message(offset=offset)), LookupError())
    exported.clear()
    for offset in (1, 2, 3):
        tested.close(tested.open(message(offset=offset), 2), None)
    assert [len(span.links) for span in exported.get_finished_spans()] == [0, 1, 1]


def test_links_can_be_given(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    failure = trace.SpanContext(1, 2, is_remote=True)
    tested.close(tested.open(message(), links=[Link(failure)]), None)
    assert [link.context for link in exported.only().links] == [failure]


def test_a_message_whose_producer_did_not_sample_is_not_sampled_either() -> None:
    exported = Exported(sampler=ParentBased(ALWAYS_OFF))
    tested = orchestrator(exported.provider)
    scope = tested.open(message(("traceparent", TRACEPARENT[:-1] + b"0")))
    sent = dict(tested.inject())
    tested.close(scope, LookupError())
    assert exported.names() == []
    assert (sent["traceparent"] or b"").startswith(TRACEPARENT[:36]), "the trace goes on all the same"
    assert (sent["traceparent"] or b"").endswith(b"-00")


# --- a batch


def test_a_batch_is_a_root_with_a_link_per_message(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    batch = [message(("traceparent", f"00-{n:032x}-{n:016x}-01".encode()), offset=n) for n in (1, 2)]
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(7, 7, is_remote=False))):  # that of a bystander
        tested.close(tested.open_batch([*batch, message(("traceparent", b"nonsense"))]), None)
    span = exported.only()
    assert span.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(1, 1), (2, 2)]
    attributes = attributes_of(span)
    assert attributes["messaging.batch.message_count"] == 3
    assert attributes["messaging.destination.partition.id"] == "1"
    assert "messaging.kafka.offset" not in attributes


def test_a_batch_that_is_tried_again_is_linked_to_the_first_attempt(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    batch = [message(offset=1), message(offset=2)]
    tested.close(tested.open_batch(batch), LookupError())
    tested.close(tested.open_batch(batch, 2), None)
    first, second = exported.get_finished_spans()
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


# --- publishing


def test_a_publish_is_a_span_and_its_context_travels(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    with exported.provider.get_tracer("app").start_as_current_span("route"):
        scope = tested.open_publish("orders", (("own", b"1"),), b"12345")
        tested.published(scope, PublishedMessage("orders", 3, 42))
        tested.close_publish(scope, None)
    send, route = exported.get_finished_spans()
    assert (send.name, send.kind) == ("send orders", SpanKind.PRODUCER)
    assert send.parent is not None
    assert send.parent.span_id == route.context.span_id
    assert attributes_of(send) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 42,
        "messaging.client.id": "shop",
        "messaging.message.body.size": 5,
    }
    expected = f"00-{send.context.trace_id:032x}-{send.context.span_id:016x}-".encode()
    assert (dict(scope.headers)["traceparent"] or b"").startswith(expected)
    assert scope.headers[0] == ("own", b"1")


def test_a_publish_in_a_handler_belongs_to_the_handler(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    handling = tested.open(message(("traceparent", TRACEPARENT)))
    tested.close_publish(tested.open_publish("next", (), b""), None)
    tested.close(handling, None)
    send, process = exported.get_finished_spans()
    assert send.parent is not None
    assert send.parent.span_id == process.context.span_id


@pytest.mark.parametrize("count", [1, 3])
def test_a_published_batch_is_counted(exported: Exported, count: int) -> None:
    tested = orchestrator(exported.provider)
    tested.close_publish(tested.open_publish("orders", (), None, count), None)
    attributes = attributes_of(exported.only())
    assert attributes["messaging.batch.message_count"] == count
    assert "messaging.kafka.message.tombstone" not in attributes


def test_a_refused_publish_is_an_error(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close_publish(tested.open_publish("orders", (), b""), TimeoutError())
    span = exported.only()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "TimeoutError"


class BrokenProvider(TracerProvider):
    """Its tracer's spans cannot be started."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        class Tracer:
            def start_span(self, *_: Any, **__: Any) -> Any:
                raise LookupError("s3cret")

        return Tracer()


def test_a_tracer_that_fails_costs_the_span_and_not_the_publish(caplog: pytest.LogCaptureFixture) -> None:
    tested = orchestrator(BrokenProvider())
    scope = tested.open_publish("orders", (("own", b"1"),), b"")
    tested.published(scope, PublishedMessage("orders", 0, 0))
    tested.close_publish(scope, None)
    assert scope.headers == (("own", b"1"),)
    assert "MessagingTelemetryAdapter failed" in caplog.text
    assert "s3cret" not in caplog.text


# --- what is abandoned


def test_a_scope_closed_in_another_context_logs_no_error(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    """The garbage collector closes an abandoned coroutine where it happens to run."""
    for provider in (None, exported.provider):
        tested = orchestrator(provider)
        tested.close(copy_context().run(tested.open, message()), GeneratorExit())
    assert caplog.records == []
    assert exported.only().status.status_code is StatusCode.ERROR


def test_detached_tokens_are_in_order() -> None:
    """Scopes nest: what was attached before is there again."""
    token = attach(baggage.set_baggage("outside", "1"))
    tested = orchestrator(None)
    outer = tested.open(message(("traceparent", TRACEPARENT)))
    inner = tested.open(message())
    assert current_span_id() == 0
    tested.close(inner, None)
    assert current_span_id() == SPAN_ID
    tested.close(outer, None)
    assert baggage.get_baggage("outside") == "1"
    detach(token)
