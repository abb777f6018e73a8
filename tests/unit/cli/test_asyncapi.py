from __future__ import annotations

from tests.unit.cli.conftest import Command, Write

SHOP = """
from fastapi import FastAPI
from fastapi_athomic import AthomicSettings, include_athomic, subscribe_to

app = FastAPI(title="Shop", version="2")
athomic = include_athomic(app, AthomicSettings(broker_url="kafka://127.0.0.1:1"))
athomic.publisher("orders", str)

@subscribe_to("orders", group_id="billing", handler_id="bill")
async def bill(order: str) -> None: ...
"""


def test_it_prints_the_same_document_each_time_and_asks_no_broker(write: Write, command: Command) -> None:
    write(shop=SHOP)
    first, second = command("asyncapi", "shop:app"), command("asyncapi", "shop:app")
    assert (first.status, first.err) == (0, "")
    assert first.out == second.out
    assert first.json["info"] == {"title": "Shop", "version": "2"}
    assert first.json["servers"] == {"kafka": {"host": "127.0.0.1:1", "protocol": "kafka"}}
    assert {*first.json["operations"]} == {
        *("receive.bill.orders", "send.str.orders", "send.bill.orders.billing.dlq"),
        "receive.bill.orders.billing.redrive",
    }
