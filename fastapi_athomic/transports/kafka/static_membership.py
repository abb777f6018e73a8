"""Static membership (KIP-345): who is who in a group, and what happens when two are the same.

A broker lets the member go on that joined last with a `group_instance_id`, and tells the other one that it is fenced.
aiokafka 0.14 does not know that answer: it joins anew with the same id and so fences the first one, without end.
All use of the private parts of its coordinator is here.
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
"""Kafka's error code: another member has joined with the same `group_instance_id` since."""


def group_instance_id(settings: AthomicSettings, config: ConsumerConfig) -> str | None:
    """The static member id.

    The one of the config as it is, or the template of the settings with a suffix that tells the app's handlers apart.
    """
    template = settings.kafka.group_instance_id
    if config.group_instance_id is not None or template is None:
        return config.group_instance_id
    suffix = blake2s(f"{config.group_id}\0{config.handler_id}".encode(), digest_size=4).hexdigest()
    name = template.replace("{pid}", str(os.getpid())).replace("{hostname}", socket.gethostname())
    return f"{name}-{suffix}"


class StaticMembership(GroupCoordinator):  # type: ignore[misc]  # aiokafka is not typed
    """Gives way to the member that joined later with the same id: goes on in the group without one.

    So there is an end to it, both work, and only what was in hand is handled twice. Whoever lost its membership (its
    session timed out, say) asks to join as the member it was: the answer tells whether somebody else is that now.
    """

    _on_twin: Callable[[str], None]
    _group_instance_id: str | None
    _former_member_id = ""

    @classmethod
    def take_over(cls, coordinator: GroupCoordinator, on_twin: Callable[[str], None]) -> None:
        """Makes one of these of the coordinator that aiokafka's consumer has made, before it joins the group.

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
    """What is wrong, and what to do."""
    return (
        f"another process uses the group_instance_id {instance_id} too; this one goes on without it. "
        "Give each process its own ATHOMIC_KAFKA__GROUP_INSTANCE_ID (the name of the pod or of the worker, say)"
    )
