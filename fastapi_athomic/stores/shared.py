"""What the processes of a service tell each other: small documents by section and name, which may expire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class SharedState(Protocol):
    """Documents that all processes with the same state store see. Each is some kilobytes at most.

    All calls up to `close` are made in one event loop, as for a `StateStore`.
    """

    @property
    def has_others(self) -> bool:
        """Whether others may see the documents, too: other processes, or other apps of this one."""
        ...

    async def put(self, section: str, name: str, document: bytes, *, ttl: float | None = None) -> None:
        """Writes a document. `ttl`: seconds after which it is gone; None: it stays.

        Raises:
            StateStoreError: the store cannot be reached, does not answer in time or refuses; it says which.
        """
        ...

    async def remove(self, section: str, name: str) -> None:
        """Removes a document, if there is one. Raises as `put` does."""
        ...

    async def all(self, section: str) -> Mapping[str, bytes]:
        """All documents of a section that have not expired, by name. Raises as `put` does."""
        ...

    async def close(self) -> None:
        """Closes its connections. The next call opens them again."""
        ...
