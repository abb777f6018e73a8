"""aiokafka's client, through which its producer and its consumer send all requests, with what it lacks.

The private parts of aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
    for_code,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from .boundary import UnreachableError, abandon
from .client_log import client_context
from .connection import Asker, Connection, open_connection
from .hints import connection_hint
from .options import milliseconds
from .wire import Question

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_SECONDS = 10.0
"""Seconds in which a broker has to connect and answer a metadata request. Java's limit for connecting (KIP-601)."""
NEXT_SECONDS = 1.0
"""Seconds after which the next broker is asked as well, if one that was asked has not answered yet."""
REBOOTSTRAP_PAUSE = 1.0
"""Seconds between two rounds of asking the bootstrap servers, while no known broker answers."""
ASK_PAUSE = 0.2
"""Least seconds between two metadata requests for the same topics. While aiokafka waits for a leader, or for a topic
that was deleted, it asks again as soon as it is answered: thousands of times a second, each with a line in the log."""
FIND_SECONDS, FIND_PAUSE = 2 * REBOOTSTRAP_PAUSE, 0.1
"""Seconds for which a request is tried again if its broker has to be found first, and the seconds in between."""


class KafkaClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka is not typed
    """Finds brokers that have come back under other addresses (KIP-899).

    aiokafka asks only the brokers it knows. When none of them answers, this asks the bootstrap servers again, and looks
    their names up again.

    One broker that does not answer keeps nobody from connecting to another one, nor from asking it. aiokafka connects,
    and asks, one after the other.

    The code that creates or takes over a client sets `makes_topics` and `patience`, before it connects.
    """

    makes_topics = True  # a metadata request for a missing topic may create it, with the broker's default partitions
    patience: float | None = None
    """Seconds in which a request of connection group `DEFAULT` has to be answered. After them its connection is closed,
    also if who asked waits no more: the next one would wait in vain, too. None: after `kafka.request_timeout`."""
    _rebootstrapped_at = _asked_at = float("-inf")  # on the monotonic clock
    _asked_for: frozenset[str] = frozenset()
    _opening: dict[tuple[Any, Any], asyncio.Task[Connection | None]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._prepare()

    @classmethod
    def take_over(cls, client: AIOKafkaClient) -> KafkaClient:
        """Turns the client that aiokafka's producer or consumer has created into one of these, before it connects."""
        client.__class__ = cls
        client._prepare()
        return client  # type: ignore[no-any-return]

    def _prepare(self) -> None:
        self._opening = {}
        self._context = client_context()  # of its connections: they outlive the request that one is opened for

    async def close(self) -> None:
        for opening in self._opening.values():
            abandon(opening)
        await super().close()

    async def bootstrap(self) -> None:
        """Like aiokafka's, but the error says why no server could be used, and what to do.

        Raises:
            UnreachableError: none answered.
        """
        if reasons := await self._ask_in_turn():
            raise UnreachableError(reasons)
        if self._sync_task is None:
            self._sync_task: asyncio.Task[None] | None = asyncio.create_task(self._md_synchronizer())

    async def _ask_in_turn(self) -> str:
        """Asks the bootstrap servers, until one answers. If none does: why, for people."""
        reasons: dict[str, str] = {}

        async def ask(host: str, port: int) -> Any:
            place = f"{host}:{port}"
            reasons[place] = f"{place}: no answer yet"
            try:
                metadata = await self._ask_once(host, port, MetadataRequest([]))
            except (OSError, KafkaError, TimeoutError) as error:
                reasons[place] = f"{place}: {self._hint(error)}"
                return None
            if not metadata.brokers:
                reasons[place] = f"{place}: it knows no brokers yet"
                return None
            del reasons[place]
            return metadata

        metadata = await first_of(ask(host, port) for host, port, _ in self.hosts)
        if metadata is None:
            return "; ".join(reasons.values())
        if reasons:
            logger.warning("a bootstrap server cannot be used, another one can: %s", "; ".join(reasons.values()))
        self.cluster.update_metadata(metadata)
        return ""

    async def why_unreachable(self) -> str:
        """Asks the bootstrap servers: what is wrong, and what to do. For people."""
        return await self._ask_in_turn() or "the bootstrap servers answer, but no broker that they name can be reached"

    def _hint(self, error: BaseException) -> str:
        return connection_hint(error, self._security_protocol, self._sasl_mechanism)

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        """The connection to a broker, opened if need be; None if it cannot be. Like aiokafka's, see above."""
        if (known := self._known(node_id, group)) is not None:
            return known
        place = (node_id, group)
        opening = self._opening.get(place)
        if opening is None:
            opening = self._opening[place] = self._loop.create_task(self._open(place), context=self._context)
            opening.add_done_callback(lambda _: self._opening.pop(place, None))
        return await asyncio.shield(opening)

    async def _open(self, place: tuple[Any, Any]) -> Connection | None:
        node, group = place
        broker = self.cluster.broker_metadata(node)
        try:
            if broker is None:
                raise StaleMetadata(f"broker {node} is not in the metadata")
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = await open_connection(broker.host, broker.port, **self._connection_options(group))
        except (OSError, KafkaError, TimeoutError) as error:
            logger.error("cannot connect to broker %s: %s", node, self._hint(error))
            self.force_metadata_update()  # it may have moved
            return None
        self._conns[place] = connection
        return connection

    def _known(self, node: Any, group: Any) -> Connection | None:
        """The connection to a broker that is open."""
        known: Connection | None = self._conns.get((node, group))
        return known if known is not None and known.connected() else None

    async def send(self, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """The broker's answer. Like aiokafka's, with less in between."""
        connection = self._known(node_id, group)
        if connection is None or isinstance(request, ProduceRequest):  # some are not answered
            return await super().send(node_id, request, group=group)
        try:
            return await connection.send(request)
        except TimeoutError as error:
            raise RequestTimedOutError from error

    def ask(self, node: Any, request: Any, group: Any, asker: Asker) -> None:
        """As `send`, without a task: `asker` gets the answer or the error, perhaps before this returns."""
        connection = self._known(node, group)
        if connection is not None:
            _ask_on(connection, request, asker)
        else:
            opening = self._loop.create_task(self._get_conn(node, group=group), context=client_context())
            opening.add_done_callback(partial(_ask_when_open, node, request, asker))

    def ask_open(self, node: Any, question: Question, group: Any) -> asyncio.Future[Any] | None:
        """The answer, over a connection that is open. None: none is, or the broker does not know the question.

        Raises `KafkaConnectionError`; awaiting the answer does, too, or raises `TimeoutError`.
        """
        connection = self._known(node, group)
        if connection is None or not connection.understands(question):
            return None
        answer: asyncio.Future[Any] = self._loop.create_future()
        connection.ask(question, answer)
        return answer

    def heard(self, node: int, group: Any) -> object:
        """Changes with all that comes over this connection. None: it is not open."""
        connection = self._known(node, group)
        return connection.heard() if connection is not None else None

    def waits_since(self, node: int, group: Any) -> float | None:
        """When the request was sent that waits on this connection; None: none does. It may still be opened."""
        connection = self._known(node, group)
        return connection.waits_since() if connection is not None else None

    def hang_up(self, node: int, group: Any) -> None:
        """Closes a connection on which the broker has fallen silent: who waits for an answer gets an error."""
        if (connection := self._known(node, group)) is not None:
            logger.warning("broker %s has fallen silent on a connection: opening a new one", node)
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)

    def _on_connection_closed(self, conn: Any, reason: Any) -> None:
        """Like aiokafka's. Where one has fallen silent, others have, too: those that are not in use are opened anew."""
        if reason is CloseReason.CONNECTION_TIMEOUT:
            for other in list(self._conns.values()):
                if (other.host, other.port) == (conn.host, conn.port) and not other._requests:
                    other.close(reason=CloseReason.IDLE_DROP)
        super()._on_connection_closed(conn, reason)

    def _connection_options(self, group: Any) -> dict[str, Any]:
        timeout_ms = self._request_timeout_ms
        if self.patience is not None and group is ConnectionGroup.DEFAULT:
            timeout_ms = min(timeout_ms, milliseconds(self.patience))
        return {
            "client_id": self._client_id,
            "request_timeout_ms": timeout_ms,
            "on_close": self._on_connection_closed,
            "max_idle_ms": self._connections_max_idle_ms,
            "ssl_context": self._ssl_context,
            "security_protocol": self._security_protocol,
            "sasl_mechanism": self._sasl_mechanism,
            "sasl_plain_username": self._sasl_plain_username,
            "sasl_plain_password": self._sasl_plain_password,
            "sasl_kerberos_service_name": self._sasl_kerberos_service_name,
            "sasl_kerberos_domain_name": self._sasl_kerberos_domain_name,
            "sasl_oauth_token_provider": self._sasl_oauth_token_provider,
        }

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """Never raises: that would end aiokafka's only task that updates metadata, for good."""
        if cluster_metadata is self.cluster:
            await self._take_time(frozenset(topics))
        try:
            if await self._ask_known(cluster_metadata, topics):
                return True
            return await self._ask_bootstrap(cluster_metadata, topics)
        except Exception:
            logger.exception("the metadata of the cluster could not be read, trying again")
            return False

    async def _take_time(self, topics: frozenset[str]) -> None:
        if topics == self._asked_for and (pause := self._asked_at + ASK_PAUSE - monotonic()) > 0:
            await asyncio.sleep(pause)
        self._asked_at, self._asked_for = monotonic(), topics

    async def _ask_known(self, cluster_metadata: Any, topics: Any) -> bool:
        question = self._question(topics)
        answer = await first_of(self._ask_node(node, question, lambda answer: answer.brokers) for node in self._nodes())
        return self._learn(cluster_metadata, answer)

    def _learn(self, cluster_metadata: Any, metadata: Any) -> bool:
        if metadata is None:
            return False
        cluster_metadata.update_metadata(metadata)
        return True

    async def ask_any(self, request: Any) -> Any:
        """The answer of some broker. Raises `NodeNotReadyError`: none can be asked."""
        answer = await first_of(self._ask_node(node, request, lambda _: True) for node in self._nodes())
        if answer is None:
            raise NodeNotReadyError("no broker answers")
        return answer

    def _nodes(self) -> list[int]:
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        random.shuffle(nodes)
        return nodes

    async def _ask_node(self, node: int, request: Any, is_answer: Callable[[Any], object]) -> Any:
        """What the broker answers; None: nothing, or nothing that helps."""
        try:
            answer = await self.send(node, request)
        except NodeNotReadyError:  # why has been told
            return None
        except (KafkaError, TimeoutError) as error:
            logger.info("broker %s did not answer %s: %r", node, type(request).__name__, error)
            return None
        return answer if is_answer(answer) else None

    async def coordinator_lookup(self, coordinator_type: Any, coordinator_key: str) -> Any:
        """Like aiokafka's, which asks a single broker."""
        found = await self.ask_any(FindCoordinatorRequest(coordinator_key, coordinator_type))
        if found.error_code:
            raise for_code(found.error_code)()
        return found.coordinator_id

    def _question(self, topics: Any) -> MetadataRequest:
        return MetadataRequest(self._question_topics(topics), allow_auto_topic_creation=self.makes_topics)

    def _question_topics(self, topics: Any) -> list[str] | None:
        """What a metadata request names; None: all topics. As aiokafka does it: no topics stand for all."""
        return list(topics) if topics else None

    async def _ask_bootstrap(self, cluster_metadata: Any, topics: Any) -> bool:
        if monotonic() < self._rebootstrapped_at + REBOOTSTRAP_PAUSE:
            return False
        self._rebootstrapped_at = monotonic()
        asking = (self._ask_server(host, port, self._question(topics)) for host, port, _ in self.hosts)
        if not self._learn(cluster_metadata, await first_of(asking)):
            return False
        self._close_moved()
        return True

    async def _ask_server(self, host: str, port: int, question: MetadataRequest) -> Any:
        try:
            metadata = await self._ask_once(host, port, question)
        except (OSError, KafkaError, TimeoutError) as error:
            logger.info("bootstrap server %s:%s does not answer: %s", host, port, self._hint(error))
            return None
        return metadata if metadata.brokers else None

    async def _ask_once(self, host: str, port: int, request: Any) -> Any:
        options = self._connection_options(ConnectionGroup.DEFAULT) | {"on_close": None, "max_idle_ms": None}
        connection = await open_connection(host, port, **options)
        try:
            return await connection.send(request)
        finally:
            connection.close()

    def _close_moved(self) -> None:
        """Closes connections to addresses that brokers have left. A silent address never closes them itself."""
        for (node, group), connection in list(self._conns.items()):
            broker = self.cluster.broker_metadata(node)
            if broker is None or not _leads_to(connection, broker):
                del self._conns[node, group]
                connection.close(reason=CloseReason.OUT_OF_SYNC)

    async def find_and(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does `work`; does it again if it failed because a broker has moved or no longer leads a partition."""
        end = monotonic() + FIND_SECONDS
        while True:
            try:
                return await work()
            except KafkaError as error:
                moved = isinstance(error, NodeNotReadyError) or error.invalid_metadata
                if not moved or monotonic() > end:
                    raise
            if not await self.force_metadata_update():
                await asyncio.sleep(FIND_PAUSE)


async def first_of(questions: Iterable[Coroutine[Any, Any, T | None]]) -> T | None:
    """The first answer that is not None; None if there is none within `ANSWER_SECONDS` after the last was asked.

    A question is put if those before it were answered in vain, or not within `NEXT_SECONDS`.
    """
    asking = set[asyncio.Task[T | None]]()
    loop, left, end = asyncio.get_running_loop(), iter(questions), float("inf")
    try:
        while True:
            if (question := next(left, None)) is not None:
                asking.add(loop.create_task(question))
                seconds, end = NEXT_SECONDS, monotonic() + ANSWER_SECONDS
            else:
                seconds = end - monotonic()
            if not asking or seconds <= 0:
                return None
            done, asking = await asyncio.wait(asking, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                if (answer := each.result()) is not None:
                    return answer
    finally:
        for each in asking:
            abandon(each)


def _leads_to(connection: Connection, broker: Any) -> bool:
    return bool((connection.host, connection.port) == (broker.host, broker.port))


def _ask_when_open(node: Any, request: Any, asker: Asker, opening: asyncio.Task[Connection | None]) -> None:
    if opening.cancelled():
        asker.set_exception(KafkaConnectionError("the client is closed"))
    elif (error := opening.exception()) is not None:
        asker.set_exception(error)
    elif (connection := opening.result()) is None:
        asker.set_exception(NodeNotReadyError(f"broker {node} cannot be reached"))
    else:
        _ask_on(connection, request, asker)


def _ask_on(connection: Connection, request: Any, asker: Asker) -> None:
    try:
        connection.ask(request, asker)
    except Exception as error:  # whatever it is: who asked must not wait for ever
        asker.set_exception(error)
