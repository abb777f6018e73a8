from __future__ import annotations

import pytest

from example_app.main import create_app
from example_app.settings import ShopSettings
from fastapi_athomic import AthomicSettings, ConfigurationError
from fastapi_athomic.testing import TestKit

from .conftest import TOKEN

PAUSE = {"reason": "the bank is being moved", "seconds": 60}


def test_without_a_token_nobody_steers() -> None:
    with TestKit(create_app(ShopSettings(control_token=None))) as kit:
        assert kit.client.post("/consumers/billing/pause", json=PAUSE).status_code == 404
        assert kit.client.get("/consumers/billing/dlq").status_code == 404


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic YW5uOndyb25n"}])
def test_with_another_token_nobody_steers(kit: TestKit, headers: dict[str, str]) -> None:
    answer = kit.client.post("/consumers/billing/pause", json=PAUSE, headers=headers)
    assert answer.status_code == 401
    assert "Basic" in answer.headers["www-authenticate"], "a browser then asks for it"


def test_who_has_the_token_steers_as_a_program_or_in_a_browser(kit: TestKit) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert kit.client.post("/consumers/billing/pause", json=PAUSE, headers=bearer).status_code == 200
    assert kit.client.post("/consumers/billing/resume", json={}, auth=("ann", TOKEN)).status_code == 200


def test_the_dashboard_and_the_health_are_open(kit: TestKit) -> None:
    assert kit.client.get("/consumers/dashboard").status_code == 200
    health = kit.client.get("/consumers/health").json()
    assert health["checks"]["database"]["ok"]


def test_on_a_broker_that_outlives_the_process_mails_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_BROKER_URL", "kafka://localhost:9092")
    assert AthomicSettings().scheme == "kafka"
    with pytest.raises(ConfigurationError, match="SHOP_MAIL_KEY"):
        create_app(ShopSettings(mail_key=None))


@pytest.mark.parametrize("url", ["postgres://host/shop", "postgresql://host/shop", "postgresql+asyncpg://host/shop"])
def test_the_url_of_a_platform_gets_a_driver_for_asyncio(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert ShopSettings().database_url == "postgresql+asyncpg://host/shop"
