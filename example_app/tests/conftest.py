from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from example_app.main import create_app
from example_app.settings import ShopSettings
from fastapi_athomic.testing import TestKit

TOKEN = "a token for these tests only"


@pytest.fixture
def app() -> FastAPI:
    """A shop with a database of its own, whatever the environment says."""
    return create_app(
        ShopSettings(
            database_url=None,
            registry_url="memory://",
            control_token=SecretStr(TOKEN),
            mail_outage_every=0,
        )
    )


@pytest.fixture
def kit(app: FastAPI) -> Iterator[TestKit]:
    """The shop, running: with routes, consumers, and a broker in memory."""
    with TestKit(app) as kit:
        yield kit
