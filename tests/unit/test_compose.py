from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from example_app.settings import ShopSettings
from fastapi_athomic import AthomicSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def services() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(compose["services"])


def test_it_has_what_the_app_needs_a_tracing_back_end_and_the_app(services: dict[str, Any]) -> None:
    assert set(services) == {"kafka", "redis", "postgres", "registry", "jaeger", "app"}
    assert all(":" in service["image"] for service in services.values()), "versions are pinned"


def test_the_app_finds_the_broker_where_it_listens(services: dict[str, Any]) -> None:
    settings = AthomicSettings(broker_url=services["app"]["environment"]["ATHOMIC_BROKER_URL"])
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INTERNAL://{settings.broker_address}" in advertised
    assert set(services["app"]["depends_on"]) <= set(services)


def test_the_settings_of_the_app_are_known(services: dict[str, Any]) -> None:
    names = {name for name in services["app"]["environment"] if name.startswith("ATHOMIC_")}
    assert {name.removeprefix("ATHOMIC_").lower() for name in names} <= set(AthomicSettings.model_fields)


def test_the_app_reaches_redis_and_jaeger_by_their_names_and_ports(services: dict[str, Any]) -> None:
    environment = services["app"]["environment"]
    assert environment["ATHOMIC_STATE_STORE_URL"].startswith("redis://redis:6379")
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert environment["OTEL_SERVICE_NAME"]
    assert "4318:4318" in services["jaeger"]["ports"]


def test_the_app_has_the_database_that_postgres_makes(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = services["postgres"]["environment"]
    user, password = made["POSTGRES_USER"], made["POSTGRES_PASSWORD"]
    for name, value in services["app"]["environment"].items():
        monkeypatch.setenv(name, value or "")
    settings = ShopSettings()
    assert settings.database_url == f"postgresql+asyncpg://{user}:{password}@postgres:5432/{user}"
    assert settings.registry_url.startswith("http://registry:8080/")
    assert settings.mail_key is not None
    assert settings.control_token is None, "nobody knows a token that is in a file for all"


def test_the_app_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    waits = {name: wait["condition"] for name, wait in services["app"]["depends_on"].items()}
    assert waits == {
        **dict.fromkeys(("kafka", "redis", "postgres"), "service_healthy"),
        **dict.fromkeys(("registry", "jaeger"), "service_started"),
    }
    healthy = [name for name, condition in waits.items() if condition == "service_healthy"]
    assert all(services[name]["healthcheck"]["test"][0] == "CMD" for name in [*healthy, "app"])


def test_the_extra_that_the_app_installs_has_what_its_environment_asks_for(services: dict[str, Any]) -> None:
    assert ".[example]" in services["app"]["command"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = " ".join(project["optional-dependencies"]["example"])
    for needed in ("redis", "asyncpg", "avro", "encryption", "opentelemetry-exporter-otlp-proto-http"):
        assert needed in extra


def test_kafkas_listeners_fit_together(services: dict[str, Any]) -> None:
    environment = services["kafka"]["environment"]
    listeners = {entry.split("://")[0] for entry in environment["KAFKA_LISTENERS"].split(",")}
    mapped = {entry.split(":")[0] for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    advertised = {entry.split("://")[0] for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    assert listeners == mapped == advertised | {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
