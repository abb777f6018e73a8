"""Compression of payloads: gzip, zstd, lz4.

Everything that was compressed is unpacked, or the message is refused: frames without their size, several frames in a
row, frames for others in between. Never more than `max_size` is unpacked, whatever the data says about itself.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812
from threading import local
from typing import Any

from ..checks import BOOLEAN, COUNT, Check, first_problem, is_whole, or_none
from ..exceptions import ConfigurationError, PayloadDecodeError
from ..extras import needed
from ..unpacking import GZIP_MAGIC, LZ4_MAGIC, ZSTD_MAGIC, Codec, TooLargeError, UnpackError, unpack
from .off_loop import threads
from .steps import BytesStep, Incoming, Later, Outgoing

MAX_SIZE = 64 * 1024 * 1024
"""Bytes to which a payload may unpack, by default."""
MIN_SIZE = 200
"""Bytes below which a payload is not compressed, by default: there is hardly anything to gain."""

_GZIP_WRAPPING = 31  # of zlib's functions
_LZ4_RATIO = 255  # the most that it can pack into one byte
_LZ4_SIZE_FLAG = 0x08  # of the byte at 4: the frame says how much is in it
_LZ4_SIZE_AT, _lz4_size = 6, Struct("<Q").unpack_from


class _Compression(BytesStep):
    """Compresses what is published, and unpacks what is read.

    A payload of fewer than `min_size` bytes, or that would grow, is left as it is, unless the step is required.

    Args:
        level: how hard to try; None: the library's default.
        max_size: bytes to which a payload may unpack; one that holds more is refused.
        min_size: bytes below which a payload is not compressed.
        required: whether messages that are not compressed are refused.
        writes: False: what is published is not compressed, only what is read is unpacked.
        off_loop_above: larger payloads (before compression) are worked on in a thread; None: none is.

    Raises:
        ConfigurationError: an argument is not what it must be, or the library is not installed.
    """

    kind = "compression"
    codec: Codec
    magic: bytes
    levels: range

    def __init__(
        self,
        level: int | None,
        *,
        max_size: int,
        min_size: int,
        required: bool,
        writes: bool,
        off_loop_above: int | None,
    ) -> None:
        self.name = self.codec
        self.level = level
        self.max_size = max_size
        self.min_size = min_size
        self.required = required
        self.writes = writes
        self.off_loop_above = off_loop_above
        first, last = self.levels[0], self.levels[-1]
        known = Check(lambda value: is_whole(value) and value in self.levels, f"a whole number from {first} to {last}")
        checks = {
            "level": or_none(known, "the library's default"),
            "max_size": COUNT,
            "min_size": Check(lambda value: is_whole(value) and value >= 0, "a whole number of 0 or more"),
            "required": BOOLEAN,
            "writes": BOOLEAN,
            "off_loop_above": or_none(COUNT, "never"),
        }
        if (problem := first_problem(self, checks)) is not None:
            raise ConfigurationError(f"{type(self).__name__}: {problem}")
        self.waits = off_loop_above is not None
        self._here = max_size if off_loop_above is None else min(off_loop_above, max_size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(level={self.level}, max_size={self.max_size}, required={self.required})"

    # --- writing

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes | Later[bytes]:
        """The same object if it is left as it is."""
        if len(data) < self.min_size and self._may_stay(data):
            return data
        if self.off_loop_above is not None and len(data) > self.off_loop_above:
            return threads.later(partial(self._packed, data))
        return self._packed(data)

    def _packed(self, data: bytes) -> bytes:
        packed = self._pack(data)
        return data if len(packed) >= len(data) and self._may_stay(data) else packed

    def _may_stay(self, data: bytes) -> bool:
        """Not if a reader would take it for compressed: something may have been compressed before it came here."""
        return not self.required and not data.startswith(self.magic)

    # --- reading

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(self.magic)

    def decode(self, data: bytes, incoming: Incoming) -> bytes | Later[bytes]:
        if len(data) <= self._here:
            found = self._unpack_usual(data)
            if found is not None:
                return found
            try:
                return bytes(unpack(self.codec, data, self._here))
            except TooLargeError as error:
                problem = str(error)
            except UnpackError as error:
                raise self._damaged(error) from None
            if self._here == self.max_size:
                raise self._too_large(problem)
        if self.off_loop_above is None:
            return self._unpacked(data)
        return threads.later(partial(self._unpacked, data))

    def _unpacked(self, data: bytes) -> bytes:
        try:
            return bytes(unpack(self.codec, data, self.max_size))
        except TooLargeError as error:
            raise self._too_large(str(error)) from None
        except UnpackError as error:
            raise self._damaged(error) from None

    def _too_large(self, problem: str) -> PayloadDecodeError:
        return PayloadDecodeError(f"step {self.name}: the payload is refused: {problem} (max_size)", step=self.name)

    def _damaged(self, error: UnpackError) -> PayloadDecodeError:
        return PayloadDecodeError(f"step {self.name}: the payload cannot be unpacked: {error}", step=self.name)

    # --- the library

    @abstractmethod
    def _pack(self, data: bytes) -> bytes:
        """With a checksum of the content, which all three formats have."""

    @abstractmethod
    def _unpack_usual(self, data: bytes) -> bytes | None:
        """What is in `data`, if it is one whole frame with no more than `_here` bytes in it. None: something else.

        By one call of the library; never takes more memory than that.
        """

    async def open(self) -> None:
        threads.open()

    async def close(self) -> None:
        threads.close()


class Gzip(_Compression):
    __doc__ = f"gzip (RFC 1952), levels 1 to 9.\n\n{_Compression.__doc__}"
    codec = "gzip"
    magic = GZIP_MAGIC
    levels = range(1, 10)

    def __init__(
        self,
        level: int | None = None,
        *,
        max_size: int = MAX_SIZE,
        min_size: int = MIN_SIZE,
        required: bool = False,
        writes: bool = True,
        off_loop_above: int | None = 64 * 1024,
    ) -> None:
        super().__init__(
            level,
            max_size=max_size,
            min_size=min_size,
            required=required,
            writes=writes,
            off_loop_above=off_loop_above,
        )

    def _pack(self, data: bytes) -> bytes:
        return zlib.compress(data, zlib.Z_DEFAULT_COMPRESSION if self.level is None else self.level, _GZIP_WRAPPING)

    def _unpack_usual(self, data: bytes) -> bytes | None:
        member = zlib.decompressobj(_GZIP_WRAPPING)
        try:
            found = member.decompress(data, self._here + 1)
        except zlib.error:
            return None
        return found if member.eof and not member.unused_data and len(found) <= self._here else None


class Zstd(_Compression):
    __doc__ = f"""Zstandard (RFC 8878), levels -7 to 22. Windows of up to 128 MiB are read, as by the library itself.

    Needs the extra `compression`.

