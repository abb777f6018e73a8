"""Which offsets have groups committed? Asked as an autoscaler would."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from aiokafka.admin import AIOKafkaAdminClient

Place = tuple[str, int]
"""Topic and partition."""


def committed(bootstrap: str, groups: Collection[str]) -> Mapping[str, Mapping[Place, int]]:
    """Committed offsets by group. Uses aiokafka, as librdkafka 2.16 may crash when a coordinator goes away.

    Raises:
        KafkaError: the broker does not answer.
    """
    return asyncio.run(_committed(bootstrap, groups))


async def _committed(bootstrap: str, groups: Collection[str]) -> dict[str, dict[Place, int]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return {group: await _of(admin, group) for group in groups}
    finally:
        await admin.close()


async def _of(admin: AIOKafkaAdminClient, group: str) -> dict[Place, int]:
    found = await admin.list_consumer_group_offsets(group)
    return {(place.topic, place.partition): offset.offset for place, offset in found.items()}
