"""While something is away that payloads need, messages wait: none fails, none is lost, order is kept."""

from __future__ import annotations

import asyncio
import re
from asyncio import CancelledError
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import Athomic, AthomicSettings, PayloadPipeline, RetryPolicy, include_athomic
from fastapi_athomic.exceptions import PayloadUnavailableError
from fastapi_athomic.handling import patience
from fastapi_athomic.observation.status import HealthStatus
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.steps import BytesStep, Incoming, Later, Outgoing
from tests.support.apps import Gate, Record, eventually, running, sentences
from tests.support.payloads import Depot, message

COUNT = 10
ORDERED: dict[str, Any] = {"aggregate_key_field": "shop", "sequence_id_field": "number", "first_sequence": 0}
STRATEGIES: dict[str, dict[str, Any]] = {
    "partition": {},
    "key": {"ordering": "key", "concurrency": 3},
    "none": {"ordering": "none", "concurrency": 3},
    "batch": {"batch_size": 4, "batch_linger_ms": 1},
    "ordered": ORDERED,
}
ANY = pytest.mark.parametrize("strategy", STRATEGIES)
ISOLATIONS = pytest.mark.parametrize("isolation", ["loop", "thread"])


class Order(BaseModel):
    number: int
    shop: str = "s"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.02)


class Shop:
    """An app whose payloads lie in a depot."""

    def __init__(
        self,
        strategy: str,
        isolation: Any = "loop",
        step: BytesStep | None = None,
        name: str | None = None,
        handle: Any = None,
        **settings: Any,
    ) -> None:
        self.depot = step or Depot()
        self.record = Record()
        url = f"memory://{name or uuid4().hex}"
        options = AthomicSettings(broker_url=url, isolation=isolation, restart_backoff=0.05, **settings)
        self.athomic: Athomic = include_athomic(FastAPI(), options, payload=PayloadPipeline([Json(), self.depot]))
        decorate = self.athomic.ordered_consumer if strategy == "ordered" else self.athomic.subscribe_to
        retry = RetryPolicy(max_attempts=1 if handle is None else 2, delay=0)
        bind: Any = partial(decorate, "t", group_id="g", handler_id="h", retry=retry, **STRATEGIES[strategy])
        if handle is None:
            bind()(self.handle_batch if strategy == "batch" else self.handle)
        else:
            bind(target_type=Order)(handle)

    async def handle(self, order: Order) -> None:
        self.record.note(order.number)

    async def handle_batch(self, orders: list[Order]) -> None:
        for order in orders:
            self.record.note(order.number)

    async def publish(self, *numbers: int) -> None:
        await self.athomic.publish_many("t", [Order(number=n) for n in numbers], key=lambda order: order.shop)

    def health(self) -> Any:
        report = self.athomic.health()
        assert report is not None
        return report.consumers["h"]

    def waits(self) -> bool:
        return any("the depot is away" in reason for reason in sentences(self.health()))


