"""A broker that others use, too, as one test sees it: its topics and groups have a prefix that nobody sees."""

from __future__ import annotations

from ..transports.base import Transport
from .wrapped import WrappedTransport


class NamespacedTransport(WrappedTransport):
    """See `Transport`."""

    def __init__(self, inner: Transport, prefix: str) -> None:
        super().__init__(inner)
        self.prefix = prefix

    async def remove_all(self, timeout: float) -> None:
        """Deletes the topics and groups."""
