"""The observers must notice faults: checks what the ledger says about a record written by hand."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from .ledger import Ledger, Message
from .writers import Writer


class Book:
    """A ledger, and a record that tests write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger(path, ["loop", "latest"])

    def handle(self, handler: str, message: Message) -> None:
        with self.path.open("a") as file:
            file.write(f"{handler} life.{message.topic} {message.key} {message.sequence} 1\n")
        self.ledger.read_on()

    def expect(self, count: int) -> list[Message]:
        messages = [self.ledger.number("main", "k") for _ in range(count)]
        for message in messages:
            self.ledger.expect(message)
        return messages


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "record")


def test_what_one_handler_has_not_handled_is_missing(book: Book) -> None:
    first, second = book.expect(2)
    book.handle("loop", first)
    book.handle("loop", second)
    book.handle("latest", first)
    assert book.ledger.missing() == {"latest": {second}}


def test_what_was_handled_long_ago_is_known_when_it_comes_again(book: Book) -> None:
    first, second = book.expect(2)
    book.handle("loop", first)
    book.handle("loop", second)
    book.ledger.forget()
    book.handle("loop", first)
    assert book.ledger.accounts["loop"].repeated == 1


def test_order_counts_for_the_first_time_only_and_not_where_none_is_promised(book: Book) -> None:
    first, second = book.expect(2)
    for handler in ("loop", "latest"):
        book.handle(handler, second)
        book.handle(handler, first)
        book.handle(handler, second)
    assert book.ledger.accounts["loop"].misordered == [first]
    assert book.ledger.accounts["latest"].misordered == []
    assert book.ledger.accounts["loop"].repeated == 1


def test_what_was_aborted_is_nobody_s(book: Book) -> None:
    aborted = book.ledger.number("main", "k")
    book.ledger.forbid([aborted])
    book.handle("loop", aborted)
    assert book.ledger.accounts["loop"].forbidden == [aborted]


def test_a_dead_letter_will_do_until_it_is_sent_back(book: Book) -> None:
    (message,) = book.expect(1)
    book.handle("latest", message)
    book.ledger.dead_letter("loop", message)
    assert book.ledger.missing() == {}
    book.ledger.sent_back("loop", [message])
    book.ledger.dead_letter("loop", message)
    assert book.ledger.missing() == {"loop": {message}}
    book.handle("loop", message)
    assert book.ledger.missing() == {}
    assert book.ledger.accounts["loop"].repeated == 0


def test_of_a_topic_that_was_deleted_nothing_is_missing(book: Book) -> None:
    book.expect(2)
    assert book.ledger.excuse("main", ["loop"]) == 2
    assert book.ledger.missing().keys() == {"latest"}


def test_what_two_threads_write_under_one_key_goes_out_as_it_is_numbered(book: Book) -> None:
    sent: list[int] = []
    numbered = threading.Event()

    class Interrupted(Writer):
        """After numbering the first message, its thread loses its turn to the other one."""

        def send(self, message: Message, **more: Any) -> None:
            if message.sequence == 0:
                numbered.set()
                other_sent.wait(0.2)
            sent.append(message.sequence)
            if message.sequence == 1:
                other_sent.set()

    other_sent = threading.Event()
    writer = Interrupted("localhost:1", "life", book.ledger, "none0")
    first = threading.Thread(target=writer.write, args=("main", "k"))
    first.start()
    assert numbered.wait(10)
    writer.write("main", "k")
    first.join()
    assert sent == [0, 1]
