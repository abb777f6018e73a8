"""What is kept of a registry's answers, and how often it is asked."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadUnavailableError
from fastapi_athomic.schemas import kept, rest_registry
from fastapi_athomic.schemas import registry as module
from fastapi_athomic.schemas.registered import Reference, RegisteredSchema
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.http_registry import NO_SCHEMA, HttpRegistry, Reply

INT, LONG, STRING = '"int"', '"long"', '"string"'
DOWN: Reply = 503, {"error_code": 50301, "message": "starting"}


@pytest.fixture
def server() -> Iterator[HttpRegistry]:
    with HttpRegistry() as registry:
        yield registry


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are forgotten at once."""
    monkeypatch.setattr(module, "FAILED_FOR", 0.0)
    monkeypatch.setattr(module, "UNKNOWN_FOR", 0.0)
    monkeypatch.setattr(module, "STALE_FOR", 0.0)
    monkeypatch.setattr(rest_registry, "PAUSE", 0.0)


async def registered(server: HttpRegistry, subject: str = "t-value", text: str = INT) -> RegisteredSchema:
    schema = await SchemaRegistry(server.url).register(subject, "AVRO", text)
    server.asked.clear()
    return schema


# --- reading


async def test_an_id_is_asked_for_once(server: HttpRegistry) -> None:
    schema = await registered(server)
    assert schema.id is not None
    number = schema.id
    registry = SchemaRegistry(server.url)
    found = await asyncio.gather(*(registry.by_id(number) for _ in range(100)))
    found.append(await registry.by_id(number))
    assert server.asked == [f"/schemas/ids/{number}"]
    assert {each.text for each in found} == {INT}
    assert {each.guid for each in found} == {schema.guid}


async def test_one_who_waits_asks_himself_if_the_other_is_cancelled(server: HttpRegistry) -> None:
    await registered(server)
    reached, go_on = threading.Event(), threading.Event()

    def slowly(path: str) -> Reply | None:
        reached.set()
        go_on.wait(10)
        return None

    server.instead = slowly
    registry = SchemaRegistry(server.url)
    first = asyncio.create_task(registry.by_id(1))
    await asyncio.to_thread(reached.wait, 10)
    second = asyncio.create_task(registry.by_id(1))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert (await second).text == INT
    assert len(server.asked) == 2


async def test_an_unknown_id_is_asked_for_again_as_registries_are_not_equally_new(server: HttpRegistry) -> None:
    await registered(server)
    answers = [NO_SCHEMA, NO_SCHEMA]
    server.instead = lambda path: answers.pop() if answers else None
    assert (await SchemaRegistry(server.url).by_id(1)).text == INT
    assert len(server.asked) == 3


