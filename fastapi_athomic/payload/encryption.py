"""Encryption of payloads: AES-256-GCM with key ids, and Fernet.

Keys, topics and headers stay readable. docs/encryption.md says what is protected and how keys are exchanged.
"""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from os import urandom
from typing import Any, Generic, NamedTuple, TypeVar

from ..checks import BOOLEAN, COUNT, NAME, Check, first_problem, or_none
from ..exceptions import ConfigurationError, PayloadDecodeError
from ..extras import needed
from .keys import Key, KeyRing, Keys
from .off_loop import threads
from .steps import BytesStep, Incoming, Later, Outgoing, Part, header

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAGIC = b"\xffAG"
"""A frame of `AesGcm` begins with it. No UTF-8 text does."""
VERSION = 1
KEY_BOUND = 0x01
"""A flag: the message's key is part of the associated data."""
NONCE_BYTES, TAG_BYTES = 12, 16
MESSAGES_OF_ONE_KEY = 2**32
"""With random nonces of 96 bits, one key may encrypt so many messages (NIST SP 800-38D, 8.3)."""

_FLAGS_AT, _ID_AT = 4, 6  # the id's length stands before it
_COPIED = 16 * 1024
"""Bytes up to which copying takes less time than a view does."""
_FERNET_BEGIN = b"gAAAA"  # its version, and four bytes of the time that are 0 until the year 2106
_FERNET_LEAST = 100
KEY_ADDED = "athomic-key-added"
"""A header: the message had no key, and got one since its retry topic or DLQ is compacted."""


class _Encryption(BytesStep, Generic[T]):
    """What encryptions have in common: keys that may be exchanged, and work in threads.

    `T` is what works with the keys of a moment.
    """

    kind = "encryption"

    def __init__(self, keys: Keys, *, required: bool, writes: bool, off_loop_above: int | None) -> None:
        self.required, self.writes, self.off_loop_above = required, writes, off_loop_above
        self._check({"required": BOOLEAN, "writes": BOOLEAN, "off_loop_above": or_none(COUNT, "never")})
        self._ring: KeyRing[T] = KeyRing(keys, self._with, type(self).__name__)
        self._here = sys.maxsize if off_loop_above is None else off_loop_above
        """Payloads of so many bytes are worked on at once, and larger ones in a thread."""
        self.waits = off_loop_above is not None or self._ring.may_change

    def _check(self, checks: Mapping[str, Check]) -> None:
        if (problem := first_problem(self, checks)) is not None:
            raise ConfigurationError(f"{type(self).__name__}: {problem}")

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes | Later[bytes]:
        tool = self._ring.current()
        if len(data) > self._here:
            return threads.later(partial(self._encrypt, tool, data, outgoing))
        return self._encrypt(tool, data, outgoing)

    def decode(self, data: bytes, incoming: Incoming) -> bytes | Later[bytes]:
        tool = self._ring.current()
        if len(data) > self._here:
            return Later(partial(self._decode_later, tool, data, incoming))
        found = self._decrypt(tool, data, incoming)
        if isinstance(found, bytes):
            return found
        if self._ring.may_change and self._may_be_of_another_key(tool, data):
            return Later(partial(self._decode_with_newer, tool, data, incoming, found))
        raise self._failure(found)

    async def _decode_later(self, tool: T, data: bytes, incoming: Incoming) -> bytes:
        found = await threads.later(partial(self._decrypt, tool, data, incoming))
        if isinstance(found, bytes):
            return found
        if self._may_be_of_another_key(tool, data):
            return await self._decode_with_newer(tool, data, incoming, found)
        raise self._failure(found)

    async def _decode_with_newer(self, known: T, data: bytes, incoming: Incoming, problem: str) -> bytes:
        tool = await self._ring.newer(known)
        if tool is not None:
            found = await threads.later(partial(self._decrypt, tool, data, incoming))
            if isinstance(found, bytes):
                return found
            problem = found
        raise self._failure(problem)

    def _demand(self) -> str:
        """What follows on "is not encrypted": the option that lets plain messages in, too."""
        return ", and must be: the step has required=True" if self.required else ""

    def _failure(self, problem: str) -> PayloadDecodeError:
        return PayloadDecodeError(f"step {self.name}: the payload {problem}", step=self.name)

    @abstractmethod
    def _with(self, keys: Sequence[Key]) -> T:
        """What works with these keys."""

    @abstractmethod
    def _encrypt(self, tool: T, data: bytes, outgoing: Outgoing) -> bytes: ...

    @abstractmethod
    def _decrypt(self, tool: T, data: bytes, incoming: Incoming) -> bytes | str:
        """What was encrypted. Text: why it cannot be decrypted; it continues 'the payload'."""

    @abstractmethod
    def _may_be_of_another_key(self, tool: T, data: bytes) -> bool:
        """Whether it could be decrypted with a key that is not there."""

    async def open(self) -> None:
        threads.open()

    async def close(self) -> None:
        threads.close()


