"""How a dead letter looks on its topic: its headers, what may be left out of it, and the marker that settles it.

docs/dead-letters.md lists the headers.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from math import inf
from uuid import uuid4

from ..messages import FAILURE_TRACE, REDRIVES, Headers, MessageHeaders, OutgoingMessage, RawMessage
from ..outcomes import FailureContext
from ..settings import AthomicSettings
from .redelivery import DUE, PREFIX, STAGE

MAX_ERROR_LENGTH, MAX_BRIEF_ERROR_LENGTH = 1_000, 100
"""Characters of an error message that a dead letter carries, and that a shortened one does."""
MAX_TRACEBACK_LENGTH = 8_000

LETTER_ID = f"{PREFIX}letter-id"
LETTER_PLACE = f"{PREFIX}dead-letter"
"""Header of a redriven message: where its dead letter stood. By it earlier versions knew it."""
GROUP, HANDLER = f"{PREFIX}consumer-group", f"{PREFIX}handler"
KEY_ADDED = f"{PREFIX}key-added"
"""Header of a dead letter whose key is its id: a compacted topic takes none without a key."""
DIGEST = f"{PREFIX}original-digest"
"""Header of a dead letter of which something was left out: SHA-256 of key and value, in hexadecimal."""
RESOLUTION, RESOLVED_IDS, RESOLVED_OFFSETS, REASON, RESOLVED_AT = (
    f"{PREFIX}{name}" for name in ("resolution", "resolved-ids", "resolved-offsets", "resolution-reason", "resolved-at")
)
MAX_OFFSETS = 1_000
"""Of one range in a marker: many times what is ever settled by one."""

ORIGIN = tuple(f"{PREFIX}original-{name}" for name in ("topic", "partition", "offset", "timestamp"))
OMITTED: Mapping[str, str] = {part: f"{PREFIX}{part}-omitted" for part in ("value", "headers", "key")}
"""Header that says how many bytes of a part were left out."""
RETURNING = frozenset((FAILURE_TRACE, *ORIGIN))
"""Headers of ours that a redriven message takes along."""
OF_ONE_WAY = frozenset((DUE, STAGE, LETTER_PLACE, KEY_ADDED, DIGEST, *OMITTED.values()))
"""Headers of ours that say nothing any more once the message has failed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A dead letter, or a message for a retry topic, on its way; and what has to be left out for the topic to take it.

    A dead letter is the original, byte for byte, with the headers of `dead_letter_headers` appended.
    """

    failure: FailureContext
    settings: AthomicSettings
    topic: str
    partition: int | None
    added: Headers = ()  # beside those of every dead letter
    brief: bool = False  # the error in few words, our headers in our own spelling only
    omitted: tuple[str, ...] = ()  # of `OMITTED`
    with_key: bool = False  # the letter's id stands in for a key that is missing

    def message(self) -> OutgoingMessage:
        original = self.failure.message
        added = (*dead_letter_headers(self.failure, self.settings, brief=self.brief), *self.added, *self._notes())
        replaced = OF_ONE_WAY.union(name for name, _ in added)
        kept = _redrives(original) if "headers" in self.omitted else original.headers
        kept = tuple(header for header in kept if header[0] not in replaced)
        key = None if "key" in self.omitted else original.key
        if self.with_key:
            key = self.failure.letter_id.encode()
        value = b"" if "value" in self.omitted else original.value
        return OutgoingMessage(self.topic, key, value, (*kept, *added), self.partition)

    def _notes(self) -> Headers:
        notes: Headers = ((KEY_ADDED, b"1"),) if self.with_key else ()
        if self.omitted:
            notes += ((DIGEST, digest(self.failure.message).encode()),)
        sizes = _sizes(self.failure.message)
        return (*notes, *((OMITTED[part], b"%d" % sizes[part]) for part in self.omitted))

    def smaller(self) -> Draft | None:
        """First with short errors, then without the largest of value, headers and key that is left.

        None: nothing is left to be left out.
        """
        if not self.brief:
            return replace(self, brief=True)
        sizes = _sizes(self.failure.message)
        left = [part for part in sizes if sizes[part] and part not in self.omitted]
        return replace(self, omitted=(*self.omitted, max(left, key=sizes.__getitem__))) if left else None

    def keyed(self) -> Draft | None:
        """With a key; None: it has one."""
        return None if self.with_key or self.message().key is not None else replace(self, with_key=True)


def _redrives(message: RawMessage) -> Headers:
    """The one header without which a dead letter would come back for ever."""
    count = _number(MessageHeaders(message.headers), REDRIVES)
    return ((REDRIVES, b"%d" % count),) if count is not None else ()


def _sizes(message: RawMessage) -> dict[str, int]:
    """Bytes of the parts that can be left out."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return {"value": len(message.value or b""), "headers": headers, "key": len(message.key or b"")}


