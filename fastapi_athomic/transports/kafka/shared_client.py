"""The client that all consumers of an app share, in one event loop: one set of metadata, few connections.

A connection carries one request at a time to its end before the broker looks at the next. So each kind has its own:

- fetches, which wait for messages (the lanes of the fetch hub);
- JoinGroup and SyncGroup, which the broker holds back until the whole group has joined: out of a pool, as many as there
  are joins at once, closed when they are not used any more;
- heartbeats, commits and committed offsets: a few connections to each coordinator, shared by the members;
- the rest: metadata, coordinators, offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from ...settings import AthomicSettings
from ..base import TopicInfo
from .boundary import abandon, retrieve
from .client import KafkaClient
from .client_life import close_client, open_client
from .client_log import client_context
from .fetch_hub import FetchHub
from .fetch_wire import Limits
from .options import milliseconds
from .topics import ask_for_topics
from .wire import Question

COORDINATION_CONNECTIONS = 4
"""To each broker, for heartbeats and commits: a broker answers the requests of one connection one after the other."""
COORDINATION_SHARE, LEAST_COORDINATION_SECONDS = 0.6, 2.0
"""A heartbeat or commit has to be answered within this share of `session_timeout`. After that the connection is closed:
there is time left to keep the membership over another one. It is never less than so many seconds."""
JOIN_IDLE_SECONDS = 5.0
"""A connection for joins that was not used for so long is closed."""
METADATA_MAX_AGE = 30.0
"""Seconds between two metadata requests of the consumers. Until the next one they do not notice new partitions."""
METADATA_MAX_AGE_FOR_PATTERN = 5.0
"""The same while a consumer has a pattern, and for new topics that match it."""
ALL = "*"
"""Stands for all topics that there are, among those that are followed. No topic can have that name."""


class SharedClient(KafkaClient):
    """The client behind the `MemberClient`s of one event loop."""

    def __init__(self, settings: AthomicSettings, connection: dict[str, Any]) -> None:
        super().__init__(**connection | {"metadata_max_age_ms": milliseconds(METADATA_MAX_AGE)})
        kafka = settings.kafka
        self.makes_topics = False  # asking for a topic that an operator has deleted would create it again
        self.patience = settings.request_timeout
        self.members: set[MemberClient] = set()
        limits = Limits(kafka.fetch_max_bytes, kafka.max_partition_fetch_bytes)
        self.hub = FetchHub(self, limits, kafka.fetch_max_wait, kafka.fetch_pace)
        self._fetch_timeout_ms = milliseconds(kafka.request_timeout + kafka.fetch_max_wait)
        seconds = max(LEAST_COORDINATION_SECONDS, kafka.session_timeout * COORDINATION_SHARE)
        self.coordination_timeout = min(kafka.request_timeout, settings.request_timeout, seconds)
        self._joins = JoinConnections(self._close_connections)
        self._topics: set[str] = set()  # aiokafka's: if it changes while they are asked for, they are asked for again
        self.topic_ids: dict[str, bytes] = {}  # of those that were described, as they were last
        self._to_describe: set[str] = set()
        self._describing: asyncio.Task[dict[str, TopicInfo | None]] | None = None  # the last request for topics
        self._description_sent = False
        self._slots = 0  # of coordination connections, given out so far

    def _connection_options(self, group: Any) -> dict[str, Any]:
        options = super()._connection_options(group)
        if isinstance(group, JoinConnection):
            return options | {"request_timeout_ms": group.timeout_ms, "client_id": group.client_id}
        if isinstance(group, str):  # a lane of the fetch hub
            return options | {"request_timeout_ms": self._fetch_timeout_ms}
        if isinstance(group, tuple):  # see `next_slot`
            return options | {"request_timeout_ms": milliseconds(self.coordination_timeout)}
        return options

    async def close(self) -> None:
        self.hub.close()
        self._joins.close()
        if self._describing is not None:
            self._describing.cancel()
        await super().close()

    # --- topics: those of all members

    def recount(self) -> Any:
        """A member follows other topics now. Returns when they are known, if that takes a request."""
        topics = {topic for member in self.members for topic in member.topics}
        known, asks_for_all = topics <= self._topics, ALL in topics
        self._topics = topics
        self._metadata_max_age_ms = milliseconds(METADATA_MAX_AGE_FOR_PATTERN if asks_for_all else METADATA_MAX_AGE)
        if not known or asks_for_all:
            return self.force_metadata_update()
        done = self._loop.create_future()
        done.set_result(True)
        return done

    def _question_topics(self, topics: Any) -> list[str] | None:
        return None if ALL in topics else list(topics)

    async def describe(self, names: Collection[str]) -> dict[str, TopicInfo | None]:
        """These topics as a broker knows them now. What several members ask at once is one request."""
        self._to_describe.update(names)
        if self._describing is None or self._description_sent:
            self._describing = self._loop.create_task(self._describe(self._describing), context=client_context())
            self._description_sent = False
            self._describing.add_done_callback(retrieve)
        found = await asyncio.shield(self._describing)
        return {name: found[name] for name in names}

    async def _describe(self, before: asyncio.Task[Any] | None) -> dict[str, TopicInfo | None]:
        if before is not None and not before.done():
            await asyncio.wait((before,))
        names, self._to_describe, self._description_sent = self._to_describe, set(), True
        found = await ask_for_topics(self, sorted(names))
        for name, topic in found.items():
            self.topic_ids[name] = topic.id if topic is not None else b""
        self.topic_ids = {name: known for name, known in self.topic_ids.items() if known}  # of those that there are
        return found

    # --- connections

    def next_slot(self) -> tuple[ConnectionGroup, int]:
        """The coordination connection of a new member."""
        self._slots += 1
        return ConnectionGroup.COORDINATION, self._slots % COORDINATION_CONNECTIONS

    def lend_join(self, node: int, timeout_ms: int, client_id: str) -> JoinConnection:
        """A connection for a join, until `give_back`."""
        return self._joins.lend(node, timeout_ms, client_id)

    def give_back(self, connection: JoinConnection, *, whole: bool) -> None:
        """The join is over. Not `whole`: it was broken off, so its answer may still come."""
        self._joins.give_back(connection, whole=whole)

    def _close_connections(self, group: Any) -> None:
        for opening in [opening for place, opening in self._opening.items() if place[1] is group]:
            abandon(opening)
        for place in [place for place in self._conns if place[1] is group]:
            self._conns.pop(place).close(reason=CloseReason.SHUTDOWN)


class JoinConnection:
    """The name of a connection for joins."""

    def __init__(self, node: int, timeout_ms: int, client_id: str) -> None:
        self.node, self.timeout_ms, self.client_id = node, timeout_ms, client_id
        self.closing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return "join"


class JoinConnections:
    """The pool of connections for joins. `close` is called with each one that is no longer needed."""

    def __init__(self, close: Callable[[JoinConnection], None]) -> None:
        self._close = close
        self._free: list[JoinConnection] = []

    def lend(self, node: int, timeout_ms: int, client_id: str) -> JoinConnection:
        """One that is free, or a new one. The broker names a member after the client id of its JoinGroup."""
        for connection in self._free:
            if (connection.node, connection.timeout_ms, connection.client_id) == (node, timeout_ms, client_id):
                self._free.remove(connection)
                self._stop_closing(connection)
                return connection
        return JoinConnection(node, timeout_ms, client_id)

    def give_back(self, connection: JoinConnection, *, whole: bool) -> None:
        if not whole:
            self._close(connection)
            return
        self._free.append(connection)
        connection.closing = asyncio.get_running_loop().call_later(JOIN_IDLE_SECONDS, self._expire, connection)

    def close(self) -> None:
        for connection in self._free:
            self._stop_closing(connection)
        self._free.clear()

    def _expire(self, connection: JoinConnection) -> None:
        self._free.remove(connection)
        self._close(connection)

    @staticmethod
    def _stop_closing(connection: JoinConnection) -> None:
        if connection.closing is not None:
            connection.closing.cancel()


class MemberClient:
    """What aiokafka's group coordinator takes for its client: the shared one, as one member sees it.

    Args:
        join_timeout_ms: for the answer to a JoinGroup, which the broker gives when all members have joined.
        client_id: names the member to the broker.
    """

    def __init__(self, shared: SharedClient, join_timeout_ms: int, client_id: str) -> None:
        self.shared = shared
        self.cluster = shared.cluster
        self.topics: set[str] = set()
        self._join_timeout_ms = join_timeout_ms
        self._client_id = client_id
        self._slot = shared.next_slot()
        self._join: JoinConnection | None = None
        shared.members.add(self)

    def leave(self) -> None:
        """The member is gone: nobody asks for its topics any more."""
        self.end_join(whole=False)
        self.shared.members.discard(self)
        self.shared.recount()

    def set_topics(self, topics: Collection[str]) -> Any:
        """Follow these topics; none stands for all that there are. Returns when the metadata is known."""
        self.topics = set(topics) or {ALL}
        return self.shared.recount()

    async def send(self, node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        if isinstance(request, JoinGroupRequest):
            self.end_join(whole=True)
            self._join = self.shared.lend_join(node, self._join_timeout_ms, self._client_id)
        if isinstance(request, JoinGroupRequest | SyncGroupRequest) and self._join is not None:
            whole = False
            try:
                answer = await self.shared.send(node, request, group=self._join)
                whole = True
            finally:
                if not whole or isinstance(request, SyncGroupRequest):
                    self.end_join(whole=whole)
            return answer
        return await self.shared.send(node, request, group=self._group(group))

    def ask_open(self, node: int, question: Question) -> asyncio.Future[Any] | None:
        """The coordinator's answer, if all that it takes is at hand, see `KafkaClient.ask_open`."""
        return self.shared.ask_open(node, question, self._slot)

    def end_join(self, *, whole: bool) -> None:
        """Gives back the connection of a join. Not `whole`: an answer is still to come."""
        if self._join is not None:
            join, self._join = self._join, None
            self.shared.give_back(join, whole=whole)

    def _group(self, group: Any) -> Any:
        return self._slot if group is ConnectionGroup.COORDINATION else group

    async def ready(self, node: int, *, group: Any = ConnectionGroup.DEFAULT) -> bool:
        return bool(await self.shared.ready(node, group=self._group(group)))

    def force_metadata_update(self) -> Any:
        return self.shared.force_metadata_update()

    async def _maybe_wait_metadata(self) -> None:
        await self.shared._maybe_wait_metadata()

    async def coordinator_lookup(self, kind: Any, key: str) -> Any:
        return await self.shared.coordinator_lookup(kind, key)


