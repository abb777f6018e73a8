"""Static membership (KIP-345): the ids of an app's members, and what people are told if two processes use the same one.

`coordinator` does what has to be done then.
"""

from __future__ import annotations

import os
import socket
from hashlib import blake2s

from ...settings import AthomicSettings
from ..base import ConsumerConfig


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


def twin_of(instance_id: str) -> str:
    """What is wrong, and what to do, for people."""
    return (
        f"another process uses the group_instance_id {instance_id} too; this one goes on without it. "
        "Give each process its own ATHOMIC_KAFKA__GROUP_INSTANCE_ID (the name of the pod or of the worker, say)"
    )