@ANY
@ISOLATIONS
async def test_nothing_fails_or_is_lost_and_order_is_kept(
    strategy: str, isolation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shop = Shop(strategy, isolation)
    assert isinstance(shop.depot, Depot)
    async with running(shop.athomic):
        await shop.publish(0)
        await shop.record.count(1)
        shop.depot.away = False
        await shop.publish(*range(1, COUNT))
        await shop.record.count(COUNT)
        await shop.athomic.drain()
        published = COUNT
        shop.depot.away, asked = True, shop.depot.asked
        await write_past(shop, range(COUNT, 2 * COUNT))
        await eventually(lambda: shop.depot.asked > asked + 8)  # type: ignore[attr-defined]
        await eventually(shop.waits)
        health = shop.health()
        assert health.status is HealthStatus.DEGRADED
        (reason,) = [each for each in sentences(health) if "wait" in each]
        assert re.fullmatch(r"\d+ messages? waits?, the first for \d+ s: the depot is away", reason)
        assert shop.record.seen == list(range(published)) or strategy in ("key", "none")
        with pytest.raises(TimeoutError, match="the depot is away"):
            await shop.athomic.drain(0.05)
        shop.depot.away = False
        await shop.record.count(2 * COUNT)
        await shop.athomic.drain()
        assert shop.health().status is HealthStatus.HEALTHY
        counters = shop.athomic.consumers()[0].counters
        assert await shop.athomic.dead_letters("h").count() == 0
    assert sorted(shop.record.seen) == list(range(2 * COUNT))
    if strategy != "none":
        assert shop.record.seen == sorted(shop.record.seen)
    assert (counters.failed, counters.retried, counters.dead_lettered, counters.processed) == (0, 0, 0, 2 * COUNT)
    said = [record.message for record in caplog.records if record.name == patience.__name__]
    assert said == [
        "h: messages wait, and are not failed: the depot is away",
        "fastapi_athomic: h: what messages waited for is there again",
    ]


async def write_past(shop: Shop, numbers: range) -> None:
    """Writes messages without asking the depot, all at once: a batch of them does not come in parts."""
    written = [b"depot" + Order(number=number).model_dump_json().encode() for number in numbers]
    await shop.athomic.publish_many("t", written, key=lambda _: "s", payload=PayloadPipeline())


@ANY
@ISOLATIONS
async def test_a_stop_does_not_wait_and_the_messages_are_handled_after_it(strategy: str, isolation: Any) -> None:
    """Also while an attempt is under way that never ends."""
    gate = Gate()

    class Hanging(Depot):
        async def _done(self, data: bytes) -> bytes:
            self.asked += 1
            if self.away:
                await gate.wait()
            return data

    shop = Shop(strategy, isolation, Hanging(), drain_timeout=600, shutdown_timeout=600)
    assert isinstance(shop.depot, Hanging)
    async with running(shop.athomic):
        shop.depot.away = True
        await write_past(shop, range(COUNT))
        await eventually(lambda: shop.depot.asked)  # type: ignore[attr-defined]
    assert shop.record.seen == []
    shop.depot.away = False
    async with running(shop.athomic):
        await shop.record.count(COUNT)
        await shop.athomic.drain()
        assert await shop.athomic.dead_letters("h").count() == 0
    assert sorted(shop.record.seen) == list(range(COUNT))


@ANY
async def test_a_stop_ends_pauses_and_leaves_nothing_behind_in_health(strategy: str) -> None:
    shop = Shop(strategy)
    assert isinstance(shop.depot, Depot)
    async with running(shop.athomic):
        shop.depot.away = True
        await write_past(shop, range(COUNT))
        await eventually(shop.waits)
    shop.depot.away = False
    async with running(shop.athomic):
        await shop.record.count(COUNT)
        assert not shop.waits()


@ANY
async def test_waiting_is_not_blamed_on_the_handler(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 600.0)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 600.0)
    shop = Shop(strategy)
    assert isinstance(shop.depot, Depot)
    async with running(shop.athomic):
        shop.depot.away = True
        await write_past(shop, range(COUNT))
        await eventually(shop.waits)
        await eventually(lambda: shop.athomic.consumers()[0].oldest_in_flight_seconds is None)


class Fickle(BytesStep):
    """Raises at once, without waiting, and says how often it was asked."""

    name = "fickle"

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self.error: Callable[[], BaseException] | None = error
        self.asked = 0

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        self.asked += 1
        if self.error is not None:
            raise self.error()
        return data


@ANY
async def test_a_step_may_say_at_once_that_something_is_away(strategy: str) -> None:
    step = Fickle(lambda: PayloadUnavailableError("the depot is away"))
    shop = Shop(strategy, step=step)
    async with running(shop.athomic):
        await shop.publish(*range(COUNT))
        await eventually(lambda: step.asked > 2 and shop.waits())
        step.error = None
        await shop.record.count(COUNT)
        await shop.athomic.drain()
        assert await shop.athomic.dead_letters("h").count() == 0


class Cancelling(Depot):
    """Each attempt waits for a request that somebody else cancels, until it has been asked often."""

    async def _done(self, data: bytes) -> bytes:
        self.asked += 1
        if self.asked < 5:
            request = asyncio.create_task(asyncio.Event().wait())
            request.cancel()
            await request
        return data


@ANY
async def test_a_request_that_somebody_else_cancels_is_no_fault_of_the_message(strategy: str) -> None:
    shop = Shop(strategy, step=Cancelling())
    async with running(shop.athomic):
        await write_past(shop, range(COUNT))
        await shop.record.count(COUNT)
        await shop.athomic.drain()
        assert await shop.athomic.dead_letters("h").count() == 0


class Damaged(Depot):
    """One message can never be had; the others after a while."""

    async def _done(self, data: bytes) -> bytes:
        if b'"number":3,' in data:
            raise LookupError("s3cret")
        return await super()._done(data)


