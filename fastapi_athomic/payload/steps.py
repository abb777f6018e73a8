"""What a payload pipeline is made of: serializers, and steps that work on the bytes.

Base classes for those of this package, and for users' own that need more than `encode(data)` and `decode(data)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, Literal, Protocol, TypeVar, final

from ..messages import Headers

T = TypeVar("T")

Part = Literal["value", "key"]
"""Of a message."""
Kind = Literal["compression", "encryption", "storage", "other"]
"""What a step is for: pipelines refuse orders that make no sense."""


@final
class Later(Generic[T]):
    """A result that must be waited for: a schema to be fetched, a payload that is worked on in a thread.

    Each `await` tries afresh, so one that failed can be awaited again.
    """

    __slots__ = ("_result",)

    def __init__(self, result: Callable[[], Awaitable[T]]) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, T]:
        return self._result().__await__()


class Received(Protocol):
    """What is known of a message that is read. `RawMessage` fits, and so does `Incoming`."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Incoming:
    """A message, or its key, on its way through a pipeline.

    Args:
        topic: where it was first published, also if it came back through a retry or redrive topic.
        key: of the message.
        value: as it came, and for the serializer what the steps made of it; of a key: the key.
        headers: of the message.
    """

    __slots__ = ("headers", "key", "topic", "value")

    def __init__(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self.topic = topic
        self.key = key
        self.value = value
        self.headers = headers


class Outgoing:
    """What travels with a message that is written."""

    __slots__ = ("headers", "key", "part", "topic")

    def __init__(self, topic: str, key: bytes | None = None, headers: Headers = (), part: Part = "value") -> None:
        self.topic = topic
        self.key = key
        self.headers = headers
        self.part = part

    def add(self, name: str, value: bytes) -> None:
        """Adds a header, unless the caller has given one of that name."""
        for known, _ in self.headers:
            if known == name:
                return
        self.headers = (*self.headers, (name, value))


Decoder = Callable[[Received], Any]
"""Bytes become the value that a handler gets: the value itself, or a `Later` of it."""


def header(message: Received, name: str) -> bytes | None:
    """The value of a header; of several the last, as with `MessageHeaders`. None: there is none, or it is null."""
    found = None
    for known, value in message.headers:
        if known == name:
            found = value
    return found


class Serializer(ABC):
    """Turns values into bytes and back: the first step of a pipeline when it writes, and the last when it reads.

    Both directions may give a `Later` if `waits` is set. They raise `PayloadEncodeError` and `PayloadDecodeError` with
    the name of the step and the path of the field, never with a value; and `PayloadUnavailableError` if the message is
    not to blame, as something that is needed cannot be reached.
    """

    name: str
    """Names the step in errors."""
    content_type: str | None = None
    """A media type (RFC 6838), for the header `content-type`."""
    waits: bool = False
    takes_keys: bool = True
    """Whether keys can be written by it. If not, a pipeline with it as `key` is refused."""

    @abstractmethod
    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        """The bytes of a message. None stays None, a null value (a tombstone)."""

    @abstractmethod
    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        """A function from messages to values of the type. The message's `value` is null for a tombstone.

        Raises:
            ConfigurationError: this serializer can never give this type.
        """

    def recognizes(self, message: Received) -> bool:
        """Whether the message was probably written by such a serializer. Asked if a pipeline reads several formats."""
        return self.content_type is not None and media_type(message) == self.content_type

    async def open(self) -> None:  # noqa: B027 - most need neither
        """Called in the event loop of the consumers, before anything is read or written there.

        Once in each event loop, however many apps and pipelines share this object. If it fails, the app starts all the
        same and the failure is logged: what is needed then is tried again when a message needs it. It is not called
        for a pipeline that is used without an app.
        """

    async def close(self) -> None:  # noqa: B027
        """Called in that event loop when the last app that uses this object there stops."""


class BytesStep(ABC):
    """Something done to the bytes, such as compression or encryption.

    `required`: messages without it are refused, whatever their headers say; else a message may come without it.
    `writes`: it is done to what is published; else it is only undone in what is read (for rolling changes).
    """

    name: str
    """Names the step in errors, and in the header `content-encoding`."""
    kind: Kind = "other"
    waits: bool = False
    required: bool = True
    writes: bool = True

    @abstractmethod
    def encode(self, data: bytes, outgoing: Outgoing) -> bytes | Later[bytes]:
        """Called when a message is published.

        A step that is not required may leave a message as it is, such as a small one that need not be compressed. Then
        it returns the very object `data`, and is not named in `content-encoding`.
        """

    @abstractmethod
    def decode(self, data: bytes, incoming: Incoming) -> bytes | Later[bytes]:
        """Undoes `encode`. What it raises makes a dead letter, but for `PayloadUnavailableError`."""

    def recognizes(self, data: bytes) -> bool:
        """Whether the bytes look as if this step made them. Asked if it is not required, and no header tells."""
        return False

    async def open(self) -> None:  # noqa: B027 - most need neither
        """As `Serializer.open`."""

    async def close(self) -> None:  # noqa: B027
        """As `Serializer.close`."""


def media_type(message: Received) -> str | None:
    """The media type in the header `content-type`, in lower case and without parameters; None: there is none.

    The name of the header may have capital letters.
    """
    value = None
    for name, text in message.headers:
        if len(name) == len(CONTENT_TYPE) and name.lower() == CONTENT_TYPE:
            value = text
    return None if value is None else value.decode("ascii", "replace").partition(";")[0].strip().lower()


CONTENT_TYPE = "content-type"
CONTENT_ENCODING = "content-encoding"
"""Headers with the meaning that they have in HTTP (RFC 9110, 8.3 and 8.4): the encodings stand in the order in which
they were applied."""
