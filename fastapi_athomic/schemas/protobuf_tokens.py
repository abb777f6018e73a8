"""Tokens of .proto files: names, numbers, strings and signs, and how they are taken one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LARGEST = (1 << 31) - 1
"""Of an enum's numbers, which are the largest that files hold."""

_TOKEN = re.compile(
    r"""\s+ | //[^\n]* | /\*.*?\*/
    | (?P<string> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
    | (?P<number> 0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)
    | (?P<name> [A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign> [-+{}()\[\]<>;=,.:/?*|&%$#@!~^])""",
    re.VERBOSE | re.DOTALL,
)


class ProtoSyntaxError(ValueError):
    """The text is no .proto file. It says in which line."""


class Token(NamedTuple):
    kind: str  # string, number, name, sign, end
    text: str
    line: int


def tokens_of(text: str) -> Iterator[Token]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ProtoSyntaxError(f"line {line}")
        if found.lastgroup is not None:
            yield Token(found.lastgroup, found.group(), line)
        line += found.group().count("\n")
        at = found.end()
    yield Token("end", "", line)


class Tokens:
    """The tokens of a file, and which one is next."""

    def __init__(self, text: str) -> None:
        self._tokens = list(tokens_of(text))
        self._at = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _peek(self, further: int) -> Token:
        return self._tokens[min(self._at + further, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _wrong(self) -> ProtoSyntaxError:
        return ProtoSyntaxError(f"line {self._next.line}")

    def _is(self, *texts: str) -> bool:
        return self._next.text in texts and self._next.kind in ("name", "sign")

    def _skip(self, *texts: str) -> bool:
        """Takes the next token if it is one of these."""
        if self._is(*texts):
            self._at += 1
            return True
        return False

    def _expect(self, *texts: str) -> None:
        for text in texts:
            if not self._skip(text):
                raise self._wrong()

    def _of_kind(self, kind: str) -> str:
        if self._next.kind != kind:
            raise self._wrong()
        return self._take().text

    def _name(self) -> str:
        return self._of_kind("name")

    def _full_name(self) -> str:
        """A name with dots in it; one in front says that it is complete."""
        parts = ["" if self._skip(".") else None, self._name()]
        while self._skip("."):
            parts.append(self._name())
        return ".".join(part for part in parts if part is not None)

    def _string(self) -> bytes:
        """Strings that stand side by side are one."""
        if self._next.kind != "string":
            raise self._wrong()
        found = b""
        while self._next.kind == "string":
            found += unescaped(self._take().text[1:-1])
        return found

    def _text(self) -> str:
        try:
            return self._string().decode()
        except UnicodeDecodeError:
            raise self._wrong() from None

    def _int(self, largest: int = LARGEST) -> int:
        if self._skip("max"):
            return largest
        negative = self._skip("-")
        text = self._of_kind("number")
        try:
            value = whole(text)
        except ValueError:
            raise self._wrong() from None
        if value > 1 << 31:
            raise self._wrong()
        return -value if negative else value


_ESCAPES = re.compile(rb"\\(?:[xX]([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE = {
    **{bytes((sign,)): bytes((code,)) for sign, code in zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True)},
    **{sign: sign for sign in (b"\\", b"'", b'"', b"?")},
}


def unescaped(text: str) -> bytes:
    def replace(found: re.Match[bytes]) -> bytes:
        hexadecimal, octal, short, long, sign = found.groups()
        if hexadecimal is not None:
            return bytes((int(hexadecimal, 16),))
        if octal is not None:
            return bytes((int(octal, 8) & 0xFF,))
        if short is not None or long is not None:
            return chr(int(short or long, 16)).encode()
        if sign not in _SIMPLE:
            raise ProtoSyntaxError("an unknown escape in a string")
        return _SIMPLE[sign]

    try:
        return _ESCAPES.sub(replace, text.encode())
    except (OverflowError, UnicodeEncodeError, ValueError):
        raise ProtoSyntaxError("a string that is no UTF-8") from None


def whole(text: str) -> int:
    """An int: decimal, hexadecimal, or octal with a 0 in front. Raises ValueError for anything else."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8) if len(text) > 1 and text[0] == "0" and text.isdecimal() else int(text)
