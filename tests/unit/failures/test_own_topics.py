"""The topics that the package makes are known by their names."""

from __future__ import annotations

import pytest

from fastapi_athomic import AthomicSettings
from fastapi_athomic.decorators import build_subscription
from fastapi_athomic.failures.own_topics import OwnTopics


@pytest.mark.parametrize(
    ("topic", "made"),
    [
        ("orders", False),
        ("orders.placed", False),
        ("orders.billing.dlq", True),
        ("orders.billing.redrive", True),
        ("orders.billing.retry.0.5s", True),
        ("orders.billing.retry.1e+06s", True),
        ("orders.billing.retry.soon", False),
        ("orders.g1.dlq.g2.redrive", True),
        ("errors", True),
        ("dead-orders", True),
        ("orders.dlq", False),
    ],
)
def test_p20_fault_02_what_the_product_makes_is_known_by_its_name(topic: str, made: bool) -> None:
    named = build_subscription(lambda message: None, "t", "g", {"dlq": "errors", "handler_id": "h"})
    assert OwnTopics(AthomicSettings(dlq_topic="dead-{topic}"), [named]).made(topic) == made


def test_p20_fault_02_a_template_without_text_of_its_own_knows_only_this_apps_groups() -> None:
    handler = build_subscription(lambda message: None, "t", "g", {"handler_id": "h"})
    own = OwnTopics(AthomicSettings(dlq_topic="{topic}.{group_id}"), [handler])
    assert own.made("orders.g")
    assert not own.made("orders.placed")
