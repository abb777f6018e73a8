"""Secret keys: where they come from, and their exchange while messages are read and written.

Errors and logs name keys by their ids, never by what they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from pydantic import SecretStr

from ..announcements import announce
from ..exceptions import ConfigurationError
from .off_loop import threads

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 5.0
"""A key file is read again after so many seconds, if keys are used."""
SOON_SECONDS = 0.25
"""The same if a message needs a key that is not there. It waits so long at most."""
PATIENCE = 10
"""How often messages may have the file read again, before `LOOK_SECONDS` have passed. All that wait for one look count
once; those that come later fail at once."""
LARGEST_FILE = 1024 * 1024
"""Bytes of a key file."""

KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Key:
    """A secret with a name."""

    __slots__ = ("id", "secret")

    def __init__(self, name: str, secret: bytes) -> None:
        self.id = name
        self.secret = secret

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


class KeyFile:
    """A file with keys, such as a mounted secret; it may be replaced while the app runs.

    The first key is the one that encrypts. A key that is no longer in it is used for some seconds more: the file may be
    half written. One key on a line, `id:base64` or only the base64; lines that begin with #
    are comments. Or JSON: an object with the ids as names, or a list of such texts.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(fspath(path))

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"

    def read(self) -> bytes:
        """Its content. Raises `OSError`."""
        with self.path.open("rb") as file:  # links are followed: Kubernetes exchanges them
            return file.read(LARGEST_FILE)


Secret = SecretStr | str | bytes
"""32 bytes, or text: what may stand in a key file."""
Keys = KeyFile | Secret | Sequence[Secret] | Mapping[str, Secret]


class _KeyProblemError(Exception):
    """A sentence about what is wrong with keys."""


def keys_of(given: Keys) -> list[Key]:
    """The keys, the one that encrypts first.

    Raises:
        ConfigurationError: one sentence.
    """
    try:
        return _checked(_listed(given))
    except _KeyProblemError as error:
        problem = str(error)
    raise ConfigurationError(problem)


class KeyRing(Generic[T]):
    """Keys, made into what works with them, which is made anew when the key file has changed.

    Args:
        given: the keys.
        build: makes what is used of them. It may raise `ConfigurationError`.
        who: names the user of the keys in errors and logs.
    """

    def __init__(self, given: Keys, build: Callable[[Sequence[Key]], T], who: str) -> None:
        self._file = given if isinstance(given, KeyFile) else None
        self._build = build
        self._who = who
        self._lock = Lock()  # of those who look
        self._seen = b""  # digest of what was read last
        self._keys: Sequence[Key] = ()  # that are in use
        self._missing = False  # some of these are not in the file
        self._due = float("inf")  # on the monotonic clock, like the next
        self._looked = 0.0
        self._asked = 0
        self._asked_at = 0.0  # when it had been looked, as the last one asked
        try:
            if self._file is None:
                self._made = build(keys_of(given))
            else:
                self._take(self._file.read())
                self._noted()
        except Exception as error:
            problem = _problem(error)
        else:
            _rings.add(self)
            return
        raise ConfigurationError(f"{who}: {self._place}{problem}")

    def after_fork(self) -> None:
        """In a child process: a thread that looked in that moment is not there."""
        self._lock = Lock()
        if self._file is not None:
            self._due = self._looked + LOOK_SECONDS

    @property
    def may_change(self) -> bool:
        """Whether the keys are in a file."""
        return self._file is not None

    def current(self) -> T:
        """What works with the keys of now. Never waits: if the file is due, a thread looks at it."""
        if self._file is not None and self._due <= monotonic():
            self._due = float("inf")
            threads.submit(self._look)
        return self._made

    async def newer(self, known: T) -> T | None:
        """What works with the keys, if they are others than those of `known` by now. The file is read again for that.

        None: nothing has changed, or too many have asked.
        """
        if self._made is not known:
            return self._made
        if self._file is None:
            return None
        if self._asked_at != self._looked:  # the first one that waits for the next look
            if self._asked >= PATIENCE:
                return None
            self._asked += 1
            self._asked_at = self._looked
        if (pause := self._looked + SOON_SECONDS - monotonic()) > 0:
            await asyncio.sleep(pause)
        if self._made is known:
            await asyncio.wrap_future(threads.submit(self._look_if_late))
        return self._made if self._made is not known else None

    def _look_if_late(self) -> None:
        """Unless somebody else has looked since it was asked for."""
        if monotonic() >= self._looked + SOON_SECONDS:
            self._look(asked=True)

    def _look(self, asked: bool = False) -> None:
        """In a thread: takes over what is new in the file. A file that cannot be used changes nothing."""
        if self._file is None:
            return
        with self._lock:
            try:
                content = self._file.read()
                if sha256(content).digest() != self._seen:
                    self._take(content, keep=True)
                    self._asked = 0
                    announce(f"{self._who}: {self._place}the keys are new", logger)
                elif self._missing and not asked:  # it has been so for `LOOK_SECONDS`
                    self._take(content)
            except Exception as error:
                problem = _problem(error)
            else:
                problem = ""
            self._noted(asked)
        if problem:
            logger.error("%s: %s%s; the keys from before stay in use", self._who, self._place, problem)

    def _noted(self, asked: bool = False) -> None:
        self._looked = monotonic()
        self._due = self._looked + LOOK_SECONDS
        if not asked:
            self._asked = 0

    def _take(self, content: bytes, keep: bool = False) -> None:
        """Uses the keys in a file. `keep`: also those from before that are missing in it."""
        try:
            keys = _checked(list(_in_text(content)))
        except _KeyProblemError as error:
            problem = str(error)
        else:
            old = [key for key in self._keys if keep and all(key.id != each.id for each in keys)]
            self._made = self._build([*keys, *old])
            self._keys, self._missing, self._seen = keys + old, bool(old), sha256(content).digest()
            return
        raise ConfigurationError(problem)

    @property
    def _place(self) -> str:
        return "" if self._file is None else f"{self._file.path}: "


