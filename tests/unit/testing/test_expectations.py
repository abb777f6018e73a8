"""A failure that nobody expected fails the test; one that was expected does not."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic import ConfigurationError, PayloadDecodeError
from fastapi_athomic.testing import TestKit, UnexpectedFailuresError
from fastapi_athomic.testing.expectations import MOST_TOLD
from tests.support.kit_shop import Order, Shop

BROKE = Order(number=1, customer="broke")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


def test_it_tells_handler_place_error_and_line(shop: Shop) -> None:
    kit = TestKit(shop.app)
    with pytest.raises(UnexpectedFailuresError) as caught, kit:
        place = kit.publish("orders", BROKE)
        kit.drain()
    text = str(caught.value)
    assert f"bill: orders[{place.partition}]@0, 3 attempts, stage handler, in tests.support.kit_shop." in text
    assert "kit_shop.py" in text, "with the traceback"
    assert "ValueError: no money" in text
    assert "kit.expect_failures(" in text
    assert [type(failure.error) for failure in caught.value.failures] == [ValueError] * 3
    assert isinstance(caught.value, AssertionError)


def test_a_failure_that_a_retry_made_good_counts(shop: Shop) -> None:
    attempts: list[int] = []
    kit = TestKit(shop.app)

    @shop.athomic.subscribe_to("flaky", group_id="flaky", handler_id="flaky")
    async def flaky(message: str) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("once")

    with pytest.raises(UnexpectedFailuresError, match="OSError: once"), kit:
        assert kit.deliver(flaky, "x").outcome == "completed"


def test_an_error_in_place_of_its_type_is_refused(shop: Shop) -> None:
    with TestKit(shop.app) as kit, pytest.raises(ConfigurationError, match=r"types of errors \(ValueError\), not"):
        kit.expect_failures(shop.bill, (OSError, ValueError("no money")))  # type: ignore[arg-type]


def test_messages_that_nobody_drained_are_handled_before_the_end(shop: Shop) -> None:
    """A test that forgets `drain` must not pass or fail by chance."""
    kit = TestKit(shop.app)
    with pytest.raises(UnexpectedFailuresError, match="ValueError: no money"), kit:
        for _ in range(50):
            kit.publish("orders", Order(number=1))
        kit.publish("orders", BROKE)
    assert len(kit.handled(shop.bill)) == 51


def test_what_cannot_be_handled_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.testing.core.END_SECONDS", 0.05)
    paused = {"handler_tuning": {"bill": {"paused": True}}}
    kit = TestKit(shop.app, settings=paused)
    with pytest.raises(UnexpectedFailuresError, match=r"not all messages were handled.*bill is paused"), kit:
        kit.publish("orders", BROKE)
    with TestKit(shop.app, settings=paused, strict=False) as lenient:
        lenient.publish("orders", BROKE)


def test_a_message_in_a_retry_topic_may_be_left_there(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        kit.fail(shop.ship)
        kit.publish("parcels", BROKE)
        kit.clock.advance(1)
        assert len(kit.deferred()) == 1
    assert kit.handled() == []


def test_the_tests_own_error_comes_first_and_is_told_of_the_others(shop: Shop) -> None:
    with pytest.raises(ZeroDivisionError) as caught, TestKit(shop.app) as kit:
        kit.deliver(shop.bill, BROKE)
        raise ZeroDivisionError
    [note] = caught.value.__notes__
    assert "ValueError: no money" in note
    with pytest.raises(pytest.skip.Exception), TestKit(shop.app):
        pytest.skip("not today")


def test_all_of_the_kit_or_one_handler_or_one_type(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        kit.expect_failures()
        kit.deliver(shop.bill, BROKE)
    with TestKit(shop.app) as kit:
        kit.expect_failures("bill", (ValueError, OSError))
        kit.deliver(shop.bill, BROKE)
    with pytest.raises(UnexpectedFailuresError, match="ValueError"), TestKit(shop.app) as kit:
        kit.expect_failures(shop.ship)
        kit.expect_failures(shop.bill, PayloadDecodeError)
        kit.deliver(shop.bill, BROKE)


def test_as_a_context_manager_it_ends_with_the_block(shop: Shop) -> None:
    with pytest.raises(UnexpectedFailuresError) as caught, TestKit(shop.app) as kit:
        with kit.expect_failures(shop.bill):
            kit.deliver(shop.bill, BROKE)
        kit.deliver(shop.bill, b"{")
    assert [type(failure.error) for failure in caught.value.failures] == [PayloadDecodeError]


def test_a_kit_that_is_not_strict_tells_nothing(shop: Shop) -> None:
    with TestKit(shop.app, strict=False) as kit:
        kit.deliver(shop.bill, BROKE)
        assert kit.handled(shop.bill)[0].outcome == "dead_lettered"


def test_many_failures_are_counted(shop: Shop) -> None:
    text = r"at 12 messages:[\s\S]*\.\.\. and 2 more messages"
    with pytest.raises(UnexpectedFailuresError, match=text) as caught, TestKit(shop.app) as kit:
        for _ in range(MOST_TOLD + 2):
            kit.deliver(shop.bill, b"{")
    assert str(caught.value).count("bill: orders") == MOST_TOLD


@pytest.mark.parametrize("wrong", ["ValueError", [ValueError], ValueError("x"), int, None])
def test_what_is_no_type_of_exceptions_is_refused(shop: Shop, wrong: Any) -> None:
    with TestKit(shop.app) as kit, pytest.raises(ConfigurationError, match="takes types of errors"):
        kit.expect_failures(shop.bill, wrong)


def test_a_context_manager_that_is_used_twice_hides_no_error(shop: Shop) -> None:
    with TestKit(shop.app) as kit:
        expected = kit.expect_failures(shop.bill)
        with expected:
            pass
        with pytest.raises(KeyError), expected:
            raise KeyError("the test")
