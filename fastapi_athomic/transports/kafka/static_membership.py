"""Static membership (KIP-345): the ids of an app's members, and what happens if two processes use the same one.

The broker keeps the member that joined last with a `group_instance_id`, and fences the other one. aiokafka 0.14 does
not know that error: it joins again with the same id and fences the first one, and so on without end. The private parts
of aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from hashlib import blake2s
from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaError

from ...settings import AthomicSettings
from ..base import ConsumerConfig

logger = logging.getLogger(__name__)

FENCED_INSTANCE_ID = 82
"""Kafka's error code: another member has joined with the same `group_instance_id`."""


def group_instance_id(settings: AthomicSettings, config: ConsumerConfig) -> str | None:
    """The static member id; None without static membership.

    The id in the config as it is; else the template in the settings, with a suffix that differs for each handler.
    """
    template = settings.kafka.group_instance_id
    if config.group_instance_id is not None or template is None:
        return config.group_instance_id
    suffix = blake2s(f"{config.group_id}\0{config.handler_id}".encode(), digest_size=4).hexdigest()
    name = template.replace("{pid}", str(os.getpid())).replace("{hostname}", socket.gethostname())
    return f"{name}-{suffix}"


class StaticMembership(GroupCoordinator):  # type: ignore[misc]  # aiokafka is not typed
    """Gives way to the member that joined later with the same id: stays in the group without an id.

    So the fencing ends and both members work; only messages that were in flight are handled twice. A member that lost
    its membership (its session timed out, say) asks to join under its former member id: the response says whether
    another member has the id now.
    """

    _on_twin: Callable[[str], None]
    _group_instance_id: str | None
    _former_member_id = ""

    @classmethod
    def take_over(cls, coordinator: GroupCoordinator, on_twin: Callable[[str], None]) -> None:
        """Turns the coordinator that aiokafka's consumer has created into one of these, before it joins the group.

        `on_twin` is called with the id when another process uses it too.
        """
        coordinator.__class__ = cls
        coordinator._on_twin = on_twin

    def reset_generation(self) -> None:
        if self._group_instance_id is not None and self.generation > 0:
            self._former_member_id = self.member_id
        super().reset_generation()

    async def _do_rejoin_group(self, subscription: Any) -> bool:
        if self._former_member_id:
            self.member_id, self._former_member_id = self._former_member_id, ""
        return bool(await super()._do_rejoin_group(subscription))

    async def _send_req(self, request: Any) -> Any:
        response = await super()._send_req(request)
        if getattr(response, "error_code", None) == FENCED_INSTANCE_ID and self._group_instance_id is not None:
            self._give_way(self._group_instance_id)
            raise KafkaError("fenced: another member has the same group_instance_id")
        return response

    def _give_way(self, instance_id: str) -> None:
        logger.error("group %s: %s", self.group_id, twin_of(instance_id))
        self._on_twin(instance_id)
        self._group_instance_id = None
        self._former_member_id = ""
        self.reset_generation()


def twin_of(instance_id: str) -> str:
    """What is wrong, and what to do, for people."""
    return (
        f"another process uses the group_instance_id {instance_id} too; this one goes on without it. "
        "Give each process its own ATHOMIC_KAFKA__GROUP_INSTANCE_ID (the name of the pod or of the worker, say)"
    )
