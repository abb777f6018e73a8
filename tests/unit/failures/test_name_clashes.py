from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings, ConfigurationError, RetryPolicy, subscribe_to
from fastapi_athomic.failures.name_clashes import NameClashes, Uses
from tests.support.apps import new_app, running

LATER = RetryPolicy(retry_topics=(5,), allow_reordering=True)


def consumer(topics: Any, group: str, **options: Any) -> Callable[..., Any]:
    def handle(message: str) -> None: ...

    return subscribe_to(topics, group_id=group, **options)(handle)


async def start(*handlers: Callable[..., Any], **settings: Any) -> None:
    async with running(new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}", **settings), *handlers)):
        pass


@pytest.mark.parametrize(
    ("handlers", "settings", "said"),
    [
        (  # orders.eu.billing.redrive
            [consumer("orders", "eu.billing", handler_id="a"), consumer("orders.eu", "billing", handler_id="b")],
            {},
            "handler b: its retry or redrive topic orders.eu.billing.redrive is that of handler a, too",
        ),
        (
            [consumer("orders", "g", handler_id="a"), consumer("refunds", "g", handler_id="b")],
            {"redrive_topic": "{group_id}.redrive"},
            r"handler b: .* g.redrive is that of handler a, too, .* put {topic} and {group_id} into the templates",
        ),
        (
            [
                consumer("orders", "g", retry=LATER, handler_id="a"),
                consumer("orders", "h", retry=LATER, handler_id="b"),
            ],
            {"retry_topic": "{topic}.again.{delay}"},
            "handler b: its retry or redrive topic orders.again.5 is that of handler a",
        ),
        (
            [consumer("orders", "g", handler_id="a"), consumer("t", "h", dlq="orders.g.redrive", handler_id="b")],
            {},
            "handler b: its dead letters would go to orders.g.redrive, a retry or redrive topic of handler a, and be ",
        ),
        (
            [consumer("t", "h", dlq="orders.g.redrive", handler_id="b"), consumer("orders", "g", handler_id="a")],
            {},
            "handler a: its retry or redrive topic orders.g.redrive is where handler b writes dead letters",
        ),
        (
            [
                consumer("orders", "g", dlq="errors", handler_id="a"),
                consumer("errors", "h", dlq="orders", handler_id="b"),
            ],
            {},
            "handler b: its dead letters would come back without end, errors -> orders -> errors: name another topic",
        ),
        (
            [
                consumer("a", "1", dlq="b", handler_id="x"),
                consumer(["b", "other"], "2", dlq="c", handler_id="y"),
                consumer("c", "3", dlq="a", handler_id="z"),
            ],
            {},
            "handler z: its dead letters would come back without end, c -> a -> b -> c",
        ),
        (
            [consumer("orders.eu", "g", handler_id="a"), consumer("orders_eu", "h", handler_id="b")],
            {},
            r"handler b: Kafka does not create the topic orders_eu beside orders.eu \(of handler a\), as '.' and",
        ),
        (
            [consumer(["orders", "orders_g_dlq"], "g", handler_id="a")],
            {},
            "handler a: Kafka does not create the topic orders.g.dlq beside orders_g_dlq, as",
        ),
    ],
)
async def test_topics_that_do_not_get_along_are_refused(
    handlers: list[Callable[..., Any]], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        await start(*handlers, **settings)


def test_names_that_are_similar_are_allowed_where_we_create_no_topics() -> None:
    similar = [Uses(handler_id, {topic: None}, []) for handler_id, topic in (("a", "orders.eu"), ("b", "orders_eu"))]
    refuses = NameClashes(create_topics=True)
    refuses.admit(similar[0])
    with pytest.raises(ConfigurationError, match="if your broker has both, set create_topics to false"):
        refuses.admit(similar[1])
    allows = NameClashes(create_topics=False)
    for uses in similar:
        allows.admit(uses)


async def test_what_gets_along_starts() -> None:
    await start(
        consumer("orders", "billing", dlq="errors", retry=LATER, handler_id="a"),
        consumer("orders", "mail", dlq="errors", retry=LATER, handler_id="b"),
        consumer("errors", "alerts", handler_id="c"),  # the DLQ of others, consumed on purpose
        consumer(["refunds", "refunds.billing.dlq"], "billing", handler_id="d"),  # its own: their letters go elsewhere
        consumer("refunds.eu", "billing", dlq=False, handler_id="e"),
    )