class _Fernets(NamedTuple):
    """Fernet with the keys of a moment."""

    encrypt: Callable[[bytes], bytes]
    decrypt: Callable[..., bytes]
    number: int  # of the keys


class Fernet(_Encryption[_Fernets]):
    """Fernet of the library `cryptography`, and of others: AES-128-CBC with HMAC-SHA256, as base64.

    For whom other services write it. It binds a message neither to its topic nor to its key, is a third larger and five
    to sixty times as slow as `AesGcm`.

    Args:
        keys: the first encrypts, all decrypt.
        ttl: seconds after which a message cannot be decrypted any more; None: it always can.
        required: whether messages that are not encrypted are refused.
        writes: False: what is published is not encrypted, only what is read is decrypted.
        off_loop_above: payloads of more bytes are worked on in a thread; None: none is.

    Raises:
        ConfigurationError: an argument or a key is not what it must be, or the library is not installed.
    """

    name = "fernet"

    def __init__(
        self,
        keys: Keys,
        *,
        ttl: int | None = None,
        required: bool = True,
        writes: bool = True,
        off_loop_above: int | None = 128 * 1024,
    ) -> None:
        self.ttl = ttl
        self._check({"ttl": or_none(COUNT, "messages do not expire")})
        self._library: Any = needed("cryptography.fernet", extra="encryption", what="Fernet")
        super().__init__(keys, required=required, writes=writes, off_loop_above=off_loop_above)

    def __repr__(self) -> str:
        return f"Fernet(<{self._ring.current().number} keys>, required={self.required})"

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(_FERNET_BEGIN) and len(data) >= _FERNET_LEAST

    def _with(self, keys: Sequence[Key]) -> _Fernets:
        each = [self._library.Fernet(urlsafe_b64encode(key.secret)) for key in keys]
        tool = each[0] if len(each) == 1 else self._library.MultiFernet(each)
        return _Fernets(tool.encrypt, tool.decrypt, len(each))

    def _encrypt(self, tool: _Fernets, data: bytes, outgoing: Outgoing) -> bytes:
        return tool.encrypt(data)

    def _decrypt(self, tool: _Fernets, data: bytes, incoming: Incoming) -> bytes | str:
        try:
            return tool.decrypt(data) if self.ttl is None else tool.decrypt(data, ttl=self.ttl)
        except self._library.InvalidToken:
            pass
        if not self.recognizes(data):
            return "is not encrypted with Fernet" + self._demand()
        expired = "" if self.ttl is None else f", or it is older than {self.ttl} s (ttl)"
        keys = "the key does not fit" if tool.number == 1 else f"none of the {tool.number} keys fits"
        return f"cannot be decrypted: {keys}, or it was changed{expired}"

    def _may_be_of_another_key(self, tool: _Fernets, data: bytes) -> bool:
        return self.recognizes(data)


class _Aeads:
    """AES-GCM with the keys of a moment."""

    __slots__ = ("by_id", "encrypt", "encrypted", "first", "head", "ids", "nonce_at")

    def __init__(self, keys: Sequence[Key], new: Callable[[bytes], Any], flags: int) -> None:
        self.by_id = {key.id.encode(): new(key.secret) for key in keys}
        self.ids = ", ".join(key.id for key in keys)
        first = keys[0].id.encode()
        self.first = self.by_id[first]
        self.encrypt = self.first.encrypt
        self.head = MAGIC + bytes((VERSION, flags, len(first))) + first
        self.nonce_at = len(self.head)
        self.encrypted = 0  # messages, with the first key


