"""Which transport the scheme of the broker's URL stands for."""

from __future__ import annotations

from ..settings import AthomicSettings
from .base import Transport
from .memory.transport import MemoryTransport


def create_transport(settings: AthomicSettings) -> Transport:
    """The transport that the URL of the broker asks for; a client library is imported only when it is used."""
    if settings.scheme == "kafka":
        from .kafka.transport import KafkaTransport

        return KafkaTransport(settings)
    return MemoryTransport(settings)
