import inspect
import re
from dataclasses import MISSING, fields
from datetime import timedelta
from functools import partial
from typing import Any, get_args, get_type_hints

import pytest

from fastapi_athomic import Athomic
from fastapi_athomic.decorators import ordered_consumer, subscribe_to
from fastapi_athomic.exceptions import ConfigurationError
from fastapi_athomic.limits import CircuitBreaker, RateLimit
from fastapi_athomic.payload.pipeline import PayloadPipeline
from fastapi_athomic.retry import RetryPolicy
from fastapi_athomic.settings import HandlerTuning, RetryTuning
from fastapi_athomic.subscriptions import ConsumerOptions, OrderedOptions, Sequencing, Subscription, subscriptions_of


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
        (r"orders\..*", {}, r"invalid topic name .*; for all topics that match a pattern give re.compile\(...\)"),
        ([], {}, "at least one topic"),
        (5, {}, "topic must be a name, a list of names or a compiled pattern, not 5"),
        (b"orders", {}, "topic must be a name, a list of names or a compiled pattern, not a bytes"),
        ([5], {}, "invalid topic name 5"),
        ([["a"]], {}, "invalid topic name \\['a'\\]"),
        (re.compile(b"x"), {}, "str pattern"),
        ("a", {"group_id": ""}, "group_id must be text that is not empty, .*, not ''"),
        ("a", {"group_id": " billing"}, "group_id must be text that is not empty, and has no space around it"),
        ("a", {"group_id": None}, "group_id must be text that is not empty, .*, not None"),
        ("a", {"ordering": "random"}, "ordering must be 'partition', 'key' or 'none', not 'random'$"),
        ("a", {"ordering": "keys"}, "ordering must be .* not 'keys': did you mean 'key'[?]"),
        ("a", {"ordering": ["key"]}, r"ordering must be 'partition', 'key' or 'none', not \['key'\]"),
        ("a", {"concurrency": 0}, "concurrency must be a whole number of 1 or more, not 0"),
        ("a", {"concurrency": True}, "concurrency must be a whole number of 1 or more, not True"),
        ("a", {"concurrency": "4"}, "concurrency must be a whole number of 1 or more, not '4'"),
        ("a", {"concurrency": 4.0}, "concurrency must be a whole number of 1 or more, not 4.0"),
        (
            "a",
            {"batch_size": 0},
            r"batch_size must be a whole number of 1 or more, or None \(one message at a time\), not",
        ),
        ("a", {"batch_size": "5"}, "batch_size must be a whole number of 1 or more"),
        ("a", {"batch_linger_ms": -1}, "batch_linger_ms must be a whole number of milliseconds, 0 or more, not -1"),
        ("a", {"batch_linger_ms": 0.5}, "batch_linger_ms must be a whole number of milliseconds"),
        ("a", {"batch_size": 5, "ordering": "key"}, "ordering must be 'partition'"),
        ("a", {"timeout": 0}, r"timeout must be a number of seconds above 0, or None \(no limit\), not 0"),
        ("a", {"timeout": "5"}, "timeout must be a number of seconds above 0, .* not '5'"),
        ("a", {"timeout": float("inf")}, "timeout must be a number of seconds above 0, .* not inf"),
        ("a", {"timeout": timedelta(seconds=5)}, "timeout must be a number of seconds above 0, .* not a timedelta"),
        ("a", {"dlq": 1}, "dlq must be True .* False .* or the name of a topic, not 1"),
        ("a", {"dlq": None}, "dlq must be True .* False .* or the name of a topic, not None"),
        ("a", {"dlq": "my errors"}, "dlq: invalid topic name 'my errors'"),
        ("a", {"payload": "json"}, r"payload must be a PayloadPipeline, or None \(the app's\), not 'json'"),
        ("a", {"auto_offset_reset": "erliest"}, "auto_offset_reset must be .* did you mean 'earliest'"),
        ("a", {"retry": 3}, r"retry must be a RetryPolicy, such as RetryPolicy\(max_attempts=5\), not 3"),
        ("a", {"retry": RetryPolicy}, "retry must be a RetryPolicy, .*, not the class RetryPolicy"),
        ("a", {"enable_lineage": 1}, "enable_lineage must be True or False, not 1"),
        ("a", {"concurency": 3}, "unknown option concurency: did you mean 'concurrency'[?]"),
        ("a", {"gap_timeout": 3}, "gap_timeout is an option of ordered_consumer"),
        ("a", {"speed": 3}, "unknown option speed; known are .*concurrency"),
        ("a", {"sequencing": None}, "unknown option sequencing; known are"),
    ],
)
def test_a_wrong_option_is_named_with_its_handler(topic: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?m)handler {re.escape(__name__)}\.bill: .*{message}"):
        subscribe_to(topic, **{"group_id": "g", **options})(bill)
    assert subscriptions_of(bill) == ()


