"""Services with many handlers, each with a topic and a group of its own. `BENCH_APP` names one, and uvicorn runs it.

`GET /handled` says how many messages were handled and when the newest was, `GET /waits` how long they took from
`publish` to the handler.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from benchmarks.builds import OURS, check_build
from benchmarks.workload import Order

BOOTSTRAP = os.environ.get("BENCH_BOOTSTRAP", "")
TOPICS = os.environ.get("BENCH_TOPICS", "").split()
FIRST_NUMBER = int(os.environ.get("BENCH_FIRST_NUMBER", "0"))
"""With which the keys that this process gets begin. An earlier one had those before."""
FASTSTREAM = "FastStream"

Handler = Callable[[Order], Awaitable[None]]


class Ledger:
    """Counts and checks what all handlers got: each number of a topic and key once and in order."""

    def __init__(self) -> None:
        self.handled = 0
        self.wrong = 0  # skipped, repeated, or out of order for its topic and key
        self.newest_at = 0  # when the newest message was handled, in nanoseconds of the machine's monotonic clock
        self._newest: dict[tuple[str, int], int] = {}
        self._waits: list[tuple[int, int]] = []  # when each message was sent, and how long it took, in nanoseconds

    def note(self, topic: str, order: Order) -> None:
        self.newest_at = now = time.monotonic_ns()
        place = (topic, order.key)
        self.wrong += order.number != self._newest.get(place, FIRST_NUMBER - 1) + 1
        self._newest[place] = order.number
        self.handled += 1
        self._waits.append((order.sent, now - order.sent))

    def waits(self, since: int, until: int) -> list[int]:
        """Those of messages sent in that time, sorted."""
        return sorted(wait for sent, wait in self._waits if since <= sent < until)


def new_app(ledger: Ledger, lifespan: Any = None) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.get("/handled")
    async def handled() -> dict[str, int]:
        return {"handled": ledger.handled, "wrong": ledger.wrong, "newest_at": ledger.newest_at}

    @app.get("/waits")
    async def waits(since: int, until: int) -> dict[str, float]:
        """In milliseconds."""
        found = ledger.waits(since, until)
        shares = {"p50": 0.5, "p99": 0.99}
        return {"count": len(found)} | {name: found[int(len(found) * share)] / 1e6 for name, share in shares.items()}

    return app


def handlers(ledger: Ledger) -> dict[str, Handler]:
    """One for each topic."""

    def handler(topic: str) -> Handler:
        async def handle(order: Order) -> None:
            ledger.note(topic, order)

        return handle

    return {topic: handler(topic) for topic in TOPICS}


def ours(app: FastAPI, subscriptions: Mapping[str, Handler], **options: Any) -> None:
    """As shipped: at least once, with health, status and metrics."""
    from fastapi_athomic import AthomicSettings, include_athomic

    check_build()
    athomic = include_athomic(app, AthomicSettings(broker_url=f"kafka://{BOOTSTRAP}"))
    for topic, handle in subscriptions.items():
        athomic.subscribe_to(topic, group_id=topic, handler_id=topic, **options)(handle)


def faststream(subscriptions: Mapping[str, Handler]) -> Any:
    """As shipped, which is at most once. The broker starts in the app's lifespan, as its documentation advises."""
    from faststream.kafka import KafkaBroker

    broker = KafkaBroker(BOOTSTRAP, logger=None)
    for topic, handle in subscriptions.items():
        subscribe: Any = broker.subscriber(topic, group_id=topic, auto_offset_reset="earliest")
        subscribe(handle)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await broker.start()
        yield
        await broker.stop()

    return lifespan


def app() -> FastAPI:
    """For `uvicorn --factory`."""
    ledger = Ledger()
    if os.environ["BENCH_APP"] == FASTSTREAM:
        return new_app(ledger, faststream(handlers(ledger)))
    assert os.environ["BENCH_APP"] == OURS
    app = new_app(ledger)
    ours(app, handlers(ledger))
    return app
