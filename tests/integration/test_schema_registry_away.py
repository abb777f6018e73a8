"""What an app does while its schema registry is away, slow or no registry at all: messages wait, none fails."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from typing import Any, Literal

import pytest

from fastapi_athomic import Athomic, AthomicSettings, PayloadPipeline, PayloadUnavailableError
from fastapi_athomic.payload.steps import Decoder, Later, Outgoing, Part, Received, Serializer
from fastapi_athomic.schemas import registry as module
from fastapi_athomic.schemas import rest_registry
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.schemas.subjects import subject_of
from fastapi_athomic.schemas.wire import Frame, read_frame
from tests.support.apps import Record, eventually, new_app, running
from tests.support.http_registry import NO_SCHEMA, HttpRegistry, Reply
from tests.support.processes import free_port
from tests.support.silent_server import SilentServer

TEXT = '"int"'


class Registered(Serializer):
    """The smallest that needs a registry: JSON behind the id of a schema."""

    name = "registered"
    waits = True

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry

    def encode(self, message: Any, outgoing: Outgoing) -> Later[bytes | None]:
        return Later(partial(self._encode, message, outgoing))

    async def _encode(self, message: Any, outgoing: Outgoing) -> bytes:
        schema = await self._registry.find(subject_of("topic", outgoing.topic, "value", None), "AVRO", TEXT)
        return Frame("prefix", schema).put(json.dumps(message).encode(), outgoing)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        async def read(message: Received) -> Any:
            frame = read_frame(message, part, self.name)
            await self._registry.by_id(frame.schema_id)
            return json.loads(frame.data)

        return lambda message: Later(partial(read, message))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is not remembered, so that tests need not wait."""
    monkeypatch.setattr(module, "FAILED_FOR", 0.0)
    monkeypatch.setattr(rest_registry, "PAUSE", 0.0)


@pytest.fixture
def seen() -> Record:
    return Record()


@pytest.fixture(params=["loop", "thread"])
def isolation(request: pytest.FixtureRequest) -> Any:
    return request.param


def consuming(
    url: str, seen: Record, *, isolation: Literal["loop", "thread"] = "loop", timeout: float = 5.0, **settings: Any
) -> Athomic:
    pipeline = PayloadPipeline([Registered(SchemaRegistry(url, timeout=timeout, unknown_after=0.0))])
    athomic = new_app(AthomicSettings(broker_url="memory://", isolation=isolation, shutdown_timeout=1.0, **settings))

    @athomic.subscribe_to("numbers", group_id="g", handler_id="h", payload=pipeline)
    async def handle(number: int) -> None:
        seen.note(number)

    return athomic


async def written(athomic: Athomic, number: int, schema_id: int = 1) -> None:
    """A message as another service writes it."""
    value = b"\0" + schema_id.to_bytes(4, "big") + str(number).encode()
    await athomic.publish("numbers", value, payload=PayloadPipeline())


async def letters(athomic: Athomic) -> int:
    return await athomic.dead_letters("h").count()


async def filled(server: HttpRegistry) -> None:
    await SchemaRegistry(server.url).register("numbers-value", "AVRO", TEXT)
    server.asked.clear()


