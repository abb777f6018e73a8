"""The document of an app, made when it is asked for: what takes long only if there is something new to describe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from fastapi import FastAPI

from ..declared_publishers import Publisher
from ..manager import ConsumerManager
from ..payload.routing import Payloads
from ..settings import AthomicSettings


class Described(NamedTuple):
    """What a document is made of."""

    app: FastAPI
    settings: AthomicSettings
    payloads: Payloads
    manager: ConsumerManager  # its consumers stay the same as long as it lives
    publishers: Sequence[Publisher[Any]]  # all that are declared by now; none is ever taken back


class Documents:
    """Gives the AsyncAPI document of an app, as JSON can hold it. Asks neither a broker nor a registry.

    It takes half a second to describe what hundreds of handlers do, and whoever reaches the route may ask at any rate.
    So that is done once for the same consumers and publishers. May be used in any thread.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._manager: ReferenceType[ConsumerManager] | None = None  # whose consumers were described last
        self._publishers = 0  # so many were described with them
        self._flows = ""  # the description, as JSON: who gets a document may change it

    def of(self, described: Described) -> dict[str, Any]:
        """The document as it is now."""
        from .servers import info_of, servers_of  # only who asks for a document needs what makes it

        servers = servers_of(described.settings, described.payloads)
        return {
            "asyncapi": described.settings.asyncapi.version,
            "info": info_of(described.app, described.settings),
            "defaultContentType": "application/json",
            **({"servers": servers} if servers else {}),
            **json.loads(self._flows_of(described)),
        }

    def _flows_of(self, described: Described) -> str:
        with self._lock:  # who asks meanwhile waits for this description, instead of making it again
            known = self._manager is not None and self._manager() is described.manager
            if not known or self._publishers != len(described.publishers):
                self._flows = json.dumps(_describe(described))
                self._manager, self._publishers = ref(described.manager), len(described.publishers)
            return self._flows


def _describe(described: Described) -> dict[str, Any]:
    from .document import description_of
    from .flows import flows_of

    flows = flows_of(described.manager.consumers.values(), described.publishers, described.payloads)
    return description_of(flows, described.settings)
