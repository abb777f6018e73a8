"""What aiokafka logs, calmed: the first line of each kind comes, what repeats is counted until it is over."""

from __future__ import annotations

import ast
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import aiokafka.cluster
import aiokafka.consumer.group_coordinator
import aiokafka.producer.sender
import pytest
from aiokafka.errors import NotEnoughReplicasError, NotLeaderForPartitionError

from fastapi_athomic.transports.kafka import client_log as module
from fastapi_athomic.transports.kafka.client_log import MOST_KINDS, SILENT_SECONDS, ClientLog, client_context
from tests.support.clock import set_clock
from tests.support.sources import parsed

NAME = "aiokafka.consumer.group_coordinator"
RETRIED = "Got error produce response on topic-partition %s, retrying. Error: %s"


class Transport:
    """Stands for one that is started."""


class Calmed:
    def __init__(self) -> None:
        self.now = 100.0
        self.log, self.transport, self.logger = ClientLog(), Transport(), logging.getLogger(NAME)

    def ours(self, text: str, *arguments: object, level: int = logging.ERROR) -> None:
        """Logs like a task of one of our clients."""
        client_context().run(self.logger.log, level, text, *arguments)


@pytest.fixture
def calmed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Calmed]:
    calmed = Calmed()
    set_clock(monkeypatch, lambda: calmed.now, "transports.kafka.client_log")
    caplog.set_level(logging.INFO)
    calmed.log.attach(calmed.transport)
    calmed.log.attach(calmed.transport)  # as each attempt to start does
    yield calmed
    calmed.log.detach(calmed.transport)
    assert calmed.log not in calmed.logger.filters


def test_the_first_line_of_each_kind_comes_and_the_rest_is_counted(
    calmed: Calmed, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        calmed.ours("no way to node %s", 1)
        calmed.ours("no way to node %s", 2)
        calmed.ours("heartbeat failed")
        calmed.now += 0.2
    assert caplog.messages == ["no way to node 1", "no way to node 2", "heartbeat failed"]
    assert [(record.name, record.levelname) for record in caplog.records] == [(NAME, "ERROR")] * 3
    calmed.log.note_answer(recovered=False)
    assert len(caplog.messages) == 3, "it is not over"
    calmed.log.note_answer(recovered=True)
    (*_, over) = caplog.messages
    assert over.startswith("147 more lines like those of aiokafka above were left out: 98 x")
    assert '49 x "heartbeat failed"' in over
    calmed.ours("heartbeat failed")
    assert caplog.messages[-1] == "heartbeat failed", "the next outage is another state"


@pytest.mark.parametrize("module", ["client", "connection"])
def test_what_we_say_as_often_as_aiokafka_is_calmed_too(
    calmed: Calmed, caplog: pytest.LogCaptureFixture, module: str
) -> None:
    calmed.logger = logging.getLogger(f"fastapi_athomic.transports.kafka.{module}")
    for _ in range(2):
        calmed.ours("cannot be read")
    assert caplog.messages == ["cannot be read"]


def test_a_state_is_over_when_nothing_more_is_said_of_it(calmed: Calmed, caplog: pytest.LogCaptureFixture) -> None:
    calmed.ours("no rights")
    calmed.ours("no rights")
    calmed.now += SILENT_SECONDS + 1
    calmed.ours("no rights")
    assert caplog.messages == ["no rights", "no rights"]
    calmed.log.note_answer(recovered=False)
    assert caplog.messages[-1].startswith("1 more lines")


def test_lines_that_only_differ_in_numbers_do_not_flood(calmed: Calmed, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(500):
        calmed.ours("request %s failed", number)
    assert len(caplog.messages) == MOST_KINDS + 1


def test_other_users_of_aiokafka_in_the_process_get_all_their_lines(
    calmed: Calmed, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        calmed.logger.error("theirs")
    assert caplog.messages == ["theirs"] * 5


def test_nothing_is_lost_at_debug(calmed: Calmed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, NAME)
    calmed.ours("again")
    calmed.ours("again")
    assert [record.levelname for record in caplog.records] == ["ERROR", "DEBUG"]


def test_rebalances_are_not_held_back(calmed: Calmed, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        calmed.ours("(Re-)joining group", level=logging.INFO)
        calmed.now += 10
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("text", "arguments", "level"),
    [
        ("Heartbeat failed for group %s because it is rebalancing", ("g",), "INFO"),
        ("Topic %s not found in cluster metadata", ("t",), "INFO"),
        (RETRIED, ("t-0", NotLeaderForPartitionError), "INFO"),
        (RETRIED, ("t-0", NotEnoughReplicasError), "WARNING"),
        ("Heartbeat failed for group %s: generation id is not  current.", ("g",), "WARNING"),
    ],
)
def test_what_is_normal_is_no_warning(
    calmed: Calmed, caplog: pytest.LogCaptureFixture, text: str, arguments: tuple[object, ...], level: str
) -> None:
    calmed.ours(text, *arguments, level=logging.WARNING)
    calmed.logger.warning(text, *arguments)
    assert [record.levelname for record in caplog.records] == [level, "WARNING"], "the second is not ours"
    caplog.set_level(logging.WARNING, NAME)
    calmed.ours(text, "other", *arguments[1:], level=logging.WARNING)
    assert len(caplog.records) == (2 if level == "INFO" else 3)


def test_aiokafka_has_the_lines_that_are_normal() -> None:
    modules = (aiokafka.cluster, aiokafka.consumer.group_coordinator, aiokafka.producer.sender)
    texts = {
        node.value
        for each in modules
        for node in ast.walk(parsed(inspect.getsource(each)))
        if isinstance(node, ast.Constant)
    }
    assert module.NORMAL.keys() <= texts
    assert all(hasattr(aiokafka.errors, name) for name in module.NEW_LEADER)


def test_every_logger_of_aiokafka_is_calmed_while_a_transport_is_started() -> None:
    one, other, log = Transport(), Transport(), ClientLog()
    loggers: list[Any] = [logging.getLogger(name) for name in module._loggers()]
    assert {"aiokafka", "aiokafka.conn", "aiokafka.producer.sender", NAME} <= {each.name for each in loggers}
    log.attach(one)
    log.attach(other)
    log.detach(one)
    assert all(log in each.filters for each in loggers)
    log.detach(other)
    assert not any(log in each.filters for each in loggers)


def test_tasks_that_ours_start_are_ours_too() -> None:
    inner: list[bool] = []
    note: Callable[[], None] = lambda: inner.append(module._of_our_clients.get())  # noqa: E731
    client_context().run(note)
    note()
    assert inner == [True, False]
