"""What earlier deploys left in topics that nobody uses any more is named at the start."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from fastapi_athomic import Athomic
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import Shop, factory_of, later

STILL = r"They are listed, sent back and discarded as before: fastapi-athomic dlq list g"
CHANGES: dict[str, tuple[Callable[[Shop], Athomic], str]] = {
    "named": (lambda shop: shop.app("t", dlq="errors"), f"dead letters of t go to errors now. {STILL}"),
    "none": (lambda shop: shop.app("t", dlq=False), rf"the handler has none any more \(dlq=False\). {STILL}"),
    "template": (
        lambda shop: shop.app("t", settings={"dlq_topic": "dead.{topic}"}),
        rf"dead letters of t go to dead\.t now. {STILL}",
    ),
    "source": (
        lambda shop: shop.app("u"),
        "no handler of this app consumes t for group g any more. To send them back, consume it again",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_p20_fault_11_dead_letters_that_a_deploy_leaves_behind_are_named(
    shop: Shop, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(shop.app("t")) as athomic:
        await athomic.publish("t", "x")
        await athomic.drain()
    assert "earlier deploy" not in caplog.text
    new_app, said = CHANGES[change]
    async with running(new_app(shop)) as athomic:
        await eventually(lambda: "earlier deploy" in caplog.text)
        if STILL in said:
            shop.sound = True
            assert (await athomic.dead_letters("g").redrive()).settled == 1
            await shop.record.until(lambda seen: ("g", "t.g.redrive") in seen)
    pattern = f"g: topic t.g.dlq holds 1 records, dead letters of an earlier deploy; {said}"
    assert re.search(pattern, caplog.text)


async def test_p20_fault_11_messages_of_a_source_that_nobody_consumes_any_more_are_named(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(shop.app("t", retry=later(0.01, 60))) as athomic:
        await athomic.publish("t", "x")
        await eventually(lambda: len(shop.kept("t.g.retry.60s")) == 1)
    async with running(shop.app("u")):
        await eventually(lambda: "consumes t any more" in caplog.text)
    assert "g: topic t.g.retry.60s holds 1 messages that wait for group g" in caplog.text
    assert "t.g.retry.0.01s holds" not in caplog.text, "it was handled"


async def test_p20_fault_11_what_other_handlers_of_the_group_use_is_not_left_behind(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.broker.create_topics({"t": 1, "t.g.dlq": 1, "u.g.redrive": 1})
    shop.write("t.g.dlq")
    shop.write("u.g.redrive")
    shop.sound = True
    athomic = shop.add(shop.app("t"), "u", handler_id="other")
    async with running(athomic):
        await athomic.drain()
        await eventually(lambda: not factory_of(athomic)._left_behind._unsaid)
    assert "holds" not in caplog.text
