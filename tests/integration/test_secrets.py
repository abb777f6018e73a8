"""P15: what is planted in payloads, keys, headers, credentials and errors is found nowhere people look."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, SecretStr, field_validator

from fastapi_athomic import AthomicSettings, KafkaSettings, RetryPolicy, include_athomic
from tests.support.apps import eventually, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

SECRET = "pl4nted-s3cret"


class Payment(BaseModel):
    number: int
    card: str

    @field_validator("card")
    @classmethod
    def check(cls, card: str) -> str:
        if card.startswith("bad"):
            raise ValueError(f"bad card {card}")
        return card


async def test_p15_no_secret_is_found_where_people_look(
    apache_kafka: KafkaBroker | ExternalKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    caplog.set_level(logging.DEBUG, "fastapi_athomic")
    settings = AthomicSettings(
        broker_url=f"kafka://{apache_kafka.bootstrap}",
        state_store_url=SecretStr("memory://secrets"),
        expose_error_messages=False,
    )
    athomic = include_athomic(FastAPI(), settings)
    failing = RetryPolicy(max_attempts=2, delay=0.01)

    @athomic.subscribe_to("secrets", group_id="secrets", handler_id="h", retry=failing)
    async def handle(payment: Payment) -> None:
        raise RuntimeError(f"cannot charge {payment.card}")

    @athomic.ordered_consumer(
        "secrets",
        group_id="ordered-secrets",
        handler_id="o",
        aggregate_key_field="card",
        sequence_id_field="number",
        retry=failing,
        on_failure="block",
    )
    async def handle_ordered(payment: Payment) -> None:
        raise RuntimeError(f"cannot charge {payment.card} either")

    bodies = [
        {"number": 1, "card": SECRET},
        {"number": 2, "card": f"bad {SECRET}"},
        {"number": SECRET, "card": "x", SECRET: 1},
        SECRET,
    ]
    async with running(athomic), AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        for body in bodies:
            await athomic.publish("secrets", body, key=SECRET, headers={"authorization": SECRET, "x-tenant-id": SECRET})
        await eventually(lambda: (ordered := athomic.consumers()[1].ordered) is not None and ordered.blocked)
        await eventually(lambda: athomic.consumers()[0].counters.dead_lettered == len(bodies))
        paths = (
            "/consumers",
            "/consumers/h",
            "/consumers/o",
            "/consumers/health",
            "/consumers/metrics",
            "/openapi.json",
            "/consumers/asyncapi.json",
            "/consumers/asyncapi",
        )
        shown = [(await http.get(path)).text for path in paths]
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(spans) >= 2 * len(bodies)
    logged = caplog.text.splitlines()  # with tracebacks
    assert any("went to the DLQ topic secrets.secrets.dlq" in line for line in logged)
    assert any(line == "RuntimeError" for line in logged), "the end of a traceback"
    assert any("blocks its aggregate" in line for line in logged)
    for place in (*shown, *spans, *logged):
        assert SECRET not in place


async def test_p15_credentials_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastapi_athomic")
    kafka = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="ann", sasl_password=SecretStr(SECRET))
    settings = AthomicSettings(
        broker_url="kafka://127.0.0.1:1",
        kafka=kafka,
        restart_backoff=0.05,
        shutdown_timeout=2.0,
    )
    athomic = include_athomic(FastAPI(), settings)
    async with athomic.app.router.lifespan_context(athomic.app):
        await eventually(lambda: "cannot be reached" in str(athomic.health()))
        shown = f"{athomic.health()!r} {settings!r} {settings.model_dump_json()} {athomic.asyncapi()}"
    assert SECRET not in shown
    assert SECRET not in caplog.text


async def test_p15_credentials_of_the_state_store_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastapi_athomic")
    store = SecretStr(f"redis://ann:{SECRET}@127.0.0.1:1/0")
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", state_store_url=store, shutdown_timeout=2.0)
    athomic = include_athomic(FastAPI(), settings)

    @athomic.ordered_consumer("t", group_id="g", handler_id="o", aggregate_key_field="card", sequence_id_field="number")
    async def handle(payment: Payment) -> None:
        raise AssertionError("nothing is handled without a store")

    async with athomic.app.router.lifespan_context(athomic.app):
        await athomic.publish("t", {"number": 1, "card": "x"})
        await eventually(lambda: "the state store cannot be reached" in str(athomic.health()))
        shown = f"{athomic.health()!r} {athomic.consumers()!r} {settings!r} {settings.model_dump_json()}"
    assert SECRET not in shown
    assert SECRET not in caplog.text
    assert "the state store cannot be reached" in caplog.text