@ANY
async def test_a_message_that_fails_meanwhile_goes_to_the_dlq_and_the_others_are_handled(strategy: str) -> None:
    shop = Shop(strategy, step=Damaged())
    assert isinstance(shop.depot, Damaged)
    async with running(shop.athomic):
        shop.depot.away = True
        await write_past(shop, range(3 if strategy == "ordered" else COUNT))
        await eventually(shop.waits)
        shop.depot.away = False
        if strategy == "ordered":
            await write_past(shop, range(3, 4))
        await shop.athomic.drain()
        (letter,) = await shop.athomic.dead_letters("h").browse()
    assert letter.error_stage == "decode"
    assert "step depot could not decode the payload: LookupError in " in str(letter.error_message)
    assert 3 not in shop.record.seen


async def test_many_messages_of_a_batch_are_waited_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "batch", {"batch_size": 4, "batch_linger_ms": 60_000})  # all of them are full
    gate, under_way = Gate(), Record()

    class Slow(Depot):
        async def _done(self, data: bytes) -> bytes:
            under_way.note(1)
            await gate.wait()
            return data

    shop = Shop("batch", step=Slow())
    async with running(shop.athomic):
        await write_past(shop, range(8))
        await under_way.count(4)
        gate.set()
        await shop.record.count(8)
    assert shop.record.seen == list(range(8))


