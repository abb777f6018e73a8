"""What a test does to the broker, and what the broker does to a handler."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..checks import is_whole, shown
from ..exceptions import ConfigurationError
from ..messages import TopicPartition
from ..transports.memory.broker import MemoryBroker
from ..transports.memory.transport import MemoryTransport
from . import rebalances
from .bench import Bench
from .clock import check_seconds
from .observer import Handler
from .portal import Call
from .records import Handled


class Placed(Protocol):
    """A message that has its place in a topic: `Published`, `PublishedMessage` and `RawMessage` are such."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...


class AsyncBrokerFaults:
    """The broker of an `AsyncTestKit`. `rebalance`, `redeliver` and `create_topic` work on Kafka, too."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._refused: set[str] = set()

    async def disconnect(self) -> None:
        """The broker cannot be reached until `reconnect`: `publish` waits for it, and fails after `publish_timeout`.

        Raises:
            ConfigurationError: the broker is not `memory://`. So do the next four.
        """
        self._memory("disconnect").disconnect()

    async def reconnect(self) -> None:
        """The broker can be reached again."""
        self._memory("reconnect").reconnect()

    async def slow(self, seconds: float) -> None:
        """The broker takes so long for each answer: to `publish`, commits and questions; 0: it is slow no longer.

        The seconds are the clock's: they pass in real time, unless `drain` or `kit.clock.advance` skips them.
        """
        check_seconds(seconds)
        self._memory("slow").slow(seconds)

    async def refuse(self, topic: str) -> None:
        """The broker takes no messages to this topic until `allow`: `publish` fails, dead letters wait."""
        self._memory("refuse").refuse(topic)
        self._refused.add(topic)

    async def allow(self, topic: str) -> None:
        """The broker takes messages to this topic again."""
        self._memory("allow").allow(topic)
        self._refused.discard(topic)

    async def create_topic(self, name: str, partitions: int | None = None) -> None:
        """Creates a topic, unless it exists. `partitions`: None is the broker's default.

        Raises:
            ConfigurationError: `partitions` is less than 1.
            TransportError: the broker cannot be reached, or refuses the name.
        """
        if partitions is not None and not (is_whole(partitions) and partitions > 0):
            raise ConfigurationError(f"partitions must be a whole number above 0, or None, not {shown(partitions)}")
        bench = self._bench
        bench.check_open()
        topics, seconds = {name: partitions or -1}, bench.settings.request_timeout
        await bench.athomic.at_home(lambda: bench.transport.create_topics(topics, seconds))

    async def rebalance(self, handler: Handler) -> None:
        """Another member joins the handler's group, takes its share of the partitions, and leaves.

        Running calls finish first, as `drain_timeout` allows. Returns when the handler has its partitions again.

        Raises:
            HandlerNotFoundError: the app has no such handler.
            TimeoutError: the group has not come to rest: mostly, a call has not finished.
            TransportError: the broker cannot be reached.
        """
        bench = self._bench
        bench.check_open()
        subscription = bench.observer.one(handler).handler.subscription
        manager = bench.athomic.manager()
        consumers = manager.consumers if manager is not None else {}
        members = [each for each in consumers.values() if each.subscription.group_id == subscription.group_id]
        await bench.athomic.at_home(
            lambda: rebalances.rebalance(bench.transport, subscription, members, bench.settings)
        )

    async def redeliver(self, handler: Handler, message: Placed | Handled | None = None) -> None:
        """A message comes again, and what came after it in its partition: as after a crash before their commit.

        It goes back to `message`, or to what the handler has handled last: a message, or a batch. `drain` waits until
        it is handled again. An ordered consumer knows what it has done, and skips it.

        Raises:
            HandlerNotFoundError: the app has no such handler.
            ConfigurationError: it has not handled anything yet.
            ControlRefusedError: the message is not there any more, or its partition is not assigned to the handler.
            TransportError: the broker cannot be reached.
        """
        self._bench.check_open()
        handler_id = self._bench.observer.one(handler).handler_id
        messages = self._last_of(handler_id) if message is None else [message]
        for place, offset in _first_offsets(messages).items():
            await self._bench.athomic.seek(handler_id, place.topic, place.partition, offset)

    async def mend(self) -> None:
        """The broker is as it was before the test did something to it. For the end of a test."""
        if isinstance(self._bench.transport, MemoryTransport):
            await self.slow(0)
            await self.reconnect()
            for topic in list(self._refused):
                await self.allow(topic)

    def _memory(self, what: str) -> MemoryBroker:
        broker = self._bench.transport
        if not isinstance(broker, MemoryTransport):
            raise ConfigurationError(f"kit.broker.{what} needs memory://: a broker that others use is left in peace")
        self._bench.check_open()
        return broker.broker

    def _last_of(self, handler_id: str) -> Collection[Handled]:
        own = [handled for handled in self._bench.records.handled if handled.handler_id == handler_id]
        if not own:
            raise ConfigurationError(f"{handler_id} has not handled anything yet that could come again")
        last = own[-1]
        return [last] if last.batch is None else [handled for handled in own if handled.batch == last.batch]


def _first_offsets(messages: Collection[Placed | Handled]) -> dict[TopicPartition, int]:
    """The lowest offset in each partition, where the messages were read last: that may be a retry topic."""
    found: dict[TopicPartition, int] = {}
    for message in messages:
        read = message.raw if isinstance(message, Handled) else message
        place = TopicPartition(read.topic, read.partition)
        found[place] = min(read.offset, found.get(place, read.offset))
    return found


class BrokerFaults:
    """The broker of a `TestKit`: see `AsyncBrokerFaults`."""

    def __init__(self, faults: AsyncBrokerFaults, call: Call) -> None:
        self._faults, self._call = faults, call

    def disconnect(self) -> None:
        """The broker cannot be reached until `reconnect`: `publish` waits for it, and fails after `publish_timeout`.

        Raises:
            ConfigurationError: the broker is not `memory://`. So do the next four.
        """
        self._call(self._faults.disconnect)

    def reconnect(self) -> None:
        """The broker can be reached again."""
        self._call(self._faults.reconnect)

    def slow(self, seconds: float) -> None:
        """The broker takes so long for each answer: see `AsyncBrokerFaults.slow`."""
        self._call(self._faults.slow, seconds)

    def refuse(self, topic: str) -> None:
        """The broker takes no messages to this topic until `allow`: `publish` fails, dead letters wait."""
        self._call(self._faults.refuse, topic)

    def allow(self, topic: str) -> None:
        """The broker takes messages to this topic again."""
        self._call(self._faults.allow, topic)

    def create_topic(self, name: str, partitions: int | None = None) -> None:
        """Creates a topic, unless it exists: see `AsyncBrokerFaults.create_topic`."""
        self._call(self._faults.create_topic, name, partitions)

    def rebalance(self, handler: Handler) -> None:
        """Another member joins the handler's group and leaves: see `AsyncBrokerFaults.rebalance`."""
        self._call(self._faults.rebalance, handler)

    def redeliver(self, handler: Handler, message: Placed | Handled | None = None) -> None:
        """A message comes again, as after a crash: see `AsyncBrokerFaults.redeliver`."""
        self._call(self._faults.redeliver, handler, message)
