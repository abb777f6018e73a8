"""aiokafka's client, through which its producer and its consumer send all requests, with what it lacks.

The private parts of aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError, StaleMetadata
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from .boundary import UnreachableError, abandon
from .client_log import client_context
from .connection import Asker, Connection, open_connection
from .hints import connection_hint

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_SECONDS = 10.0
"""Seconds in which a broker has to connect and answer a metadata request. Java's limit for connecting (KIP-601)."""
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

    One broker that does not answer keeps nobody from connecting to another one. aiokafka connects one after the other.

    The code that creates or takes over a client sets `makes_topics`, before it connects.
    """

    makes_topics = True  # a metadata request for a missing topic may create it, with the broker's default partitions
    _rebootstrapped_at = _asked_at = float("-inf")  # on the monotonic clock
    _asked_for: frozenset[str] = frozenset()
    _opening: dict[tuple[Any, Any], asyncio.Task[Connection | None]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._opening = {}

    @classmethod
    def take_over(cls, client: AIOKafkaClient) -> KafkaClient:
        """Turns the client that aiokafka's producer or consumer has created into one of these, before it connects."""
        client.__class__ = cls
        client._opening = {}
        return client  # type: ignore[no-any-return]

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
        reasons = []
        for host, port, _ in self.hosts:
            try:
                metadata = await self._ask_once(host, port, MetadataRequest([]))
            except (OSError, KafkaError, TimeoutError) as error:
                reasons.append(f"{host}:{port}: {self._hint(error)}")
                continue
            if not metadata.brokers:
                reasons.append(f"{host}:{port}: it knows no brokers yet")
                continue
            if reasons:
                logger.warning("a bootstrap server cannot be used, another one can: %s", "; ".join(reasons))
            self.cluster.update_metadata(metadata)
            return ""
        return "; ".join(reasons)

    async def why_unreachable(self) -> str:
        """Asks the bootstrap servers: what is wrong, and what to do. For people."""
        return await self._ask_in_turn() or "the bootstrap servers answer, but no broker that they name can be reached"

    def _hint(self, error: BaseException) -> str:
        return connection_hint(error, self._security_protocol, self._sasl_mechanism)

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
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)  # the next request opens another one
            raise RequestTimedOutError from error

    def ask(self, node: Any, request: Any, group: Any, asker: Asker) -> None:
        """As `send`, without a task: `asker` gets the answer or the error, which may happen before this returns.

        If that is a `TimeoutError`, it should close the connection (`give_up`).
        """
        connection = self._known(node, group)
        if connection is not None:
            _ask_on(connection, request, asker)
        else:
            opening = self._loop.create_task(self._get_conn(node, group=group), context=client_context())
            opening.add_done_callback(partial(_ask_when_open, node, request, asker))

    def give_up(self, node: Any, group: Any) -> None:
        """An answer took too long: the next request goes over another connection."""
        if (connection := self._known(node, group)) is not None:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        """The connection to a broker, opened if need be; None if it cannot be. Like aiokafka's, see above."""
        if (known := self._known(node_id, group)) is not None:
            return known
        place = (node_id, group)
        opening = self._opening.get(place)
        if opening is None:
            opening = self._opening[place] = self._loop.create_task(self._open(place))
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

    def _connection_options(self, group: Any) -> dict[str, Any]:
        return {
            "client_id": self._client_id,
            "request_timeout_ms": self._request_timeout_ms,
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
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        random.shuffle(nodes)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for node in nodes:
                    if await self._ask_node(node, cluster_metadata, topics):
                        return True
        except TimeoutError:
            pass
        return False

    async def _ask_node(self, node: int, cluster_metadata: Any, topics: Any) -> bool:
        """Like one step of aiokafka's `_metadata_update`, which always allows brokers to create topics."""
        connection = await self._get_conn(node)
        if connection is None:
            return False
        try:
            metadata = await connection.send(self._question(topics))
        except (KafkaError, TimeoutError) as error:
            logger.warning("broker %s did not answer a metadata request: %r", node, error)
            return False
        if metadata.brokers:
            cluster_metadata.update_metadata(metadata)
        return bool(metadata.brokers)

    def _question(self, topics: Any) -> MetadataRequest:
        return MetadataRequest(self._question_topics(topics), allow_auto_topic_creation=self.makes_topics)

    def _question_topics(self, topics: Any) -> list[str] | None:
        """What a metadata request names; None: all topics. As aiokafka does it: no topics stand for all."""
        return list(topics) if topics else None

    async def _ask_bootstrap(self, cluster_metadata: Any, topics: Any) -> bool:
        if monotonic() < self._rebootstrapped_at + REBOOTSTRAP_PAUSE:
            return False
        self._rebootstrapped_at = monotonic()
        for host, port, _ in self.hosts:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    metadata = await self._ask_once(host, port, self._question(topics))
            except (OSError, KafkaError, TimeoutError) as error:
                logger.info("bootstrap server %s:%s does not answer: %s", host, port, self._hint(error))
                continue
            if metadata.brokers:
                cluster_metadata.update_metadata(metadata)
                self._close_moved()
                return True
        return False

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
    except KafkaError as error:
        asker.set_exception(error)
