"""Which messages each handler must handle, and which it has handled according to the record."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .handlers import UNORDERED, handlers_of


class Message(NamedTuple):
    """Identifies a message wherever it turns up. `topic` is without its prefix."""

    topic: str
    key: str
    sequence: int


@dataclass
class Account:
    """What one handler must handle and has handled."""

    pending: set[Message] = field(default_factory=set)  # neither handled yet nor seen as a dead letter
    inexcusable: set[Message] = field(default_factory=set)  # of these: sent back, so a dead letter is not enough
    handled: set[Message] = field(default_factory=set)  # since the last `forget`
    old: dict[tuple[str, str], int] = field(default_factory=dict)  # the greatest number that was forgotten, by key
    greatest: dict[tuple[str, str], int] = field(default_factory=dict)
    repeated: int = 0
    misordered: list[Message] = field(default_factory=list)
    forbidden: list[Message] = field(default_factory=list)  # handled although their transaction was aborted
    total: int = 0

    def note(self, message: Message, *, ordered: bool) -> None:
        place = (message.topic, message.key)
        self.total += 1
        self.pending.discard(message)
        self.inexcusable.discard(message)
        if message in self.handled or message.sequence <= self.old.get(place, -1):
            self.repeated += 1
            return
        self.handled.add(message)
        greatest = self.greatest.get(place, -1)
        if ordered and message.sequence < greatest:
            self.misordered.append(message)
        self.greatest[place] = max(greatest, message.sequence)

    def forget(self) -> None:
        """Keeps only the greatest number of each key, to save memory."""
        for message in self.handled:
            place = (message.topic, message.key)
            self.old[place] = max(self.old.get(place, -1), message.sequence)
        self.handled.clear()


class Ledger:
    """The accounts of all handlers. May be used from several threads."""

    def __init__(self, record: Path, handlers: Collection[str]) -> None:
        self.accounts = {handler: Account() for handler in handlers}
        self.produced = 0
        self._next: dict[tuple[str, str], int] = defaultdict(int)
        self._aborted: set[Message] = set()
        self._record = record
        self._read_to = 0
        self._lock = threading.Lock()
        record.touch()

    # --- what is produced

    def number(self, topic: str, key: str) -> Message:
        """The next message of the key."""
        with self._lock:
            message = Message(topic, key, self._next[topic, key])
            self._next[topic, key] += 1
            return message

    def expect(self, message: Message) -> None:
        with self._lock:
            self.produced += 1
            for handler in handlers_of(message.topic):
                if handler in self.accounts and message not in self.accounts[handler].handled:
                    self.accounts[handler].pending.add(message)

    def forbid(self, messages: Iterable[Message]) -> None:
        """Notes that these messages were aborted: nobody may handle them."""
        with self._lock:
            self._aborted.update(messages)

    def sent_back(self, handler: str, messages: Iterable[Message]) -> None:
        """Notes that these dead letters were sent back, and must now be handled."""
        with self._lock:
            account = self.accounts[handler]
            again = [message for message in messages if message not in account.handled]
            account.pending.update(again)
            account.inexcusable.update(again)

    def excuse(self, topic: str, handlers: Collection[str] = ()) -> int:
        """No longer expects the messages of a topic that was deleted or trimmed; returns how many were outstanding."""
        excused = 0
        with self._lock:
            for handler in self.accounts.keys() & set(handlers or handlers_of(topic)):
                account = self.accounts[handler]
                gone = {message for message in account.pending if message.topic == topic}
                account.pending -= gone
                account.inexcusable -= gone
                excused += len(gone)
        return excused

    # --- what is seen

    def read_on(self) -> None:
        """Reads the lines that were added to the record."""
        with self._lock:
            with self._record.open("rb") as file:
                file.seek(self._read_to)
                new, newline, _ = file.read().rpartition(b"\n")
            self._read_to += len(new) + len(newline)
            for line in new.decode().splitlines():
                handler, topic, key, sequence, _ = line.split()
                self._note(handler, Message(topic.partition(".")[2], key, int(sequence)))

    def _note(self, handler: str, message: Message) -> None:
        account = self.accounts[handler]
        if message in self._aborted:
            account.forbidden.append(message)
        account.note(message, ordered=handler not in UNORDERED)

    def dead_letter(self, handler: str, message: Message) -> None:
        with self._lock:
            account = self.accounts[handler]
            if message not in account.inexcusable:
                account.pending.discard(message)

    def missing(self) -> dict[str, set[Message]]:
        """The messages that are still outstanding, by handler."""
        with self._lock:
            return {handler: set(account.pending) for handler, account in self.accounts.items() if account.pending}

    def has_handled(self, handler: str, message: Message) -> bool:
        """Whether the handler has handled the message since the last `forget`."""
        self.read_on()
        with self._lock:
            return message in self.accounts[handler].handled

    def forget(self) -> None:
        with self._lock:
            for account in self.accounts.values():
                account.forget()
