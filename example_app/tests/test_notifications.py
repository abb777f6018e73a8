from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from example_app.mail_server import MailServer, MailServerDownError, get_mail_server
from example_app.messages import MAILS, Mail
from example_app.notifications import notify
from fastapi_athomic.testing import TestKit

from .shopping import commits_that_fail, get, order

HELLO = Mail(order_id="7", address="ann@example.com", text="hello")


class Postbox(MailServer):
    """A server that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Mail] = []

    async def send(self, mail: Mail) -> None:
        await super().send(mail)
        self.sent.append(mail)


@pytest.fixture
def postbox(app: FastAPI) -> Iterator[Postbox]:
    """In the place of the shop's server, as handlers follow `dependency_overrides`."""
    postbox = Postbox()
    app.dependency_overrides[get_mail_server] = lambda: postbox
    yield postbox
    app.dependency_overrides.clear()


def test_who_ordered_is_told(postbox: Postbox, kit: TestKit) -> None:
    placed = order(kit, "bob")
    kit.drain()
    assert postbox.sent == [Mail(order_id=placed, address="bob@example.com", text="Your order is on its way.")]


def test_a_mail_that_comes_twice_is_sent_once(postbox: Postbox, kit: TestKit) -> None:
    for _ in range(2):
        kit.deliver(notify, HELLO)
    assert postbox.sent == [HELLO]


def test_when_the_commit_fails_it_is_sent_again(app: FastAPI, postbox: Postbox, kit: TestKit) -> None:
    """At least once is what there is where the other side cannot tell."""
    kit.expect_failures(notify)
    with commits_that_fail(app, times=1):
        kit.deliver(notify, HELLO)
    assert postbox.sent == [HELLO, HELLO]


def test_while_the_server_is_away_no_mail_is_given_up(postbox: Postbox, kit: TestKit) -> None:
    kit.fail(notify, times=7, error=MailServerDownError("connection refused"))
    for number in range(5):
        kit.publish(MAILS, HELLO.model_copy(update={"order_id": str(number)}))
    kit.drain()
    assert sorted(get(kit, "/mails")) == ["0", "1", "2", "3", "4"]
    assert kit.dead_letters() == []


def test_a_mail_that_is_to_come_later_waits_in_a_retry_topic(kit: TestKit) -> None:
    kit.expect_failures(notify)
    kit.publish(MAILS, HELLO.model_copy(update={"address": "greylisted@example.com"}))
    kit.publish(MAILS, HELLO.model_copy(update={"order_id": "8"}))
    kit.drain()
    assert sorted(get(kit, "/mails")) == ["7", "8"]


def test_nobody_can_read_a_mail_in_its_topic(kit: TestKit) -> None:
    kit.publish(MAILS, HELLO)
    [message] = kit.published(MAILS)
    assert message.value is not None
    assert b"ann@example.com" not in message.value
    assert message.decode(Mail) == HELLO
