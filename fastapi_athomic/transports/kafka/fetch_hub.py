"""Fetches the partitions of all members of an app, over connections that they share: finds out whom to ask."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..base import TopicInfo
from .client import KafkaClient
from .client_log import client_context
from .fetch_schedule import BrokerSchedule
from .fetch_wire import Limits
from .options import RETRY_SECONDS
from .reading import Reading

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 1.0
"""Seconds between two questions for a leader that stays unknown, at most: its topic may have been deleted."""
NOBODY = -1


class FetchHub:
    """Fetches what is wanted from the brokers that lead it. For one event loop."""

    def __init__(self, client: KafkaClient, limits: Limits, longest_wait: float, pace: float) -> None:
        self._client = client
        self._limits = limits
        self._longest_wait, self._pace = longest_wait, pace
        self._context = client_context()  # not that of whoever happens to want something first
        self._brokers: dict[int, BrokerSchedule] = {}
        self._homeless: dict[Reading, None] = {}  # wanted, but nobody is known to lead them
        self._doubtful: dict[Reading, None] = {}  # wanted, but their topics may be others by the same names
        self._identifying: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[None] | None = None
        client.cluster.add_listener(self._look_at_leaders)

    def want(self, reading: Reading) -> None:
        """Call it whenever a reading becomes wanted, see `Reading.wanted`."""
        if reading in self._doubtful:
            return
        if reading.carried is not None:
            if reading.carried.offset == reading.position:
                return
            reading.carried.lane.drop(reading)
        node = self._leader(reading)
        if node is None:
            self._find(reading)
        else:
            (self._brokers.get(node) or self._broker(node)).want(reading)

    def forget(self, reading: Reading) -> None:
        """Call it before a reading is stopped or sought, or if it ends."""
        self._homeless.pop(reading, None)
        self._doubtful.pop(reading, None)
        if reading.carried is not None:
            reading.carried.lane.drop(reading)
        for broker in self._brokers.values():
            broker.forget(reading)

    def close(self) -> None:
        """Fetches no more."""
        self._client.cluster.remove_listener(self._look_at_leaders)
        for task in (self._finding, self._identifying):
            if task is not None:
                task.cancel()
        for broker in self._brokers.values():
            broker.close()

    # --- who leads

    def _leader(self, reading: Reading) -> int | None:
        node: int | None = self._client.cluster.leader_for_partition(reading.place)
        return None if node == NOBODY else node

    def _broker(self, node: int) -> BrokerSchedule:
        if (broker := self._brokers.get(node)) is None:
            broker = self._brokers[node] = BrokerSchedule(
                self._client, node, self._limits, self._longest_wait, self._pace, self._find, self._doubt, self._context
            )
        return broker

    def _find(self, reading: Reading) -> None:
        """Its leader has to be asked for."""
        self._homeless[reading] = None
        if self._finding is None or self._finding.done():
            self._finding = asyncio.get_running_loop().create_task(
                self._find_leaders(), context=client_context(), name="athomic-leaders"
            )

    async def _find_leaders(self) -> None:
        pause = RETRY_SECONDS
        while self._homeless:
            await self._client.force_metadata_update()  # whatever it brings goes to `_look_at_leaders`
            if self._homeless:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    # --- which topic it is

    def _doubt(self, reading: Reading) -> None:
        """The broker did not know its partition. If its topic was deleted, another one may come by the same name.

        By its name it would be read from wherever the old one was left.
        """
        self._doubtful[reading] = None
        if self._identifying is None or self._identifying.done():
            self._identifying = asyncio.get_running_loop().create_task(
                self._identify(), context=client_context(), name="athomic-identify"
            )

    async def _identify(self) -> None:
        pause = RETRY_SECONDS
        while self._doubtful:
            try:
                found = await self._client.describe({reading.place.topic for reading in self._doubtful})
            except Exception as error:  # whatever it is, the next question may be answered
                logger.info("asking which topics there are failed: %s", str(error) or type(error).__name__)
                found = {}
            for reading in list(self._doubtful):
                if (topic := found.get(reading.place.topic)) is not None:
                    del self._doubtful[reading]
                    self._go_on(reading, topic)
            if self._doubtful:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _go_on(self, reading: Reading, topic: TopicInfo) -> None:
        if reading.topic_id and topic.id and topic.id != reading.topic_id:
            reading.misplace()
            reading.owner.on_arrival()
        elif reading.wanted:
            self._find(reading)

    def _look_at_leaders(self, _: Any) -> None:
        """The metadata is new: partitions may have another leader, or have one again."""
        homeless, self._homeless = self._homeless, {}
        for reading in homeless:
            if not reading.wanted:
                continue
            if self._client.cluster.partitions_for_topic(reading.place.topic) is None:
                self._doubt(reading)
            else:
                self.want(reading)
        for node, broker in list(self._brokers.items()):
            for reading in broker.readings():
                leader = self._leader(reading)
                if leader != node:
                    self.forget(reading)
                    if reading.wanted and leader is None:
                        self._doubt(reading)
                    elif reading.wanted:
                        self.want(reading)
            broker.keep_only(self._client.cluster.partitions_for_broker(node) or ())