@ANY
async def test_a_revoke_does_not_wait_and_the_next_owner_handles_the_messages(strategy: str) -> None:
    """Another process joins: its depot answers."""
    gate, name = Gate(), uuid4().hex

    class Hanging(Depot):
        async def _done(self, data: bytes) -> bytes:
            self.asked += 1
            await gate.wait()
            return data

    first, second = (Shop(strategy, step=step, name=name, drain_timeout=600) for step in (Hanging(), Depot()))
    assert isinstance(first.depot, Hanging)
    transport: Any = first.athomic._transport
    transport.broker.create_topics({"t": 2})
    async with running(first.athomic):
        for number in range(2 * COUNT):
            data = b"depot" + Order(number=number // 2, shop=f"s{number % 2}").model_dump_json().encode()
            await first.athomic.publish("t", data, key="s", partition=number % 2, payload=PayloadPipeline())
        await eventually(lambda: first.depot.asked)  # type: ignore[attr-defined]
        async with running(second.athomic):
            assert sorted(await second.record.count(COUNT)) == list(range(COUNT))
            assert first.record.seen == []
            gate.set()
            await first.record.count(COUNT)
            await first.athomic.drain()
            assert await first.athomic.dead_letters("h").count() == 0
    assert sorted(first.record.seen) == sorted(second.record.seen) == list(range(COUNT))


@ANY
async def test_a_revoke_ends_the_wait_before_another_attempt(strategy: str) -> None:
    """Each attempt decodes anew: the second one hangs, until the group moves partitions."""
    name, calls = uuid4().hex, Record()

    class HangingOnce(Depot):
        async def _done(self, data: bytes) -> bytes:
            self.asked += 1
            if self.asked == 2:
                await asyncio.Event().wait()
            return data

    async def failing_once(received: Any) -> None:
        calls.note(received)
        if len(calls.seen) == 1:
            raise RuntimeError("once")

    step = HangingOnce()
    shops = [Shop(strategy, step=step, name=name, handle=failing_once, drain_timeout=600) for _ in range(2)]
    async with running(shops[0].athomic):
        await write_past(shops[0], range(1))
        await eventually(lambda: step.asked == 2)
        async with running(shops[1].athomic):
            await calls.count(2)
            for shop in shops:
                await shop.athomic.drain()
            assert await shops[0].athomic.dead_letters("h").count() == 0
    assert len(calls.seen) == 2


class Choosy(Depot):
    """Away for all numbers but 0."""

    async def _done(self, data: bytes) -> bytes:
        if self.away and b'"number":0,' not in data:
            self.asked += 1
            raise PayloadUnavailableError("the depot is away")
        return data


@ISOLATIONS
async def test_what_comes_from_the_waiting_room_waits_too(isolation: Any) -> None:
    shop = Shop("ordered", isolation, Choosy())
    assert isinstance(shop.depot, Choosy)
    async with running(shop.athomic):
        await write_past(shop, range(1, COUNT))
        await eventually(lambda: shop.athomic.consumers()[0].counters.parked == COUNT - 1)
        shop.depot.away = True
        await write_past(shop, range(1))
        await eventually(lambda: shop.depot.asked > 3 and shop.waits())  # type: ignore[attr-defined]
        assert shop.record.seen == [0]
        shop.depot.away = False
        assert await shop.record.count(COUNT) == list(range(COUNT))
        await shop.athomic.drain()
        assert not shop.waits()
        assert await shop.athomic.dead_letters("h").count() == 0


async def test_a_stop_does_not_wait_for_what_came_from_the_waiting_room() -> None:
    gate = Gate()

    class Hanging(Depot):
        async def _done(self, data: bytes) -> bytes:
            if self.away and b'"number":0,' not in data:
                self.asked += 1
                await gate.wait()
            return data

    shop = Shop("ordered", "loop", Hanging(), drain_timeout=600, shutdown_timeout=600)
    assert isinstance(shop.depot, Hanging)
    async with running(shop.athomic):
        await write_past(shop, range(1, COUNT))
        await eventually(lambda: shop.athomic.consumers()[0].counters.parked == COUNT - 1)
        shop.depot.away = True
        await write_past(shop, range(1))
        await eventually(lambda: shop.depot.asked)  # type: ignore[attr-defined]
    assert shop.record.seen == [0]
    shop.depot.away = False
    async with running(shop.athomic):
        assert await shop.record.count(COUNT) == list(range(COUNT))


def test_pauses_grow_to_their_limit_and_who_is_not_tried_again_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now = 1_000.0
    monkeypatch.setattr(patience, "monotonic", lambda: now)
    patient, away = patience.Patience("h"), PayloadUnavailableError("the depot is away")
    waiting, other = message(b""), message(b"", topic="other")
    patient.note(other, away)
    pauses = []
    for _ in range(10):
        pauses.append(patient.note(waiting, away))
        now += pauses[-1]
    assert pauses == pytest.approx([0.2, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15, 15])
    assert [*map(str, patient.problems())] == ["2 messages wait, the first for 56 s: the depot is away"]
    now += patience.FORGOTTEN - 50
    patient.note(waiting, away)
    assert [*map(str, patient.problems())] == ["1 message waits, the first for 126 s: the depot is away"]
    patient.arrived(waiting)
    assert not patient.waiting


@ANY
@ISOLATIONS
async def test_health_tells_of_a_step_that_gives_no_answer_and_a_stop_does_not_wait_for_it(
    strategy: str, isolation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Depot):
        async def _done(self, data: bytes) -> bytes:
            await asyncio.Event().wait()
            return data

    monkeypatch.setattr(patience, "SILENT", 0.0)
    shop = Shop(strategy, isolation, Silent(), drain_timeout=600, shutdown_timeout=600)
    async with running(shop.athomic):
        await write_past(shop, range(1))
        await eventually(lambda: shop.health().status is HealthStatus.DEGRADED)
        with pytest.raises(
            TimeoutError, match="1 message waits, the first for 0 s: a step of the payload pipeline gives"
        ):
            await shop.athomic.drain(0.05)
    assert shop.record.seen == []


# --- publishing


async def test_a_publish_waits_and_gives_up_at_its_timeout() -> None:
    shop = Shop("partition", publish_timeout=0.3)
    assert isinstance(shop.depot, Depot)
    async with running(shop.athomic):
        shop.depot.away = True
        with pytest.raises(PayloadUnavailableError, match=r"waited for 0\.3 s: the depot is away"):
            await shop.athomic.publish("t", Order(number=0))
        with pytest.raises(PayloadUnavailableError, match="the depot is away"):
            await asyncio.to_thread(shop.athomic.publish_many_sync, "t", [Order(number=0)])
        assert shop.depot.asked > 2


@ISOLATIONS
async def test_a_publish_goes_on_when_it_is_there_again(isolation: Any) -> None:
    shop = Shop("partition", isolation)
    assert isinstance(shop.depot, Depot)
    async with running(shop.athomic):
        shop.depot.away = True
        publishing = asyncio.create_task(shop.publish(0))
        await eventually(lambda: shop.depot.asked)  # type: ignore[attr-defined]
        shop.depot.away = False
        await publishing
        assert await shop.record.count(1) == [0]


@ISOLATIONS
async def test_the_messages_of_publish_many_are_waited_for_at_once_and_keep_their_order(isolation: Any) -> None:
    under_way, gates = Record(), [Gate() for _ in range(COUNT)]

    class Slow(Depot):
        def encode(self, data: bytes, outgoing: Outgoing) -> Any:
            return Later(partial(self._stored, data))

        async def _stored(self, data: bytes) -> bytes:
            number = Order.model_validate_json(data).number
            under_way.note(number)
            await gates[number].wait()
            return b"depot" + data

    shop = Shop("partition", isolation, Slow())
    async with running(shop.athomic):
        publishing = asyncio.create_task(shop.publish(*range(COUNT)))
        await under_way.count(COUNT)
        for gate in reversed(gates):
            gate.set()
        await publishing
        assert await shop.record.count(COUNT) == list(range(COUNT))


class Asked(Depot):
    """Raises at once, or by its awaited result, until it was asked often enough."""

    def __init__(self, error: BaseException, *, later: bool) -> None:
        super().__init__()
        self.error, self.later, self.waits = error, later, later

    def encode(self, data: bytes, outgoing: Outgoing) -> Any:
        if self.later:
            return Later(partial(self._done, b"depot" + data))
        return self._answer(b"depot" + data)

    async def _done(self, data: bytes) -> bytes:
        return self._answer(data)

    def _answer(self, data: bytes) -> bytes:
        self.asked += 1
        if self.asked < 3:
            raise self.error
        return data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return data.removeprefix(b"depot")


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("error", "later"),
    [(PayloadUnavailableError("away"), False), (PayloadUnavailableError("away"), True), (CancelledError(), True)],
)
@ISOLATIONS
async def test_a_publish_tries_again_however_it_learns_that_something_is_away(
    isolation: Any, error: BaseException, later: bool, many: bool
) -> None:
    shop = Shop("partition", isolation, Asked(error, later=later))
    async with running(shop.athomic):
        await (shop.publish(0) if many else shop.athomic.publish("t", Order(number=0)))
        assert await shop.record.count(1) == [0]


