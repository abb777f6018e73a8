"""Seeks in partitions that other members of the group have: handed over to them through the state store.

Who is asked writes a request for each partition, which ends by itself after some seconds. The member that has the
partition sees it when it looks, says that it begins, goes there, and writes what it skipped and repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from uuid import uuid4

from pydantic import BaseModel, Field, ValidationError

from ..consumption.service import ConsumerService
from ..exceptions import AthomicError, StateStoreError
from ..messages import TopicPartition
from ..stores.shared import SharedState
from .parts import DeskParts
from .seek_plans import PartitionSeek

logger = logging.getLogger(__name__)

REQUESTS, ANSWERS = "seeks", "seek-answers"
BEGIN_SECONDS = 10.0
"""So long a request waits for the member that has the partition; members look every 3 seconds."""
ANSWER_PAUSE = 0.25
"""Seconds between two looks for answers."""

Go = Callable[[ConsumerService, TopicPartition, int], Awaitable[PartitionSeek]]


class Request(BaseModel):
    """What one member asks of another."""

    group_id: str
    handler_id: str
    topic: str
    partition: int = Field(ge=0)
    to: int = Field(ge=0, lt=2**63)  # as Kafka's offsets


class Answer(BaseModel):
    """What became of it."""

    result: PartitionSeek | None = None  # None: it has begun, or has failed
    problem: str | None = None


class Handovers:
    """Hands over seeks, and does those that others have handed over. Without a store it can do neither."""

    def __init__(self, parts: DeskParts, go: Go) -> None:
        settings = parts.settings
        self._consumers = parts.consumers
        self._shared = parts.shared
        self._go = go
        self._patience = settings.drain_timeout + 3 * settings.request_timeout  # for one that has begun
        self._doing: dict[str, asyncio.Task[None]] = {}

    @property
    def possible(self) -> bool:
        """There is a store to hand over through, which others may see."""
        return self._shared is not None and self._shared.has_others

    # --- who is asked

    async def hand_over(
        self, service: ConsumerService, targets: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, PartitionSeek | str]:
        """Has other members go to these offsets. Returns what each did, or why it was not done.

        Raises `StateStoreError`.
        """
        assert self._shared is not None, "ask `possible` first"
        names = {place: uuid4().hex for place in targets}
        for place, name in names.items():
            request = Request(
                group_id=service.subscription.group_id,
                handler_id=service.name,
                topic=place.topic,
                partition=place.partition,
                to=targets[place],
            )
            await self._shared.put(REQUESTS, name, request.model_dump_json().encode(), ttl=BEGIN_SECONDS)
        began = monotonic()
        return {place: await self._answer(self._shared, name, began) for place, name in names.items()}

    async def _answer(self, shared: SharedState, name: str, began: float) -> PartitionSeek | str:
        answer = None
        while monotonic() < began + BEGIN_SECONDS + (1.0 if answer is None else self._patience):
            document = (await shared.all(ANSWERS)).get(name)
            answer = _understood(document) if document is not None else None
            if answer is not None and (done := answer.result or answer.problem) is not None:
                return done
            await asyncio.sleep(ANSWER_PAUSE)
        if answer is not None:
            return "the member that has it has begun, and did not say in time what became of it"
        return (
            f"no member of the group took it over within {BEGIN_SECONDS:g} s: is control enabled there, and does it "
            "use the same state store?"
        )

    # --- who has the partition

    async def look(self) -> None:
        """Begins what others have handed over. Raises `StateStoreError`."""
        assert self._shared is not None, "ask `possible` first"
        for name, document in (await self._shared.all(REQUESTS)).items():
            try:
                request = Request.model_validate_json(document)
            except ValidationError:  # of a later version of this package
                continue
            service = self._consumers.get(request.handler_id)
            place = TopicPartition(request.topic, request.partition)
            if service is None or service.subscription.group_id != request.group_id or name in self._doing:
                continue
            if service.passage(place) is not None:
                doing = self._do(self._shared, name, service, place, request.to)
                self._doing[name] = asyncio.create_task(doing, name="athomic-seek")

    async def _do(
        self, shared: SharedState, name: str, service: ConsumerService, place: TopicPartition, to: int
    ) -> None:
        try:
            await shared.remove(REQUESTS, name)
            await self._say(shared, name, Answer())
            logger.info("%s: another member of the group has it go to offset %d of %s", service.name, to, place)
            try:
                answer = Answer(result=await self._go(service, place, to))
            except AthomicError as error:
                answer = Answer(problem=str(error))
            await self._say(shared, name, answer)
        except StateStoreError as error:
            logger.warning("%s: a seek in %s that was handed over: %s", service.name, place, error)
        finally:
            del self._doing[name]

    async def _say(self, shared: SharedState, name: str, answer: Answer) -> None:
        await shared.put(ANSWERS, name, answer.model_dump_json().encode(), ttl=BEGIN_SECONDS + 2 * self._patience)

    async def end(self) -> None:
        """Lets go of what has not been done: whoever asked hears nothing more."""
        doing = list(self._doing.values())
        for task in doing:
            task.cancel()
        if doing:
            await asyncio.wait(doing)


def _understood(document: bytes) -> Answer:
    try:
        return Answer.model_validate_json(document)
    except ValidationError:
        return Answer(problem="the member that has it is of another version of this package: look where it goes on")
