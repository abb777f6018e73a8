from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from fastapi_athomic import AthomicSettings, ConfigurationError, PayloadDecodeError, subscribe_to
from fastapi_athomic.payload.deserialization import deserializer
from tests.support.apps import new_app, running
from tests.support.payloads import message

SECRET = "s3cret"


class Order(BaseModel):
    order_id: str


Orders = TypeAliasType("Orders", list[Order])


@pytest.mark.parametrize(
    ("target_type", "payload", "said"),
    [
        (
            list[Order],
            b'{"order_id": "s3cret"}',
            r"takes list\[Order\], and one message was an object: .*set batch_siz",
        ),
        (Sequence[Order], b'"s3cret"', r"takes Sequence\[Order\], and one message was no list: .*set batch_size"),
        (Orders, b'{"order_id": "s3cret"}', "one message was an object: for batches of messages set batch_size"),
        (list, b"7", "one message was no list: for batches of messages set batch_size"),
    ],
)
def test_a_message_for_a_list_that_is_none_says_how_to_get_batches(target_type: Any, payload: bytes, said: str) -> None:
    with pytest.raises(PayloadDecodeError, match=said) as caught:
        deserializer(target_type)(message(payload))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("target_type", "payload"),
    [(list[Order], b'[{"order": "s3cret"}]'), (list[Order], b"[7]"), (Order, b"7"), (list[Order], b"{")],
)
def test_other_problems_do_not_speak_of_batches(target_type: Any, payload: bytes) -> None:
    with pytest.raises(PayloadDecodeError) as caught:
        deserializer(target_type)(message(payload))
    assert "batch_size" not in str(caught.value)


def test_a_message_may_be_a_list() -> None:
    assert deserializer(list[Order])(message(b'[{"order_id": "a"}]')) == [Order(order_id="a")]


async def test_a_type_that_pydantic_does_not_know_is_refused_with_the_handlers_name_in_one_line() -> None:
    class Unknown: ...

    @subscribe_to("t", group_id="g", handler_id="bad", target_type=Unknown)
    async def bad(message: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"^handler bad: messages cannot be decoded into Unknown: ") as caught:
        async with running(new_app(AthomicSettings(), bad)):
            pass
    assert "\n" not in str(caught.value)