@pytest.mark.parametrize("handler_id", ["", 5, " a"])
def test_an_id_is_text(handler_id: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^handler {handler_id!r}: handler_id must be text that is not empty"):
        noted("t", group_id="g", handler_id=handler_id)


def test_a_tuning_that_contradicts_the_policy_names_the_handler() -> None:
    subscription = noted("t", group_id="g", handler_id="h", retry=RetryPolicy(delay=20, max_delay=30))
    tuning = HandlerTuning(retry=RetryTuning(delay=60))
    with pytest.raises(ConfigurationError, match=r"^handler h: with its tuning, RetryPolicy: delay .60 s. exceeds"):
        subscription.tuned(tuning)


def test_an_ordered_consumer_notes_how_it_finds_its_order() -> None:
    @ordered_consumer("events", group_id="g", aggregate_key_field="order_id", sequence_id_field="n", on_gap="skip")
    def ship(event: dict[str, Any]) -> None: ...

    (subscription,) = subscriptions_of(ship)
    assert subscription.sequencing == Sequencing(aggregate_key_field="order_id", sequence_id_field="n", on_gap="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregate_key_field": ""}, "aggregate_key_field must be the name of a field of the message, not ''"),
        ({"aggregate_key_field": 3}, "aggregate_key_field must be the name of a field of the message, not 3"),
        ({"sequence_id_field": ""}, "sequence_id_field must be the name of a field"),
        ({"gap_timeout": 0}, "gap_timeout must be a number of seconds above 0, not 0"),
        ({"gap_timeout": None}, "gap_timeout must be a number of seconds above 0, not None"),
        ({"on_gap": "panic"}, "on_gap must be 'wait', 'skip' or 'dead_letter', not 'panic'$"),
        ({"on_gap": "dead-letter"}, "on_gap must be .* did you mean 'dead_letter'"),
        ({"on_failure": "retry"}, "on_failure must be 'dead_letter' or 'block', not 'retry'"),
        ({"first_sequence": 2**53}, r"first_sequence must be a whole number below 2\*\*53"),
        ({"first_sequence": True}, "first_sequence must be a whole number"),
        ({"first_sequence": "1"}, "first_sequence must be a whole number"),
        ({"gap_timout": 1}, "unknown option gap_timout: did you mean 'gap_timeout'"),
        ({"concurrency": "4"}, "concurrency must be a whole number"),
        ({"batch_size": 10}, "takes one message at a time"),
        ({"retry": RetryPolicy(retry_topics=(1,), allow_reordering=True)}, "has no retry topics"),
        ({"retry": RetryPolicy(retry_topics=(1,))}, "has no retry topics"),
        ({"unknown": 1}, "unknown option unknown"),
    ],
)
def test_a_wrong_option_of_an_ordered_consumer_is_named(options: dict[str, Any], message: str) -> None:
    given = {"aggregate_key_field": "id", "sequence_id_field": "n", **options}
    with pytest.raises(ConfigurationError, match=rf"(?m)handler {re.escape(__name__)}\.bill: .*{message}"):
        ordered_consumer("events", group_id="g", **given)(bill)


@pytest.mark.parametrize("decorator", [subscribe_to, ordered_consumer])
def test_without_brackets(decorator: Any) -> None:
    async def bill(message: str) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        decorator(bill)
    assert "<locals>.bill (tests.unit.test_decorators, line " in str(caught.value)
    assert f"needs brackets that say what to consume: @{decorator.__name__}" in str(caught.value)
    assert '("topic", group_id="...")' in str(caught.value)


@pytest.mark.parametrize(
    ("decorator", "given", "said"),
    [
        (
            subscribe_to,
            {"topic": "t", "groupid": "g"},
            "subscribe_to: unknown option groupid: did you mean 'group_id'?",
        ),
        (subscribe_to, {"topics": "t", "group": "g"}, "option group: .* 'group_id'.; .* topics: did you mean 'topic'"),
        (subscribe_to, {"topic": "t", "dlq": False}, "subscribe_to: it needs group_id$"),
        (subscribe_to, {}, "subscribe_to: it needs topic and group_id$"),
        (
            ordered_consumer,
            {"topic": "t", "group_id": "g", "aggregate_key": "a", "sequence_id_field": "n"},
            "ordered_consumer: unknown option aggregate_key: did you mean 'aggregate_key_field'",
        ),
    ],
)
def test_an_option_that_is_missing_or_misspelt_is_named(decorator: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?m){said}"):
        decorator(**given)