async def test_an_id_that_stays_unknown_is_not_asked_for_again_at_once(
    server: HttpRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAILED_FOR", 0.0)  # that is for failures of other sorts
    monkeypatch.setattr(module, "UNKNOWN_FOR", 1_000.0)  # seconds; else a slow machine would take longer
    registry = SchemaRegistry(server.url, unknown_after=0.0)
    for _ in range(3):
        with pytest.raises(PayloadDecodeError, match="has no schema with the id 77") as raised:
            await registry.by_id(77)
        assert raised.value.step == "schema registry"
    assert len(server.asked) == 1


@pytest.mark.usefixtures("impatient")
async def test_an_id_is_not_unknown_for_ever(server: HttpRegistry) -> None:
    registry = SchemaRegistry(server.url, unknown_after=0.0)
    with pytest.raises(PayloadDecodeError):
        await registry.by_id(1)
    await registered(server)
    assert (await registry.by_id(1)).text == INT


async def test_many_unknown_ids_are_waited_for_ever_shorter(server: HttpRegistry) -> None:
    """Else a topic full of garbage would stand still for `unknown_after` seconds a message."""
    registry = SchemaRegistry(server.url, unknown_after=0.8)
    for number in range(100, 140):
        with pytest.raises(PayloadDecodeError):
            await registry.by_id(number)
    assert len(server.asked) < 40 + 20
    await registered(server)
    assert (await registry.by_id(1)).text == INT


async def test_after_a_while_an_unknown_id_is_waited_for_as_long_as_at_first(
    server: HttpRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "monotonic", lambda: now)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    registry, waited = SchemaRegistry(server.url), []
    for number in (100, 101, 102, 103):
        began = now
        with pytest.raises(PayloadDecodeError):
            await registry.by_id(number)
        waited.append(now - began)
        now += 61.0 if number == 102 else 0.0
    assert waited == pytest.approx([5.0, 2.5, 1.25, 5.0])


async def test_a_guid_stands_in_no_text_as_it_may_be_the_beginning_of_a_payload(server: HttpRegistry) -> None:
    guid = UUID(bytes=b"the secret words")
    with pytest.raises(PayloadDecodeError) as raised:
        await SchemaRegistry(server.url, unknown_after=0.0).by_id(guid)
    assert str(raised.value) == (f"the schema registry {server.url} has no schema with the GUID that the message names")
    for status in (200, 403, 500):
        with server.answering((status, b"no schema")), pytest.raises(PayloadUnavailableError) as away:
            await SchemaRegistry(server.url).by_id(guid)
        assert str(guid) not in str(away.value)


async def test_references_are_kept(server: HttpRegistry) -> None:
    registry = SchemaRegistry(server.url)
    await registry.register("a", "AVRO", INT)
    await registry.register("b", "AVRO", STRING, [Reference("A", "a", 1)])
    schema = await registry.register("c", "AVRO", '"long"', [Reference("B", "b", 1), Reference("A", "a", 1)])
    server.asked.clear()
    for _ in range(2):
        assert {name: used.text for name, used in (await registry.referenced(schema)).items()} == {
            "A": INT,
            "B": STRING,
        }
    assert sorted(server.asked) == ["/subjects/a/versions/1", "/subjects/b/versions/1"]


async def test_a_missing_reference_is_not_the_messages_fault(server: HttpRegistry) -> None:
    schema = RegisteredSchema(id=1, guid=None, type="AVRO", text="", references=(Reference("A", "a", 3),))
    with pytest.raises(PayloadUnavailableError, match="has no version 3 of a, which another schema refers to"):
        await SchemaRegistry(server.url).referenced(schema)


async def test_what_is_kept_is_bounded(server: HttpRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_SCHEMAS", 3)
    registry = SchemaRegistry(server.url)
    for number in range(5):
        await registry.register(f"s{number}", "AVRO", f'"T{number}"')
    server.asked.clear()
    await registry.find("s4", "AVRO", '"T4"')
    assert server.asked == []
    await registry.find("s0", "AVRO", '"T0"')
    assert server.asked == ["/subjects/s0"]


# --- writing


async def test_the_newest_version_is_asked_for_again_after_a_while(server: HttpRegistry) -> None:
    await registered(server)
    lasting, fleeting = SchemaRegistry(server.url), SchemaRegistry(server.url, latest_for=0.0)
    for registry in (lasting, fleeting):
        assert (await registry.latest("t-value")).version == 1
    await SchemaRegistry(server.url).register("t-value", "AVRO", LONG)
    server.asked.clear()
    assert (await lasting.latest("t-value")).version == 1
    assert server.asked == []
    assert (await fleeting.latest("t-value")).version == 2


async def test_registering_a_version_forgets_the_one_before(server: HttpRegistry) -> None:
    await registered(server)
    registry = SchemaRegistry(server.url)
    await registry.latest("t-value")
    await registry.register("t-value", "AVRO", LONG)
    assert (await registry.latest("t-value")).text == LONG


@pytest.mark.usefixtures("impatient")
async def test_a_known_version_stays_in_use_while_the_registry_is_away(
    server: HttpRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    await registered(server)
    registry = SchemaRegistry(server.url, latest_for=0.0)
    await registry.latest("t-value")
    with caplog.at_level(logging.WARNING), server.answering(DOWN):
        assert (await registry.latest("t-value")).version == 1
    assert "version 1 of t-value stays in use: the schema registry" in caplog.text
    await SchemaRegistry(server.url).register("t-value", "AVRO", LONG)
    assert (await registry.latest("t-value")).version == 2


async def test_a_schema_is_registered_once(server: HttpRegistry) -> None:
    registry = SchemaRegistry(server.url)
    await asyncio.gather(*(registry.register("t-value", "AVRO", INT) for _ in range(20)))
    await registry.find("t-value", "AVRO", INT)
    assert server.asked == ["/subjects/t-value/versions"]


async def test_what_is_not_registered_is_not_asked_for_again_at_once(
    server: HttpRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAILED_FOR", 1_000.0)  # seconds; else a slow machine would take longer
    registry = SchemaRegistry(server.url)
    for _ in range(10):
        with pytest.raises(PayloadUnavailableError, match="register it, or use auto_register=True"):
            await registry.find("t-value", "AVRO", INT)
    assert len(server.asked) == 1


async def test_an_older_registry_tells_the_id_only(server: HttpRegistry) -> None:
    await registered(server)
    server.instead = lambda path: (200, {"id": 1}) if path.endswith("/versions") else None
    schema = await SchemaRegistry(server.url).register("t-value", "AVRO", INT)
    assert (schema.id, schema.version) == (1, 1)
    assert server.asked == ["/subjects/t-value/versions", "/subjects/t-value"]


@pytest.mark.parametrize("status", [409, 422])
async def test_a_refused_schema_is_refused_with_the_registrys_words(server: HttpRegistry, status: int) -> None:
    reply = status, {"error_code": 409 if status == 409 else 42201, "message": "field x has no default"}
    with server.answering(reply), pytest.raises(PayloadEncodeError, match="t-value: field x has no default"):
        await SchemaRegistry(server.url).register("t-value", "AVRO", INT)


# --- loops and threads


def test_one_registry_serves_several_event_loops(server: HttpRegistry) -> None:
    asyncio.run(registered(server))
    registry = SchemaRegistry(server.url)
    found: list[RegisteredSchema] = []

    async def ask(number: int) -> None:
        found.append(await registry.by_id(1))
        with pytest.raises(PayloadUnavailableError):
            await registry.latest(f"none-{number}")

    threads = [threading.Thread(target=asyncio.run, args=(ask(number),)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(ask(5))
    assert [each.text for each in found] == [INT] * 6


# --- how it is made


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must be memory://"),
        ("registry:8081", "the URL of a schema registry: must be memory://, memory://name or http"),
        ("kafka://registry:8081", "must be memory://"),
        ("http://", "must be memory://"),
        ("http://r:port", "must be memory://"),
        ("http://a:8081,,http://b:8081", "must be memory://"),
        ("http://ann:hunter2@registry:8081", "credentials do not belong in the URL"),
        ("http://registry:8081/?password=hunter2", "no query and no fragment"),
    ],
)
def test_a_wrong_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as raised:
        SchemaRegistry(url)
    assert "hunter2" not in str(raised.value)


def test_a_url_may_have_spaces_a_path_and_a_slash_at_its_end() -> None:
    registry = SchemaRegistry(" http://a:8081/apis/ccompat/v7/ , http://b:8081/ ")
    assert repr(registry) == "SchemaRegistry(the schema registry http://a:8081/apis/ccompat/v7, http://b:8081)"


def test_credentials_must_go_together() -> None:
    with pytest.raises(ConfigurationError, match="needs a username"):
        SchemaRegistry("http://r:8081", password="hunter2")
    with pytest.raises(ConfigurationError, match="or a token, not both"):
        SchemaRegistry("http://r:8081", username="ann", token="t")


def test_the_extra_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    extras = r"fastapi-athomic\[avro\], \[protobuf\] or \[json-schema\]: "
    with pytest.raises(ConfigurationError, match=f"a schema registry needs {extras}"):
        SchemaRegistry("http://r:8081")
