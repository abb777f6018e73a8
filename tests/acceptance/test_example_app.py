"""The example app as its users run it: on memory:// and SQLite, and on Kafka, Redis, Postgres and a schema registry.

Its own tests, of what each handler does, are in example_app/tests.
"""

from __future__ import annotations

import base64
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from example_app.load import Load
from tests.support.postgres import Postgres, PostgresServer
from tests.support.processes import Process, free_port

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
TOKEN = "a token of the tests, of no use elsewhere"
HANDLERS = {"orders", "billing", "stock", "analytics", "shipping", "notifications"}
STEPS = ["placed", "billed", "reserved"]
ORDERS, SEED = 120, 7


class Shop:
    """The app in a process of its own."""

    def __init__(self, log: Path, **environment: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", "example_app.main:app", "--port", str(port)]
        environment |= {"PYTHONPATH": str(ROOT), "SHOP_CONTROL_TOKEN": TOKEN, "SHOP_MAIL_OUTAGE_EVERY": "80"}
        self.process = Process(command, log, **{**os.environ, **environment})
        self.http = httpx.Client(base_url=self.url, timeout=10)

    def start(self) -> None:
        self.process.start()
        self.until(self.is_healthy)

    def stop(self) -> None:
        self.process.stop()

    def get(self, path: str, **headers: str) -> Any:
        return self.http.get(path, headers=headers).raise_for_status().json()

    def until(self, holds: Callable[[], bool]) -> None:
        def answers() -> None:
            assert holds(), f"not yet: {self.http.get('/totals').text}"

        self.process.wait_until(answers, SECONDS)

    def order(self, customer: str) -> str:
        new = {"customer": customer, "item": "book", "unit_price": "12.50"}
        return str(self.http.post("/orders", json=new).raise_for_status().json()["order_id"])

    def steer(self, path: str, **body: Any) -> Any:
        headers = {"authorization": f"Bearer {TOKEN}"}
        sent = self.http.post(f"/consumers/{path}", json={"reason": "the tests say so", **body}, headers=headers)
        return sent.raise_for_status().json()

    def letters(self, consumer: str) -> list[dict[str, Any]]:
        found = self.get(f"/consumers/{consumer}/dlq", authorization=f"Bearer {TOKEN}")
        return list(found["letters"])

    def is_healthy(self) -> bool:
        """But for the event loop, which is late on a busy machine."""
        health = self.get("/consumers/health")
        reasons = [reason for consumer in health["consumers"].values() for reason in consumer["reasons"]]
        unhealthy = [reason for reason in (*reasons, *health["reasons"]) if "event_loop" not in reason["code"]]
        assert not unhealthy
        return True

    def is_done(self) -> bool:
        return {consumer["lag"] for consumer in self.get("/consumers")} == {0}

    def dead(self) -> int:
        return sum(int(consumer["counters"]["dead_lettered"]) for consumer in self.get("/consumers"))

    def steps(self, order_id: str) -> list[str]:
        return [step["status"] for step in self.get(f"/orders/{order_id}")]


@pytest.fixture(scope="module", params=["memory", "kafka"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    environment = _on_kafka(request) if request.param == "kafka" else {}
    shop = Shop(tmp_path_factory.mktemp("shop") / "log", **environment)
    shop.start()
    yield shop
    shop.stop()
    shop.http.close()


def _on_kafka(request: pytest.FixtureRequest) -> dict[str, str]:
    return {
        "ATHOMIC_BROKER_URL": f"kafka://{request.getfixturevalue('apache_kafka').bootstrap}",
        "ATHOMIC_STATE_STORE_URL": request.getfixturevalue("redis_server").url,
        "DATABASE_URL": request.getfixturevalue("postgres").new_database(),
        "SHOP_REGISTRY_URL": request.getfixturevalue("schema_registry").url,
        "SHOP_MAIL_KEY": base64.b64encode(b"a key that only these tests have").decode(),
    }


def load(shop: Shop, *options: str) -> list[str]:
    return [sys.executable, "-m", "example_app.load", "--url", shop.url, "--seed", str(SEED), *options]


def expected() -> list[dict[str, Any]]:
    """The orders that the load generator places."""
    load = Load(orders=ORDERS, rate=1, seconds=1, broke=0.05, unlucky=0.05, chance=random.Random(SEED))
    return [load.order() for _ in range(ORDERS)]


def test_every_order_ends_right(shop: Shop) -> None:
    """Invoices, sales, stock and mails are those of the orders; banks were busy, and the mail server was away."""
    shares = ["--broke", "0.05", "--unlucky", "0.05"]
    command = load(shop, "--orders", str(ORDERS), "--rate", "200", *shares)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * 2, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    placed = expected()
    good = [order for order in placed if order["customer"] != "broke"]
    lost = len(placed) - len(good)
    assert min(len(good), lost, sum(order["customer"] == "unlucky" for order in placed)) > 0, "the draw has all kinds"
    assert done.stdout.split(",")[:2] == [f"{ORDERS} placed", f" {len(good)} billed"]
    assert f" {lost} dead letters, 0 failed" in done.stdout

    shop.until(lambda: shop.get("/totals")["counted"] == ORDERS)
    shop.until(lambda: sum(abs(balance) for balance in shop.get("/stock").values()) == _quantity(placed))
    invoices = shop.get("/invoices")
    assert sorted((each["customer"], Decimal(each["total"])) for each in invoices) == sorted(
        (order["customer"], order["quantity"] * Decimal(order["unit_price"])) for order in good
    )
    assert {each["customer"]: each["attempts"] for each in invoices} == {"ann": 1, "unlucky": 2}
    for item in {order["item"] for order in placed}:
        of_item = [order for order in placed if order["item"] == item]
        (sales,) = [each for each in shop.get("/sales") if each["item"] == item]
        assert sales["quantity"] == _quantity(of_item) == -shop.get("/stock")[item]
        assert Decimal(sales["revenue"]) == sum(order["quantity"] * Decimal(order["unit_price"]) for order in of_item)
    assert set(shop.get("/shipments")) == {each["order_id"] for each in invoices} == set(shop.get("/mails"))
    assert all(shop.steps(each["order_id"]) == STEPS for each in invoices)
    assert len(shop.letters("billing")) == lost
    assert "its circuit breaker opens" in shop.process.output(), "the mail server was away"


def _quantity(orders: list[dict[str, Any]]) -> int:
    return sum(int(order["quantity"]) for order in orders)


def test_a_dead_letter_is_found_and_sent_back_and_the_order_is_shipped_after_all(shop: Shop) -> None:
    shop.http.put("/customers/broke/card", json={"good": False}).raise_for_status()
    before = len(shop.letters("billing"))
    placed = shop.order("broke")
    shop.until(lambda: len(shop.letters("billing")) == before + 1)
    assert {letter["error_type"] for letter in shop.letters("billing")} == {"example_app.bank.CardRefusedError"}
    shop.until(lambda: shop.steps(placed) == ["placed"])

    shop.http.put("/customers/broke/card", json={"good": True}).raise_for_status()
    refused = shop.http.post("/consumers/billing/dlq/redrive", json={"limit": 100, "reason": "no token"})
    assert refused.status_code == 401
    assert shop.steer("billing/dlq/redrive", limit=100)["settled"] == before + 1

    def shipped() -> bool:
        shop.steer("shipping/dlq/redrive", limit=100)  # on a machine where the gap was open for a minute
        return shop.steps(placed) == STEPS and placed in shop.get("/mails")

    shop.until(shipped)
    assert shop.letters("billing") == []
    shop.until(lambda: len(set(shop.get("/totals").values())) == 1)  # analytics may count after the mail was sent


def test_the_status_says_that_all_is_done(shop: Shop) -> None:
    placed = shop.order("ann")
    shop.until(lambda: placed in shop.get("/mails"))
    shop.until(shop.is_done)
    consumers = {consumer["id"]: consumer for consumer in shop.get("/consumers")}
    assert set(consumers) == HANDLERS
    assert {consumer["state"] for consumer in consumers.values()} == {"running"}
    shop.until(shop.is_healthy)
    assert shop.get("/consumers/health")["checks"]["database"]["ok"]
    assert shop.http.get("/consumers/dashboard").status_code == 200
    paused = shop.http.post("/consumers/billing/pause", json={"reason": "no token"})
    assert paused.status_code == 401
    assert shop.steer("billing/pause", seconds=300)["pauses"]
    assert shop.steer("billing/resume")["pauses"] == []


def test_while_the_database_is_away_orders_are_taken_and_none_is_lost(
    shop: Shop, request: pytest.FixtureRequest, do_without: Callable[[str], NoReturn]
) -> None:
    """What the shop cannot do now it does later: its breakers hold back what would become dead letters."""
    if "ATHOMIC_BROKER_URL" not in shop.process.environment:
        return  # SQLite is a file: it is not away
    postgres: Postgres = request.getfixturevalue("postgres")
    if not isinstance(postgres, PostgresServer):
        do_without("a Postgres to stop")
    before, dead = shop.get("/totals")["placed"], shop.dead()
    postgres.halt()
    placed = [shop.order("ann") for _ in range(20)]
    shop.until(lambda: shop.get("/consumers/billing")["breaker"]["state"] != "closed")
    postgres.start()
    shop.until(lambda: set(shop.get("/totals").values()) == {before + len(placed)})
    assert shop.dead() == dead
    assert all(shop.steps(order_id) == STEPS for order_id in placed)


def test_ctrl_c_ends_the_load_generator_with_what_there_is(shop: Shop, tmp_path: Path) -> None:
    before = shop.get("/totals")["placed"]
    generator = Process(load(shop, "--orders", "100000", "--rate", "20"), tmp_path / "log", **os.environ)
    generator.start()
    shop.until(lambda: shop.get("/totals")["placed"] > before)
    generator.signal(signal.SIGINT)
    assert generator.wait(SECONDS) in (0, 1)  # 1: not all are billed yet
    assert re.search(r"^[1-9]\d* placed, \d+ billed, .* 0 failed$", generator.output(), re.MULTILINE)
    assert "Traceback" not in generator.output()


def test_a_clean_stop_repeats_nothing(shop: Shop) -> None:
    placed = shop.order("ann")
    shop.until(lambda: placed in shop.get("/mails") and shop.is_done())
    shop.stop()
    assert shop.process.ending.startswith("stopped"), "it was not killed"
    assert "Finished server process" in shop.process.output()
    shop.start()
    if "ATHOMIC_BROKER_URL" not in shop.process.environment:
        assert set(shop.get("/totals").values()) == {0}, "all of it was in memory"
        return
    placed = shop.order("ann")
    shop.until(lambda: placed in shop.get("/mails"))
    assert {each["id"]: each["counters"]["redelivered"] for each in shop.get("/consumers")} == dict.fromkeys(
        HANDLERS, 0
    )
    assert shop.get("/consumers/billing")["counters"]["processed"] == 1
