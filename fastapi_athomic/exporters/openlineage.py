"""Run events of OpenLineage, one run per handler and life of the process, through `openlineage-python`. Needs the
extra `lineage`.

START when the handler's consumer starts, RUNNING with counts at intervals while messages come, COMPLETE or FAIL at
the end. A thread sends the events, so no message waits for them; an event that cannot be sent is logged and dropped. A
backend that does not answer delays neither the shutdown nor the end of the process: the thread is a daemon.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from queue import SimpleQueue
from typing import Any

import attr
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import RunFacet, error_message_run

from ..clock import utc_now
from ..complaints import Complaints
from ..consumption.service import ConsumerService
from ..propagation.lineage import JobRun

logger = logging.getLogger(__name__)

PRODUCER = f"https://pypi.org/project/fastapi-athomic/{version('fastapi-athomic')}"


@attr.define
class MessageCountsRunFacet(RunFacet):
    """How many messages the run has received, processed and given up so far."""

    received: int
    processed: int
    failed: int
    deadLettered: int  # noqa: N815 - OpenLineage's spelling

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}#/MessageCountsRunFacet"


class Worker:
    """Makes one call after the other in a daemon thread. A caller that waits for one may be cancelled at any time."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, function: Callable[[], Any]) -> None:
        """Returns when the function has returned, or raises its error."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.put((function, future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="athomic-lineage", daemon=True)
            self._thread.start()
        await future

    def finish(self) -> None:
        """Lets the thread end after the calls that it has been given."""
        self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            function, future = given
            error: BaseException | None = None
            try:
                if not future.cancelled():
                    function()
            except BaseException as caught:
                error = caught
            try:
                future.get_loop().call_soon_threadsafe(_resolve, future, error)
            except RuntimeError:  # the event loop is closed: nobody waits for this any more
                continue


def _resolve(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:  # raised as it is, it would end the event loop or the waiting task
        future.set_exception(RuntimeError(type(error).__name__))


class LineageEvents:
    """Reports the runs of an app's handlers."""

    def __init__(
        self, consumers: Callable[[], Iterable[ConsumerService]], dataset_namespace: str, interval: float
    ) -> None:
        self._consumers = consumers
        self._dataset_namespace = dataset_namespace
        self._interval = interval  # seconds
        self._client = OpenLineageClient()  # configured as its documentation says: environment or openlineage.yml
        self._worker = Worker()
        self._topics: dict[str, list[str]] = {}  # by handler: what it consumed when `note_topics` was called
        self._reported: dict[str, int] = {}  # by handler: how many messages it had done when it was last reported
        self._complaints = Complaints(burst=1)

    async def run(self) -> None:
        """Reports the start of every run, and its progress until this is cancelled."""
        for consumer in self._consumers():
            await self._report(consumer, RunState.START)
        while True:
            await asyncio.sleep(self._interval)
            for consumer in self._consumers():
                if consumer.counters.done != self._reported.get(consumer.name):
                    await self._report(consumer, RunState.RUNNING)

    def note_topics(self) -> None:
        """Call it before the consumers stop: later they no longer know what they consume."""
        self._topics = {consumer.name: self._inputs(consumer) for consumer in self._consumers()}

    async def finish(self, timeout: float) -> None:
        """Reports the end of every run, for up to `timeout` seconds. Never raises."""
        try:
            async with asyncio.timeout(timeout):
                for consumer in self._consumers():
                    failed = consumer.restart_error is not None
                    await self._report(consumer, RunState.FAIL if failed else RunState.COMPLETE)
                await self._worker.call(self._client.close)
        except TimeoutError:
            logger.warning(
                "lineage: the end of the runs could not be reported, the OpenLineage backend does not answer"
            )
        except Exception as error:
            logger.warning("lineage: the OpenLineage client could not be closed: %s", type(error).__name__)
        finally:
            self._worker.finish()

    async def _report(self, consumer: ConsumerService, state: RunState) -> None:
        run = consumer.lineage_run
        if run is None:
            return
        self._reported[consumer.name] = consumer.counters.done
        try:
            event = self._event(consumer, run, state)
            await self._worker.call(lambda: self._client.emit(event))
        except Exception as error:  # the backend is away: messages do not wait for it
            unsaid = self._complaints.due("emit")
            if unsaid is not None:
                logger.warning(
                    "lineage could not be sent to the OpenLineage backend: %s (%d more since the last such warning)",
                    type(error).__name__,
                    unsaid,
                )

    def _inputs(self, consumer: ConsumerService) -> list[str]:
        return sorted({*consumer.consumed_topics(), *self._topics.get(consumer.name, ())})

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
                message=type(consumer.restart_error).__name__, programmingLanguage="PYTHON"
            )
        return RunEvent(
            eventTime=utc_now().isoformat(),
            producer=PRODUCER,
            run=Run(runId=str(run.run_id), facets=facets),
            job=Job(namespace=run.job_namespace, name=run.job_name),
            eventType=state,
            inputs=[InputDataset(self._dataset_namespace, topic) for topic in self._inputs(consumer)],
            outputs=[OutputDataset(self._dataset_namespace, topic) for topic in consumer.written_topics()],
        )
