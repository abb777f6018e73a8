"""What a handler costs at the start of its app, counted in function calls: the same on every machine.

All calls count that wiring makes before anything is started, ours and those of libraries. If it has become less, lower
the bound.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_athomic import Athomic, AthomicSettings, include_athomic, subscribe_to
from tests.unit.test_hot_path import Calls

FEW, MANY = 10, 60
BOUND = 1_550
"""They were 1,440. Regular expressions of its own, compiled at the start, cost each handler 1,300 more."""


class Order(BaseModel):
    number: int


async def get_database() -> str:
    return "database"


def handler(name: str) -> Any:
    @subscribe_to(f"topic-{name}", group_id=f"group-{name}", handler_id=f"handler-{name}")
    async def handle(order: Order, database: Annotated[str, Depends(get_database)]) -> None: ...

    return handle


def app_with(*names: str) -> Athomic:
    return include_athomic(FastAPI(), AthomicSettings(), handlers=[handler(name) for name in names])


async def calls_of_wiring(handlers: int) -> int:
    athomic = app_with(*(f"{number}-of-{handlers}" for number in range(handlers)))
    with Calls() as calls:
        await athomic.check()
    return calls.number


async def test_wiring_a_handler_costs_few_calls() -> None:
    await app_with("first").check()  # what is done once in a process is done
    cost = (await calls_of_wiring(MANY) - await calls_of_wiring(FEW)) / (MANY - FEW)
    assert cost <= BOUND