class SharedClients:
    """The shared client of each event loop, while consumers run in it."""

    def __init__(self, settings: AthomicSettings, connection: dict[str, Any]) -> None:
        self._settings = settings
        self._connection = connection
        self._opening: dict[asyncio.AbstractEventLoop, asyncio.Task[SharedClient]] = {}
        self._users: dict[asyncio.AbstractEventLoop, int] = {}

    async def enter(self, doing: str) -> SharedClient:
        """The client of the running loop, connected. Each call that returns takes one `leave`.

        Raises `TransportError`.
        """
        loop = asyncio.get_running_loop()
        opening = self._opening.get(loop)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = self._opening[loop] = loop.create_task(self._open(doing), context=client_context())
            opening.add_done_callback(retrieve)
        self._users[loop] = self._users.get(loop, 0) + 1
        try:
            return await asyncio.shield(opening)
        except BaseException:
            await self.leave(0.0)
            raise

    async def leave(self, seconds: float) -> None:
        """The last one to leave closes the client, within about so many seconds. Never raises."""
        loop = asyncio.get_running_loop()
        self._users[loop] -= 1
        if self._users[loop]:
            return
        del self._users[loop]
        opening = self._opening.pop(loop)
        if not opening.done():
            opening.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await opening
        elif not opening.cancelled() and opening.exception() is None:
            await close_client(opening.result(), seconds)

    async def _open(self, doing: str) -> SharedClient:
        client = SharedClient(self._settings, self._connection)
        await open_client(client, self._settings.request_timeout, doing)
        return client
