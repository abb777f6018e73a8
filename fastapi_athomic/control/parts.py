"""What those work with who steer the consumers of one run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from ..consumption.service import ConsumerService
from ..observation.status import ConsumerStatus
from ..settings import AthomicSettings
from ..stores.shared import SharedState
from ..transports.base import Transport


class DeskParts(NamedTuple):
    """The consumers of one run, and how others are reached that have them, too."""

    consumers: Mapping[str, ConsumerService]  # by handler id
    transport: Transport
    shared: SharedState | None  # what processes tell each other
    settings: AthomicSettings
    status_of: Callable[[str], Awaitable[ConsumerStatus | None]]  # of a handler, over all processes that are known
