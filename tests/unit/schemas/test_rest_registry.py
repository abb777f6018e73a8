"""Registries that are away, slow, overloaded, behind TLS, behind passwords, or no registries at all."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from fastapi_athomic import ConfigurationError, PayloadUnavailableError
from fastapi_athomic.schemas import rest_registry
from fastapi_athomic.schemas.registered import RegisteredSchema, SchemaType
from fastapi_athomic.schemas.rest_registry import Access, RestRegistry
from tests.support.certificates import Authority
from tests.support.http_registry import NO_PATH, NO_SCHEMA, HttpRegistry, Reply
from tests.support.processes import free_port
from tests.support.silent_server import SilentServer

INT = '"int"'
SCHEMA: Reply = 200, {"schema": INT}


@pytest.fixture
def server() -> Iterator[HttpRegistry]:
    with HttpRegistry() as registry:
        yield registry


async def asked(url: str, **access: Any) -> RegisteredSchema | None:
    return await RestRegistry(url.split(","), Access(**access)).by_id(1, None)


async def problem_of(url: str, **access: Any) -> str:
    with pytest.raises(PayloadUnavailableError) as raised:
        await asked(url, **access)
    assert raised.value.step == "schema registry"
    return str(raised.value)


# --- away


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert (await problem_of(url)).startswith(f"the schema registry {url} cannot be reached: ConnectError")


async def test_it_does_not_answer() -> None:
    with SilentServer() as silent:
        assert await problem_of(silent.url, timeout=0.2) == (
            f"the schema registry {silent.url} does not answer within 0.2 s"
        )


async def test_the_limit_is_for_the_whole_answer() -> None:
    """A server that sends a byte now and then never exceeds the time-out of a single step."""
    enough, ended = asyncio.Event(), asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not enough.is_set():
            writer.write(b" ")
            await asyncio.sleep(0.02)
        writer.close()
        ended.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as dripping:
        url = f"http://127.0.0.1:{dripping.sockets[0].getsockname()[1]}"
        assert (await problem_of(url, timeout=0.3)).endswith("does not answer within 0.3 s")
        enough.set()
        await ended.wait()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (
            (500, {"error_code": 50001, "message": "Error in the backend\n datastore"}),
            "answers 500: Error in the backend datastore",
        ),
        ((503, b"<html>"), "answers 503"),
        ((502, {"message": 7}), "answers 502"),
        ((429, b""), "is asked too often (429)"),
        ((401, {"error_code": 401, "message": "no"}), "refuses the credentials (401): check username and password"),
        (
            (403, {"error_code": 40301, "message": "no"}),
            "does not allow this (403): the user needs the right for /",
        ),
        ((407, b""), "does not allow this (407)"),
    ],
)
async def test_it_refuses(server: HttpRegistry, reply: Reply, text: str) -> None:
    with server.answering(reply):
        problem = await problem_of(server.url, username="ann", password=SecretStr("hunter2"))
    assert text in problem
    assert server.url in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>Please log in</html>"),
        (200, b""),
        (200, b"[]"),
        (200, {"id": 1}),
        (200, {"schema": 7}),
        (200, {"schema": INT, "references": "a"}),
        (200, {"schema": INT, "references": [{"name": "A"}]}),
        (200, {"schema": INT, "guid": "no"}),
        (200, {"schema": INT, "schemaType": 7}),
        (302, b""),
        (404, b"<html>nginx</html>"),
        (400, b""),
        NO_PATH,
    ],
)
async def test_an_answer_that_no_registry_gives_is_not_the_messages_fault(server: HttpRegistry, reply: Reply) -> None:
    with server.answering(reply):
        assert "is its URL right? That of Apicurio ends in /apis/ccompat/v7" in await problem_of(server.url)
        assert (await problem_of(f"{server.url}/of/ours")).endswith("is its URL right?")


async def test_a_huge_answer_is_not_read_to_its_end(server: HttpRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_registry, "MAX_BYTES", 100_000)
    with server.answering((200, b" " * 5_000_000)):
        assert "answers more than 100000 bytes" in await problem_of(server.url)


async def test_unknown_is_no_failure(server: HttpRegistry) -> None:
    with server.answering(NO_SCHEMA):
        assert await asked(server.url) is None


# --- no storms


async def test_after_a_failure_nobody_asks_for_a_moment(server: HttpRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_registry, "PAUSE", 1_000.0)  # seconds; else a slow machine would take longer
    registry = RestRegistry([server.url], Access())
    with server.answering((503, b"")):
        for number in range(50):
            with pytest.raises(PayloadUnavailableError):
                await registry.by_id(number, None)
    assert len(server.asked) == 1


async def test_it_is_asked_again_after_the_moment(server: HttpRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_registry, "PAUSE", 0.0)
    registry = RestRegistry([server.url], Access())
    with server.answering((503, b""), SCHEMA):
        with pytest.raises(PayloadUnavailableError):
            await registry.by_id(1, None)
        assert await registry.by_id(1, None) is not None


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("9999999", 60.0), ("soon", 0.0), ("-1", 0.0)])
async def test_it_says_for_how_long_it_is_not_to_be_asked(
    server: HttpRegistry, monkeypatch: pytest.MonkeyPatch, header: str, seconds: float
) -> None:
    now = monotonic()
    monkeypatch.setattr(rest_registry, "PAUSE", 0.0)
    monkeypatch.setattr(rest_registry, "monotonic", lambda: now)
    server.headers["Retry-After"] = header
    registry = RestRegistry([server.url], Access())
    with server.answering((429, b""), SCHEMA):
        with pytest.raises(PayloadUnavailableError):
            await registry.by_id(1, None)
        now += seconds - 0.001
        if seconds:
            with pytest.raises(PayloadUnavailableError):
                await registry.by_id(1, None)
        now += 0.002
        assert await registry.by_id(1, None) is not None


async def test_what_concerns_one_subject_does_not_stop_the_others(server: HttpRegistry) -> None:
    registry = RestRegistry([server.url], Access())
    with server.answering((403, b""), (500, b""), SCHEMA):
        for _ in range(2):
            with pytest.raises(PayloadUnavailableError):
                await registry.version("secret", None)
        assert await registry.version("open", None) is not None


# --- several nodes


async def test_another_node_is_asked_if_one_is_away(server: HttpRegistry) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with HttpRegistry() as overloaded, overloaded.answering((503, b"")), server.answering(SCHEMA):
        registry = RestRegistry([dead, overloaded.url, server.url], Access())
        for _ in range(3):
            assert await registry.by_id(1, None) is not None
        assert len(overloaded.asked) == 1, "the one that answered is asked first from then on"


async def test_all_nodes_are_away() -> None:
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    registry = RestRegistry(urls, Access())
    with pytest.raises(PayloadUnavailableError, match=urls[1]):
        await registry.by_id(1, None)
    assert registry.shown == f"the schema registry {urls[0]}, {urls[1]}"


# --- credentials


async def test_basic_authentication(server: HttpRegistry, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    registry = RestRegistry([server.url], Access(username="änn", password=file))
    with server.answering(SCHEMA):
        await registry.by_id(1, None)
        file.write_text("renewed\n")
        await registry.by_id(1, None)
    sent = [base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode() for headers in server.seen]
    assert sent == ["änn:first", "änn:renewed"]


async def test_a_bearer_token(server: HttpRegistry) -> None:
    with server.answering(SCHEMA):
        await asked(server.url, token=SecretStr("abc"))
        await asked(server.url)
    assert [headers.get("authorization") for headers in server.seen] == ["Bearer abc", None]


async def test_a_password_file_that_is_gone(server: HttpRegistry, tmp_path: Path) -> None:
    problem = await problem_of(server.url, username="ann", password=tmp_path / "gone")
    assert problem.endswith(f"in {tmp_path / 'gone'} cannot be read: FileNotFoundError")


async def test_nothing_secret_is_shown(server: HttpRegistry, caplog: pytest.LogCaptureFixture) -> None:
    registry = RestRegistry([server.url], Access(username="ann", password=SecretStr("hunter2")))
    with caplog.at_level(logging.DEBUG), server.answering(SCHEMA):
        await registry.by_id(1, None)
    secrets = ("hunter2", base64.b64encode(b"ann:hunter2").decode())
    assert not any(secret in shown for secret in secrets for shown in (caplog.text, repr(vars(registry))))


# --- TLS


def tls_server(directory: Path, authority: Authority, *, of_clients: bool = False) -> ssl.SSLContext:
    certificate, key = directory / "server.crt", directory / "server.key"
    authority.issue("registry", certificate, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    if of_clients:
        context.load_verify_locations(authority.write(directory / "of-clients.crt"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    authority, client = Authority(), (tmp_path / "client.crt", tmp_path / "client.key")
    files: dict[str, Any] = {
        "ssl_cafile": str(authority.write(tmp_path / "ca.crt")),
        "ssl_certfile": str(client[0]),
        "ssl_keyfile": str(client[1]),
    }
    with HttpRegistry(tls=tls_server(tmp_path, authority, of_clients=True)) as server, server.answering(SCHEMA):
        Authority("stranger").issue("client", *client)
        registry = RestRegistry([server.url], Access(**files))
        with pytest.raises(PayloadUnavailableError, match="cannot be reached"):
            await registry.by_id(1, None)
        authority.issue("client", *client)  # renewed on disk
        registry._away = None
        assert await registry.by_id(1, None) is not None


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    other = str(Authority("other").write(tmp_path / "other.crt"))
    with HttpRegistry(tls=tls_server(tmp_path, Authority())) as server, server.answering(SCHEMA):
        for files in ({"ssl_cafile": other}, {}):
            problem = await problem_of(server.url, **files)
            assert "certificate verify failed" in problem
        assert server.asked == []


def test_a_certificate_that_cannot_be_read() -> None:
    with pytest.raises(ConfigurationError, match="ssl_cafile: there is no file /nowhere"):
        RestRegistry(["https://r:8081"], Access(ssl_cafile="/nowhere"))


# --- what differs between registries


async def test_guids_that_the_registry_does_not_know_of(server: HttpRegistry) -> None:
    """Only Confluent's has them. Any other answers as to a path that it has not; whether it is one is asked then."""
    server.instead = lambda path: (404, b"") if "guids" in path else None
    registry = RestRegistry([server.url], Access())
    assert await registry.by_id(uuid4(), None) is None
    assert await registry.by_id(uuid4(), None) is None
    assert sum(path == "/schemas/types" for path in server.asked) == 1
    server.instead = lambda path: (404, b"")
    with pytest.raises(PayloadUnavailableError, match="is its URL right"):
        await RestRegistry([server.url], Access()).by_id(uuid4(), None)


