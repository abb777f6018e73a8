"""What all Kafka clients of a transport share.

How to connect, deadlines, errors, and how to be rid of a client that hangs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from types import FrameType
from typing import Any, TypeVar

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection

from ...exceptions import (
    CommitFailedError,
    ConfigurationError,
    MessageTooLargeError,
    TopicNotFoundError,
    TransportClosedError,
    TransportError,
)
from ...settings import AthomicSettings, KafkaSettings
from .tls import RenewedContext

T = TypeVar("T")

TEARDOWN_SECONDS = 0.3
"""Kept of the time for closing, to take apart a client that does not stop."""
TEARDOWN_ROUNDS = 3
"""aiokafka's tasks wait for each other when they are cancelled; so often they are asked again."""
RETRY_SECONDS = 0.25
"""Between two attempts to reach a broker; each one that fails is an error in aiokafka's log."""
IDLE_SECONDS = 180.0
"""A connection without traffic for so long is closed, and opened anew when it is needed. Sooner than load balancers and
firewalls forget it without a word, the usual ones after 4 to 6 minutes: a request would wait for its answer then."""
METADATA_SECONDS = 300.0
"""What producer and admin client know of topics and leaders is asked for anew after so long, if nothing failed."""
MAX_DETAIL = 300
"""Characters of a foreign error's text that are passed on."""


# --- settings


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def connection_options(settings: AthomicSettings) -> dict[str, Any]:
    """The arguments every client of aiokafka takes. Holds the credentials: never print it.

    Raises:
        ConfigurationError: a certificate cannot be read, or a library the settings ask for is missing.
    """
    kafka = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": [server.rstrip("/") for server in settings.broker_address.split(",")],
        "client_id": settings.client_id,
        "request_timeout_ms": milliseconds(kafka.request_timeout),
        "retry_backoff_ms": milliseconds(RETRY_SECONDS),
        "connections_max_idle_ms": milliseconds(IDLE_SECONDS),
        "metadata_max_age_ms": milliseconds(METADATA_SECONDS),
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = RenewedContext(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options |= _sasl_options(kafka)
    return options


def _sasl_options(kafka: KafkaSettings) -> dict[str, Any]:
    if kafka.sasl_mechanism == "GSSAPI":
        if find_spec("gssapi") is None:
            raise ConfigurationError("kafka.sasl_mechanism GSSAPI needs the package gssapi")
        return {"sasl_mechanism": "GSSAPI"}
    password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password,
    }


# --- errors


_COMMIT_ERRORS = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
)
_TOO_LARGE_ERRORS = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_WRONG_TIME = "its time is refused: compare this machine's clock with the topic's message.timestamp settings"
_CLOSED_ERRORS = (errors.ProducerClosed, errors.ConsumerStoppedError)
AUTHORIZATION_ERRORS = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)


def translate(error: BaseException, doing: str) -> TransportError:
    """A foreign error as the most specific one of ours; `doing` says what was tried, and with what."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, _COMMIT_ERRORS):
        return CommitFailedError(f"{doing}: the group went on without this member")
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return TopicNotFoundError(f"{doing}: the topic or partition does not exist")
    if isinstance(error, errors.InvalidTimestampError):
        return TransportError(f"{doing}: {_WRONG_TIME}")
    if isinstance(error, _TOO_LARGE_ERRORS):
        return MessageTooLargeError(f"{doing}: the message is larger than the broker accepts")
    if isinstance(error, _CLOSED_ERRORS):
        return TransportClosedError(f"{doing}: the client is closed")
    if isinstance(error, AUTHORIZATION_ERRORS):
        return TransportError(f"{doing}: not authorized ({_detail(error)})")
    return TransportError(f"{doing}: {_detail(error)}")


def _detail(error: BaseException) -> str:
    """aiokafka's texts speak of hosts, topics and codes. Those of other errors may quote what was in a message."""
    return str(error)[:MAX_DETAIL] if isinstance(error, errors.KafkaError) else type(error).__name__


# --- deadlines