def digest(message: RawMessage) -> str:
    """Tells whether a message is the one that a dead letter was made of."""
    parts = (b"-" if part is None else b"%d:%s" % (len(part), part) for part in (message.key, message.value))
    return sha256(b"".join(parts)).hexdigest()


# --- headers


def dead_letter_headers(failure: FailureContext, settings: AthomicSettings, *, brief: bool = False) -> Headers:
    """The headers that tell where a dead letter comes from and why, in UTF-8; times in ISO 8601, UTC."""
    origin, error = failure.origin, failure.error
    length = MAX_BRIEF_ERROR_LENGTH if brief else MAX_ERROR_LENGTH
    values = {
        "letter-id": failure.letter_id,
        "original-topic": origin.topic,
        "original-partition": str(origin.partition),
        "original-offset": str(origin.offset),
        "original-timestamp": str(origin.timestamp),
        "consumer-group": failure.group_id,
        "handler": failure.handler_id,
        "error-type": _type_name(error),
        "error-message": _text(error)[:length] if settings.expose_error_messages else "",
        "error-stage": failure.stage.value,
        "attempts": str(failure.attempt),
        "first-failed-at": _time(failure.first_failed_at),
        "failed-at": _time(failure.failed_at),
    }
    if settings.dlq_traceback and not brief:
        values["error-traceback"] = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_LENGTH:]
    own: Headers = tuple((PREFIX + name, value.encode("utf-8", "replace")) for name, value in values.items())
    for spelling in settings.dlq_header_spellings if not brief else ():
        own += FOREIGN_SPELLINGS[spelling](failure, values["error-message"])
    return own


def _spring(failure: FailureContext, error_message: str) -> Headers:
    """As Spring Kafka's `DeadLetterPublishingRecoverer` writes them; numbers are big-endian."""
    origin = failure.origin
    return (
        ("kafka_dlt-original-topic", origin.topic.encode()),
        ("kafka_dlt-original-partition", origin.partition.to_bytes(4, "big")),
        ("kafka_dlt-original-offset", origin.offset.to_bytes(8, "big")),
        ("kafka_dlt-original-timestamp", origin.timestamp.to_bytes(8, "big", signed=True)),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        ("kafka_dlt-original-consumer-group", failure.group_id.encode()),
        ("kafka_dlt-exception-fqcn", _type_name(failure.error).encode()),
        ("kafka_dlt-exception-message", error_message.encode("utf-8", "replace")),
    )


def _smallrye(failure: FailureContext, error_message: str) -> Headers:
    """As SmallRye Reactive Messaging writes them."""
    origin = failure.origin
    return (
        ("dead-letter-topic", origin.topic.encode()),
        ("dead-letter-partition", str(origin.partition).encode()),
        ("dead-letter-offset", str(origin.offset).encode()),
        ("dead-letter-reason", error_message.encode("utf-8", "replace")),
        ("dead-letter-exception-class-name", _type_name(failure.error).encode()),
    )


FOREIGN_SPELLINGS: Mapping[str, Callable[[FailureContext, str], Headers]] = {"spring": _spring, "smallrye": _smallrye}


def _type_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a user's __str__ may fail, its message must not be lost for that
        return ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


# --- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that could not be handled."""

    id: str  # stays the same however often the letter had to be written
    topic: str  # the DLQ topic, and the place in it
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
    omitted: tuple[str, ...] = ()  # of value, headers and key: what was too large, and is in the source topic only

    def __repr__(self) -> str:  # neither payload nor key
        return f"<DeadLetter {self.topic}[{self.partition}]@{self.offset} {self.error_type}>"


def is_marker(message: RawMessage) -> bool:
    """It settles letters, and is none: a letter of a marker has an origin."""
    names = {name for name, _ in message.headers}
    return RESOLUTION in names and ORIGIN[0] not in names


