"""Which run produced a message, by OpenLineage's naming."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic import AthomicSettings, get_lineage
from fastapi_athomic.messages import Headers, RawMessage
from fastapi_athomic.propagation.context import ContextAdapter
from fastapi_athomic.propagation.headers import HeadersOrchestrator
from fastapi_athomic.propagation.lineage import (
    PARENT,
    ROOT,
    RUN,
    JobRun,
    LineageAdapter,
    Source,
    dataset_namespace,
    headers_from_lineage,
)
from fastapi_athomic.propagation.orchestrators import Orchestrators
from fastapi_athomic.propagation.telemetry import MessagingTelemetryAdapter

PRODUCER = JobRun("shop", "orders/place", uuid4())
FIRST = JobRun("shop", "import", uuid4())
NAMESPACE = "kafka://broker:9092"


def message(*headers: tuple[str, bytes | None], offset: int = 7) -> RawMessage:
    return RawMessage("orders", 1, offset, 0, None, b"", headers)


def adapter(name: str = "billing") -> LineageAdapter:
    return LineageAdapter(job_name=name, dataset_namespace=NAMESPACE)


def orchestrator(lineage: LineageAdapter | None) -> HeadersOrchestrator:
    return HeadersOrchestrator(MessagingTelemetryAdapter(), lineage, ContextAdapter())


@contextlib.contextmanager
def handling(tested: HeadersOrchestrator, messages: RawMessage | Sequence[RawMessage]) -> Iterator[None]:
    scope = tested.open(messages) if isinstance(messages, RawMessage) else tested.open_batch(messages)
    try:
        yield
    finally:
        tested.close(scope, None)


def test_the_form_is_that_of_airflow() -> None:
    run_id = UUID(int=1)
    encoded = JobRun("my ns", "a/b", run_id).encode()
    assert encoded == b"my%20ns/a%2Fb/00000000-0000-0000-0000-000000000001"
    assert JobRun.decode(encoded) == JobRun("my ns", "a/b", run_id)


def test_a_cluster_is_named_by_its_first_server() -> None:
    assert dataset_namespace("kafka", "a:1,b:2") == "kafka://a:1"
    assert dataset_namespace("memory", "") == "memory://"


def test_each_adapter_is_a_run_of_its_own() -> None:
    assert adapter().run != adapter().run
    assert adapter().run[:2] == ("default", "billing")


def test_a_message_tells_its_parent_its_root_and_where_it_lies() -> None:
    tested = adapter()
    lineage = tested.read(message((RUN, PRODUCER.encode()), (ROOT, FIRST.encode()), (PARENT, b"of no interest")))
    assert (lineage.run, lineage.parent, lineage.root) == (tested.run, PRODUCER, FIRST)
    assert lineage.source == Source(NAMESPACE, "orders", 1, 7, 7)


def test_where_there_is_no_root_the_producer_is_the_root() -> None:
    assert adapter().read(message((RUN, PRODUCER.encode()))).root == PRODUCER


def test_where_there_is_nothing_the_chain_begins_here() -> None:
    tested = adapter()
    lineage = tested.read(message())
    assert (lineage.parent, lineage.root) == (None, tested.run)
    assert headers_from_lineage(lineage) == ((RUN, tested.run.encode()),)


def test_a_batch_has_the_parent_its_messages_share() -> None:
    tested = adapter()
    shared: Headers = ((RUN, PRODUCER.encode()), (ROOT, FIRST.encode()))
    lineage = tested.read([message(*shared, offset=7), message(*shared, ("other", b"1"), offset=9)])
    assert (lineage.parent, lineage.root) == (PRODUCER, FIRST)
    assert lineage.source == Source(NAMESPACE, "orders", 1, 7, 9)


def test_a_batch_of_several_producers_has_no_parent_but_may_have_a_root() -> None:
    tested = adapter()
    producers = [JobRun("shop", str(number), uuid4()) for number in range(2)]
    lineage = tested.read([message((RUN, producer.encode()), (ROOT, FIRST.encode())) for producer in producers])
    assert (lineage.parent, lineage.root) == (None, FIRST)
    lineage = tested.read([message((RUN, producers[0].encode())), message()])
    assert (lineage.parent, lineage.root) == (None, tested.run)


def test_the_chain_goes_on_from_handler_to_handler() -> None:
    app, billing, shipping = (orchestrator(adapter(name)) for name in ("app", "billing", "shipping"))
    by_app = app.inject()
    with handling(billing, message(*by_app)):
        by_billing = billing.inject()
    with handling(shipping, message(*by_billing)):
        lineage, by_shipping = get_lineage(), dict(shipping.inject())
    assert [name for name, _ in by_app] == [RUN]
    assert [name for name, _ in by_billing] == [RUN, PARENT, ROOT]
    assert lineage is not None
    assert lineage.parent is not None
    assert (lineage.parent.job_name, lineage.root.job_name) == ("billing", "app")
    assert by_shipping[PARENT] == dict(by_billing)[RUN]
    assert by_shipping[ROOT] == dict(by_app)[RUN]


def test_the_apps_publisher_speaks_for_the_handler_at_work() -> None:
    app, billing = orchestrator(adapter("app")), adapter("billing")
    with handling(orchestrator(billing), message((RUN, PRODUCER.encode()))):
        sent = dict(app.inject())
    assert sent[RUN] == billing.run.encode()
    assert sent[PARENT] == PRODUCER.encode()


def test_a_handler_without_lineage_has_none_and_sends_none() -> None:
    app = orchestrator(adapter("app"))
    with handling(orchestrator(None), message((RUN, PRODUCER.encode()))):
        assert get_lineage() is None
        assert app.inject() == ()
    assert get_lineage() is None


@pytest.mark.parametrize("given", [RUN, PARENT, ROOT])
def test_a_caller_who_gives_one_of_the_headers_gets_none_beside_it(given: str) -> None:
    headers: Headers = ((given, b"mine"),)
    with handling(tested := orchestrator(adapter()), message((RUN, PRODUCER.encode()))):
        assert tested.inject(headers) == headers


async def test_tasks_and_threads_of_a_handler_know_its_lineage() -> None:
    async def in_task() -> object:
        return get_lineage()

    with handling(orchestrator(adapter()), message((RUN, PRODUCER.encode()))):
        lineage = get_lineage()
        assert lineage is not None
        assert await asyncio.create_task(in_task()) == lineage
        assert await asyncio.to_thread(get_lineage) == lineage


@given(st.lists(st.tuples(st.sampled_from([RUN, PARENT, ROOT]), st.none() | st.binary() | st.just(PRODUCER.encode()))))
def test_no_header_can_make_it_fail(headers: list[tuple[str, bytes | None]]) -> None:
    tested = adapter()
    lineage = tested.read(message(*headers))
    assert lineage.parent in (None, PRODUCER)
    assert lineage.root in (tested.run, PRODUCER)


@pytest.mark.parametrize(
    "raw",
    [
        b"n" * 1_000 + b"/job/" + str(UUID(int=1)).encode(),  # too long
        b"ns/%FF/" + str(UUID(int=1)).encode(),  # not UTF-8
        b"ns/a%0Ab/" + str(UUID(int=1)).encode(),  # a line break
        b"ns//" + str(UUID(int=1)).encode(),
        b"ns/a/b/" + str(UUID(int=1)).encode(),
    ],
)
def test_a_run_that_makes_no_sense_is_ignored(raw: bytes) -> None:
    assert JobRun.decode(raw) is None
    assert adapter().read(message((RUN, raw))).parent is None


VARIABLE = "OPENLINEAGE_URL"


@pytest.mark.parametrize(
    ("environment", "settings", "written"),
    [
        ({}, {}, False),
        ({VARIABLE: "http://catalogue"}, {}, True),
        ({VARIABLE: "http://catalogue", "OPENLINEAGE_DISABLED": "true"}, {}, False),
        ({VARIABLE: "http://catalogue"}, {"lineage_events": False}, False),
        ({VARIABLE: "http://catalogue"}, {"lineage_headers": False}, False),
        ({}, {"lineage_events": True}, True),
        ({}, {"lineage_headers": True}, True),
    ],
)
def test_headers_are_written_where_lineage_is_wanted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], settings: dict[str, bool], written: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = Orchestrators(AthomicSettings(**settings), None, scheme="kafka", address="a:1")  # type: ignore[arg-type]
    of_handler, of_app = made.of_handler("billing", "g", enable_lineage=True), made.of_publisher()
    assert dict(of_app.inject()).keys() == ({RUN} if written else set())
    with handling(of_handler, message((RUN, PRODUCER.encode()))):
        assert dict(of_app.inject()).keys() == ({RUN, PARENT, ROOT} if written else set())
        lineage = get_lineage()
    assert lineage is not None, "what came in is read in any case"
    assert lineage.parent == PRODUCER
