"""Commits and heartbeats as bytes, compared with what aiokafka makes of the same bytes."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from aiokafka.protocol.commit import OffsetCommitRequest_v3, OffsetCommitResponse_v3
from aiokafka.protocol.group import HeartbeatRequest_v1, HeartbeatResponse_v1

from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.base import CommittedOffset
from fastapi_athomic.transports.kafka.group_wire import CommitQuestion, HeartbeatQuestion, Member
from fastapi_athomic.transports.kafka.wire import text

MEMBER = Member("gruppe-ä", 7, "c-1")
A, B, C = TopicPartition("a", 0), TopicPartition("a", 7), TopicPartition("bé", 1)
OFFSETS = {A: CommittedOffset(5, "note"), C: CommittedOffset(2**40), B: CommittedOffset(7, "nöte")}
HEAD = b"head"


def framed(request: Any) -> bytes:
    """What aiokafka sends of one of its requests."""
    message: bytes = request.build_request_header(correlation_id=9, client_id="cé").encode() + request.encode()
    return pack(">i", len(message)) + message


def test_a_commit_has_the_bytes_that_aiokafka_writes() -> None:
    topics = [("a", [(0, 5, "note"), (7, 7, "nöte")]), ("bé", [(1, 2**40, "")])]
    theirs = OffsetCommitRequest_v3("gruppe-ä", 7, "c-1", -1, topics)
    assert CommitQuestion(MEMBER, offsets=OFFSETS).message(9, text("cé")) == framed(theirs)


def test_a_heartbeat_has_the_bytes_that_aiokafka_writes() -> None:
    assert HeartbeatQuestion(MEMBER).message(9, text("cé")) == framed(HeartbeatRequest_v1("gruppe-ä", 7, "c-1"))


@pytest.mark.parametrize(
    ("codes", "accepted"), [((0, 0, 0), True), ((25, 0, 0), False), ((0, 3, 0), False), ((0, 0, 29), False)]
)
def test_a_commit_is_accepted_if_it_is_for_all_partitions(codes: tuple[int, int, int], accepted: bool) -> None:
    first, second, third = codes
    answer = OffsetCommitResponse_v3(50, [("a", [(0, first), (7, second)]), ("bé", [(1, third)])])
    assert CommitQuestion.answer_in(HEAD + answer.encode(), len(HEAD)) is accepted
    assert CommitQuestion.answer_in(HEAD + OffsetCommitResponse_v3(0, []).encode(), len(HEAD))


@pytest.mark.parametrize(("code", "accepted"), [(0, True), (27, False), (25, False), (-1, False)])
def test_a_heartbeat_is_answered_well_only_if_there_is_nothing_to_say(code: int, accepted: bool) -> None:
    answer = HeartbeatResponse_v1(50, code)
    assert HeartbeatQuestion.answer_in(HEAD + answer.encode(), len(HEAD)) is accepted


@pytest.mark.parametrize(
    ("versions", "fits"),
    [({8: (2, 9)}, True), ({8: (3, 3)}, True), ({8: (0, 2)}, False), ({8: (4, 9)}, False), ({}, False)],
)
def test_a_question_knows_whether_the_broker_understands_it(versions: dict[int, tuple[int, int]], fits: bool) -> None:
    assert CommitQuestion(MEMBER, offsets=OFFSETS).fits(versions) is fits
