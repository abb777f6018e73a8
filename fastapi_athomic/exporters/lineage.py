"""Whether run events are reported to a catalogue of lineage. The client is imported only where they are."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Protocol

from ..exceptions import ConfigurationError
from ..manager import ConsumerManager
from ..propagation.lineage import dataset_namespace
from ..settings import AthomicSettings
from ..transports.base import Transport


class LineageReporter(Protocol):
    """Sends the run events of an app's handlers."""

    async def run(self) -> None: ...

    def note_topics(self) -> None: ...

    async def finish(self, timeout: float) -> None: ...


class NothingReported:
    """Stands in where nothing is to be reported."""

    async def run(self) -> None:
        return

    def note_topics(self) -> None:
        return

    async def finish(self, timeout: float) -> None:
        return


def lineage_reporter(manager: ConsumerManager, transport: Transport, settings: AthomicSettings) -> LineageReporter:
    """The reporter of one run of the app.

    Raises:
        ConfigurationError: the settings want one, and the extra `lineage` is not installed.
    """
    wanted = settings.lineage_events
    if wanted is None:
        wanted = any(name.startswith("OPENLINEAGE_") for name in os.environ) and find_spec("openlineage") is not None
    if not wanted:
        return NothingReported()
    try:
        from .openlineage import LineageEvents
    except ImportError:
        raise ConfigurationError("lineage_events needs fastapi-athomic[lineage]") from None
    namespace = dataset_namespace(transport.scheme, transport.address)
    return LineageEvents(lambda: manager.consumers.values(), namespace, settings.lineage_interval)