{_Compression.__doc__}"""
    codec = "zstd"
    magic = ZSTD_MAGIC
    levels = range(-7, 23)

    def __init__(
        self,
        level: int | None = None,
        *,
        max_size: int = MAX_SIZE,
        min_size: int = MIN_SIZE,
        required: bool = False,
        writes: bool = True,
        off_loop_above: int | None = 256 * 1024,
    ) -> None:
        super().__init__(
            level,
            max_size=max_size,
            min_size=min_size,
            required=required,
            writes=writes,
            off_loop_above=off_loop_above,
        )
        zstandard = needed("zstandard", extra="compression", what="Zstd")
        self._tools = _ZstdTools(zstandard, 3 if level is None else level)
        self._size_of = zstandard.frame_content_size
        self._error = zstandard.ZstdError

    def _pack(self, data: bytes) -> bytes:
        packed: bytes = self._tools.compressor.compress(data)
        return packed

    def _unpack_usual(self, data: bytes) -> bytes | None:
        try:
            if 0 < self._size_of(data) <= self._here:
                # by position, as names cost a tenth: `max_output_size`, `read_across_frames`, `allow_extra_data`
                found: bytes = self._tools.decompressor.decompress(data, 0, False, False)
                return found
        except self._error:
            pass
        return None


class _ZstdTools(local):
    """One of each for each thread: two threads must not use one at the same time."""

    def __init__(self, zstandard: Any, level: int) -> None:
        self.compressor = zstandard.ZstdCompressor(level, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


class Lz4(_Compression):
    __doc__ = f"""LZ4's frame format, levels 0 to 12. Needs the extra `compression`.

{_Compression.__doc__}"""
    codec = "lz4"
    magic = LZ4_MAGIC
    levels = range(13)

    def __init__(
        self,
        level: int | None = None,
        *,
        max_size: int = MAX_SIZE,
        min_size: int = MIN_SIZE,
        required: bool = False,
        writes: bool = True,
        off_loop_above: int | None = 1024 * 1024,
    ) -> None:
        super().__init__(
            level,
            max_size=max_size,
            min_size=min_size,
            required=required,
            writes=writes,
            off_loop_above=off_loop_above,
        )
        frame = needed("lz4.frame", extra="compression", what="Lz4")
        self._compress, self._decompress = frame.compress, frame.decompress

    def _pack(self, data: bytes) -> bytes:
        packed: bytes = self._compress(data, self.level or 0, 0, True)  # `block_size`, `content_checksum`
        return packed

    def _unpack_usual(self, data: bytes) -> bytes | None:
        most = len(data) * _LZ4_RATIO
        try:
            if data[4] & _LZ4_SIZE_FLAG and most <= self.max_size:
                (most,) = _lz4_size(data, _LZ4_SIZE_AT)  # it makes room for so much
            if most > self._here:
                return None
            found, read = self._decompress(data, False, True)
        except (RuntimeError, IndexError, StructError):
            return None
        return found if read == len(data) else None
