"""Decides whether run events are sent to an OpenLineage backend. Its client is imported only if they are."""

from __future__ import annotations

from typing import Protocol

from ..exceptions import ConfigurationError
from ..manager import ConsumerManager
from ..propagation.lineage import dataset_namespace, is_configured
from ..settings import AthomicSettings
from ..transports.base import Transport


class LineageReporter(Protocol):
    """Sends the run events of an app's handlers."""

    async def run(self) -> None:
        """Reports starts and progress until it is cancelled."""

    def note_topics(self) -> None:
        """Remembers what the handlers consume. Call it before they stop, while they still have their partitions."""

    async def finish(self, timeout: float) -> None:
        """Reports the end of every run, for up to `timeout` seconds. Never raises."""


class NothingReported:
    """Takes the place of a reporter where there is nothing to report to."""

    async def run(self) -> None:
        return

    def note_topics(self) -> None:
        return

    async def finish(self, timeout: float) -> None:
        return


def lineage_reporter(manager: ConsumerManager, transport: Transport, settings: AthomicSettings) -> LineageReporter:
    """The reporter for one run of the app.

    If `lineage_events` is None, events are sent if the environment asks for it (`is_configured`).

    Raises:
        ConfigurationError: the settings ask for one, but the extra `lineage` is not installed.
    """
    wanted = settings.lineage_events
    if wanted is None:
        wanted = is_configured()
    if not wanted:
        return NothingReported()
    try:
        from .openlineage import LineageEvents
    except ImportError:
        raise ConfigurationError("lineage_events needs fastapi-athomic[lineage]") from None
    namespace = dataset_namespace(transport.scheme, transport.address)
    return LineageEvents(lambda: manager.consumers.values(), namespace, settings.lineage_interval)