async def test_messages_wait_for_a_registry_that_is_away(
    seen: Record, isolation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with running(consuming(url, seen, isolation=isolation)) as athomic:
        for number in range(5):
            await written(athomic, number)
        await eventually(lambda: "messages wait, and are not failed" in caplog.text)
        assert f"the schema registry {url} cannot be reached" in caplog.text
        server = HttpRegistry(port=port)
        await server.store.register("numbers-value", "AVRO", TEXT, ())  # before it can be asked
        with server:
            await seen.count(5)
        assert await letters(athomic) == 0
    assert sorted(seen.seen) == [0, 1, 2, 3, 4]
    assert sum(path == "/schemas/ids/1" for path in server.asked) == 1


NONSENSE: Reply = 200, b"<html>Welcome to nginx</html>"


@pytest.mark.parametrize("reply", [(503, b""), (401, b""), (403, b""), (429, b""), (404, b"no such page"), NONSENSE])
async def test_messages_wait_for_a_registry_that_does_not_answer_the_question(
    seen: Record, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    with HttpRegistry() as server:
        await filled(server)
        server.instead = lambda path: reply
        async with running(consuming(server.url, seen)) as athomic:
            await written(athomic, 7)
            await eventually(lambda: "messages wait, and are not failed" in caplog.text)
            server.instead = lambda path: None
            await seen.count(1)
            assert await letters(athomic) == 0


async def test_another_node_is_asked_if_one_does_not_answer(seen: Record) -> None:
    with SilentServer() as silent, HttpRegistry() as server:
        await filled(server)
        async with running(consuming(f"{silent.url},{server.url}", seen, timeout=0.1)) as athomic:
            await written(athomic, 7)
            await seen.count(1)
            assert await letters(athomic) == 0


async def test_an_id_that_is_not_known_yet_is_no_failure(seen: Record) -> None:
    with HttpRegistry() as server:
        await filled(server)
        behind = [NO_SCHEMA, NO_SCHEMA, NO_SCHEMA]
        server.instead = lambda path: behind.pop() if behind else None
        pipeline = PayloadPipeline([Registered(SchemaRegistry(server.url))])
        athomic = new_app(AthomicSettings(broker_url="memory://"))

        @athomic.subscribe_to("numbers", group_id="g", handler_id="h", payload=pipeline)
        async def handle(number: int) -> None:
            seen.note(number)

        async with running(athomic):
            await written(athomic, 7)
            await seen.count(1)
            assert await letters(athomic) == 0


async def test_an_id_that_stays_unknown_makes_a_dead_letter(seen: Record) -> None:
    with HttpRegistry() as server:
        await filled(server)
        async with running(consuming(server.url, seen)) as athomic:
            await written(athomic, 666, schema_id=99)
            await written(athomic, 7)
            await seen.count(1)
            (letter,) = await athomic.dead_letters("h").browse()
    assert seen.seen == [7]
    assert letter.error_message == f"the schema registry {server.url} has no schema with the id 99"


async def test_others_go_on_while_messages_wait(seen: Record) -> None:
    with SilentServer() as silent:
        athomic = consuming(silent.url, seen, timeout=30.0)
        others = Record()

        @athomic.subscribe_to("others", group_id="g", handler_id="other")
        async def handle(number: int) -> None:
            others.note(number)

        async with running(athomic):
            await written(athomic, 7)
            assert await asyncio.to_thread(silent.asked.acquire, timeout=30)
            for number in range(20):
                await athomic.publish("others", number)
            await others.count(20)
    assert seen.seen == []


async def test_an_app_stops_while_messages_wait(seen: Record, isolation: Any) -> None:
    with SilentServer() as silent:
        async with running(consuming(silent.url, seen, isolation=isolation, timeout=60.0)) as athomic:
            await written(athomic, 7)
            assert await asyncio.to_thread(silent.asked.acquire, timeout=30)


async def test_publishing_waits_for_the_registry(seen: Record, isolation: Any) -> None:
    port = free_port()
    async with running(consuming(f"http://127.0.0.1:{port}", seen, isolation=isolation)) as athomic:
        publishing = asyncio.create_task(athomic.publish("numbers", 7))
        await asyncio.sleep(0)
        server = HttpRegistry(port=port)
        await server.store.register("numbers-value", "AVRO", TEXT, ())  # before it can be asked
        with server:
            await publishing
            await seen.count(1)


async def test_publishing_gives_up_after_a_while(seen: Record) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with running(consuming(url, seen, publish_timeout=0.5)) as athomic:
        with pytest.raises(PayloadUnavailableError, match=f"the schema registry {url} cannot be reached"):
            await athomic.publish("numbers", 7)


async def test_nothing_is_published_whose_schema_is_not_registered(seen: Record) -> None:
    with HttpRegistry() as server:
        async with running(consuming(server.url, seen, publish_timeout=0.5)) as athomic:
            with pytest.raises(PayloadUnavailableError, match="no version of numbers-value with this very"):
                await athomic.publish("numbers", 7)


async def test_a_hundred_waiting_messages_are_no_storm(
    seen: Record, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(rest_registry, "PAUSE", 1_000.0)  # seconds
    caplog.set_level(logging.INFO)
    with HttpRegistry() as server:
        server.instead = lambda path: (503, b"")
        pipeline = PayloadPipeline([Registered(SchemaRegistry(server.url))])
        athomic = new_app(AthomicSettings(broker_url="memory://", shutdown_timeout=1.0))

        @athomic.subscribe_to("numbers", group_id="g", handler_id="h", payload=pipeline, concurrency=100)
        async def handle(number: int) -> None:
            seen.note(number)

        async with running(athomic):
            for number in range(100):
                value = b"\0" + number.to_bytes(4, "big") + b"7"
                await athomic.publish("numbers", value, key=str(number), payload=PayloadPipeline())
            await eventually(lambda: bool(server.asked))
        assert len(server.asked) <= rest_registry.AT_ONCE