def test_a_class_and_what_takes_no_attributes_are_no_handlers() -> None:
    with pytest.raises(ConfigurationError, match="a class cannot be a handler; decorate a function or a method"):
        subscribe_to("t", group_id="g")(type("Billing", (), {}))
    with pytest.raises(ConfigurationError, match=r"print \(builtins, .*takes no attributes; decorate a function"):
        subscribe_to("t", group_id="g")(print)


def test_the_id_of_a_partial_is_that_of_its_function() -> None:
    made = subscribe_to("t", group_id="g")(partial(test_the_id_of_a_partial_is_that_of_its_function))
    (subscription,) = subscriptions_of(made)
    assert subscription.handler_id == f"{__name__}.test_the_id_of_a_partial_is_that_of_its_function"


# --- signatures and docstrings


def defaults_of(kind: type) -> dict[str, Any]:
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(kind)
        if each.default is not MISSING or each.default_factory is not MISSING
    }


DECORATORS = pytest.mark.parametrize(
    ("decorator", "options", "defaults", "own"),
    [
        (subscribe_to, ConsumerOptions, defaults_of(Subscription), ["topic", "group_id"]),
        (
            ordered_consumer,
            OrderedOptions,
            defaults_of(Subscription) | defaults_of(Sequencing),
            ["topic", "group_id", "aggregate_key_field", "sequence_id_field"],
        ),
    ],
    ids=["subscribe_to", "ordered_consumer"],
)


@DECORATORS
def test_the_signature_shows_every_option_with_its_type_and_its_default(
    decorator: Any, options: type, defaults: dict[str, Any], own: list[str]
) -> None:
    parameters = dict(inspect.signature(decorator, eval_str=True).parameters)
    unknown = parameters.pop("unknown")
    assert get_args(unknown.annotation)[0].__annotations__ == {}, "type checkers refuse what is not in the signature"
    assert list(parameters)[: len(own)] == own
    types = get_type_hints(options)
    assert {name: each.annotation for name, each in parameters.items() if name not in own} == types
    expected = {name: defaults.get(name) for name in types}  # the handler id has no default in a subscription
    assert {name: each.default for name, each in parameters.items() if name not in own} == expected


@DECORATORS
def test_the_docstring_says_in_a_line_what_each_option_means(
    decorator: Any, options: type, defaults: dict[str, Any], own: list[str]
) -> None:
    arguments = inspect.getdoc(decorator).partition("Args:\n")[2].partition("\n\n")[0]  # type: ignore[union-attr]
    assert re.findall(r"^    (\w+): \S", arguments, re.MULTILINE) == [
        name for name in inspect.signature(decorator).parameters if name != "unknown"
    ]


@DECORATORS
def test_the_methods_of_an_app_take_the_same_options(
    decorator: Any, options: type, defaults: dict[str, Any], own: list[str]
) -> None:
    parameters = dict(inspect.signature(getattr(Athomic, decorator.__name__), eval_str=True).parameters)
    assert get_args(parameters.pop("options").annotation) == (options,)
    assert list(parameters) == ["self", *own]


def test_what_is_given_reaches_the_subscription() -> None:
    pipeline, retry = PayloadPipeline(), RetryPolicy(max_attempts=7)
    common = {
        "target_type": int,
        "concurrency": 2,
        "retry": retry,
        "dlq": "errors",
        "payload": pipeline,
        "timeout": 5,
        "rate_limit": RateLimit(messages_per_second=5),
        "breaker": CircuitBreaker(exceptions=(OSError,)),
        "auto_offset_reset": "latest",
        "handler_id": "h",
        "enable_lineage": False,
    }
    single = {**common, "ordering": "partition", "batch_size": 3, "batch_linger_ms": 7}
    subscription = noted("t", group_id="g", **single)
    assert {name: getattr(subscription, name) for name in single} == single
    assert set(single) == set(ConsumerOptions.__annotations__)

    def handler(order: dict[str, Any]) -> None: ...

    sequence = {"first_sequence": 5, "gap_timeout": 3.0, "on_gap": "skip", "on_failure": "block"}
    names: dict[str, Any] = {"aggregate_key_field": "id", "sequence_id_field": "n"}
    ordered_consumer("t", group_id="g", **names, **common, **sequence)(handler)  # type: ignore[arg-type]
    (subscription,) = subscriptions_of(handler)
    assert {name: getattr(subscription, name) for name in common} == common
    assert subscription.sequencing == Sequencing(**names, **sequence)  # type: ignore[arg-type]
    assert {*common, *sequence} == set(OrderedOptions.__annotations__)