PROTO, COMPILED = 'syntax = "proto3"; message M {}', base64.b64encode(b"\n\7m.proto").decode()


@pytest.mark.parametrize(
    ("compiled", "text"),
    [
        ((200, {"schema": COMPILED, "schemaType": "PROTOBUF"}), COMPILED),
        ((200, {"schema": "\n\7m.proto\0", "schemaType": "PROTOBUF"}), PROTO),  # Apicurio 3.3
        ((500, {"error_code": 0, "message": "SchemaException"}), PROTO),  # Apicurio 3.3, of what it cannot compile
        ((400, b""), PROTO),
        ((404, b""), PROTO),
    ],
)
async def test_a_proto_file_is_taken_compiled_if_the_registry_can(
    server: HttpRegistry, compiled: Reply, text: str
) -> None:
    with server.answering((200, {"schema": PROTO, "schemaType": "PROTOBUF"}), compiled):
        schema = await asked(server.url)
    assert schema is not None
    assert (schema.type, schema.text, schema.id) == ("PROTOBUF", text, 1)
    assert server.asked == ["/schemas/ids/1", "/schemas/ids/1?format=serialized"]


@pytest.mark.parametrize("schema", [("AVRO", INT), ("PROTOBUF", COMPILED), ("JSON", "{}")])
async def test_nothing_else_is_asked_for_twice(server: HttpRegistry, schema: tuple[SchemaType, str]) -> None:
    with server.answering((200, {"schema": schema[1], "schemaType": schema[0]})):
        await asked(server.url)
    assert server.asked == ["/schemas/ids/1"]


