"""Another member of a handler's group, which joins, takes its share of the partitions, and leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from ..consumption.service import ConsumerService
from ..messages import TopicPartition
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from ..transports.base import ConsumerConfig, Transport

LOOK_SECONDS = 0.005
MARGIN_SECONDS = 30.0
"""Seconds beyond `drain_timeout` that the group may take for two rebalances."""


class Guest:
    """A `RebalanceListener` that takes partitions and reads none of them."""

    def on_arrival(self) -> None: ...

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None: ...

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None: ...


async def rebalance(
    transport: Transport, subscription: Subscription, members: Iterable[ConsumerService], settings: AthomicSettings
) -> None:
    """Returns when `members`, those of the group in this app, have their partitions again. In the consumers' loop.

    Raises:
        TimeoutError: they have not got them back.
        TransportError: the broker cannot be reached.
    """
    members = [*members]
    other = transport.consumer(_config(subscription, settings), Guest())
    seconds = settings.drain_timeout + MARGIN_SECONDS
    try:
        async with asyncio.timeout(seconds):
            async with _rebalanced(members):
                await other.start()
            async with _rebalanced(members):
                await other.stop(settings.request_timeout)
    except TimeoutError:
        raise TimeoutError(
            f"group {subscription.group_id} has not finished its rebalances within {seconds:g} s: does a handler of "
            "it still run?"
        ) from None
    finally:
        await other.stop(settings.request_timeout)


@asynccontextmanager
async def _rebalanced(members: Sequence[ConsumerService]) -> AsyncIterator[None]:
    """Something in the `async with` block moves partitions. Returns when each has taken what the group gave it."""
    before = {member.name: member.counters.rebalances for member in members}
    yield
    while not all(each.counters.rebalances > before[each.name] and _is_placed(each) for each in members):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)


def _is_placed(member: ConsumerService) -> bool:
    places = member.positions()
    return member.ready and not member.work({}).moving and all(map(member.passage, places))


def _config(subscription: Subscription, settings: AthomicSettings) -> ConsumerConfig:
    return ConsumerConfig(
        group_id=subscription.group_id,
        client_id=f"{settings.client_id}-guest",
        topics=subscription.topics,
        pattern=subscription.pattern,
        drain_timeout=settings.drain_timeout,
    )
