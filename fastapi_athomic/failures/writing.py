"""How a failed message is written to its DLQ or retry topic: as it is, or in the first form that the topic takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..messages import REDRIVES, Headers, MessageHeaders, OutgoingMessage, RawMessage
from ..outcomes import FailureContext
from ..settings import AthomicSettings
from .letter_headers import DIGEST, KEY_ADDED, OF_ONE_WAY, OMITTED, dead_letter_headers, digest, read_number


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
    count = read_number(MessageHeaders(message.headers), REDRIVES)
    return ((REDRIVES, b"%d" % count),) if count is not None else ()


def _sizes(message: RawMessage) -> dict[str, int]:
    """Bytes of the parts that can be left out."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return {"value": len(message.value or b""), "headers": headers, "key": len(message.key or b"")}