async def within(work: Coroutine[Any, Any, T], seconds: float, doing: str) -> T:
    """The result of `work`, done in a task of its own.

    The task keeps apart what aiokafka likes to mix: a `CancelledError` of its inner tasks is an error like others
    here, while a cancellation of the caller goes through.

    Raises:
        TransportError: it failed, or took longer than `seconds`.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=max(0.0, seconds))
    finally:
        if not task.done():
            abandon(task)
    if not task.done():
        raise TransportError(f"{doing}: no answer within {seconds:.3g} s")
    if task.cancelled():
        raise TransportError(f"{doing}: broken off")
    error = task.exception()
    if error is not None:
        raise translate(error, doing) from error
    return task.result()


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancels a task nobody waits for any more; what becomes of it is of no interest."""
    task.cancel()
    task.add_done_callback(retrieve)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Looks at the exception, so that asyncio does not complain that nobody did."""
    if not future.cancelled():
        future.exception()


# --- closing


async def open_client(client: Any, seconds: float, doing: str) -> None:
    """Starts a client of aiokafka; where that fails nothing is left open. Raises `TransportError`."""
    start = client.bootstrap if isinstance(client, AIOKafkaClient) else client.start
    try:
        await within(start(), seconds, doing)
    except BaseException:
        await close_client(client, TEARDOWN_SECONDS * 2)
        raise


async def close_client(client: Any, seconds: float) -> None:
    """Stops a client of aiokafka within about `seconds`; never raises.

    With the broker dead `stop` hangs, or raises a `CancelledError` in the middle and leaves connections and tasks
    behind. Then its tasks are cancelled and its connections closed from outside, so that nothing of it warns or
    reconnects later.
    """
    stop: Callable[[], Coroutine[Any, Any, None]] = client.close if isinstance(client, AIOKafkaClient) else client.stop
    stopping = asyncio.ensure_future(stop())
    try:
        await asyncio.wait({stopping}, timeout=max(0.0, seconds - TEARDOWN_SECONDS))
    finally:
        if not stopping.done():
            abandon(stopping)
        elif stopping.cancelled() or stopping.exception() is not None:
            pass
        else:
            return
        await _take_apart(client)


async def _take_apart(client: Any) -> None:
    for _ in range(TEARDOWN_ROUNDS):
        tasks, connections = _belongings(client)
        for task in tasks:
            abandon(task)
        for connection in connections:  # only after the tasks: their requests are cancelled now, and need not fail
            connection.close()
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=TEARDOWN_SECONDS / TEARDOWN_ROUNDS)


def _belongings(client: Any) -> tuple[set[asyncio.Task[Any]], set[AIOKafkaConnection]]:
    """The tasks that run methods of the client's own objects, and the connections in its hands or theirs.

    Found by looking, since aiokafka keeps some of both only in local variables.
    """
    objects = _objects_of(client)
    tasks = set()
    connections = {thing for thing in objects.values() if isinstance(thing, AIOKafkaConnection)}
    for task in asyncio.all_tasks():
        frames = list(_frames(task.get_coro()))
        if frames and id(frames[0].f_locals.get("self")) in objects:
            tasks.add(task)
            found = (value for frame in frames for value in frame.f_locals.values())
            connections.update(value for value in found if isinstance(value, AIOKafkaConnection))
    return tasks, connections


def _frames(waiting: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, from the outermost in."""
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        yield frame
        waiting = waiting.cr_await


def _objects_of(client: Any) -> dict[int, Any]:
    """Everything of aiokafka that can be reached from the client, by id."""
    objects: dict[int, Any] = {}
    pending: list[Any] = [client]
    while pending:
        thing = pending.pop()
        if id(thing) in objects:
            continue
        if isinstance(thing, dict):
            pending.extend(thing.values())
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            pending.extend(thing)
        elif isinstance(thing, asyncio.Event):
            objects[id(thing)] = thing
        elif any(kind.__module__.startswith("aiokafka.") for kind in type(thing).__mro__):
            objects[id(thing)] = thing
            pending.extend(getattr(thing, "__dict__", {}).values())
    return objects
