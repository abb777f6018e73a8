"""Run events of OpenLineage, one run per handler and life of the process, through `openlineage-python`. Needs the
extra `lineage`.

START when the handler's consumer starts, RUNNING with counts in intervals while something happens, COMPLETE or FAIL
at the end. Events are sent from a thread and never in a message's way; what cannot be sent is logged and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version

import attr
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import RunFacet, error_message_run

from .consumer import ConsumerService
from .lineage import JobRun
from .logs import Complaints

logger = logging.getLogger(__name__)

PRODUCER = f"https://pypi.org/project/fastapi-athomic/{version('fastapi-athomic')}"


@attr.define
class MessageCountsRunFacet(RunFacet):
    """What the run has done so far."""

    received: int
    processed: int
    failed: int
    deadLettered: int  # noqa: N815 - OpenLineage's spelling

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}#/MessageCountsRunFacet"


class LineageEvents:
    """Reports the runs of an app's handlers."""

    def __init__(
        self, consumers: Callable[[], Iterable[ConsumerService]], dataset_namespace: str, interval: float
    ) -> None:
        self._consumers = consumers
        self._dataset_namespace = dataset_namespace
        self._interval = interval  # seconds
        self._client = OpenLineageClient()  # configured as its documentation says: environment or openlineage.yml
        self._reported: dict[str, int] = {}  # per handler: how many messages it had done when it was last reported
        self._complaints = Complaints(burst=1)

    async def run(self) -> None:
        """Reports until it is cancelled."""
        for consumer in self._consumers():
            await self._report(consumer, RunState.START)
        while True:
            await asyncio.sleep(self._interval)
            for consumer in self._consumers():
                if consumer.counters.done != self._reported.get(consumer.name):
                    await self._report(consumer, RunState.RUNNING)

    async def finish(self) -> None:
        """Reports the end of every run."""
        for consumer in self._consumers():
            await self._report(consumer, RunState.FAIL if consumer.last_error is not None else RunState.COMPLETE)
        await asyncio.to_thread(self._client.close)

    async def _report(self, consumer: ConsumerService, state: RunState) -> None:
        run = consumer.lineage_run
        if run is None:
            return
        self._reported[consumer.name] = consumer.counters.done
        try:
            await asyncio.to_thread(self._client.emit, self._event(consumer, run, state))
        except Exception as error:  # the catalogue is away: messages do not wait for it
            unsaid = self._complaints.due("emit")
            if unsaid is not None:
                logger.warning("lineage could not be sent: %s (and %d times unsaid)", type(error).__name__, unsaid)

    def _event(self, consumer: ConsumerService, run: JobRun, state: RunState) -> RunEvent:
        counters = consumer.counters
        facets: dict[str, RunFacet] = {
            "athomic_messageCounts": MessageCountsRunFacet(
                received=counters.received,
                processed=counters.processed,
                failed=counters.failed,
                deadLettered=counters.dead_lettered,
            )
        }
        if state is RunState.FAIL:  # the type only: its text may hold data
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=type(consumer.last_error).__name__, programmingLanguage="PYTHON"
            )
        return RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            producer=PRODUCER,
            run=Run(runId=str(run.run_id), facets=facets),
            job=Job(namespace=run.job_namespace, name=run.job_name),
            eventType=state,
            inputs=[InputDataset(self._dataset_namespace, topic) for topic in consumer.consumed_topics()],
            outputs=[OutputDataset(self._dataset_namespace, topic) for topic in consumer.written_topics()],
        )
