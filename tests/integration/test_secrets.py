"""P15: what is planted in payloads, keys, headers, credentials and errors is found nowhere people look."""

from __future__ import annotations

import logging

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
    settings = AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}")
    athomic = include_athomic(FastAPI(), settings)

    @athomic.subscribe_to("secrets", group_id="secrets", handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0.01))
    async def handle(payment: Payment) -> None:
        raise RuntimeError(f"cannot charge {payment.card}")

    bodies = [
        {"number": 1, "card": SECRET},
        {"number": 2, "card": f"bad {SECRET}"},
        {"number": SECRET, "card": "x", SECRET: 1},
        SECRET,
    ]
    async with running(athomic), AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        for body in bodies:
            await athomic.publish("secrets", body, key=SECRET, headers={"authorization": SECRET, "x-tenant-id": SECRET})
        await athomic.drain()
        paths = ("/consumers", "/consumers/h", "/consumers/health", "/consumers/metrics", "/openapi.json")
        shown = [(await http.get(path)).text for path in paths]
        assert athomic.consumers()[0].counters.dead_lettered == len(bodies)
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(spans) >= 2 * len(bodies)
    logged = [record.getMessage() + (record.exc_text or "") for record in caplog.records]
    assert any("went to secrets.secrets.dlq" in line for line in logged)
    for place in (*shown, *spans, *logged):
        assert SECRET not in place


async def test_p15_credentials_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastapi_athomic")
    kafka = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="ann", sasl_password=SecretStr(SECRET))
    settings = AthomicSettings(
        broker_url="kafka://127.0.0.1:1", kafka=kafka, restart_backoff=0.05, shutdown_timeout=2.0
    )
    athomic = include_athomic(FastAPI(), settings)
    async with athomic.app.router.lifespan_context(athomic.app):
        await eventually(lambda: "cannot be reached" in str(athomic.health()))
        shown = f"{athomic.health()!r} {settings!r} {settings.model_dump_json()}"
    assert SECRET not in shown
    assert SECRET not in caplog.text
