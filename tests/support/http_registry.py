"""A schema registry over HTTP, in a thread of the test. It gives GUIDs, as Confluent's does, and fails when told to."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from fastapi_athomic.schemas.memory_registry import MemoryRegistry
from fastapi_athomic.schemas.registered import Reference, RegisteredSchema, SchemaRefusedError

Reply = tuple[int, Any]
"""A status, and what is sent as JSON, or as it is if it is bytes."""
NO_SCHEMA: Reply = 404, {"error_code": 40403, "message": "Schema not found"}
NO_SUBJECT: Reply = 404, {"error_code": 40401, "message": "Subject not found."}
NO_PATH: Reply = 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


class HttpRegistry:
    """`asked` has the path and query of each request, `seen` the headers; `instead` may reply before it does."""

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.store = MemoryRegistry()
        self.asked: list[str] = []
        self.seen: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}  # added to each reply
        self.instead: Callable[[str], Reply | None] = lambda path: None
        self.compiled: dict[str, str] = {}  # what format=serialized gives for a text
        self._server = _Server(("127.0.0.1", port), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> HttpRegistry:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def answering(self, *replies: Reply) -> Any:
        """Gives these replies, one after the other; the last one from then on."""
        waiting = list(replies)
        before, self.instead = self.instead, lambda path: waiting.pop(0) if len(waiting) > 1 else waiting[0]
        yield
        self.instead = before

    def reply(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        self.asked.append(target)
        self.seen.append(headers)
        path = urlsplit(target).path
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        return self.instead(path) or asyncio.run(self._reply(method, path, query, json.loads(body or b"null")))

    async def _reply(self, method: str, path: str, query: dict[str, str], body: Any) -> Reply:
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["schemas", "types"]:
                return 200, ["JSON", "PROTOBUF", "AVRO"]
            case ["schemas", "ids", number]:
                return self._schema(await self.store.by_id(int(number), None), query, NO_SCHEMA)
            case ["schemas", "guids", guid]:
                return self._schema(await self.store.by_id(UUID(guid), None), query, NO_SCHEMA)
            case ["subjects", subject, "versions", version] if method == "GET":
                which = None if version == "latest" else int(version)
                return self._schema(await self.store.version(subject, which), query, NO_SUBJECT)
            case ["subjects", subject]:
                return self._schema(await self.store.find(subject, *_sent(body)), query, NO_SUBJECT)
            case ["subjects", subject, "versions"]:
                try:
                    return self._schema(await self.store.register(subject, *_sent(body)), query, NO_SUBJECT)
                except SchemaRefusedError as error:
                    return 422, {"error_code": 42201, "message": str(error)}
            case ["compatibility", "subjects", subject, "versions"]:
                reasons = await self.store.incompatibilities(subject, *_sent(body))
                return 200, {"is_compatible": not reasons, "messages": reasons}
        return NO_PATH

    def _schema(self, schema: RegisteredSchema | None, query: dict[str, str], missing: Reply) -> Reply:
        if schema is None:
            return missing
        text = self.compiled.get(schema.text, schema.text) if query.get("format") == "serialized" else schema.text
        references = [reference._asdict() for reference in schema.references]
        found = {"id": schema.id, "guid": str(schema.guid), "schema": text, "schemaType": schema.type}
        place = {"subject": schema.subject, "version": schema.version} if schema.subject else {}
        return 200, {**found, **place, **({"references": references} if references else {})}


def _sent(body: Any) -> tuple[Any, str, tuple[Reference, ...]]:
    references = tuple(Reference(**each) for each in body.get("references", ()))
    return body.get("schemaType", "AVRO"), body["schema"], references


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Keeps the terminal clean when clients go away, or do not trust the certificate."""


def _handler(registry: HttpRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds, also for the handshake

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, content = registry.reply(self.command, self.path, headers, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in registry.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _reply  # noqa: N815 - names of http.server

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
            """Keeps the terminal clean."""

    return Handler
