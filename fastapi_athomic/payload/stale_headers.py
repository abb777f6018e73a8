"""Headers that say how another message was written: the one that a published one was made from.

Who passes a message on with all of its headers, but with another value, would give a wrong name to its format.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import Headers
from .reading import KNOWN_TYPES
from .steps import CONTENT_ENCODING, CONTENT_TYPE, Incoming, Serializer, media_type

SCHEMA_ID = "__value_schema_id"
"""Where Confluent's serializers say the schema of a value. Ours add it after the stale one is gone."""
STALE = frozenset((CONTENT_ENCODING, CONTENT_TYPE, SCHEMA_ID))
"""What may be of another message."""
_FORMATS = {kind: name for kind, name in KNOWN_TYPES.items() if name != "cloudevents"} | {"application/json": "json"}
"""Serializers by what they say of themselves. A CloudEvent may be written by hand, as JSON."""


class StaleHeaders:
    """Tells them from those that are true of what a serializer writes.

    Args:
        serializer: of the pipeline. A user's own one that says no content type may need what the caller gives.
        reads: other serializers of the pipeline.
    """

    def __init__(self, serializer: Serializer, reads: Sequence[Serializer]) -> None:
        self._own, self._name = serializer.content_type, serializer.name
        self._of_reads = {each.content_type for each in reads if each.content_type is not None}
        self._has_envelope = hasattr(serializer, "readers")

    def without(self, headers: Headers) -> Headers:
        """The other headers."""
        return tuple(each for each in headers if each[0] not in STALE or not self._is_stale(*each))

    def _is_stale(self, name: str, value: bytes | None) -> bool:
        if name == CONTENT_TYPE:
            kind = media_type(Incoming("", None, None, ((name, value),)))
            if kind is None or kind == self._own:
                return False
            return kind in self._of_reads or (self._own is not None and _FORMATS.get(kind, self._name) != self._name)
        return name == CONTENT_ENCODING or self._own is not None or self._has_envelope