async def test_the_registry_may_bring_schemas_into_its_normal_form(server: HttpRegistry) -> None:
    registry = RestRegistry([server.url], Access(normalize=True))
    await registry.register("t", "AVRO", INT, ())
    await registry.find("t", "AVRO", INT, ())
    assert server.asked == ["/subjects/t/versions?normalize=true", "/subjects/t?normalize=true"]


async def test_names_of_subjects_may_hold_anything(server: HttpRegistry) -> None:
    registry = RestRegistry([server.url], Access())
    await registry.register("a/b c?ä-value", "AVRO", INT, ())
    found = await registry.version("a/b c?ä-value", None)
    assert found is not None
    assert found.subject == "a/b c?ä-value"


async def test_only_the_subject_of_a_context_is_named_with_an_id(server: HttpRegistry) -> None:
    registry = RestRegistry([server.url], Access())
    with server.answering(SCHEMA):
        await registry.by_id(1, "t-value")
        await registry.by_id(1, ":.staging:t-value")
    assert server.asked == ["/schemas/ids/1", "/schemas/ids/1?subject=%3A.staging%3At-value"]


@pytest.mark.parametrize(
    ("reply", "reasons"),
    [
        ((200, {"is_compatible": True}), []),
        ((200, {"is_compatible": False, "messages": ["no\ndefault", "b"]}), ["no default", "b"]),
        ((200, {"is_compatible": False}), ["the registry calls it incompatible with an earlier version, and does not"]),
        ((404, {"error_code": 40401, "message": "no subject"}), []),
        ((422, {"error_code": 42201, "message": "no Avro"}), ["no Avro"]),
    ],
)
async def test_incompatibilities(server: HttpRegistry, reply: Reply, reasons: list[str]) -> None:
    with server.answering(reply):
        found = await RestRegistry([server.url], Access()).incompatibilities("t", "AVRO", INT, ())
    assert [each[: len(reason)] for each, reason in zip(found, reasons, strict=True)] == reasons
    assert server.asked == ["/compatibility/subjects/t/versions?verbose=true"]


async def test_nonsense_about_compatibility_is_no_approval(server: HttpRegistry) -> None:
    with server.answering((200, {})), pytest.raises(PayloadUnavailableError):
        await RestRegistry([server.url], Access()).incompatibilities("t", "AVRO", INT, ())
