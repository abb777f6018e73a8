from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fastapi_athomic import AthomicSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def services() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(compose["services"])


def test_it_has_kafka_redis_a_tracing_back_end_and_the_app(services: dict[str, Any]) -> None:
    assert set(services) == {"kafka", "redis", "jaeger", "app"}
    assert all(":" in service["image"] for service in services.values()), "versions are pinned"


def test_the_app_finds_the_broker_where_it_listens(services: dict[str, Any]) -> None:
    settings = AthomicSettings(broker_url=services["app"]["environment"]["ATHOMIC_BROKER_URL"])
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INTERNAL://{settings.broker_address}" in advertised
    assert set(services["app"]["depends_on"]) <= set(services)


def test_the_settings_of_the_app_are_known(services: dict[str, Any]) -> None:
    names = {name.removeprefix("ATHOMIC_").lower() for name in services["app"]["environment"]}
    assert names <= set(AthomicSettings.model_fields)


def test_kafkas_listeners_fit_together(services: dict[str, Any]) -> None:
    environment = services["kafka"]["environment"]
    listeners = {entry.split("://")[0] for entry in environment["KAFKA_LISTENERS"].split(",")}
    mapped = {entry.split(":")[0] for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    advertised = {entry.split("://")[0] for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    assert listeners == mapped == advertised | {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
