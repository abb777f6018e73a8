"""Certificates that are renewed while the app runs, against a TLS server that notes which it is shown."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastapi_athomic import AthomicSettings, KafkaSettings, TransportError
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.support.certificates import Authority


class Server:
    """No broker: it closes each connection as soon as it is secure."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.shown: list[str] = []
        self.port = 0
        files = directory / "server.crt", directory / "server.key"
        authority.issue("server", *files)
        self.context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(authority.write(directory / "of-clients.crt"))
        )
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(*files)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        self.shown.append(certificate["subject"][0][0][1])
        writer.close()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@asynccontextmanager
async def transport_to(tmp_path: Path, authority: Authority) -> AsyncIterator[tuple[Server, KafkaTransport]]:
    authority.issue("first", tmp_path / "client.crt", tmp_path / "client.key")
    authority.write(tmp_path / "ca.crt")
    async with Server(tmp_path, authority).open() as server:
        kafka = KafkaSettings(
            security_protocol="SSL",
            ssl_cafile=str(tmp_path / "ca.crt"),
            ssl_certfile=str(tmp_path / "client.crt"),
            ssl_keyfile=str(tmp_path / "client.key"),
        )
        transport = KafkaTransport(AthomicSettings(broker_url=f"kafka://127.0.0.1:{server.port}", kafka=kafka))
        yield server, transport
        await transport.stop(5)


async def connect(transport: KafkaTransport) -> None:
    with pytest.raises(TransportError):
        await transport.start(5)


async def test_p18_fault_07_a_renewed_certificate_is_shown_on_new_connections(
    tmp_path: Path, authority: Authority
) -> None:
    async with transport_to(tmp_path, authority) as (server, transport):
        await connect(transport)
        authority.issue("second", tmp_path / "client.crt", tmp_path / "client.key")
        await connect(transport)
        assert server.shown == ["first", "second"]


async def test_p18_fault_07_what_is_half_written_is_not_used_and_said(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with transport_to(tmp_path, authority) as (server, transport):
        authority.issue("second", tmp_path / "client.crt", tmp_path / "other.key")
        with caplog.at_level(logging.WARNING, "fastapi_athomic"):
            await connect(transport)
            await connect(transport)
        assert len([record for record in caplog.records if "kafka.ssl_certfile" in record.getMessage()]) == 1
        (tmp_path / "other.key").replace(tmp_path / "client.key")
        await connect(transport)
        assert server.shown == ["first", "first", "second"]


async def test_p18_fault_07_an_authority_that_was_replaced_is_trusted_no_more(
    tmp_path: Path, authority: Authority
) -> None:
    async with transport_to(tmp_path, authority) as (server, transport):
        await connect(transport)
        Authority("another").write(tmp_path / "ca.crt")
        await connect(transport)
        authority.write(tmp_path / "ca.crt")
        await connect(transport)
        assert server.shown == ["first", "first"], "the second connection broke off, and the third did not"
