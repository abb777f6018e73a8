"""What customers do, what they see of it, and a database that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from example_app.database import get_session
from fastapi_athomic.testing import TestKit


def order(kit: TestKit, customer: str = "ann", *, item: str = "book", quantity: int = 1, key: str | None = None) -> str:
    """Places an order, and returns its id."""
    new = {"customer": customer, "item": item, "quantity": quantity, "unit_price": "12.50"}
    answer = kit.client.post("/orders", json=new, headers={"idempotency-key": key} if key else None)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["order_id"])


def get(kit: TestKit, path: str) -> Any:
    return kit.client.get(path).raise_for_status().json()


def steps(kit: TestKit, order_id: str) -> list[str]:
    return [step["status"] for step in get(kit, f"/orders/{order_id}")]


@contextmanager
def commits_that_fail(app: FastAPI, *, times: int) -> Iterator[None]:
    """The next transactions run to their end, and are rolled back."""
    left = iter(range(times))

    async def session() -> AsyncIterator[AsyncSession]:
        async with app.state.database.sessions() as session:
            yield session
            if next(left, None) is not None:
                raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))
            await session.commit()

    app.dependency_overrides[get_session] = session
    yield
    del app.dependency_overrides[get_session]
