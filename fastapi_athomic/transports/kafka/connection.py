"""A connection to a broker that costs less than aiokafka's.

Answers are read where they arrive, without a task that is woken for each, and one timer watches over all requests. That
halves the CPU of a small request, and a service with many handlers sends hardly anything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from struct import Struct
from time import monotonic
from typing import Any, Protocol
from weakref import ref

from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol, CloseReason
from aiokafka.errors import CorrelationIdError, KafkaConnectionError

from .wire import Question, text

logger = logging.getLogger(__name__)

_NUMBER = Struct(">i")


class Asker(Protocol):
    """Who waits for an answer. A future is one. What it is told must not make it raise."""

    def done(self) -> bool:
        """It does not wait any more."""

    def set_result(self, answer: Any) -> None:
        """The answer has come."""

    def set_exception(self, error: BaseException) -> None:
        """None will come."""


class Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's connection, for all kinds of requests, and for our own."""

    _watch: asyncio.TimerHandle | None = None

    def __init__(self, host: str, port: int, **options: Any) -> None:
        super().__init__(host, port, **options)
        self._sent: deque[float] = deque()  # when each of `_requests` was sent, on the monotonic clock

    async def connect(self) -> Any:
        """Connects as aiokafka does, and then reads the answers itself. aiokafka's task notices the end."""
        streams = await super().connect()
        if self._writer is None:  # the broker has hung up while aiokafka took the last step of SASL, in a thread
            raise KafkaConnectionError(f"Connection at {self._host}:{self._port} closed")
        protocol = self._protocol
        protocol.__class__ = _Frames
        protocol.read_for(self)
        self._writer.transport.set_protocol(protocol)  # it may have kept methods of the former class
        return streams

    def understands(self, question: Question) -> bool:
        """Whether the broker knows this version of the request."""
        return question.fits(self._versions)

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """The answer, to be awaited. Raises `KafkaConnectionError`, and `TimeoutError` when it is awaited."""
        if not expect_response:
            return super().send(request, expect_response=False)
        answer = self._loop.create_future()
        self.ask(request, answer)
        return answer

    def ask(self, request: Any, asker: Asker) -> None:
        """Sends a request; `asker` gets the answer, or a `TimeoutError` or `KafkaError`. Raises the latter, too."""
        if self._writer is None:
            raise KafkaConnectionError(f"No connection to broker at {self._host}:{self._port}")
        prepared = request.prepare(self._versions)
        number = self._next_correlation_id()
        if isinstance(prepared, Question):
            message = prepared.message(number, text(self._client_id))
        else:
            header = prepared.build_request_header(correlation_id=number, client_id=self._client_id)
            encoded = header.encode() + prepared.encode()
            message = _NUMBER.pack(len(encoded)) + encoded
        try:
            self._writer.write(message)
        except (OSError, RuntimeError) as error:  # uvloop raises the latter, if the end has not been noticed yet
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self._host}:{self._port} broken: {error}") from error
        self._requests.append((number, prepared, asker))
        self._sent.append(monotonic())
        if self._watch is None:
            self._watch = self._loop.call_later(self._request_timeout, self._look, ref(self))

    def take(self, data: bytes, start: int, end: int) -> None:
        """An answer lies between these two."""
        number, request, asker = self._requests[0]
        if not isinstance(request, Question):
            self._handle_frame(data[start:end])
            return
        (answered,) = _NUMBER.unpack_from(data, start)
        if answered != number:
            raise CorrelationIdError(f"Correlation ids do not match: sent {number}, received {answered}")
        waits = not asker.done()
        answer = request.answer_in(data, start + _NUMBER.size) if waits else None
        self._last_action = monotonic()
        self._requests.popleft()
        self._sent.popleft()
        if waits:
            asker.set_result(answer)

    def _handle_frame(self, resp: bytes) -> None:
        number = self._requests[0][0]
        super()._handle_frame(resp)
        if number is not None and self._sent:  # it was not a token of SASL, and did not close the connection
            self._sent.popleft()

    @staticmethod
    def _look(of: ref[Connection]) -> None:
        """Some request may have waited for too long."""
        if (self := of()) is None:
            return
        self._watch = None
        oldest, late = monotonic() - self._request_timeout, False
        asked = [asker for number, _, asker in self._requests if number is not None]
        for sent, asker in zip(list(self._sent), asked, strict=False):
            if sent > oldest:
                if not late:
                    self._watch = self._loop.call_later(sent - oldest, self._look, of)
                break
            if not asker.done():
                asker.set_exception(TimeoutError())
            late = True
        if late:  # also if nobody waits for the answer any more: the next one would not come either
            self.close(reason=CloseReason.CONNECTION_TIMEOUT)

    def heard(self) -> object:
        """Changes with all that comes."""
        return self._last_action, self._protocol.missing

    def waits_since(self) -> float | None:
        """When the oldest request was sent that has no answer, on the monotonic clock; None: there is none."""
        return self._sent[0] if self._sent else None

    def close(self, reason: Any = None, exc: Any = None) -> Any:
        self._sent.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        return super().close(reason, exc)


class _Frames(AIOKafkaProtocol):  # type: ignore[misc]  # aiokafka is not typed
    """Takes answers out of the bytes that arrive. What aiokafka's reads from is told only of the end."""

    def read_for(self, connection: Connection) -> None:
        """From now on all that comes are answers for this connection."""
        self._connection = ref(connection)
        self._parts: list[bytes] = []  # of an answer that has not come whole
        self.missing = 0  # so many bytes of it, at least

    def data_received(self, data: bytes) -> None:
        if self._parts:
            self._parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return
            data = b"".join(self._parts)
            self._parts = []
        data = bytes(data)  # asyncio's loop on Windows gives a bytearray; of bytes this makes no copy
        connection = self._connection()
        if connection is None:
            return
        try:
            rest, self.missing = take_frames(data, connection.take)
        except Exception as error:
            if connection.connected():
                logger.exception("an answer from %s:%d cannot be read", connection.host, connection.port)
            connection.close(reason=CloseReason.OUT_OF_SYNC, exc=error)
            return
        if rest:
            self._parts.append(rest)


def take_frames(data: bytes, take: Callable[[bytes, int, int], None]) -> tuple[bytes, int]:
    """Calls `take` with where each answer begins and ends that has come whole.

    Returns what is left of `data`, and how many bytes are missing for the next answer, at least.
    """
    start, end = 0, len(data)
    while start + _NUMBER.size <= end:
        (size,) = _NUMBER.unpack_from(data, start)
        after = start + _NUMBER.size + size
        if after > end:
            return data[start:], after - end
        take(data, start + _NUMBER.size, after)
        start = after
    return data[start:], _NUMBER.size - (end - start)


async def open_connection(host: str, port: int, **options: Any) -> Connection:
    """Connects. Raises `OSError`, `KafkaError` or `TimeoutError`."""
    connection = Connection(host, port, **options)
    await connection.connect()
    return connection
