"""The headers of messages, as schemas: what every message may have, and what those in our own topics have besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..failures.letter_headers import (
    DIGEST,
    DUE,
    EARLIER,
    GROUP,
    HANDLER,
    KEY_ADDED,
    LETTER_ID,
    LETTER_PLACE,
    OMITTED,
    ORIGIN,
    PREFIX,
    STAGE,
    WRITTEN_TO,
)
from ..propagation.context import EXTRA_PREFIX, FIELD_OF_HEADER
from ..propagation.lineage import PARENT, ROOT, RUN
from .schemas import REFERENCE

COMMON, OF_LETTERS, OF_RETRIES, OF_REDRIVES = (
    f"athomic.{name}" for name in ("Headers", "DeadLetterHeaders", "RetryHeaders", "RedriveHeaders")
)
"""Names among the schemas. A class has no dot in its name."""

_ORIGINS = {
    ORIGIN[0]: "the topic that the message was first in",
    ORIGIN[1]: "its partition there",
    ORIGIN[2]: "its offset there",
    ORIGIN[3]: "its timestamp there, in milliseconds since the epoch",
}
_FAILED = {
    f"{PREFIX}attempts": "how often it was tried",
    f"{PREFIX}first-failed-at": "when it failed first (ISO 8601, UTC)",
    EARLIER: "where it failed before, as JSON, if it came from another dead letter",
}
_LETTER = {
    LETTER_ID: "the id of the dead letter",
    GROUP: "the group that failed",
    HANDLER: "the handler that failed",
    f"{PREFIX}error-type": "the type of the exception",
    f"{PREFIX}error-message": "what it said, shortened",
    f"{PREFIX}error-stage": "where it failed: headers, decode, handler or timeout",
    f"{PREFIX}failed-at": "when it failed last (ISO 8601, UTC)",
    WRITTEN_TO: "the topic that it was written to",
    KEY_ADDED: "the key is the letter's id, as a compacted topic needs one",
    DIGEST: "SHA-256 of key and value, where a part was left out",
    **{name: f"how many bytes the {part} had that was left out" for part, name in OMITTED.items()},
}


def header_schemas(*, lineage: bool) -> dict[str, Any]:
    """The schemas by their names. `lineage`: OpenLineage's headers are written."""
    common = {
        "traceparent": "the producer's span (W3C Trace Context)",
        "tracestate": "what vendors add to it",
        **{name: f"the field {field} of the execution context" for name, field in FIELD_OF_HEADER.items()},
    }
    if lineage:
        common |= {RUN: "the producing run", PARENT: "its parent", ROOT: "the root of its chain"}
    return {
        COMMON: {
            **described(common),
            "description": f"None of them is required. {EXTRA_PREFIX}<name> carries fields of the app's own.",
        },
        OF_LETTERS: described(_ORIGINS | _LETTER | _FAILED),
        OF_RETRIES: described(
            {DUE: "when it is tried again, in milliseconds since the epoch", STAGE: "which retry topic this is, from 1"}
        ),
        OF_REDRIVES: described(
            _ORIGINS | {LETTER_PLACE: "the place of its dead letter", LETTER_ID: _LETTER[LETTER_ID]}
        ),
    }


def described(headers: Mapping[str, str]) -> dict[str, Any]:
    """A schema of headers, each text in UTF-8, by what they mean."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": meaning} for name, meaning in headers.items()},
    }


def headers_of(*names: str, more: Mapping[str, str]) -> dict[str, Any]:
    """What a message has: the headers of these schemas, and `more` by what they mean."""
    parts = [{"$ref": REFERENCE.format(model=name)} for name in names]
    own = [described(more)] if more else []
    return parts[0] if len(parts) + len(own) == 1 else {"allOf": [*parts, *own]}
