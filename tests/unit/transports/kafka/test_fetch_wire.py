"""Fetch requests and their answers, compared with what aiokafka makes of the same bytes; and fetch sessions."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from struct import pack
from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v4, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.kafka.fetch_wire import (
    Answer,
    FetchQuestion,
    FetchSession,
    Limits,
    Part,
    answer_of,
)
from fastapi_athomic.transports.kafka.wire import text

LIMITS = Limits(4000, 1000)
A, B, C = TopicPartition("a", 0), TopicPartition("a", 7), TopicPartition("bé", 1)
OFFSETS = st.integers(0, 2**63 - 1)


def told(question: FetchQuestion) -> tuple[int, int, dict[TopicPartition, int], list[TopicPartition]]:
    """Session, epoch, what is asked for and what is forgotten, as a broker reads it."""
    request = FetchRequest_v11.decode(BytesIO(question.body()))
    asked = {
        TopicPartition(topic, number): offset
        for topic, partitions in request.topics
        for number, _, offset, _, _ in partitions
    }
    forgotten = [
        TopicPartition(topic, number) for topic, numbers in request.forgotten_topics_data for number in numbers
    ]
    return request.session_id, request.session_epoch, asked, forgotten


def test_a_request_has_the_bytes_that_aiokafka_writes() -> None:
    question = FetchQuestion(250, LIMITS, {A: 5, C: 6, B: 7}, session=3, epoch=4, forgotten=[C, B])
    assert question.prepare({1: (4, 18)}) is question
    topics = [("a", [(0, -1, 5, -1, 1000), (7, -1, 7, -1, 1000)]), ("bé", [(1, -1, 6, -1, 1000)])]
    theirs = FetchRequest_v11(-1, 250, 1, 4000, 1, 3, 4, topics, [("bé", [1]), ("a", [7])], "")
    message = theirs.build_request_header(correlation_id=9, client_id="c").encode() + theirs.encode()
    assert question.message(9, text("c")) == pack(">i", len(message)) + message


PARTS = st.lists(
    st.tuples(
        st.sampled_from((A, B, C)),
        st.integers(-1, 100),
        OFFSETS,
        st.integers(-1, 2**40),
        st.one_of(st.none(), st.lists(st.tuples(OFFSETS, OFFSETS), max_size=3)),
        st.one_of(st.none(), st.binary(max_size=30)),
    ),
    max_size=5,
)


@given(PARTS, st.integers(0, 99), st.integers(0, 2**31 - 1), st.sampled_from((0, 50)))
def test_an_answer_is_read_as_aiokafka_reads_it(parts: list[Any], code: int, session: int, throttled: int) -> None:
    topics = [
        (place.topic, [(place.partition, error, high, stable, 3, aborted, -1, data)])
        for place, error, high, stable, aborted, data in parts
    ]
    data = b"head" + FetchResponse_v11(throttled, code, session, topics).encode()
    assert Answer.read(data, 4) == Answer(
        code,
        session,
        [
            Part(place, error, high, stable, aborted or [], data or b"")
            for place, error, high, stable, aborted, data in parts
        ],
        throttled=throttled / 1000,
    )


def test_an_old_broker_is_asked_in_its_version_and_without_a_session() -> None:
    request = FetchQuestion(250, LIMITS, {A: 5}, session=3, epoch=4).prepare({1: (0, 4)})
    assert request.API_VERSION == 4
    assert request.topics == [("a", [(0, 5, 1000)])]
    response = FetchResponse_v4(0, [("a", [(0, 0, 9, 8, [(1, 2)], b"data"), (7, 6, -1, -1, None, None)])])
    found = answer_of(FetchResponse_v4.decode(BytesIO(response.encode())))
    assert found == Answer(0, 0, [Part(A, 0, 9, 8, [(1, 2)], b"data"), Part(B, 6, -1, -1, [], b"")])


def test_a_session_tells_only_what_has_changed() -> None:
    session = FetchSession()
    session.note(A, 1)
    session.note(B, 2)
    assert told(session.question(0, LIMITS)) == (0, 0, {A: 1, B: 2}, []), "all, and: begin a session"
    session.answered(Answer(0, 77, []))
    session.note(A, 5)
    session.note(C, 3)
    session.note(C, None)
    assert told(session.question(0, LIMITS)) == (77, 1, {A: 5}, [])
    session.answered(Answer(0, 77, []))
    session.note(B, None)
    session.note(A, None)
    session.note(A, 5)
    assert told(session.question(0, LIMITS)) == (77, 2, {}, [B])
    session.answered(Answer(0, 77, []))
    assert told(session.question(0, LIMITS)) == (77, 3, {}, [])
    session.reset()  # the request may have been lost
    session.note(B, 9)
    assert told(session.question(0, LIMITS)) == (77, 0, {A: 5, B: 9}, []), "all again; the old session may go"
    session.answered(Answer(0, 78, []))
    assert told(session.question(0, LIMITS)) == (78, 1, {}, [])


def test_without_a_session_every_request_tells_all() -> None:
    """The broker keeps so many sessions and no more."""
    session = FetchSession()
    session.note(A, 1)
    for _ in range(2):
        assert told(session.question(0, LIMITS)) == (0, 0, {A: 1}, [])
        session.answered(Answer(0, 0, []))


def test_the_epoch_of_a_session_goes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.transports.kafka.fetch_wire.LAST_EPOCH", 3)
    session, epochs = FetchSession(), []
    for _ in range(6):
        epochs.append(told(session.question(0, LIMITS))[1])
        session.answered(Answer(0, 1, []))
    assert epochs == [0, 1, 2, 3, 1, 2], "0 would begin a new session"


CHANGES = st.lists(
    st.tuples(
        st.sampled_from((A, B, C)), st.one_of(st.none(), st.integers(0, 5)), st.sampled_from(("", "sent", "lost"))
    ),
    max_size=20,
)


@given(CHANGES)
def test_the_broker_knows_what_is_wanted(changes: list[tuple[TopicPartition, int | None, str]]) -> None:
    """Whatever changes, and whichever requests are lost."""
    session, wanted, broker = FetchSession(), dict[TopicPartition, int](), Broker()
    for place, offset, then in [*changes, (A, 1, "sent")]:
        session.note(place, offset)
        wanted = {
            **{each: at for each, at in wanted.items() if each != place},
            **({} if offset is None else {place: offset}),
        }
        if then:
            question = session.question(0, LIMITS)
            if then == "sent":
                session.answered(broker.answer(*told(question)))
                assert broker.session == wanted
            else:
                session.reset()


class Broker:
    """A broker's side of a session (`FetchManager.newContext`)."""

    def __init__(self) -> None:
        self.session: dict[TopicPartition, int] = {}
        self._id = self._epoch = 0

    def answer(self, session: int, epoch: int, asked: Mapping[TopicPartition, int], forgotten: list[Any]) -> Answer:
        if epoch == 0:
            self.session, self._epoch = {}, 0
            self._id += 1
        else:
            assert (session, epoch) == (self._id, self._epoch)
        self._epoch += 1
        for place in forgotten:
            del self.session[place]
        self.session |= asked
        return Answer(0, self._id, [])
