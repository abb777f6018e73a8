"""Creates topics: what several handlers need at the same moment, as at a start, in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..exceptions import TransportError
from ..transports.base import Transport


class TopicMaker:
    """One for each app. A topic that cannot be created is the problem of those who need it, and of nobody else."""

    def __init__(self, transport: Transport, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout
        self._gathered: dict[str, int] = {}  # by topic: partitions
        self._next: asyncio.Future[None] | None = None  # the request that will take what is gathered

    async def make(self, topics: Mapping[str, int]) -> None:
        """Creates topics with so many partitions each (-1: the broker's default); leaves existing ones as they are.

        Raises:
            NotAuthorizedError: one of them must not be created.
            TransportError: one of them cannot be created, or the broker does not answer.
        """
        for topic, count in topics.items():
            self._gathered[topic] = max(count, self._gathered.get(topic, count))
        gathered = self._gathered
        if self._next is None:
            self._next = asyncio.ensure_future(self._make_gathered())
            self._next.add_done_callback(_note_error)
        try:
            await asyncio.shield(self._next)
        except TransportError:  # it may be about a topic of another handler
            if gathered.keys() == topics.keys():
                raise
            await self._transport.create_topics(topics, self._timeout)

    async def _make_gathered(self) -> None:
        """Runs in a task: when it begins, those who were woken with the first one have added their topics."""
        topics, self._gathered, self._next = self._gathered, {}, None
        await self._transport.create_topics(topics, self._timeout)


def _note_error(request: asyncio.Future[None]) -> None:
    """Whoever waited for it may be gone: asyncio would log that nobody has seen the error."""
    if not request.cancelled():
        request.exception()
