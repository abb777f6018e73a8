import re
from functools import partial
from typing import Any

import pytest

from fastapi_athomic.decorators import ordered_consumer, subscribe_to
from fastapi_athomic.exceptions import ConfigurationError
from fastapi_athomic.retry import RetryPolicy
from fastapi_athomic.subscriptions import Sequencing, subscriptions_of


def bill(order: dict[str, Any]) -> None: ...


def noted(*args: Any, **options: Any) -> Any:
    def handler(order: dict[str, Any]) -> None: ...

    assert subscribe_to(*args, **options)(handler) is handler
    (subscription,) = subscriptions_of(handler)
    return subscription


def test_retry_topics_need_a_word_on_the_order() -> None:
    retry = RetryPolicy(retry_topics=(10,))
    for ordering in ("partition", "key"):
        with pytest.raises(ConfigurationError, match="let later messages overtake: set ordering='none'"):
            noted("t", group_id="g", ordering=ordering, retry=retry)
    assert noted("t", group_id="g", ordering="none", retry=retry).retry is retry
    reordering = RetryPolicy(retry_topics=(10,), allow_reordering=True)
    assert noted("t", group_id="g", retry=reordering).retry is reordering


def test_dead_letters_must_not_come_back() -> None:
    with pytest.raises(ConfigurationError, match="dlq must not be a topic that the handler consumes"):
        noted(["a", "b"], group_id="g", dlq="b")


def test_the_function_comes_back_unchanged_with_its_subscription_noted() -> None:
    def handler(order: int) -> int:
        return order + 1

    decorated = subscribe_to("orders", group_id="billing", concurrency=4)(handler)
    assert decorated is handler
    assert decorated(1) == 2
    (subscription,) = subscriptions_of(handler)
    assert subscription.topics == ("orders",)
    assert subscription.group_id == "billing"
    assert subscription.concurrency == 4
    assert subscription.handler_id == f"{__name__}.{handler.__qualname__}"


def test_a_function_may_have_several_subscriptions() -> None:
    @subscribe_to("a", group_id="g", handler_id="first")
    @subscribe_to("b", group_id="g", handler_id="second")
    def handler(order: int) -> None: ...

    assert [s.handler_id for s in subscriptions_of(handler)] == ["second", "first"]


def test_topics_are_a_name_a_list_or_a_pattern() -> None:
    assert noted("a", group_id="g").topics == ("a",)
    assert noted(["a", "b", "a"], group_id="g").topics == ("a", "b")
    pattern = noted(re.compile(r"orders\..*"), group_id="g")
    assert (pattern.topics, pattern.source) == ((), r"orders\..*")


def test_an_undecorated_function_has_none() -> None:
    assert subscriptions_of(bill) == ()
    assert subscriptions_of(3) == ()


@pytest.mark.parametrize(
    ("topic", "options", "message"),
    [
        ("", {}, "invalid topic name"),
        ("a b", {}, "invalid topic name 'a b'"),
        ("..", {}, "invalid topic name"),
        ("x" * 250, {}, "invalid topic name"),
        ([], {}, "at least one topic"),
        (5, {}, "topic must be a name, a list of names or a compiled pattern"),
        ([5], {}, "invalid topic name 5"),
        (re.compile(b"x"), {}, "str pattern"),
        ("a", {"group_id": ""}, "group_id must not be empty"),
        ("a", {"ordering": "random"}, "ordering must be one of partition, key, none"),
        ("a", {"concurrency": 0}, "concurrency must be a whole number of 1 or more"),
        ("a", {"concurrency": True}, "concurrency must be a whole number of 1 or more"),
        ("a", {"batch_size": 0}, "batch_size must be 1 or more"),
        ("a", {"batch_linger_ms": -1}, "batch_linger_ms must not be negative"),
        ("a", {"batch_size": 5, "ordering": "key"}, "ordering must be 'partition'"),
        ("a", {"timeout": 0}, "timeout must be positive"),
        ("a", {"auto_offset_reset": "middle"}, "auto_offset_reset must be"),
        ("a", {"retry": 3}, "retry must be a RetryPolicy"),
        ("a", {"concurency": 3}, "unknown option concurency; known are .*concurrency"),
    ],
)
def test_a_wrong_option_is_named_with_its_handler(topic: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"handler {re.escape(__name__)}\.bill: .*{message}"):
        subscribe_to(topic, **{"group_id": "g", **options})(bill)
    assert subscriptions_of(bill) == ()


def test_an_ordered_consumer_notes_how_it_finds_its_order() -> None:
    @ordered_consumer("events", group_id="g", aggregate_key_field="order_id", sequence_id_field="n", on_gap="skip")
    def ship(event: dict[str, Any]) -> None: ...

    (subscription,) = subscriptions_of(ship)
    assert subscription.sequencing == Sequencing(aggregate_key_field="order_id", sequence_id_field="n", on_gap="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregate_key_field": ""}, "aggregate_key_field"),
        ({"sequence_id_field": ""}, "sequence_id_field"),
        ({"gap_timeout": 0}, "gap_timeout"),
        ({"on_gap": "panic"}, "on_gap"),
        ({"on_failure": "retry"}, "on_failure"),
        ({"first_sequence": 2**53}, "first_sequence"),
        ({"first_sequence": True}, "first_sequence"),
        ({"batch_size": 10}, "takes one message at a time"),
        ({"retry": RetryPolicy(retry_topics=(1,), allow_reordering=True)}, "has no retry topics"),
        ({"unknown": 1}, "unknown option unknown"),
    ],
)
def test_a_wrong_option_of_an_ordered_consumer_is_named(options: dict[str, Any], message: str) -> None:
    given = {"aggregate_key_field": "id", "sequence_id_field": "n", **options}
    with pytest.raises(ConfigurationError, match=message):
        ordered_consumer("events", group_id="g", **given)(bill)


@pytest.mark.parametrize("decorator", [subscribe_to, ordered_consumer])
def test_without_brackets(decorator: Any) -> None:
    async def bill(message: str) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        decorator(bill)
    assert "<locals>.bill (tests.unit.test_decorators, line " in str(caught.value)
    assert f"needs brackets that say what to consume: @{decorator.__name__}" in str(caught.value)
    assert '("topic", group_id="...")' in str(caught.value)


def test_a_class_and_what_takes_no_attributes_are_no_handlers() -> None:
    with pytest.raises(ConfigurationError, match="a class cannot be a handler; decorate a function or a method"):
        subscribe_to("t", group_id="g")(type("Billing", (), {}))
    with pytest.raises(ConfigurationError, match=r"print \(builtins, .*takes no attributes; decorate a function"):
        subscribe_to("t", group_id="g")(print)


def test_the_id_of_a_partial_is_that_of_its_function() -> None:
    made = subscribe_to("t", group_id="g")(partial(test_the_id_of_a_partial_is_that_of_its_function))
    (subscription,) = subscriptions_of(made)
    assert subscription.handler_id == f"{__name__}.test_the_id_of_a_partial_is_that_of_its_function"
