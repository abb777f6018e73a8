from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, include_athomic

from . import handlers, orders
from .database import InMemory
from .payloads import CHECKED


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    InMemory.rows.clear()
    yield


def create_app(settings: AthomicSettings | None = None) -> FastAPI:
    app = FastAPI(title="Orders", lifespan=lifespan)
    app.include_router(orders.router)
    athomic = include_athomic(app, settings, packages=[handlers], topic_payloads={"invoices": CHECKED})

    @athomic.subscribe_to("orders.placed", group_id="audit", concurrency=2)
    async def audit(order: dict[str, object]) -> None:
        InMemory.rows.append(order["order_id"])

    return app
