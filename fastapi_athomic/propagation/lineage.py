"""Lineage by OpenLineage's naming: which run of which job produced a message, and where the message lies.

It travels in three Kafka headers, each `{job namespace}/{job name}/{run id}` with the first two percent-encoded (the
form of Airflow's `lineage_run_id`): `openlineage-run` is the run that produced the message, `openlineage-parent` the
run that produced what this one handled, `openlineage-root` the run at which the chain began (absent where that is the
producing run itself). They are written where lineage is wanted (`lineage_headers`): a run that nobody reports
leads nowhere. For OpenLineage a consumer is one long job: a run is the life of a handler in one process, not
one message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

from ..messages import Headers, RawMessage
from .context import Messages, current_messages

RUN, PARENT, ROOT = "openlineage-run", "openlineage-parent", "openlineage-root"
MAX_LENGTH = 1_024
"""Most bytes of a header from outside."""

T = TypeVar("T")


class JobRun(NamedTuple):
    """One run of one job."""

    job_namespace: str
    job_name: str
    run_id: UUID

    def encode(self) -> bytes:
        """As the value of a header."""
        return f"{quote(self.job_namespace, safe='')}/{quote(self.job_name, safe='')}/{self.run_id}".encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> JobRun | None:
        """The run in the value of a header; None if that is malformed."""
        if not raw or len(raw) > MAX_LENGTH:
            return None
        try:
            namespace, name, run_id = raw.decode("ascii").split("/")
            run = cls(unquote(namespace, errors="strict"), unquote(name, errors="strict"), UUID(run_id))
        except ValueError:
            return None
        usable = run.job_namespace and run.job_name and (run.job_namespace + run.job_name).isprintable()
        return run if usable else None


class Source(NamedTuple):
    """Where the messages in hand come from: the dataset by OpenLineage's naming, and the place in it."""

    namespace: str  # kafka://host:port
    name: str  # the topic
    partition: int
    offset: int
    last_offset: int  # the last of a batch; else the same as `offset`


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Which runs the messages in hand come from, and where they lie. `run` is this handler's own."""

    run: JobRun
    parent: JobRun | None  # the run that produced them; None if unknown, or if a batch has several
    root: JobRun  # where the chain began; `run` if unknown
    source: Source


class LineageAdapter:
    """The lineage of one job: of a handler, or of the app outside its handlers."""

    def __init__(
        self,
        *,
        job_namespace: str = "default",
        job_name: str,
        dataset_namespace: str,
        writes_headers: bool = True,
    ) -> None:
        """`writes_headers`: what is published tells the run; without it lineage is only read."""
        self.run = JobRun(job_namespace, job_name, uuid4())
        self._dataset_namespace = dataset_namespace
        self._writes_headers = writes_headers

    def read(self, messages: Messages) -> Lineage:
        """The lineage of a message or of a batch. Never raises: malformed headers are ignored."""
        batch = (messages,) if isinstance(messages, RawMessage) else messages
        origins = {_origin(headers) for headers in {message.headers for message in batch}}
        first, last = batch[0], batch[-1]
        return Lineage(
            run=self.run,
            parent=_only({parent for parent, _ in origins}),
            root=_only({root for _, root in origins}) or self.run,
            source=Source(self._dataset_namespace, first.topic, first.partition, first.offset, last.offset),
        )

    def outgoing(self) -> Headers:
        """The headers for what is published now: of the handler that runs, else of this job."""
        if not self._writes_headers:
            return ()
        if current_messages() is None:
            return ((RUN, self.run.encode()),)
        lineage = get_lineage()
        return () if lineage is None else headers_from_lineage(lineage)


def headers_from_lineage(lineage: Lineage) -> Headers:
    """The headers for what a handler publishes while it handles messages of this lineage."""
    runs = [(RUN, lineage.run), (PARENT, lineage.parent), (ROOT, lineage.root if lineage.root != lineage.run else None)]
    return tuple((name, run.encode()) for name, run in runs if run is not None)


def get_lineage() -> Lineage | None:
    """The lineage of the messages in hand; None outside handlers and in those with `enable_lineage=False`."""
    received = current_messages()
    lineage = received[0].read_lineage(received[1]) if received is not None else None
    return lineage if isinstance(lineage, Lineage) else None


def dataset_namespace(scheme: str, address: str) -> str:
    """OpenLineage's name of a broker: its scheme and its first bootstrap server."""
    return f"{scheme}://{address.partition(',')[0]}"


def is_configured() -> bool:
    """Whether the environment asks for lineage: openlineage-python is installed, and one of its variables is set.

    `OPENLINEAGE_DISABLED=true` is OpenLineage's own way to switch it off.
    """
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() in ("true", "1"):
        return False
    return any(name.startswith("OPENLINEAGE_") for name in os.environ) and find_spec("openlineage") is not None


def _origin(headers: Headers) -> tuple[JobRun | None, JobRun | None]:
    """The run that produced a message, and the root of its chain."""
    found = {name: run for name, raw in headers if name in (RUN, ROOT) and (run := JobRun.decode(raw)) is not None}
    parent = found.get(RUN)
    return parent, found.get(ROOT, parent)


def _only(values: Iterable[T | None]) -> T | None:
    """The value if all are the same; else None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
