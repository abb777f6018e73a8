"""A connection reads answers where they arrive, and knows when none comes. The broker is a server of the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from struct import pack, unpack_from
from time import monotonic
from typing import Any

import pytest
from aiokafka.errors import CorrelationIdError, KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.coordination import FindCoordinatorRequest, FindCoordinatorResponse_v1
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.kafka import client
from fastapi_athomic.transports.kafka.connection import Asker, Connection, open_connection, take_frames
from fastapi_athomic.transports.kafka.fetch_lane import Lane
from fastapi_athomic.transports.kafka.fetch_wire import Answer, FetchQuestion, Limits
from fastapi_athomic.transports.kafka.group_wire import HeartbeatQuestion, Member
from tests.support.apps import eventually

QUESTION = FetchQuestion(0, Limits(1, 1), {TopicPartition("t", 0): 5})
VERSIONS_KEY = 18
VERSIONS = ApiVersionResponse_v0(0, [(1, 4, 11), (10, 0, 1), (18, 0, 0)]).encode()
NOTHING = pack(">ihii", 0, 0, 7, 0)  # the answer to a fetch: session 7, no topics


def frame(number: int, body: bytes) -> bytes:
    return pack(">ii", 4 + len(body), number) + body


class Broker:
    """Tells which requests it knows; then answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[int] = []  # the numbers of requests
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def writer(self) -> asyncio.StreamWriter:
        return self._writers[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while head := await reader.read(4):
            request = await reader.readexactly(unpack_from(">i", head)[0])
            key, _, number = unpack_from(">hhi", request)
            if key == VERSIONS_KEY:
                writer.write(frame(number, VERSIONS))
            self.asked.append(number)

    def answer(self, body: bytes = NOTHING, number: int | None = None) -> bytes:
        """To the oldest request after the first one that was not answered yet, as bytes."""
        return frame(self.asked.pop(1) if number is None else number, body)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    yield broker
    await broker.close()


@pytest.fixture
async def connection(broker: Broker) -> AsyncIterator[Connection]:
    connection = await open_connection("127.0.0.1", await broker.start(), request_timeout_ms=60_000)
    yield connection
    connection.close()


class Note:
    """Notes what it is told, at once."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.told: Any = None
        self._then = then

    def done(self) -> bool:
        return self.told is not None

    def set_result(self, answer: Any) -> None:
        self.told = answer
        self._then()

    set_exception = set_result


def be_impatient(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request has to be answered soon. The timer is set for one that has been answered."""
    monkeypatch.setattr(connection, "_request_timeout", 0.01)
    assert connection._watch is not None
    connection._watch.cancel()
    connection._watch = None


async def test_answers_come_to_who_asked_in_whatever_pieces(broker: Broker, connection: Connection) -> None:
    notes = [Note() for _ in range(3)]
    for note in notes:
        connection.ask(QUESTION, note)
    await eventually(lambda: len(broker.asked) == 4)
    data = b"".join(broker.answer(pack(">ihii", 0, 0, session, 0)) for session in (1, 2, 3))
    for at in range(0, len(data), 5):
        broker.writer.write(data[at : at + 5])
        await broker.writer.drain()
        await asyncio.sleep(0)
    await eventually(lambda: all(note.done() for note in notes))
    assert [note.told for note in notes] == [Answer(0, session, []) for session in (1, 2, 3)]


async def test_other_requests_are_answered_as_aiokafka_does(broker: Broker, connection: Connection) -> None:
    fetched, found = Note(), asyncio.ensure_future(connection.send(FindCoordinatorRequest("g", 0)))
    connection.ask(QUESTION, fetched)
    await eventually(lambda: len(broker.asked) == 3)
    broker.writer.write(broker.answer(FindCoordinatorResponse_v1(0, 0, "", 3, "h", 9).encode()) + broker.answer())
    assert (await found).coordinator_id == 3
    await eventually(fetched.done)
    assert fetched.told == Answer(0, 7, [])


async def test_who_is_told_may_ask_again_at_once(broker: Broker, connection: Connection) -> None:
    second = Note()
    connection.ask(QUESTION, Note(lambda: connection.ask(QUESTION, second)))
    for _ in range(2):
        await eventually(lambda: len(broker.asked) == 2)
        broker.writer.write(broker.answer())
    await eventually(second.done)
    assert second.told == Answer(0, 7, [])


async def test_nobody_is_told_who_waits_no_more(broker: Broker, connection: Connection) -> None:
    gone, note = connection.send(QUESTION), Note()
    gone.cancel()
    connection.ask(QUESTION, note)
    await eventually(lambda: len(broker.asked) == 3)
    broker.writer.write(broker.answer() + broker.answer())
    await eventually(note.done)
    assert note.told == Answer(0, 7, [])


@pytest.mark.parametrize("waits", [True, False])
async def test_a_late_answer_closes_the_connection(
    broker: Broker, connection: Connection, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if who asked waits no more: the next one would wait in vain."""
    be_impatient(connection, monkeypatch)
    answer = connection.send(QUESTION)
    if waits:
        with pytest.raises(TimeoutError):
            await answer
    else:
        answer.cancel()
    await eventually(lambda: not connection.connected())
    with pytest.raises(KafkaConnectionError):
        connection.ask(QUESTION, Note())


class OneBroker:
    """A lane's client, with a single connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, node: int, question: FetchQuestion, group: str, asker: Asker) -> None:
        self._connection.ask(question, asker)


@pytest.fixture
def lane(connection: Connection) -> Lane:
    told: list[Any] = []
    lane = Lane(
        OneBroker(connection),  # type: ignore[arg-type]
        *(1, "standing-0", Limits(1, 1), lambda _, heard: told.append(heard)),
        session=True,
    )
    lane.told = told  # type: ignore[attr-defined]
    return lane


async def test_a_lane_whose_answer_is_late_is_told_once(
    broker: Broker, connection: Connection, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its next request would be taken for a failed one. The connection is closed then, and tells who waits."""
    be_impatient(connection, monkeypatch)
    lane.ask(0.0)
    await eventually(lambda: not connection.connected())
    assert [type(heard) for heard in lane.told] == [TimeoutError]  # type: ignore[attr-defined]


async def test_a_lane_that_gets_the_answer_to_another_request_of_an_old_version_is_told_once(
    broker: Broker, connection: Connection, lane: Lane
) -> None:
    connection._versions = {1: (0, 4)}
    lane.ask(0.0)
    await eventually(lambda: len(broker.asked) == 2)
    broker.writer.write(broker.answer(number=99))
    await eventually(lambda: not connection.connected())
    assert [type(heard) for heard in lane.told] == [CorrelationIdError]  # type: ignore[attr-defined]


async def test_what_is_in_time_is_not_late(
    broker: Broker, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One timer watches over all: it was set for a request that has been answered."""
    be_impatient(connection, monkeypatch)
    answered = connection.send(QUESTION)
    watch = connection._watch
    monkeypatch.setattr(connection, "_request_timeout", 60.0)
    waiting = Note()
    connection.ask(QUESTION, waiting)
    await eventually(lambda: len(broker.asked) == 3)
    broker.writer.write(broker.answer())
    await answered
    await eventually(lambda: connection._watch is not watch)
    assert connection.connected()
    assert not waiting.done()


@pytest.mark.parametrize(
    ("body", "number", "logged"),
    [(NOTHING, 99, "Correlation ids do not match"), (NOTHING[:5], None, "cannot be read"), (NOTHING, 0, "")],
    ids=["of another request", "cut off", "of no request"],
)
async def test_an_answer_that_makes_no_sense_closes_the_connection(
    broker: Broker,
    connection: Connection,
    body: bytes,
    number: int | None,
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    note = Note()
    if logged:
        connection.ask(QUESTION, note)
        await eventually(lambda: len(broker.asked) == 2)
    broker.writer.write(broker.answer(body, number))
    await eventually(lambda: not connection.connected())
    assert logged in caplog.text
    if logged:
        assert isinstance(note.told, KafkaConnectionError)
        assert isinstance(note.told.__cause__, CorrelationIdError) == (number == 99)


async def test_a_broker_that_hangs_up_is_told_to_who_waits(broker: Broker, connection: Connection) -> None:
    note = Note()
    connection.ask(QUESTION, note)
    broker.writer.close()
    await eventually(note.done)
    assert isinstance(note.told, KafkaConnectionError)
    assert not connection.connected()


async def test_a_broker_that_hangs_up_within_the_last_step_of_sasl_is_told(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka takes it in a thread. An error of another kind would end its tasks."""

    async def hang_up(connection: Connection) -> None:
        broker.writer.close()
        await eventually(lambda: not connection.connected())

    monkeypatch.setattr(Connection, "_do_sasl_handshake", hang_up)
    with pytest.raises(KafkaConnectionError):
        await open_connection("127.0.0.1", await broker.start(), security_protocol="SASL_PLAINTEXT")


async def test_what_the_loop_cannot_send_closes_the_connection(
    broker: Broker, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop raises a RuntimeError for a connection that was lost just now."""

    def write(data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(connection._writer, "write", write)
    with pytest.raises(KafkaConnectionError):
        connection.ask(QUESTION, Note())
    assert not connection.connected()


async def test_whatever_is_wrong_with_a_request_is_told_to_who_asks(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a lane would wait for ever."""
    monkeypatch.setattr(FetchQuestion, "prepare", None)
    note = Note()
    client._ask_on(connection, QUESTION, note)
    assert isinstance(note.told, TypeError)


async def test_what_a_loop_gives_in_another_form_comes_as_bytes(broker: Broker, connection: Connection) -> None:
    """asyncio's loop on Windows gives a bytearray."""
    note = Note()
    connection.ask(QUESTION, note)
    await eventually(lambda: len(broker.asked) == 2)
    part = pack(">h1si" + "ihqqqi" + "ii", 1, b"t", 1, 0, 0, 9, 9, 0, 0, -1, 3) + b"abc"
    connection._protocol.data_received(bytearray(broker.answer(pack(">ihii", 0, 0, 7, 1) + part)))
    assert [type(part.data) for part in note.told.parts] == [bytes]


async def test_it_is_known_since_when_somebody_waits(broker: Broker, connection: Connection) -> None:
    assert connection.waits_since() is None
    notes = [Note(), Note()]
    before = monotonic()
    connection.ask(QUESTION, notes[0])
    between = monotonic()
    connection.ask(QUESTION, notes[1])
    await eventually(lambda: len(broker.asked) == 3)
    for note, (earliest, latest) in zip(notes, ((before, between), (between, monotonic())), strict=True):
        since = connection.waits_since()
        assert since is not None
        assert earliest <= since <= latest
        broker.writer.write(broker.answer())
        await eventually(note.done)
    assert connection.waits_since() is None


async def test_it_is_seen_that_a_large_answer_is_on_its_way(broker: Broker, connection: Connection) -> None:
    connection.ask(QUESTION, Note())
    await eventually(lambda: len(broker.asked) == 2)
    answer = broker.answer()
    seen = {connection.heard()}
    for part in (answer[:2], answer[2:9], answer[9:]):
        broker.writer.write(part)
        await eventually(lambda: connection.heard() not in seen)
        seen.add(connection.heard())


async def test_a_connection_that_nobody_holds_is_not_kept_by_its_timer(broker: Broker, connection: Connection) -> None:
    port = connection.port
    held = [await open_connection("127.0.0.1", port, request_timeout_ms=60_000)]
    held[0].ask(QUESTION, Note())
    with pytest.warns(ResourceWarning, match="Unclosed"):
        held.clear()


@given(st.lists(st.binary(max_size=9), max_size=5), st.binary(max_size=3))
def test_frames_are_cut_where_they_end(bodies: list[bytes], rest: bytes) -> None:
    taken: list[bytes] = []
    data = b"".join(pack(">i", len(body)) + body for body in bodies) + rest
    left, missing = take_frames(data, lambda data, start, end: taken.append(data[start:end]))
    assert (taken, left, missing) == (bodies, rest, 4 - len(rest))


async def test_a_question_that_the_broker_does_not_know_is_not_asked(broker: Broker, connection: Connection) -> None:
    """aiokafka asks it in an older version."""
    unknown = HeartbeatQuestion(Member("g", 1, "m"))
    assert connection.understands(QUESTION)
    assert not connection.understands(unknown)
    known = client.KafkaClient()
    known._conns[1, "g"] = connection
    assert known.ask_open(1, unknown, "g") is None
    assert known.ask_open(2, QUESTION, "g") is None, "that one is not connected"
    answer = known.ask_open(1, QUESTION, "g")
    assert answer is not None
    await eventually(lambda: len(broker.asked) == 2)
    broker.writer.write(broker.answer())
    assert (await answer).session == 7