_rings: WeakSet[KeyRing[Any]] = WeakSet()


def _after_fork() -> None:
    for ring in _rings:
        ring.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _problem(error: Exception) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    why = error.strerror if isinstance(error, OSError) else None
    return f"it cannot be read: {why or type(error).__name__}"


# --- reading them


def _listed(given: Keys) -> list[Key]:
    if isinstance(given, KeyFile):
        try:
            return list(_in_text(given.read()))
        except OSError as error:
            problem = f"{given.path} cannot be read: {error.strerror}"
        raise _KeyProblemError(problem)
    if isinstance(given, Mapping):
        return [_of_pair(number, *pair) for number, pair in enumerate(given.items(), 1)]
    if isinstance(given, SecretStr | str | bytes):
        return list(_in_secret(given, "the key"))
    if isinstance(given, Sequence):
        return [key for number, each in enumerate(given, 1) for key in _in_secret(each, f"key {number}")]
    raise _KeyProblemError(f"keys must be text, bytes, a list, a mapping or a KeyFile, not {type(given).__name__}")


def _in_secret(given: object, what: str) -> Iterator[Key]:
    """Text may hold several keys, as a file does: it may be the content of one, in a variable."""
    if isinstance(given, bytes) and len(given) == KEY_BYTES:
        yield _named("", given)
        return
    yield from _in_text(_text(given, what).encode(), what)


def _in_text(content: bytes, what: str = "") -> Iterator[Key]:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise _KeyProblemError("there is no text in it" if content.strip() else "there is no key in it")
    if text[0] in "{[":
        yield from _in_json(text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and line[0] != "#":
            yield _in_line(line, what or f"line {number}")


class _Pairs(list[tuple[str, object]]):
    """Of a JSON object: a dict would keep the last of two keys with one id."""


def _in_json(text: str) -> Iterator[Key]:
    try:
        found = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, _Pairs):
        for number, pair in enumerate(found, 1):
            yield _of_pair(number, *pair)
    elif isinstance(found, list):
        for number, each in enumerate(found, 1):
            yield _in_line(_text(each, f"key {number}"), f"key {number}")
    else:
        raise _KeyProblemError("it begins like JSON and is none")


def _of_pair(number: int, name: object, secret: object) -> Key:
    """Errors do not show the id: it may be the secret, where somebody has mixed them up."""
    return Key(_checked_id(name), _decoded(secret, f"key {number}"))


def _in_line(line: str, what: str) -> Key:
    name, colon, secret = line.rpartition(":")
    decoded = _decoded(secret.strip(), what)
    return Key(_checked_id(name.strip()), decoded) if colon else _named("", decoded)


def _named(name: str, secret: bytes) -> Key:
    """A key without an id gets one: some of its digest, which tells nothing about it."""
    return Key(name or sha256(b"fastapi-athomic key id\0" + secret).hexdigest()[:8], secret)


def _checked_id(name: object) -> str:
    if isinstance(name, str) and _ID.fullmatch(name):
        return name
    raise _KeyProblemError("the id of a key must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")


def _text(given: object, what: str) -> str:
    if isinstance(given, SecretStr):
        given = given.get_secret_value()
    if isinstance(given, bytes):
        given = given.decode("ascii", "replace")
    if isinstance(given, str):
        return given
    raise _KeyProblemError(f"{what} must be text or bytes, not {type(given).__name__}")


_IN_A_FILE = "; if it is in a file: KeyFile(path)"


def _decoded(given: object, what: str) -> bytes:
    """32 bytes, of the bytes themselves or of base64, of either alphabet, with or without padding."""
    if isinstance(given, bytes):
        if len(given) == KEY_BYTES:
            return given
        if not given.isascii() or any(byte < 32 for byte in given.strip()):  # no text
            raise _KeyProblemError(f"{what} has {len(given)} bytes, it must have {KEY_BYTES}")
    text = _text(given, what).strip().rstrip("=").translate(_ONE_ALPHABET)
    try:
        secret = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (Base64Error, ValueError):
        secret = None
    if secret is None:
        raise _KeyProblemError(f"{what} is no base64{_IN_A_FILE if _text(given, what).startswith('/') else ''}")
    if len(secret) != KEY_BYTES:
        raise _KeyProblemError(f"{what} has {len(secret)} bytes, it must have {KEY_BYTES}")
    return secret


_ONE_ALPHABET = str.maketrans("-_", "+/")


def _checked(keys: list[Key]) -> list[Key]:
    if not keys:
        raise _KeyProblemError("there must be at least one key")
    for number, key in enumerate(keys):
        for other in keys[:number]:
            if other.id == key.id:
                raise _KeyProblemError(f"the key id {key.id} stands there twice")
            if other.secret == key.secret:
                raise _KeyProblemError(f"the keys {other.id} and {key.id} are the same")
    return keys
