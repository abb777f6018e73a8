"""What the document says of the app as a whole, and of its brokers: nothing that may be secret."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from ..payload.routing import Payloads
from ..settings import AthomicSettings
from .flows import unique

_LOGINS = {"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512", "GSSAPI": "gssapi"}
"""AsyncAPI's names of SASL's mechanisms."""
_OF_CONTACT, _OF_LICENSE = ("name", "url", "email"), ("name", "url")
"""What AsyncAPI has of what OpenAPI has."""


def info_of(app: FastAPI, settings: AthomicSettings) -> dict[str, Any]:
    """Title, version and the rest of the app, as its OpenAPI document has them, unless the settings say otherwise."""
    contact = {name: value for name, value in (app.contact or {}).items() if name in _OF_CONTACT}
    license_ = {name: value for name, value in (app.license_info or {}).items() if name in _OF_LICENSE}
    found = {
        "title": app.title,
        "version": app.version,
        "description": app.description or app.summary,
        "termsOfService": app.terms_of_service,
        "contact": contact,
        "license": license_ if "name" in license_ else None,
        **settings.asyncapi.info,
    }
    return {name: value for name, value in found.items() if value}


def servers_of(settings: AthomicSettings, payloads: Payloads) -> dict[str, Any]:
    """The brokers, one server for each; none for `memory://`, which nobody else can reach."""
    if settings.scheme != "kafka" or not settings.asyncapi.servers:
        return {}
    servers: dict[str, Any] = {}
    for host in settings.broker_address.split(","):
        servers[unique("kafka", servers)] = _server(host, settings, payloads)
    return servers


def _server(host: str, settings: AthomicSettings, payloads: Payloads) -> dict[str, Any]:
    kafka = settings.kafka
    security = []
    if kafka.security_protocol.startswith("SASL"):
        security.append({"type": _LOGINS[kafka.sasl_mechanism]})
    if kafka.ssl_certfile is not None:
        security.append({"type": "X509"})
    registry = _registry_of(payloads)
    return {
        "host": host,
        "protocol": "kafka-secure" if kafka.security_protocol.endswith("SSL") else "kafka",
        **({"security": security} if security else {}),
        **({"bindings": {"kafka": {**registry, "bindingVersion": "0.5.0"}}} if registry else {}),
    }


def _registry_of(payloads: Payloads) -> dict[str, str]:
    """The one schema registry of all pipelines; nothing where there is none, or several."""
    parts = [part for pipeline in payloads.all() for part in pipeline.parts]
    addresses = {
        address for part in parts if (address := getattr(getattr(part, "registry", None), "address", None)) is not None
    }
    if len(addresses) != 1:
        return {}
    return {"schemaRegistryUrl": addresses.pop(), "schemaRegistryVendor": "confluent"}