def read_letter(message: RawMessage) -> DeadLetter:
    """Earlier versions gave their letters no id: they are known by place and time."""
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
        original_partition=_number(headers, f"{PREFIX}original-partition"),
        original_offset=_number(headers, f"{PREFIX}original-offset"),
        error_type=headers.text(f"{PREFIX}error-type"),
        error_message=headers.text(f"{PREFIX}error-message"),
        error_stage=headers.text(f"{PREFIX}error-stage"),
        attempts=_number(headers, f"{PREFIX}attempts") or 0,
        failed_at=_moment(headers.text(f"{PREFIX}failed-at")),
        redrives=_number(headers, REDRIVES) or 0,
        omitted=tuple(part for part, name in OMITTED.items() if name in headers),
    )


def _place(letter: DeadLetter | RawMessage) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def _number(headers: MessageHeaders, name: str) -> int | None:
    text = headers.text(name)
    return int(text) if text is not None and len(text) < 20 and text.isdecimal() else None


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


# --- settling


def marker(topic: str, letters: Sequence[DeadLetter], resolution: str, reason: str, at: float) -> OutgoingMessage:
    """Says that these letters, all of one partition, are settled. `at`: seconds since the epoch.

    Its key is its own, so that a compacted topic takes it and keeps it.
    """
    headers = (
        (RESOLUTION, resolution.encode()),
        (RESOLVED_IDS, ",".join(letter.id for letter in letters).encode()),
        (RESOLVED_OFFSETS, encode_offsets(letter.offset for letter in letters).encode()),  # for earlier versions
        (REASON, reason.encode()),
        (RESOLVED_AT, _time(at).encode()),
    )
    return OutgoingMessage(topic, f"{PREFIX}marker-{uuid4().hex}".encode(), b"", headers, letters[0].partition)


class Settled:
    """What the markers of a partition say."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._offsets: set[int] = set()

    def note(self, message: RawMessage) -> None:
        """Offsets count where an earlier version wrote the marker: they are those of letters that stand before it."""
        if not is_marker(message):
            return
        headers = MessageHeaders(message.headers)
        if RESOLVED_IDS in headers:
            self._ids.update((headers.text(RESOLVED_IDS) or "").split(","))
        else:
            offsets = decode_offsets(headers.text(RESOLVED_OFFSETS) or "")
            self._offsets.update(offset for offset in offsets if offset < message.offset)

    def __contains__(self, letter: DeadLetter) -> bool:
        return letter.id in self._ids or letter.offset in self._offsets


def encode_offsets(offsets: Iterable[int]) -> str:
    """`[1, 2, 3, 7]` as `1-3,7`."""
    ordered = sorted(set(offsets))
    starts = [b for a, b in pairwise([-inf, *ordered]) if b != a + 1]
    ends = [a for a, b in pairwise([*ordered, inf]) if b != a + 1]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def decode_offsets(text: str) -> set[int]:
    """The reverse; nothing where it makes no sense."""
    found: set[int] = set()
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), min(int(last or first), int(first) + MAX_OFFSETS) + 1))
    except ValueError:
        return set()
    return found


# --- sending back


def redriven(letter: DeadLetter, original: RawMessage | None, topic: str, partition: int | None) -> OutgoingMessage:
    """The original message, and where it was first. `original`: the message in its source, if the letter has gaps."""
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
    """The message is the one that the letter was made of, not another that has its place now."""
    return (
        message.offset == letter.original_offset
        and str(message.timestamp) == letter.headers.text(f"{PREFIX}original-timestamp")
        and digest(message) == letter.headers.text(DIGEST)
    )


class SentBack:
    """What is in a redrive topic.

    Earlier versions noted the letter's place only, which another letter has when a DLQ topic was made anew. Its
    message counts if it is of the same origin, was sent back as often, and came after the letter.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._places: dict[str, list[tuple[tuple[str | None, ...], int]]] = {}

    def note(self, message: RawMessage) -> None:
        headers = MessageHeaders(message.headers)
        if (letter_id := headers.text(LETTER_ID)) is not None:
            self._ids.add(letter_id)
        elif (place := headers.text(LETTER_PLACE)) is not None:
            history = (*map(headers.text, ORIGIN), headers.text(REDRIVES))
            self._places.setdefault(place, []).append((history, message.timestamp))

    def add(self, letter: DeadLetter) -> None:
        self._ids.add(letter.id)

    def __contains__(self, letter: DeadLetter) -> bool:
        if letter.id in self._ids:
            return True
        history = (*map(letter.headers.text, ORIGIN), str(letter.redrives + 1))
        return any(
            history == known and letter.timestamp <= timestamp
            for known, timestamp in self._places.get(_place(letter), ())
        )
