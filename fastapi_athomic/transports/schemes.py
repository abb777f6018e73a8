"""Which transport the scheme of the broker's URL stands for."""

from __future__ import annotations

from ..addresses import SCHEMES
from ..exceptions import ConfigurationError
from ..settings import AthomicSettings
from .base import Transport


def create_transport(settings: AthomicSettings) -> Transport:
    """The transport that the URL of the broker asks for; it is imported only when it is used.

    Raises:
        ConfigurationError: no transport has this scheme.
    """
    match settings.scheme:
        case "memory":
            from .memory.transport import MemoryTransport

            return MemoryTransport(settings)
        case "kafka":
            from .kafka.transport import KafkaTransport

            return KafkaTransport(settings)
        case unknown:
            raise ConfigurationError(f"no transport for {unknown}://; there is one for each of: {', '.join(SCHEMES)}")
