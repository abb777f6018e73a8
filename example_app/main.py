"""The app. `memory://` and SQLite by itself; Kafka, Redis, Postgres and a schema registry by environment.

uvicorn example_app.main:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from fastapi_athomic import Athomic, AthomicSettings, include_athomic
from fastapi_athomic.operation_settings import ControlSettings

from . import analytics, bank, billing, notifications, orders, shipping, stock, totals
from .database import open_database
from .mail_server import MailServer
from .operators import operator_with
from .payloads import topic_payloads
from .publishers import declare_publishers
from .settings import ShopSettings
from .tracing import set_up_tracing


def create_app(settings: ShopSettings | None = None) -> FastAPI:
    """A shop. The handlers stand beside the routes, in modules that are searched for that reason."""
    settings = settings or ShopSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """The database is there before the first message comes, and until the last one is done."""
        async with open_database(settings.database_url) as app.state.database:
            yield

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.state.mail_server = MailServer(settings.mail_outage_every)
    for subject in (orders, billing, bank, stock, analytics, shipping, notifications, totals):
        app.include_router(subject.router)
    app.state.publishers = declare_publishers(_include_consumers(app, settings))
    return app


def _include_consumers(app: FastAPI, settings: ShopSettings) -> Athomic:
    token = settings.control_token
    athomic_settings = AthomicSettings(control=ControlSettings(enabled=True)) if token else AthomicSettings()

    async def database() -> None:
        await app.state.database.answers()

    return include_athomic(
        app,
        athomic_settings,
        topic_payloads=topic_payloads(settings, athomic_settings),
        # nobody sees what is in dead letters (`payload_dependencies`): mails are nobody else's business
        control_dependencies=[Depends(operator_with(token))] if token else (),
        health_checks={"database": database},
    )


set_up_tracing()
app = create_app()
