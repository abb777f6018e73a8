"""What a new user gets wrong about a broker: a sentence says which setting to look at."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer
from pydantic import SecretStr

from fastapi_athomic import AthomicSettings, KafkaSettings, TransportError, subscribe_to
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.support.apps import eventually, new_app
from tests.support.secure_kafka import PASSWORD, SecureKafka

ANN: dict[str, Any] = {"sasl_username": "ann", "sasl_password": SecretStr(PASSWORD)}
WRONG: dict[str, Any] = {"sasl_username": "ann", "sasl_password": SecretStr("wr0ng-s3cret")}


async def start_error(address: str, **kafka: Any) -> str:
    """What an app is told that cannot connect."""
    before = open_sockets()
    transport = KafkaTransport(AthomicSettings(broker_url=f"kafka://{address}", kafka=KafkaSettings(**kafka)))
    with pytest.raises(TransportError) as caught:
        await transport.start(20)
    await transport.stop(2)
    await eventually(lambda: open_sockets() <= before)
    told = str(caught.value)
    assert PASSWORD not in told
    assert "wr0ng" not in told
    return told


def open_sockets() -> int:
    """A TLS connection is closed when the peer has answered; a loop that ends before would leave its socket open."""
    loop: Any = asyncio.get_running_loop()
    return len(loop._selector.get_map())


@pytest.mark.parametrize(
    ("listener", "protocol", "more", "hint"),
    [
        ("plain", "SASL_PLAINTEXT", ANN, "wants no SASL: set kafka.security_protocol to PLAINTEXT"),
        ("tls", "SASL_SSL", ANN, "wants no SASL: set kafka.security_protocol to SSL"),
        ("sasl", "PLAINTEXT", {}, "wants SASL: set kafka.security_protocol to SASL_PLAINTEXT"),
        ("tls", "PLAINTEXT", {}, "speaks TLS: set kafka.security_protocol to SSL (and kafka.ssl_cafile)"),
        ("tls", "SASL_PLAINTEXT", ANN, "speaks TLS: set kafka.security_protocol to SASL_SSL"),
        ("plain", "SSL", {}, "speaks no TLS: set kafka.security_protocol to PLAINTEXT"),
        ("sasl", "SASL_SSL", ANN, "speaks no TLS: set kafka.security_protocol to SASL_PLAINTEXT"),
        ("sasl", "SASL_PLAINTEXT", WRONG, "refuses kafka.sasl_username or kafka.sasl_password (mechanism PLAIN)"),
        (
            "sasl",
            "SASL_PLAINTEXT",
            {**WRONG, "sasl_mechanism": "SCRAM-SHA-256"},
            "refuses kafka.sasl_username or kafka.sasl_password (mechanism SCRAM-SHA-256)",
        ),
        ("sasl", "SASL_PLAINTEXT", {**ANN, "sasl_mechanism": "SCRAM-SHA-512"}, "does not offer SCRAM-SHA-512"),
    ],
)
async def test_a_listener_of_another_kind_is_recognised(
    secure_kafka: SecureKafka, listener: str, protocol: str, more: dict[str, Any], hint: str
) -> None:
    address = {"plain": secure_kafka.bootstrap, "sasl": secure_kafka.sasl, "tls": secure_kafka.tls}[listener]
    cafile = secure_kafka.cafile if protocol.endswith("SSL") else None
    assert hint in await start_error(address, security_protocol=protocol, ssl_cafile=cafile, **more)


async def test_certificates_that_do_not_fit_are_told_apart(secure_kafka: SecureKafka) -> None:
    other = await start_error(secure_kafka.tls, security_protocol="SSL", ssl_cafile=secure_kafka.other_cafile)
    assert "certificate is not trusted" in other
    assert "kafka.ssl_cafile must hold" in other
    host = secure_kafka.tls.replace("127.0.0.1", "localhost")
    named = await start_error(host, security_protocol="SSL", ssl_cafile=secure_kafka.cafile)
    assert "for another name (Hostname mismatch" in named
    assert "kafka.ssl_check_hostname" in named


async def test_what_is_right_connects(secure_kafka: SecureKafka) -> None:
    before = open_sockets()
    for kafka in (
        KafkaSettings(security_protocol="SSL", ssl_cafile=secure_kafka.cafile),
        KafkaSettings(security_protocol="SASL_PLAINTEXT", **ANN),
        secure_kafka.user(),
    ):
        address = secure_kafka.tls if kafka.security_protocol == "SSL" else secure_kafka.sasl
        transport = KafkaTransport(AthomicSettings(broker_url=f"kafka://{address}", kafka=kafka))
        await transport.start(20)
        await transport.ping(20)
        await transport.stop(5)
    await eventually(lambda: open_sockets() <= before)


async def test_a_name_or_a_port_where_no_broker_is() -> None:
    assert "127.0.0.1:1: nothing listens there (connection refused)" in await start_error("127.0.0.1:1")
    assert "host name cannot be resolved" in await start_error("no-such-host.invalid:9092")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert "this is a web server" in await start_error(f"{host}:{port}")


async def test_a_group_whose_members_offer_other_assignors(secure_kafka: SecureKafka) -> None:
    topic = group = f"assignors-{uuid4().hex[:8]}"
    secure_kafka.make(topic, partitions=2)
    options = {"group.id": group, "partition.assignment.strategy": "range", "session.timeout.ms": 6000}
    other = Consumer({"bootstrap.servers": secure_kafka.bootstrap, **options})
    other.subscribe([topic])

    @subscribe_to(topic, group_id=group, handler_id="h")
    async def handle(message: bytes) -> None:
        raise AssertionError("nothing is written")

    async def polling() -> None:
        while True:
            await asyncio.to_thread(other.poll, 0.05)

    def settings(*strategy: str) -> AthomicSettings:
        kafka: Any = {"partition_assignment_strategy": strategy} if strategy else {}
        url = f"kafka://{secure_kafka.bootstrap}"
        return AthomicSettings(broker_url=url, restart_backoff=0.2, kafka=KafkaSettings(**kafka))

    poll = asyncio.create_task(polling())
    try:
        await eventually(other.assignment)
        athomic = new_app(settings(), handle)
        async with athomic.app.router.lifespan_context(athomic.app):
            await eventually(lambda: "InconsistentGroupProtocol" in str(athomic.health()))
            assert "ATHOMIC_KAFKA__PARTITION_ASSIGNMENT_STRATEGY" in str(athomic.health())
        athomic = new_app(settings("range"), handle)
        async with athomic.app.router.lifespan_context(athomic.app):
            await eventually(lambda: len(athomic.consumers()[0].assignment) == 1)
    finally:
        poll.cancel()
        await asyncio.wait([poll])
        await asyncio.to_thread(other.close)
