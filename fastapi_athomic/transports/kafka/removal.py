"""Removes topics and groups. For `fastapi_athomic.testing`: no service ever does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.errors import NoError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest, DeleteTopicsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from ...exceptions import TransportError
from .client import KafkaClient

GROUP = 0
"""The type of a coordinator (KIP-98)."""


async def delete_topics(client: KafkaClient, controller: Any, topics: Collection[str], milliseconds: int) -> None:
    """Deletes topics with their messages. Raises `TransportError`, or errors of aiokafka."""
    if topics:
        response = await client.send(controller, DeleteTopicsRequest(sorted(topics), milliseconds))
        _check("topic", dict(response.topic_error_codes))


async def delete_groups(client: KafkaClient, groups: Collection[str]) -> None:
    """Deletes groups that have no members, with what they have committed. Raises as `delete_topics` does."""
    for group in sorted(groups):
        found = await client.ask_any(FindCoordinatorRequest(group, GROUP))
        _check("group", {group: found.error_code})
        response = await client.send(found.coordinator_id, DeleteGroupsRequest([group]))
        _check("group", dict(response.results))


def _check(what: str, codes: Mapping[str, int]) -> None:
    refused = {name: for_code(code).__name__ for name, code in codes.items() if for_code(code) is not NoError}
    if refused:
        raise TransportError(f"not deleted: {', '.join(f'{what} {name}: {why}' for name, why in refused.items())}")
