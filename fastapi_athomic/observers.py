"""What may look on while an app runs, and take the place of its parts. `fastapi_athomic.testing` has the one observer.

An observer is asked while a run is wired, in `assembly` and `factory`, and composes itself in there. Without one no
message costs a call more.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .discovery import Discovered
from .failures.dlq import Witness
from .handling.processors import ProcessorParts
from .payload.routing import Payloads
from .settings import AthomicSettings
from .stores.base import StateStore
from .stores.shared import SharedState
from .subscriptions import Subscription
from .transports.base import Transport


class Observer(Protocol):
    """Is given what a run is wired of, before anything starts, and may put something around it."""

    def witness(self, subscription: Subscription) -> Witness:
        """Who is told of the handler's failures."""
        ...

    def processing(self, handler: Discovered, parts: ProcessorParts) -> ProcessorParts:
        """What the handler's processors are built from."""
        ...

    def publishing(self, transport: Transport) -> Transport:
        """What `publish` sends with."""
        ...


class StandIns(NamedTuple):
    """What an app runs with in place of its own parts, for a while: `Athomic.standing_in`."""

    settings: AthomicSettings
    transport: Transport
    store: StateStore | None
    shared: SharedState | None
    observer: Observer
    payloads: Payloads | None = None  # None: its own
