"""Places orders at a steady rate, and tells what became of them.

    python -m example_app.load --orders 1000 --rate 200

Some customers' cards are refused, some banks are busy: as in life. Ctrl-C places no more, and tells what there is.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx2
from tqdm import tqdm

CONNECTIONS = 32
"""So many orders are under way at most. A shop that cannot keep up is asked more slowly."""
LOOK_SECONDS = 0.2
"""Between two looks at what is billed by now."""
ITEMS = [f"item-{number}" for number in range(20)]


@dataclass(slots=True, kw_only=True)
class Load:
    """What is to be done, and how far it is."""

    orders: int
    rate: float  # orders a second
    seconds: float  # no order is placed later, and nothing is waited for longer than that
    broke: float  # the part of the customers whose card is refused
    unlucky: float  # the part whose bank is busy at first
    chance: random.Random
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    placed: int = 0
    failed: int = 0

    def order(self) -> dict[str, Any]:
        draw = self.chance.random()
        name = "broke" if draw < self.broke else "unlucky" if draw < self.broke + self.unlucky else "ann"
        price = f"{self.chance.randint(1, 9_999) / 100:.2f}"
        quantity = self.chance.randint(1, 5)
        return {"customer": name, "item": self.chance.choice(ITEMS), "quantity": quantity, "unit_price": price}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The shop's figures at a moment."""

    billed: int
    shipped: int
    mailed: int
    billing_dead: int
    dead: int  # letters of all consumers, of the process that was asked

    def since(self, before: Progress) -> Progress:
        fields = ("billed", "shipped", "mailed", "billing_dead", "dead")
        return Progress(**{name: getattr(self, name) - getattr(before, name) for name in fields})


async def look(http: httpx2.AsyncClient) -> Progress:
    totals = (await http.get("/totals")).raise_for_status().json()
    consumers = (await http.get("/consumers")).raise_for_status().json()
    dead = {consumer["id"]: consumer["counters"]["dead_lettered"] for consumer in consumers}
    return Progress(
        billed=totals["billed"],
        shipped=totals["shipped"],
        mailed=totals["mailed"],
        billing_dead=dead.get("billing", 0),
        dead=sum(dead.values()),
    )


async def place_all(http: httpx2.AsyncClient, load: Load) -> None:
    """Returns when all are placed, or the time is over, or it was stopped."""
    begin = monotonic()
    with tqdm(total=load.orders, unit="order", desc="placed", file=sys.stderr) as bar:
        numbers = iter(range(load.orders))
        workers = [_place(http, load, numbers, begin, bar) for _ in range(min(CONNECTIONS, load.orders))]
        await asyncio.gather(*workers)


async def _place(http: httpx2.AsyncClient, load: Load, numbers: Iterator[int], begin: float, bar: tqdm[Any]) -> None:
    for number in numbers:
        due = begin + number / load.rate
        if due > begin + load.seconds or await _stopped_before(load, due):
            return
        try:
            key = {"idempotency-key": uuid4().hex}
            (await http.post("/orders", json=load.order(), headers=key)).raise_for_status()
            load.placed += 1
        except httpx2.HTTPError as error:
            load.failed += 1
            bar.set_postfix_str(f"{load.failed} failed, {type(error).__name__}")
        bar.update()


async def _stopped_before(load: Load, due: float) -> bool:
    """Waits until `due`, or until it is stopped."""
    if (wait := due - monotonic()) <= 0:
        return load.stopped.is_set()
    try:
        await asyncio.wait_for(load.stopped.wait(), wait)
    except TimeoutError:
        return False
    return True


async def settle(http: httpx2.AsyncClient, load: Load, before: Progress) -> Progress:
    """Returns when each order is billed and its customer told, or dead; or when the time is over, or it was stopped."""
    end = monotonic() + load.seconds
    with tqdm(total=load.placed, unit="order", desc="billed", file=sys.stderr) as bar:
        while True:
            now = (await look(http)).since(before)
            bar.n = min(load.placed, now.billed + now.billing_dead)
            bar.refresh()
            done = bar.n == load.placed and now.mailed >= load.placed - now.billing_dead
            if done or monotonic() > end or await _stopped_before(load, monotonic() + LOOK_SECONDS):
                return now


async def run(url: str, load: Load) -> int:
    """Prints a line of figures. 0: all is done; 1: some orders failed, something was under way, or no shop answers."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, load.stopped.set)
    async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
        try:
            before = await look(http)
        except httpx2.HTTPError as error:
            print(f"load: no shop answers at {url} ({type(error).__name__}); scripts/demo starts one", file=sys.stderr)
            return 1
        await place_all(http, load)
        try:
            now = await settle(http, load, before)
        except httpx2.HTTPError as error:
            gone = f"the shop at {url} answers no longer ({type(error).__name__})"
            print(f"load: {load.placed} placed, {load.failed} failed; {gone}", file=sys.stderr)
            return 1
    print(
        f"{load.placed} placed, {now.billed} billed, {now.shipped} shipped, {now.mailed} told by mail, "
        f"{now.dead} dead letters, {load.failed} failed"
    )
    return int(load.failed > 0 or now.billed + now.billing_dead < load.placed)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m example_app.load", description="Places orders in the shop.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the shop is (%(default)s)")
    parser.add_argument("--orders", type=_from(int, 1), default=1000, help="how many (%(default)s)")
    parser.add_argument("--rate", type=_from(float, 0.1), default=200.0, help="orders a second (%(default)s)")
    parser.add_argument("--seconds", type=_from(float, 1), default=60.0, help="the longest to place, and to wait for")
    parser.add_argument("--broke", type=_from(float, 0), default=0.01, help="the part with a bad card (%(default)s)")
    parser.add_argument("--unlucky", type=_from(float, 0), default=0.05, help="the part with a busy bank (%(default)s)")
    parser.add_argument("--seed", type=int, help="repeats the same orders")
    return parser.parse_args(arguments)


def _from(kind: type[int] | type[float], least: float) -> Any:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < float("inf"):
            raise ValueError
        return value

    number.__name__ = f"number from {least:g} on, not"
    return number


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    load = Load(
        orders=options.orders,
        rate=options.rate,
        seconds=options.seconds,
        broke=options.broke,
        unlucky=options.unlucky,
        chance=random.Random(options.seed),
    )
    return asyncio.run(run(options.url, load))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
