"""The sync kit: an app runs on a broker of its own, and is as it was afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from fastapi_athomic import (
    AthomicSettings,
    ConfigurationError,
    HandlerNotFoundError,
    NotIncludedError,
    PublishError,
    set_context,
    subscribe_to,
)
from fastapi_athomic.testing import TestKit
from tests.support.kit_shop import Invoice, Order, Shop, app_that_ends_badly, rates


@pytest.fixture(scope="module", params=["loop", "thread"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(AthomicSettings(broker_url="kafka://nobody:1", require_broker=True, isolation=request.param))


def test_from_a_route_to_what_a_handler_returned_and_published(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        kit.client.post("/orders", json={"number": 7}).raise_for_status()
        kit.drain()
        order, invoice = kit.published()
        assert [order, invoice] == [*kit.published("orders"), *kit.published("invoices")]
        assert (order.key, order.decode(Order), invoice.decode(Invoice)) == (b"7", Order(number=7), Invoice(order=7))
        [handled] = kit.handled(shop.bill)
        assert handled == kit.handled("bill")[0] == kit.handled()[0]
        assert (handled.outcome, handled.attempts, handled.result) == ("completed", 1, Invoice(order=7))
        assert (handled.message, handled.key, handled.error) == (Order(number=7), b"7", None)
        assert (handled.topic, handled.partition, handled.offset) == (order.topic, order.partition, order.offset)
        assert handled.raw.value == order.value
        assert handled.batch is None
        assert kit.dead_letters() == []


def test_headers_and_context_arrive(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        copy_context().run(_publish_for_a_tenant, kit)
        kit.drain()
        [handled] = kit.handled(shop.bill)
        assert handled.headers.text("x-from") == "test"
        assert handled.context.tenant_id == "acme"
        assert kit.published("orders")[0].headers.text("x-from") == "test"


def _publish_for_a_tenant(kit: TestKit) -> None:
    set_context(tenant_id="acme")
    kit.publish("orders", Order(number=1), headers={"x-from": "test"})


def test_the_same_app_serves_one_kit_after_the_other_and_is_as_it_was(shop: Shop) -> None:
    before = shop.athomic.settings, dict(vars(shop.athomic))
    for _ in range(2):
        with TestKit(shop.app) as kit:
            assert [*kit.published(), *kit.handled()] == []
            kit.publish("orders", Order(number=1))
            kit.drain()
            assert [each.offset for each in kit.handled(shop.bill)] == [0]
            assert kit.athomic is shop.athomic
            assert kit.athomic.settings.broker_url == "memory://"
    assert (shop.athomic.settings, dict(vars(shop.athomic))) == before
    with pytest.raises(PublishError, match="not running"):
        shop.athomic.publish_sync("orders", Order(number=1))


def test_consumers_are_ready_at_once_and_gone_at_the_end(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        assert all(status.assignment for status in kit.athomic.consumers() if status.id == "bill")
    assert not [each for each in threading.enumerate() if each.name == "athomic-consumers"]


def test_an_error_of_the_start_leaves_the_app_as_it_was(shop: Shop) -> None:
    before = dict(vars(shop.athomic))
    kit = TestKit(shop.app, settings={"handler_tuning": {"nobody": {"paused": True}}})
    with pytest.raises(ConfigurationError, match="nobody"), kit:
        pass
    assert dict(vars(shop.athomic)) == before
    with TestKit(shop.app) as again:
        again.drain()


def test_single_settings_can_be_changed(shop: Shop) -> None:
    changes = {
        "publish_timeout": 1,
        "memory": {"partitions": 1},
        "handler_tuning": {"bill": {"retry": {"max_attempts": 1}}},
    }
    with TestKit(shop.app, settings=changes) as kit:
        assert kit.athomic.settings.publish_timeout == 1
        assert {kit.publish("orders", Order(number=number)).partition for number in range(9)} == {0}
        kit.drain()
        kit.fail(shop.bill)
        assert kit.deliver(shop.bill, Order(number=9)).attempts == 1
        assert len(kit.dead_letters(shop.bill)) == 1


@pytest.mark.parametrize("changes", [{"control": {"enabled": True}}, {"dashboard": {}}])
def test_settings_that_the_routes_have_are_refused(shop: Shop, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="since include_athomic"):
        TestKit(shop.app, settings=changes)


def test_settings_that_are_wrong_are_refused(shop: Shop) -> None:
    with pytest.raises(ValidationError, match="publish_timeot"):
        TestKit(shop.app, settings={"publish_timeot": 1})


def test_the_role_of_the_environment_does_not_matter() -> None:
    shop = Shop(AthomicSettings(role="web"))
    with TestKit(shop.app) as kit:
        kit.publish("orders", Order(number=1))
        kit.drain()
        assert kit.handled(shop.bill)


def test_what_is_no_app_of_ours_is_refused(shop: Shop) -> None:
    with pytest.raises(NotIncludedError, match=r"call include_athomic\(app\)"):
        TestKit(FastAPI())
    with pytest.raises(ConfigurationError, match="not an object of Athomic"):
        TestKit(shop.athomic)  # type: ignore[arg-type]
    with pytest.raises(NotIncludedError, match="name='athomic'"):
        TestKit(shop.app, name="other")


def test_an_app_that_runs_already_is_refused(shop: Shop) -> None:
    with TestKit(shop.app), pytest.raises(ConfigurationError, match="another test kit is open"), TestKit(shop.app):
        pass
    own = Shop(AthomicSettings(broker_url="memory://"))
    with TestClient(own.app), pytest.raises(ConfigurationError, match="running already"), TestKit(own.app):
        pass


def test_handlers_that_do_not_exist_are_named(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        with pytest.raises(HandlerNotFoundError, match="did you mean 'bill'"):
            kit.handled("bil")
        with pytest.raises(HandlerNotFoundError, match="rates is no handler of the app; it has: audit, bill"):
            kit.handled(rates)
        with pytest.raises(ConfigurationError, match="both-a, both-b"):
            kit.fail(shop.both)


def test_a_kit_that_would_block_an_event_loop_is_refused(shop: Shop) -> None:
    """`drain` lets every event loop come to rest: one that runs the test itself never does."""

    async def in_a_loop(work: Callable[[], object]) -> None:
        work()

    refused = pytest.raises(ConfigurationError, match=r"in an async test use `async with AsyncTestKit\(app\)`")
    with refused:
        asyncio.run(in_a_loop(TestKit(shop.app).__enter__))
    with TestKit(shop.app) as kit, refused:  # as a fixture makes it, before the loop of the test begins
        asyncio.run(in_a_loop(kit.drain))


def test_the_log_has_what_a_test_that_finds_nothing_may_have_forgotten(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with TestKit(shop.app, settings={"handler_tuning": {"bill": {"paused": True}}}, strict=False) as kit:
        kit.publish("ordres", Order(number=1))
        assert "publishes to ordres, which no handler of the app consumes: did you mean 'orders'?" in caplog.text
        kit.handled(shop.bill)
        assert "the test has not waited since 1 message was published: kit.drain() does" in caplog.text
        caplog.clear()
        kit.drain()
        assert kit.handled(shop.bill) == kit.handled("ship") == []
        kit.publish("orders", Order(number=1))
        kit.clock.advance(1)
        assert kit.handled(shop.bill) == []
        assert [each for each in caplog.records if each.name == "fastapi_athomic.testing.hints"] == []


def test_a_handler_that_the_app_does_not_find_is_told_why(shop: Shop) -> None:
    @subscribe_to("orders", group_id="elsewhere")
    async def elsewhere(order: Order) -> None: ...

    with TestKit(shop.app) as kit:
        with pytest.raises(HandlerNotFoundError, match=r"decorated, but it is made inside .*athomic\.subscribe_to"):
            kit.handled(elsewhere)
        with pytest.raises(HandlerNotFoundError, match=r"The handler comes first; for those of any: error=ValueError"):
            kit.expect_failures(ValueError)


def test_a_timeout_says_what_is_waited_for(shop: Shop) -> None:
    with TestKit(shop.app, strict=False, settings={"handler_tuning": {"bill": {"paused": True}}}) as kit:
        kit.publish("orders", Order(number=1))
        with pytest.raises(TimeoutError, match="bill is paused"):
            kit.drain(0.05)
        assert kit.handled() == []


def test_a_broker_that_is_not_there_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.testing.core.READY_SECONDS", 0.05)
    before = dict(vars(shop.athomic))
    nowhere = TestKit(shop.app, broker="kafka://127.0.0.1:1", settings={"request_timeout": 0.2})
    with pytest.raises(TimeoutError, match=r"not ready after 0\.05 s.*127\.0\.0\.1:1"), nowhere:
        pass
    assert dict(vars(shop.athomic)) == before


def test_a_kit_is_used_once_and_inside_its_block(shop: Shop) -> None:
    kit = TestKit(shop.app)
    with pytest.raises(ConfigurationError, match="not open"):
        kit.publish("orders", Order(number=1))
    with kit:
        kit.publish("orders", Order(number=1))
    assert len(kit.handled(shop.bill)) == 1, "records stay"
    with pytest.raises(ConfigurationError, match="used once"), kit:
        pass


def test_all_settings_of_an_app_are_taken_over() -> None:
    given: dict[str, Any] = {
        "kafka": {"security_protocol": "SASL_SSL", "sasl_username": "a", "sasl_password": "b"},
        "tuning": {"0": {"handler": "bill", "concurrency": 3}},
        "payload": {"serializer": "avro", "registry": {"url": "http://registry:8081"}},
        "state_store_url": "redis://nobody:1",
    }
    own = AthomicSettings(**given)
    shop = Shop(own)
    kit = TestKit(
        shop.app,
        settings={
            "payload": {"registry": {"url": "memory://"}, "schema_auto_register": True},
            "handler_tuning": {"mail": {}},
        },
    )
    changed = {"broker_url", "payload", "handler_tuning", "state_store_url"}
    with kit:
        assert kit.athomic.settings.model_dump(exclude=changed) == own.model_dump(exclude=changed)
        assert kit.publish("invoices", Order(number=1)).topic == "invoices"
        assert kit.published("invoices")[0].decode(Order) == Order(number=1)
    assert shop.athomic.settings is own


def test_the_tests_own_error_is_not_hidden_by_an_app_that_does_not_end_well() -> None:
    with pytest.raises(KeyError, match="the test") as raised, TestKit(app_that_ends_badly()):
        raise KeyError("the test")
    assert "OSError: the pool is gone" in raised.value.__notes__[0]
    with pytest.raises(OSError, match="the pool is gone"), TestKit(app_that_ends_badly()):
        pass


def test_settings_that_are_no_mapping_are_refused(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="settings must be a mapping"):
        TestKit(shop.app, settings=cast(Any, ["publish_timeout"]))


@pytest.mark.parametrize("timeout", [-1, "5", float("nan"), None])
def test_a_drain_takes_a_number_of_seconds(shop: Shop, timeout: Any) -> None:
    with TestKit(shop.app) as kit, pytest.raises(ConfigurationError, match="seconds must be a number of 0 or more"):
        kit.drain(timeout)
