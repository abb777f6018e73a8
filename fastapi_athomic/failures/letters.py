"""A dead letter as it is read from its topic, and the message that a redrive makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..error_text import one_line
from ..messages import REDRIVES, MessageHeaders, OutgoingMessage, RawMessage, key_text
from .letter_headers import (
    DIGEST,
    GROUP,
    HANDLER,
    KEY_ADDED,
    LETTER_ID,
    LETTER_PLACE,
    OMITTED,
    ORIGIN,
    PREFIX,
    RETURNING,
    digest,
    read_earlier,
    read_moment,
    read_number,
)

LONGEST_COLUMN = 120
"""Characters of a key, for instance, in a line about a letter."""
LONGEST_MESSAGE = 600
"""Characters of what is wrong with a payload: at the end stands what to do about it. It is the last column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that could not be handled."""

    id: str  # the same however often the letter was written
    topic: str  # the DLQ topic, and the letter's place in it
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch: when it was written
    key: bytes | None
    value: bytes | None
    headers: MessageHeaders
    group_id: str | None
    handler_id: str | None
    original_topic: str | None
    original_partition: int | None
    original_offset: int | None
    error_type: str | None
    error_message: str | None
    error_stage: str | None
    attempts: int
    failed_at: datetime | None
    redrives: int  # how often it was sent back already
    omitted: tuple[str, ...] = ()  # of value, headers and key: what was too large for the DLQ; the source topic has it

    @property
    def first_topic(self) -> str | None:
        """Where the message was first published: not `original_topic` if that holds dead letters, and this is one."""
        earlier = read_earlier(self.headers)
        return earlier[0][0] if earlier else self.original_topic

    def is_of_type(self, error_type: str | None) -> bool:
        """It failed with this type of error; None: with any. `TimeoutError`, as logs and status say, is the builtin."""
        return error_type in (None, self.error_type) or self.error_type == f"builtins.{error_type}"

    def __repr__(self) -> str:  # neither payload nor key
        return f"<DeadLetter {self.topic}[{self.partition}]@{self.offset} {self.error_type}>"

    def __str__(self) -> str:
        """One line for people: place, time, stage, error and key, which may be personal data. Long texts are cut."""
        columns = (
            self.topic,
            f"{self.partition}/{self.offset}",
            self.failed_at.isoformat(timespec="seconds") if self.failed_at else "?",
            self.error_stage or "?",
            f"key={key_text(self.key)}" if self.key is not None else "no key",
            self.error_type or "?",
        )
        told = one_line(self.error_message or "", LONGEST_MESSAGE if self.error_stage == "decode" else LONGEST_COLUMN)
        return "  ".join(filter(None, (*(one_line(column, LONGEST_COLUMN) for column in columns), told)))


def read_letter(message: RawMessage) -> DeadLetter:
    """The dead letter in a message of a DLQ topic; fields that its headers lack are None.

    Letters of earlier versions have no id: it is made of their place and time.
    """
    headers = MessageHeaders(message.headers)
    return DeadLetter(
        id=headers.text(LETTER_ID) or f"{_place(message)}@{message.timestamp}",
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=message.timestamp,
        key=None if KEY_ADDED in headers else message.key,
        value=message.value,
        headers=headers,
        group_id=headers.text(GROUP),
        handler_id=headers.text(HANDLER),
        original_topic=headers.text(f"{PREFIX}original-topic"),
        original_partition=read_number(headers, f"{PREFIX}original-partition"),
        original_offset=read_number(headers, f"{PREFIX}original-offset"),
        error_type=headers.text(f"{PREFIX}error-type"),
        error_message=headers.text(f"{PREFIX}error-message"),
        error_stage=headers.text(f"{PREFIX}error-stage"),
        attempts=read_number(headers, f"{PREFIX}attempts") or 0,
        failed_at=read_moment(headers.text(f"{PREFIX}failed-at")),
        redrives=read_number(headers, REDRIVES) or 0,
        omitted=tuple(part for part, name in OMITTED.items() if name in headers),
    )


def _place(letter: DeadLetter | RawMessage) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


# --- sending back


def redriven(letter: DeadLetter, original: RawMessage | None, topic: str, partition: int | None) -> OutgoingMessage:
    """The message that a redrive writes to the redrive topic: the original, and headers that say where it was first.

    `original`: the message from the source topic, for a letter with parts left out.
    """
    whole: DeadLetter | RawMessage = original if original is not None else letter
    headers = original.headers if original is not None else letter.headers.raw
    foreign = (header for header in headers if not header[0].startswith(PREFIX))
    ours = (header for header in letter.headers.raw if header[0] in RETURNING)
    added = (
        (REDRIVES, b"%d" % (letter.redrives + 1)),
        (LETTER_ID, letter.id.encode()),
        (LETTER_PLACE, _place(letter).encode()),
    )
    return OutgoingMessage(topic, whole.key, whole.value, (*foreign, *ours, *added), partition)


def is_original(message: RawMessage, letter: DeadLetter) -> bool:
    """The letter was made of this message. (If the topic was recreated, another message may be at the same offset.)"""
    return (
        message.offset == letter.original_offset
        and str(message.timestamp) == letter.headers.text(f"{PREFIX}original-timestamp")
        and digest(message) == letter.headers.text(DIGEST)
    )


class SentBack:
    """The letters that a redrive topic has already: a redrive that broke off must not send them twice.

    Earlier versions wrote only the letter's place into the message, and after the DLQ topic was recreated, another
    letter has that place. So such a message counts only if it has the letter's origin, was redriven as often as the
    letter would be now, and is not older than the letter.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._places: dict[str, list[tuple[tuple[str | None, ...], int]]] = {}

    def note(self, message: RawMessage) -> None:
        """Takes in one message of the redrive topic."""
        headers = MessageHeaders(message.headers)
        if (letter_id := headers.text(LETTER_ID)) is not None:
            self._ids.add(letter_id)
        elif (place := headers.text(LETTER_PLACE)) is not None:
            history = (*map(headers.text, ORIGIN), headers.text(REDRIVES))
            self._places.setdefault(place, []).append((history, message.timestamp))

    def add(self, letter: DeadLetter) -> None:
        """This letter was sent just now."""
        self._ids.add(letter.id)

    def __contains__(self, letter: DeadLetter) -> bool:
        if letter.id in self._ids:
            return True
        history = (*map(letter.headers.text, ORIGIN), str(letter.redrives + 1))
        return any(
            history == known and letter.timestamp <= timestamp
            for known, timestamp in self._places.get(_place(letter), ())
        )
