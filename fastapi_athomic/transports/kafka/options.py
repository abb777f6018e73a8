"""How every client of aiokafka connects: the settings, as its arguments."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ...exceptions import ConfigurationError
from ...settings import AthomicSettings, KafkaSettings
from ...tls import RenewedContext

RETRY_SECONDS = 0.25
"""Seconds between two attempts to reach a broker. Each failed attempt is an error in aiokafka's log."""
IDLE_SECONDS = 180.0
"""A connection without traffic for this long is closed, and opened again when needed. Load balancers and firewalls
drop idle connections silently, usually after 4 to 6 minutes; a request on such a connection would wait in vain."""
METADATA_SECONDS = 300.0
"""Seconds after which producer and admin client ask again for topics and leaders, if nothing fails before."""


def milliseconds(seconds: float) -> int:
    """The seconds as whole milliseconds, at least 1."""
    return max(1, round(seconds * 1000))


def connection_options(settings: AthomicSettings) -> dict[str, Any]:
    """The arguments that every client of aiokafka takes. They hold the credentials: never print them.

    Raises:
        ConfigurationError: a certificate cannot be read, or a library that the settings need is missing.
    """
    kafka = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": [server.rstrip("/") for server in settings.broker_address.split(",")],
        "client_id": settings.client_id,
        "request_timeout_ms": milliseconds(kafka.request_timeout),
        "retry_backoff_ms": milliseconds(RETRY_SECONDS),
        "connections_max_idle_ms": milliseconds(IDLE_SECONDS),
        "metadata_max_age_ms": milliseconds(METADATA_SECONDS),
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = RenewedContext(kafka, "kafka.")
    if kafka.security_protocol.startswith("SASL"):
        options |= _sasl_options(kafka)
    return options


def _sasl_options(kafka: KafkaSettings) -> dict[str, Any]:
    if kafka.sasl_mechanism == "GSSAPI":
        if find_spec("gssapi") is None:
            raise ConfigurationError("kafka.sasl_mechanism GSSAPI needs the package gssapi: pip install gssapi")
        return {"sasl_mechanism": "GSSAPI"}
    password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password,
    }
