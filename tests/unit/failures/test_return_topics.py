"""Retry and redrive topics of earlier deploys. What they bring back otherwise is in tests/delivery."""

from __future__ import annotations

from time import time

import pytest

from fastapi_athomic import RetryPolicy
from fastapi_athomic.failures import topic_watch
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import ONCE, Shop, factory_of, followed, later


@pytest.mark.parametrize("after", [ONCE, later(60), later(0.05, 60)], ids=["no retry topics", "others", "one more"])
async def test_p20_fault_11_what_waits_under_delays_of_before_comes_back_when_due(
    shop: Shop, after: RetryPolicy
) -> None:
    async with running(shop.app("t", retry=later(0.3))) as athomic:
        await athomic.publish("t", "x")
        await shop.record.count(1)
        await eventually(lambda: len(shop.kept("t.g.retry.0.3s")) == 1)
    (waiting,) = shop.kept("t.g.retry.0.3s")
    due = int(dict(waiting.headers)["athomic-retry-due"] or 0) / 1000
    shop.sound = True
    async with running(shop.app("t", retry=after)) as athomic:
        await shop.record.until(lambda seen: ("g", "t.g.retry.0.3s") in seen)
        assert time() >= due
        await athomic.drain()
    assert len(shop.record.seen) == 2


async def test_p20_fault_11_what_an_old_process_leaves_is_found_when_it_has_gone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling deploy: the new process is there before the old one makes its retry topic."""
    shop.sound = True
    async with running(shop.app("t", retry=later(60))) as new:
        await eventually(lambda: not factory_of(new)._left_behind._unsaid)
        async with running(shop.app("t", retry=later(0.01))):
            shop.broker.create_topics({"t.g.retry.0.01s": 1})
        monkeypatch.setattr(topic_watch, "LISTING_SECONDS", 0.0)
        shop.write("t.g.retry.0.01s")
        await shop.record.until(lambda seen: ("g", "t.g.retry.0.01s") in seen)


async def test_p20_fault_11_what_fails_again_goes_to_the_next_longer_delay_of_now(shop: Shop) -> None:
    async with running(shop.app("t", retry=later(0.05))) as athomic:
        await athomic.publish("t", "x")
        await eventually(lambda: len(shop.kept("t.g.retry.0.05s")) == 1)
    async with running(shop.app("t", retry=later(0.01, 0.1))) as athomic:
        await athomic.drain()
    assert shop.record.seen[-2:] == [("g", "t.g.retry.0.05s"), ("g", "t.g.retry.0.1s")]
    assert "t.g.retry.0.01s" not in shop.topics()
    assert len(shop.kept("t.g.dlq")) == 1


async def test_p20_fault_11_a_deploy_with_other_templates_follows_the_default_ones_too(shop: Shop) -> None:
    shop.broker.create_topics({"t": 1, "t.g.redrive": 1, "t.g.retry.1s": 1})
    shop.write("t.g.redrive")
    templates = {"retry_topic": "again.{topic}.{group_id}.{delay}", "redrive_topic": "back.{topic}.{group_id}"}
    async with running(shop.app("t", settings=templates)) as athomic:
        await athomic.drain()
        assert followed(athomic) == {"t", "t.g.redrive", "t.g.retry.1s"}
    assert shop.record.seen == [("g", "t.g.redrive")]