class AesGcm(_Encryption[_Aeads]):
    """AES-256-GCM. Each message names its key, so that keys can be exchanged while messages are under way.

    A message can be decrypted only in the topic in which it was first published, and only with its key (the key of
    Kafka, which decides on the partition). Retry topics, dead letters and redrives are no other topics in that sense.

    Args:
        keys: of 32 bytes each; the first encrypts. Ids: those of a mapping, of a `KeyFile`, or of text `id:base64`.
        topic: messages are bound to this name, not to that of their topic: for topics that are mirrored or renamed.
        bind_key: whether what is encrypted is bound to its message's key. What is read says itself whether it is.
        required: whether messages that are not encrypted are refused.
        writes: False: what is published is not encrypted, only what is read is decrypted.
        off_loop_above: payloads of more bytes are worked on in a thread; None: none is.

    Raises:
        ConfigurationError: an argument or a key is not what it must be, or the library is not installed.
    """

    name = "aes-gcm"

    def __init__(
        self,
        keys: Keys,
        *,
        topic: str | None = None,
        bind_key: bool = True,
        required: bool = True,
        writes: bool = True,
        off_loop_above: int | None = 4 * 1024 * 1024,
    ) -> None:
        self.topic, self.bind_key = topic, bind_key
        self._check({"topic": or_none(NAME, "the message's"), "bind_key": BOOLEAN})
        self._flags = KEY_BOUND if bind_key else 0
        self._library: Any = needed("cryptography.hazmat.primitives.ciphers.aead", extra="encryption", what="AesGcm")
        self._invalid: Any = needed("cryptography.exceptions", extra="encryption", what="AesGcm").InvalidTag
        super().__init__(keys, required=required, writes=writes, off_loop_above=off_loop_above)

    def __repr__(self) -> str:
        return f"AesGcm(<keys {self._ring.current().ids}>, required={self.required})"

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(MAGIC)

    def _with(self, keys: Sequence[Key]) -> _Aeads:
        return _Aeads(keys, self._library.AESGCM, self._flags)

    def _encrypt(self, tool: _Aeads, data: bytes, outgoing: Outgoing) -> bytes:
        nonce = urandom(NONCE_BYTES)
        head = tool.head + nonce
        tool.encrypted += 1
        if tool.encrypted == MESSAGES_OF_ONE_KEY:
            logger.error("the first of the keys %s has encrypted 2**32 messages: it is time for a new one", tool.ids)
        key = outgoing.key if self.bind_key else None
        encrypted: bytes = tool.encrypt(
            nonce, data, _associated(head, self.topic or outgoing.topic, key, outgoing.part)
        )
        return head + encrypted

    def _decrypt(self, tool: _Aeads, data: bytes, incoming: Incoming) -> bytes | str:
        nonce_at = tool.nonce_at
        if data[:nonce_at] == tool.head:  # as we write it: most are
            aead, flags = tool.first, self._flags
        else:
            if len(data) < _ID_AT or data[:3] != MAGIC:
                return "is not encrypted with AES-GCM" + self._demand()
            if data[3] != VERSION:
                return f"is in version {data[3]} of our frame for AES-GCM, and {VERSION} is known"
            flags, nonce_at = data[_FLAGS_AT], _ID_AT + data[5]
            aead = tool.by_id.get(data[_ID_AT:nonce_at])
        start = nonce_at + NONCE_BYTES
        if len(data) < start + TAG_BYTES:
            return "is not complete"
        if aead is None:
            return f"is encrypted with the key {_shown(data[_ID_AT:nonce_at])}, which is not among the keys: {tool.ids}"
        topic = self.topic or incoming.topic
        key = incoming.key if flags & KEY_BOUND else None
        nonce, head = data[nonce_at:start], data[:start]
        encrypted = data[start:] if len(data) < _COPIED else memoryview(data)[start:]
        try:
            return aead.decrypt(nonce, encrypted, _associated(head, topic, key))  # type: ignore[no-any-return]
        except self._invalid:
            pass
        if key is not None and header(incoming, KEY_ADDED) is not None:
            try:
                return aead.decrypt(nonce, encrypted, _associated(head, topic, None))  # type: ignore[no-any-return]
            except self._invalid:
                pass
        return f"cannot be decrypted: it was changed, published to another topic than {topic}, or with another key"

    def _may_be_of_another_key(self, tool: _Aeads, data: bytes) -> bool:
        return data[:3] == MAGIC and len(data) > _ID_AT and data[_ID_AT : _ID_AT + data[5]] not in tool.by_id


def _associated(head: bytes, topic: str, key: bytes | None, part: Part = "value") -> bytes:
    """The associated data: the frame's head, and what the message is bound to.

    The part (0: the value, 1: the key), the topic's length in two bytes and its name; if there is a key to bind, its
    length in four bytes and the key. Numbers are big-endian.
    """
    about = _about(topic, part)
    return head + about if key is None else b"".join((head, about, len(key).to_bytes(4, "big"), key))


@lru_cache(1000)
def _about(topic: str, part: Part) -> bytes:
    name = topic.encode()
    return (b"\1" if part == "key" else b"\0") + len(name).to_bytes(2, "big") + name


def _shown(name: bytes) -> str:
    """The id of a key, as a message has it: anybody may have written it."""
    shown = name.decode("ascii", "replace")
    return shown if shown.isascii() and shown.isprintable() and len(shown) <= 64 else "of a name that is no text"
