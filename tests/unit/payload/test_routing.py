"""Which pipeline is for which topic, in both directions."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pytest
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, ConfigurationError, PayloadDecodeError, PayloadPipeline, include_athomic
from fastapi_athomic.messages import RawMessage
from fastapi_athomic.payload.cloudevents import CloudEvent, CloudEvents
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.routing import Payloads, Wanted, checked
from fastapi_athomic.payload.steps import Outgoing
from tests.support.apps import running
from tests.support.payloads import Depot, Sealed, Words, arrived, message

PLAIN, WORDS, SEALED, DEPOT = (PayloadPipeline(steps) for steps in ([], [Words()], [Sealed()], [Depot()]))


def never(topic: str) -> bool:
    return False


def in_place(received: Any) -> str:
    return received.topic  # type: ignore[no-any-return]


def written(pipeline: PayloadPipeline, topic: str, received_in: str | None = None) -> RawMessage:
    outgoing = Outgoing(topic, b"k")
    data = pipeline.write({"a": 1}, outgoing)
    assert isinstance(data, bytes)
    return arrived(data, outgoing)._replace(topic=received_in or topic)


def test_what_is_published_to_a_topic_is_written_as_its_consumers_expect() -> None:
    payloads = Payloads(PLAIN, {"orders": WORDS, re.compile("invoices.*"): SEALED})
    payloads.add_handler(["stock", "orders"], DEPOT)
    payloads.add_handler(["stock"], DEPOT)
    payloads.add_handler(["shipping"], DEPOT)
    payloads.add_handler(["shipping"], WORDS)
    assert payloads.of_topic("orders") is WORDS, "what is given for a topic counts more than its handlers"
    assert payloads.of_topic("invoices.paid") is SEALED
    assert payloads.of_topic("my.invoices") is PLAIN, "a pattern matches the whole name"
    assert payloads.of_topic("stock") is DEPOT
    assert payloads.of_topic("else") is PLAIN
    with pytest.raises(ConfigurationError, match="the handlers of shipping have different payload pipelines"):
        payloads.of_topic("shipping")


def test_handlers_are_looked_for_when_they_first_matter() -> None:
    payloads, looked = Payloads(PLAIN, {"orders": WORDS}), list[str]()

    def find() -> None:
        looked.append("x")
        payloads.add_handler(["stock"], SEALED)

    payloads.find_handlers = find
    assert payloads.of_topic("orders") is WORDS
    assert looked == []
    assert payloads.of_topic("stock") is payloads.of_topic("stock") is SEALED
    assert looked == ["x"]


@pytest.mark.parametrize(
    ("topics", "own", "by_topic", "arrives"),
    [
        (["a"], None, {}, {"a": PLAIN}),
        (["a"], SEALED, {"a": WORDS}, {"a": SEALED}),
        (["a", "b"], None, {"a": WORDS, "b": WORDS}, {"a": WORDS, "b": WORDS}),
        (["a", "b"], None, {"a": WORDS}, {"a": WORDS, "b": PLAIN}),
        (["a", "b.c"], None, {"a": WORDS, re.compile(r"b\..*"): SEALED}, {"a": WORDS, "b.c": SEALED}),
        ([], None, {"a": WORDS}, {"a": WORDS, "c": PLAIN}),
    ],
)
def test_each_message_is_read_with_the_pipeline_of_its_topic(
    topics: list[str], own: Any, by_topic: Any, arrives: dict[str, PayloadPipeline]
) -> None:
    decoding = Payloads(PLAIN, by_topic).decoding(Wanted(topics, own, dict), in_place, never)
    assert decoding.decode is not None
    for topic, pipeline in arrives.items():
        assert decoding.decode(written(pipeline, topic)) == {"a": 1}


def test_a_message_that_came_back_is_read_as_one_of_the_topic_where_it_was_first() -> None:
    payloads = Payloads(PLAIN, {"a": SEALED, "b": WORDS, re.compile(".*retry"): WORDS})
    decoding = payloads.decoding(Wanted(["a", "b"], None, dict), lambda each: each.topic[:1], never)
    assert decoding.decode is not None
    assert decoding.decode(written(SEALED, "a", "a.retry")) == {"a": 1}
    assert decoding.decode(written(WORDS, "b", "b.retry")) == {"a": 1}


def test_dead_letters_of_another_handler_are_read_as_messages_of_their_source() -> None:
    payloads = Payloads(PLAIN, {"a": SEALED})
    payloads.add_handler(["b"], WORDS)
    wanted = Wanted(["a.dlq", "b.dlq", "c.dlq"], None, dict)
    decoding = payloads.decoding(wanted, lambda each: each.topic[:1], lambda topic: topic.endswith("dlq"))
    assert decoding.decode is not None
    assert decoding.decode(written(SEALED, "a", "a.dlq")) == {"a": 1}
    assert decoding.decode(written(WORDS, "b", "b.dlq")) == {"a": 1}
    assert decoding.decode(written(PLAIN, "c", "c.dlq")) == {"a": 1}


def test_a_type_that_one_of_the_pipelines_cannot_give_is_refused() -> None:
    class Foreign:
        pass

    with pytest.raises(ConfigurationError, match="Foreign"):
        Payloads(PLAIN, {"a": WORDS}).decoding(Wanted(["a", "b"], None, Foreign), in_place, never)


@pytest.mark.parametrize("by_topic", [{}, {"a": SEALED}])
def test_messages_that_stay_as_they_came_are_decoded_by_nobody(by_topic: Any) -> None:
    payloads = Payloads(PLAIN, by_topic)
    assert payloads.decoding(Wanted(["a", "b"], None, RawMessage), in_place, never).decode is None
    keyed = payloads.decoding(Wanted(["a", "b"], None, RawMessage, [int]), in_place, never)
    raw = message(b"?", topic="a", key=b"7")
    assert keyed.keyed
    assert keyed.decode is not None
    assert keyed.decode(raw) == (raw, [7])


def test_the_hint_of_an_error_is_about_the_pipeline_of_the_topic() -> None:
    headers = (("content-encoding", b"zstd"),)
    for by_topic in ({}, {"a": SEALED}):
        decoding = Payloads(PLAIN, by_topic).decoding(Wanted(["a", "b"], None, dict), in_place, never)
        assert "names zstd" in decoding.hint(message(b"", topic="a", headers=headers))
        assert decoding.hint(message(b"", topic="a")) == ""


@pytest.mark.parametrize(
    ("steps", "reads", "content_type", "said"),
    [
        ([Json()], [], b"application/avro", True),
        ([Json()], [], b"Application/MsgPack; v=1", True),
        ([Json()], [MessagePack()], b"application/msgpack", False),
        ([MessagePack()], [], b"application/msgpack", False),
        ([CloudEvents(source="/shop", type="t")], [], b"application/avro", False),
        ([Json()], [], b"application/s3cret", False),
    ],
)
def test_the_hint_of_an_error_names_a_format_that_the_pipeline_does_not_read(
    steps: Any, reads: Any, content_type: bytes, said: bool
) -> None:
    pipeline = PayloadPipeline(steps, reads=reads)
    kind = content_type.decode().lower().partition(";")[0]
    expected = f"; its header content-type says {kind}, which the payload pipeline does not read: see `reads`"
    assert pipeline.hint(message(b"5", headers=(("content-type", content_type),))) == expected * said


async def test_what_is_read_by_a_tool_has_the_hint_too() -> None:
    outgoing = Outgoing("t")
    data = PayloadPipeline([MessagePack()]).write({"a": 1}, outgoing)
    assert isinstance(data, bytes)
    with pytest.raises(PayloadDecodeError, match=r"content-type says application/(vnd.)?msgpack, which the payload"):
        await PLAIN.read(arrived(data, outgoing), dict)


@pytest.mark.parametrize(
    ("default", "by_topic", "said"),
    [
        (Json(), None, r"payload must be a pipeline: PayloadPipeline\(\[Json\(...\)\]\), not Json\(...\) alone"),
        (Sealed(), None, r"PayloadPipeline\(\[Sealed\(...\)\]\)"),
        (PayloadPipeline, None, "must be a PayloadPipeline.*, not the class PayloadPipeline"),
        ("json", None, "must be a PayloadPipeline.*, not an object of str"),
        (None, [PLAIN], "topic_payloads must be a dict of pipelines by topic, not an object of list"),
        (None, {"a": Json()}, "topic_payloads: the pipeline of 'a' must be a pipeline"),
        (None, {1: PLAIN}, "a topic is a name or a compiled pattern of text, not an object of int"),
        (None, {re.compile(b"a"): PLAIN}, "compiled pattern of text"),
    ],
)
def test_what_is_no_pipeline_is_refused(default: Any, by_topic: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Payloads(default, by_topic)


def test_a_pipeline_is_what_is_asked_for() -> None:
    assert checked("payload", PLAIN) is PLAIN


@pytest.mark.parametrize(
    ("target", "options", "warned"),
    [
        (dict, {}, True),
        (dict, {"topic": re.compile("ord.*")}, True),
        (dict, {"topic": "else"}, False),
        (dict, {"payload": WORDS}, False),
        (dict, {"topic_payloads": {"orders": SEALED}}, False),
        (dict, {"app": SEALED}, False),
        (RawMessage, {}, False),
    ],
    ids=["same topic", "pattern", "another topic", "both their own", "said for the topic", "the app's", "raw"],
)
async def test_handlers_of_a_topic_with_and_without_a_pipeline_are_named_at_the_start(
    target: Any, options: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    athomic = include_athomic(
        FastAPI(), AthomicSettings(), payload=options.get("app"), topic_payloads=options.get("topic_payloads")
    )

    async def own(message: dict[str, int]) -> None: ...

    async def other(message: Any) -> None: ...

    athomic.subscribe_to("orders", group_id="g", handler_id="own", payload=SEALED)(own)
    payload, topic = options.get("payload"), options.get("topic", "orders")
    athomic.subscribe_to(topic, group_id="h", handler_id="other", target_type=target, payload=payload)(other)
    await athomic.check()
    warnings = [each for each in caplog.messages if each.startswith("payloads: ")]
    expected = (
        "payloads: orders: handler own has a payload pipeline of its own, which what is published to the topic is "
        "written with, and other reads with the app's: give include_athomic(topic_payloads={'orders': ...}) one for "
        "all"
    )
    assert warnings == warned * [expected]
    async with running(athomic):
        assert len([each for each in caplog.messages if each.startswith("payloads: ")]) == 2 * warned


# --- probably not meant


@pytest.mark.parametrize(
    ("given", "consumed", "told"),
    [
        ("order", ["orders"], [("order", "orders")]),
        ("Orders-Placed", ["orders.placed"], [("Orders-Placed", "orders.placed")]),
        ("orders", ["orders", "order"], []),
        ("payments", ["orders"], []),
        ("orders.v2", ["orders.v1"], []),
        (re.compile("order"), ["orders"], []),
    ],
)
def test_a_topic_that_is_nearly_that_of_a_handler_is_told(
    given: Any, consumed: list[str], told: list[tuple[str, str]]
) -> None:
    text = "{} has a pipeline and no handler, and a handler of {} has none: one topic?"
    assert list(Payloads(None, {given: WORDS}).misspelt(consumed)) == [text.format(*names) for names in told]
    assert not list(Payloads(None, {given: WORDS, re.compile("orders?.*"): SEALED}).misspelt(consumed))


async def test_an_app_warns_of_a_misspelt_topic(caplog: pytest.LogCaptureFixture) -> None:
    athomic = include_athomic(FastAPI(), AthomicSettings(broker_url="memory://"), topic_payloads={"order": WORDS})

    @athomic.subscribe_to("orders", group_id="g")
    async def handle(order: dict[str, int]) -> None: ...

    await athomic.check()
    said = "payloads: order has a pipeline and no handler, and a handler of orders has none: one topic?"
    assert said in caplog.messages


EVENTS = PayloadPipeline([CloudEvents("/shop")])


@pytest.mark.parametrize("kind", [CloudEvent[int], CloudEvent[int] | None, Annotated[CloudEvent[int] | int, "x"]])
def test_a_handler_of_events_needs_a_pipeline_with_events(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"it takes .*CloudEvent.*has no CloudEvents\(\.\.\.\)"):
        Payloads(None, {"b": EVENTS}).decoding(Wanted(["a"], None, kind), in_place, never)
    reads = PayloadPipeline([Json()], reads=[EVENTS.serializer])
    for pipeline in (EVENTS, reads, WORDS):
        assert Payloads(None, {"a": pipeline}).decoding(Wanted(["a", "b"], None, CloudEvent[int]), in_place, never)
