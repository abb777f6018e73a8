"""A small shop, for tests of the test kits: handlers of every kind, and what they did."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    BatchItemError,
    ExecutionContext,
    Key,
    MessageHeaders,
    RawMessage,
    RetryPolicy,
    include_athomic,
)


class Order(BaseModel):
    number: int
    customer: str = "ada"


class Invoice(BaseModel):
    order: int


class Rates:
    """A dependency that tests override."""

    vat = 0.2


def rates() -> Iterator[Rates]:
    """A dependency that yields."""
    yield Rates()


class Shop:
    """One app. Its handlers are attributes."""

    def __init__(self, settings: AthomicSettings | None = None, **options: Any) -> None:
        self.app = app = FastAPI(lifespan=_lifespan)
        self.athomic = athomic = include_athomic(app, settings or AthomicSettings(), **options)
        self.seen: list[Any] = []
        _add_routes(app, athomic)
        self._add_singles(athomic)
        self._add_others(athomic)

    def _add_singles(self, athomic: Athomic) -> None:
        @athomic.subscribe_to(
            "orders", group_id="billing", handler_id="bill", retry=RetryPolicy(max_attempts=3, delay=60)
        )
        async def bill(order: Order, context: ExecutionContext) -> Invoice:
            if order.customer == "broke":
                raise ValueError("no money")
            invoice = Invoice(order=order.number)
            await athomic.publish("invoices", invoice, key=order.number)
            return invoice

        later = RetryPolicy(max_attempts=1, retry_topics=(30, 120), allow_reordering=True)

        @athomic.subscribe_to("parcels", group_id="shipping", handler_id="ship", retry=later)
        async def ship(order: Order) -> str:
            return f"sent {order.number}"

        @athomic.subscribe_to(
            "mails", group_id="mailing", handler_id="mail", dlq=False, retry=RetryPolicy(max_attempts=1)
        )
        def mail(order: Order, vat: Annotated[Rates, Depends(rates)], key: Key[str]) -> tuple[str, float]:
            return key, vat.vat

        @athomic.subscribe_to("both.a", group_id="both", handler_id="both-a")
        @athomic.subscribe_to("both.b", group_id="both", handler_id="both-b")
        async def both(order: Order) -> None: ...

        self.bill, self.ship, self.mail, self.both = bill, ship, mail, both

    def _add_others(self, athomic: Athomic) -> None:
        @athomic.subscribe_to("clicks", group_id="counting", handler_id="count", batch_size=3, batch_linger_ms=60_000)
        async def count(orders: list[Order]) -> int:
            for index, order in enumerate(orders):
                if order.customer == "broke":
                    raise BatchItemError(index, "no money")
            return len(orders)

        @athomic.subscribe_to(re.compile(r"audit\..*"), group_id="auditing", handler_id="audit")
        async def audit(message: RawMessage, headers: MessageHeaders) -> str:
            return message.topic

        @athomic.ordered_consumer(
            "entries", group_id="ledger", handler_id="post", aggregate_key_field="customer", sequence_id_field="number"
        )
        async def post(order: Order) -> int:
            self.seen.append(order.number)
            return order.number

        @athomic.subscribe_to("profiles", group_id="profiles", handler_id="profile")
        async def profile(order: Order | None) -> bool:
            return order is None

        self.count, self.audit, self.post, self.profile = count, audit, post, profile


@asynccontextmanager
async def _lifespan(app: FastAPI) -> Any:
    yield {"opened": True}


def _add_routes(app: FastAPI, athomic: Athomic) -> None:
    @app.post("/orders")
    async def place(order: Order) -> None:
        await athomic.publish("orders", order, key=order.number)

    @app.get("/opened")
    async def opened(request: Request) -> bool:
        return bool(request.state.opened)


def app_that_ends_badly() -> FastAPI:
    """An app whose lifespan fails at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise OSError("the pool is gone")

    app = FastAPI(lifespan=lifespan)
    include_athomic(app, AthomicSettings())
    return app
