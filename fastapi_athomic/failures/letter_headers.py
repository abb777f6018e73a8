"""The headers of dead letters and of messages in retry topics: their names, and how they are made of a failure.

docs/dead-letters.md lists them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256

from ..messages import FAILURE_TRACE, Headers, MessageHeaders, RawMessage
from ..outcomes import FailureContext
from ..settings import AthomicSettings

PREFIX = "athomic-"
DUE, STAGE = f"{PREFIX}retry-due", f"{PREFIX}retry-stage"
WRITTEN_TO = f"{PREFIX}written-to"
"""Header of a message in a DLQ or retry topic: the topic it was written to. Copies elsewhere are no dead letters."""

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

ORIGIN = tuple(f"{PREFIX}original-{name}" for name in ("topic", "partition", "offset", "timestamp"))
OMITTED: Mapping[str, str] = {part: f"{PREFIX}{part}-omitted" for part in ("value", "headers", "key")}
"""Header that says how many bytes of a part were left out."""
RETURNING = frozenset((FAILURE_TRACE, *ORIGIN))
"""Headers of ours that a redriven message takes along."""
OF_ONE_WAY = frozenset((DUE, STAGE, LETTER_PLACE, KEY_ADDED, DIGEST, *OMITTED.values()))
"""Headers of ours that say nothing any more once the message has failed again."""


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
        "first-failed-at": moment_text(failure.first_failed_at),
        "failed-at": moment_text(failure.failed_at),
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


def moment_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def digest(message: RawMessage) -> str:
    """Tells whether a message is the one that a dead letter was made of."""
    parts = (b"-" if part is None else b"%d:%s" % (len(part), part) for part in (message.key, message.value))
    return sha256(b"".join(parts)).hexdigest()


def read_number(headers: MessageHeaders, name: str) -> int | None:
    text = headers.text(name)
    return int(text) if text is not None and len(text) < 20 and text.isdecimal() else None


def read_moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
