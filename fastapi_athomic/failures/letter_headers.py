"""The headers of dead letters, of messages in retry and redrive topics, and of markers: their names and their values.

docs/dead-letters.md lists them.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256

from ..error_text import presentable, text_of
from ..messages import FAILURE_TRACE, Headers, MessageHeaders, RawMessage
from ..outcomes import FailureContext
from ..settings import AthomicSettings

PREFIX = "athomic-"
DUE, STAGE = f"{PREFIX}retry-due", f"{PREFIX}retry-stage"
"""Of a message in a retry topic: when it is due, in milliseconds since the epoch; the stage, 1 in the first."""
WRITTEN_TO = f"{PREFIX}written-to"
"""Of a message in a DLQ or retry topic: the topic it was written to. A copy in another topic is no dead letter."""

MAX_ERROR_LENGTH, MAX_BRIEF_ERROR_LENGTH = 1_000, 100
"""Characters of the error message in a dead letter, and in one that had to be made smaller."""
MAX_TRACEBACK_LENGTH = 8_000
"""Characters: the end of the traceback is kept."""

LETTER_ID = f"{PREFIX}letter-id"
LETTER_PLACE = f"{PREFIX}dead-letter"
"""Of a redriven message: the place of its dead letter. Earlier versions recognize it by that."""
GROUP, HANDLER = f"{PREFIX}consumer-group", f"{PREFIX}handler"
KEY_ADDED = f"{PREFIX}key-added"
"""Of a dead letter that got its id as a key, since a compacted topic refuses messages without one."""
DIGEST = f"{PREFIX}original-digest"
"""Of a dead letter with a part left out: SHA-256 of the original's key and value, in hexadecimal."""
RESOLUTION, RESOLVED_IDS, RESOLVED_OFFSETS, REASON, RESOLVED_AT = (
    f"{PREFIX}{name}" for name in ("resolution", "resolved-ids", "resolved-offsets", "resolution-reason", "resolved-at")
)
"""Of a marker."""

ORIGIN = tuple(f"{PREFIX}original-{name}" for name in ("topic", "partition", "offset", "timestamp"))
OMITTED: Mapping[str, str] = {part: f"{PREFIX}{part}-omitted" for part in ("value", "headers", "key")}
"""By the part that was left out: the header that says how many bytes it had."""
EARLIER = f"{PREFIX}earlier-failures"
"""Of what became of a dead letter, as its own handler failed: the topics and groups where it failed before, as JSON."""
RETURNING = frozenset((FAILURE_TRACE, EARLIER, *ORIGIN))
"""Those of our headers that a redrive copies from the dead letter."""
OF_ONE_WAY = frozenset((DUE, STAGE, LETTER_PLACE, KEY_ADDED, DIGEST, *OMITTED.values()))
"""Those of our headers that are dropped when the message fails again: they describe only the previous delivery."""


def dead_letter_headers(failure: FailureContext, settings: AthomicSettings, *, brief: bool = False) -> Headers:
    """The headers that say where a dead letter comes from and why, in UTF-8; times in ISO 8601, UTC.

    `brief`: a short error message, no traceback, no headers in the spelling of other frameworks.
    """
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
        "error-message": text_of(error, exposed=settings.expose_error_messages)[:length],
        "error-stage": failure.stage.value,
        "attempts": str(failure.attempt),
        "first-failed-at": moment_text(failure.first_failed_at),
        "failed-at": moment_text(failure.failed_at),
    }
    if settings.dlq_traceback and not brief:
        shown = presentable(error, exposed=settings.expose_error_messages)
        values["error-traceback"] = "".join(traceback.format_exception(shown))[-MAX_TRACEBACK_LENGTH:]
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
"""By the names in the setting `dlq_header_spellings`."""


def _type_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def moment_text(seconds: float) -> str:
    """Seconds since the epoch in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def earlier_headers(failures: Sequence[tuple[str, str]]) -> Headers:
    """`EARLIER`, for failures as `read_earlier` gives them; empty if there are none."""
    return ((EARLIER, json.dumps(failures).encode()),) if failures else ()


def read_earlier(headers: MessageHeaders) -> list[tuple[str, str]]:
    """Topics and groups where a message failed before it was a message of the topic that it is of now, the first first.

    Empty if the header is missing or holds something else: anybody can write to these topics.
    """
    text = headers.text(EARLIER)
    if text is None:
        return []
    try:
        return [(str(topic), str(group)) for topic, group in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        return []


def digest(message: RawMessage) -> str:
    """The value of `DIGEST`: equal for the message that the dead letter was made of."""
    parts = (b"-" if part is None else b"%d:%s" % (len(part), part) for part in (message.key, message.value))
    return sha256(b"".join(parts)).hexdigest()


def read_number(headers: MessageHeaders, name: str) -> int | None:
    """None if the header is missing or holds no number: anybody can write to these topics."""
    text = headers.text(name)
    return int(text) if text is not None and len(text) < 20 and text.isdecimal() else None


def read_moment(text: str | None) -> datetime | None:
    """None if there is no text, or no time in it."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
