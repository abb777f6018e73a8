"""Calms what aiokafka logs: while a broker is away it writes dozens of lines a second, each like the one before.

A line that says the same as one before is left out and counted, until the state that it speaks of is over: then one
line says how many were left out. The first of its kind always comes through, unchanged, from aiokafka's logger and at
its level. Where a logger's level is DEBUG nothing is left out: what repeats comes at DEBUG. Some of
its warnings and errors tell of what is normal: they come at INFO. Only lines of our own clients are looked at. Other
users of aiokafka in the process get theirs.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from weakref import WeakSet

logger = logging.getLogger(__name__)

OURS = (f"{__package__}.client", f"{__package__}.connection")
"""Loggers of this package that write as often as aiokafka's."""
SILENT_SECONDS, SHORT_SECONDS = 60.0, 5.0
"""A state is over if nothing was logged of it for so long, or if the broker answers again. The shorter time is for
lines below WARNING: the same one may tell of another rebalance."""
MOST_KINDS = 20
"""So many lines that differ only in their arguments come through; further ones of the same text count as repeats."""
MOST_NAMED = 3
"""So many kinds are named in the line that says how many were left out."""
NEW_LEADER = ("NotLeaderForPartitionError", "UnknownTopicOrPartitionError", "LeaderNotAvailableError")
NORMAL: dict[str, tuple[str, ...]] = {
    # at every join and leave all members are told so, and join again
    "Heartbeat failed for group %s because it is rebalancing": (),
    # we ask before we make a topic; one that stays missing is named by `TopicNotFoundError`, and in health
    "Topic %s not found in cluster metadata": (),
    # it was just made, and has no leader yet; it is asked for again
    "Topic %s is not available during auto-create initialization": (),
    # the same where it is written to, or the leader moved; what cannot be written in time is told by `PublishError`
    "Got error produce response on topic-partition %s, retrying. Error: %s": NEW_LEADER,
}
"""Templates of lines that come at INFO, whatever aiokafka thinks of them; where errors are named: only with these."""

_of_our_clients: ContextVar[bool] = ContextVar("of_our_clients", default=False)


def client_context() -> Context:
    """For tasks that call aiokafka: all tasks that it starts in them inherit the mark that they are ours."""
    context = copy_context()
    context.run(_of_our_clients.set, True)
    return context


@dataclass(slots=True)
class _Kind:
    level: int
    seen_at: float  # when it was logged last, on the monotonic clock
    left_out: int = 0

    def is_over(self, now: float) -> bool:
        return now - self.seen_at > (SILENT_SECONDS if self.level >= logging.WARNING else SHORT_SECONDS)


class ClientLog(logging.Filter):
    """A filter on aiokafka's loggers, while at least one of our transports is started."""

    def __init__(self) -> None:
        super().__init__()
        self._transports: WeakSet[object] = WeakSet()
        self._lock = Lock()  # transports may run in several threads
        self._kinds: dict[tuple[str, str], dict[str, _Kind]] = {}  # by logger and template; then by the whole text
        self._left_out: Counter[tuple[int, str]] = Counter()  # of states that are over, by level and template

    def attach(self, transport: object) -> None:
        """Begins to listen. May be called again for the same transport."""
        self._transports.add(transport)
        for name in _loggers():
            logging.getLogger(name).addFilter(self)  # once only, however often it is added

    def detach(self, transport: object) -> None:
        """The last transport takes the filter off."""
        self._transports.discard(transport)
        if not self._transports:
            self.note_answer(recovered=True)
            for name in _loggers():
                logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG or not _of_our_clients.get():
            return True
        if record.levelno > logging.INFO and _is_normal(record):
            _lower(record, logging.INFO)
        if not self._is_new(record, monotonic()):
            _lower(record, logging.DEBUG)
        return logging.getLogger(record.name).isEnabledFor(record.levelno)

    def _is_new(self, record: logging.LogRecord, now: float) -> bool:
        template = str(record.msg)
        failed = record.exc_info[0] if record.exc_info else None
        text = f"{record.levelno} {record.getMessage()} {failed.__name__ if failed is not None else ''}"
        with self._lock:
            alike = self._kinds.setdefault((record.name, template), {})
            known = alike.get(text)
            if known is None and len(alike) >= MOST_KINDS:
                text = ""
                known = alike.get(text)
            if known is None or known.is_over(now):
                if known is not None:
                    self._left_out[record.levelno, template] += known.left_out
                alike[text] = _Kind(record.levelno, now)
                return True
            known.seen_at = now
            known.left_out += 1
            return False

    def note_answer(self, *, recovered: bool) -> None:
        """A broker has answered. `recovered`: it had not before, so all that was said is over."""
        now = monotonic()
        with self._lock:
            for (_, template), alike in list(self._kinds.items()):
                for text, kind in list(alike.items()):
                    if recovered or kind.is_over(now):
                        self._left_out[kind.level, template] += kind.left_out
                        del alike[text]
            self._kinds = {place: alike for place, alike in self._kinds.items() if alike}
            lasting = any(kind.left_out for alike in self._kinds.values() for kind in alike.values())
            if lasting or not (count := self._left_out.total()):
                return
            most = self._left_out.most_common(MOST_NAMED)
            level = max(level for level, _ in +self._left_out)
            self._left_out.clear()
        named = ", ".join(f'{times} x "{template}"' for (_, template), times in most if times)
        logger.log(level, "%d more lines like those of aiokafka above were left out: %s", count, named)


def _is_normal(record: logging.LogRecord) -> bool:
    errors = NORMAL.get(str(record.msg))
    return errors is not None and (not errors or any(error in record.getMessage() for error in errors))


def _lower(record: logging.LogRecord, level: int) -> None:
    record.levelno, record.levelname = level, logging.getLevelName(level)


def _loggers() -> list[str]:
    known = [name for name in logging.root.manager.loggerDict if name == "aiokafka" or name.startswith("aiokafka.")]
    return [*known, *OURS]


client_log = ClientLog()
"""The one of this process."""