async def test_a_key_is_tried_again_too() -> None:
    asked = Record()

    class Keys(Json):
        def encode(self, message: Any, outgoing: Outgoing) -> bytes | None:
            asked.note(message)
            if len(asked.seen) < 3:
                raise PayloadUnavailableError("away")
            return super().encode(message, outgoing)

    athomic = include_athomic(FastAPI(), AthomicSettings(), payload=PayloadPipeline(key=Keys()))
    async with running(athomic):
        await athomic.publish("t", Order(number=0), key=7)
    assert asked.seen == [7, 7, 7]


async def test_publish_many_says_how_many_payloads_were_ready_in_time() -> None:
    class Half(Depot):
        async def _done(self, data: bytes) -> bytes:
            if b'"number":0,' not in data:
                await asyncio.Event().wait()
            return data

    shop = Shop("partition", "loop", Half(), publish_timeout=0.3)
    async with running(shop.athomic):
        with pytest.raises(PayloadUnavailableError, match="; 1 of 2 payloads were ready by then: fewer at once take"):
            await shop.publish(0, 1)


async def test_each_attempt_begins_with_the_same_headers() -> None:
    """What is bound to a header that a step has added must not come with the header of the attempt before."""
    depot = Depot()

    class Waiting(BytesStep):
        name = "waiting"
        waits = True

        def encode(self, data: bytes, outgoing: Outgoing) -> Any:
            return Later(partial(self._done, data))

        def decode(self, data: bytes, incoming: Incoming) -> bytes:
            return data

        async def _done(self, data: bytes) -> bytes:
            return data

    class Salted(Waiting):
        name = "salted"
        salt = 0

        def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
            self.salt += 1
            outgoing.add("salt", b"%d" % self.salt)
            return b"%d" % self.salt + data

    outgoing = Outgoing("t", None, (("mine", b"1"),))
    written = PayloadPipeline([Json(), Waiting(), Salted(), depot]).write({}, outgoing)
    assert isinstance(written, Later)
    depot.away = True
    for _ in range(2):
        with pytest.raises(PayloadUnavailableError):
            await written
    depot.away = False
    assert await written == b"depot3{}"
    assert dict(outgoing.headers)["salt"] == b"3"
    assert [name for name, _ in outgoing.headers] == ["mine", "salt", "content-encoding", "content-type"]


@ISOLATIONS
async def test_a_step_that_does_not_wait_may_say_that_something_is_away(isolation: Any) -> None:
    class Once(Depot):
        waits = False

        def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
            return data

        def decode(self, data: bytes, incoming: Incoming) -> bytes:
            self.asked += 1
            if self.asked < 3:
                raise PayloadUnavailableError("the depot is away")
            return data

    shop = Shop("partition", isolation, Once())
    async with running(shop.athomic):
        await shop.publish(0)
        assert await shop.record.count(1) == [0]
        await shop.athomic.drain()
        assert not shop.waits()
        assert shop.health().status is HealthStatus.HEALTHY
