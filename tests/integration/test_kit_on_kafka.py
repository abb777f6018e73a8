"""A test kit on Apache Kafka: the same tests, on topics and groups of their own that are gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from fastapi_athomic import ConfigurationError, RetryPolicy, TopicNotFoundError
from fastapi_athomic.testing import AsyncTestKit, TestKit
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.kit_shop import Invoice, Order, Shop
from tests.support.plugin import SYNC, run


@pytest.fixture(scope="module")
def shop() -> Shop:
    shop = Shop()

    @shop.athomic.subscribe_to(
        "soon",
        group_id="soon",
        handler_id="soon",
        retry=RetryPolicy(max_attempts=1, retry_topics=(0.2,), allow_reordering=True),
    )
    async def soon(order: Order) -> int:
        return order.number

    return shop


@pytest.fixture(scope="module")
def url(apache_kafka: KafkaBroker | ExternalKafka) -> str:
    return f"kafka://{apache_kafka.bootstrap}"


@pytest.fixture(scope="module")
def admin(apache_kafka: KafkaBroker | ExternalKafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": apache_kafka.bootstrap})


@pytest.fixture(scope="module")
def kit(shop: Shop, url: str) -> Iterator[TestKit]:
    """One for all tests of this module, which look at topics of their own."""
    with TestKit(shop.app, broker=url) as kit:
        yield kit


def ours(admin: AdminClient) -> set[str]:
    """The topics and groups of kits."""
    groups = admin.list_consumer_groups().result().valid
    names = {*admin.list_topics(timeout=10).topics, *(group.group_id for group in groups)}
    return {name for name in names if name.startswith("test-")}


async def test_topics_and_groups_are_gone_at_the_end(shop: Shop, url: str, admin: AdminClient) -> None:
    before = ours(admin)
    async with AsyncTestKit(shop.app, broker=url) as kit:
        await kit.publish("audit.eu", {"a": 1})  # of which the pattern hears after the start
        await kit.publish("orders", Order(number=1))
        await kit.drain()
        assert [each.offset for each in kit.handled(shop.bill)] == [0]
        assert len(ours(admin) - before) > 10
    assert ours(admin) <= before


def test_names_are_what_the_app_says(shop: Shop, kit: TestKit, admin: AdminClient) -> None:
    kit.client.post("/orders", json={"number": 7}).raise_for_status()
    kit.drain()
    assert [each.topic for each in kit.published()] == ["orders", "invoices"]
    assert kit.published("invoices")[0].decode(Invoice) == Invoice(order=7)
    [handled] = kit.handled(shop.bill)
    assert (handled.topic, handled.raw.topic) == ("orders", "orders")
    [prefix] = {name.partition(".")[0] for name in ours(admin)}
    assert {f"{prefix}.orders", f"{prefix}.billing"} <= ours(admin)


def test_patterns_order_batches_and_threads(shop: Shop, kit: TestKit) -> None:
    for number in (2, 1, 3):
        kit.publish("entries", Order(number=number), key="ada")
    kit.publish("mails", Order(number=1), key="k")
    for number in range(3):
        kit.publish("clicks", Order(number=number), partition=0)
    kit.drain()
    assert [each.result for each in kit.handled(shop.post)] == [1, 2, 3]
    assert kit.handled(shop.mail)[0].result == ("k", 0.2)
    assert [each.batch for each in kit.handled(shop.count)] == [0, 0, 0]
    kit.expect_failures(shop.audit)
    assert kit.deliver(shop.audit, {"a": 1}, topic="audit.eu").result == "audit.eu"


def test_retry_topics_are_waited_for_and_letters_are_found(shop: Shop, kit: TestKit) -> None:
    kit.fail("soon")
    kit.publish("soon", Order(number=1))
    kit.drain()
    [handled] = kit.handled("soon")
    assert (handled.topic, handled.raw.topic, handled.attempts) == ("soon", "soon.soon.retry.0.2s", 2)
    kit.fail(shop.profile, times=3)
    kit.publish("profiles", None, key="1")
    kit.drain()
    [letter] = kit.dead_letters(shop.profile)
    assert (letter.topic, letter.original_topic, letter.handler_id) == ("profiles.profiles.dlq", "profiles", "profile")


def test_errors_name_what_the_app_knows(kit: TestKit) -> None:
    async def ask() -> object:
        return await kit._bench.transport.bounds("nowhere", 5.0)

    with pytest.raises(TopicNotFoundError) as caught:
        kit._call(ask)
    assert "nowhere" in str(caught.value)
    assert "test-" not in str(caught.value)


def test_the_clock_cannot_be_put_forward(kit: TestKit) -> None:
    with pytest.raises(ConfigurationError, match="the broker is not memory://"):
        kit.clock.advance(1)


def test_one_option_runs_the_same_tests_here(url: str, admin: AdminClient, tmp_path: Path) -> None:
    before = ours(admin)
    told = run(tmp_path, {"sync": SYNC}, f"--athomic-broker={url}", "-k", "passes or fails")
    assert f"fastapi-athomic: test kits on {url}" in told, told
    assert "PASSED test_sync.py::test_passes" in told, told
    assert "ERROR test_sync.py::test_fails - fastapi_athomic.testing." in told
    assert ours(admin) <= before
