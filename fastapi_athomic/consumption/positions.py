"""Decides from which offset a partition is read, when it is assigned and when its position is lost.

If the group has committed an offset, that is it. If not, there are two cases. A group that only begins with a topic
reads it from where `auto_offset_reset` says. A partition that was added after the group had begun is read from its
beginning, as all that it holds came later. The first position is committed before anything is fetched, so that it is
decided only once.

Commits made by members that start at the same time do not mean that the other partitions were added later. So a commit
also says how many partitions the topic had when the group began (0 if the topic came later than the group). It says to
which topic it belongs, too: the commit of a topic that was deleted, and created again under the same name, is not used
(KIP-516).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from time import monotonic, time
from typing import Literal, NamedTuple

from ..messages import TopicPartition
from ..transports.base import CommittedOffset, OffsetReset, TopicInfo, TransportConsumer
from .notes import Stamp, bitmap, decode_note, decode_stamp, encode_note, without_foreign_metadata

logger = logging.getLogger(__name__)

BEGIN_TOGETHER_SECONDS = 300.0
"""Members that take their first positions within this many seconds begin together. Used for the topics of a pattern: a
topic without a commit, in a group that is older than this, came later than the group."""

Cause = Literal["committed", "begun", "recreated", "retention", "truncated"]
"""Why a partition is read from there: a commit said so; there was no commit; the commits belong to a topic that was
deleted; retention dropped what was to be read next; the log ends before the position."""


class Lost(NamedTuple):
    """A position that the log no longer seems to have."""

    position: int
    topic_id: bytes  # of the topic that the position belongs to


class Start(NamedTuple):
    """Where a partition is read from, and why."""

    committed: CommittedOffset
    stamp: Stamp
    cause: Cause
    skip: frozenset[int] = frozenset()  # offsets above the position that are done already
    dropped: int = 0  # how many offsets retention dropped before they were read
    to_commit: bool = False  # the position has to be committed before anything is fetched

    @property
    def goes_on(self) -> bool:
        """The log is still the same one: messages that were fetched before remain to be handled."""
        return self.cause in ("committed", "retention")


class StartingPoints:
    """Decides where one consumer reads from. Lives as long as its service, and remembers the topics it has seen."""

    def __init__(self, *, reset: OffsetReset, is_own: Callable[[str], bool], pattern: bool) -> None:
        self._reset = reset
        self._is_own = is_own  # a retry or redrive topic of this group: all that is in it is for this group
        self._pattern = pattern
        self._seen: dict[str, bytes] = {}  # topics, and their ids

    async def take(
        self,
        client: TransportConsumer,
        wanted: Mapping[TopicPartition, Lost | None],
        timeout: float,
        still_ours: Callable[[], bool],
    ) -> tuple[dict[TopicPartition, Start], Mapping[str, TopicInfo | None]]:
        """Where each partition is read from, and the topics as `client.topics` gives them.

        Partitions whose topic is gone, or must not be read, are left out. First positions are committed; if
        `still_ours` returns False before that, nothing is committed, and no partition is returned. Raises
        `TransportError`.
        """
        end = monotonic() + timeout
        topics = await client.topics(timeout)
        there = {place: lost for place, lost in wanted.items() if _may_read(topics.get(place.topic))}
        unlost = [place for place, lost in there.items() if lost is None]
        committed = await client.committed(unlost, end - monotonic()) if unlost else {}
        starts = {
            place: start
            for place, found in committed.items()
            if place in there and (start := self._as_committed(found, _info(topics, place))) is not None
        }
        missing = {place: there[place] for place in there if place not in starts}
        if missing:
            starts |= await self._without_commit(client, missing, topics, end)
        if not still_ours():
            return {}, topics
        if news := {place: start.committed for place, start in starts.items() if start.to_commit}:
            await client.commit(news, end - monotonic())
        if len(there) == len(wanted):  # else the broker that answered has not heard of all topics yet
            self._seen |= {name: info.id for name, info in topics.items() if info is not None}
        return starts, topics

    def _as_committed(self, found: CommittedOffset, info: TopicInfo) -> Start | None:
        """Where the commit says to continue. None: the commit belongs to a topic that was deleted.

        A commit without a stamp is stamped at once, so that partitions added from now on are known to have come later.
        """
        commit = without_foreign_metadata(found, info.cluster)
        stamp = decode_stamp(commit.metadata)
        if _differ(stamp.topic_id, info.id):
            return None
        skip, stamped = decode_note(commit.offset, commit.metadata), stamp.began > 0
        stamp = stamp._replace(topic_id=info.id, cluster=info.cluster) if stamped else _stamp_now(info)
        done = bitmap(offset - commit.offset for offset in skip)
        note = commit.metadata if stamped else encode_note(done, stamp, commit.offset)
        return Start(
            committed=CommittedOffset(commit.offset, note),
            stamp=stamp,
            cause="committed",
            skip=skip,
            to_commit=not stamped,
        )

    async def _without_commit(
        self,
        client: TransportConsumer,
        missing: Mapping[TopicPartition, Lost | None],
        topics: Mapping[str, TopicInfo | None],
        end: float,
    ) -> dict[TopicPartition, Start]:
        """Where to read partitions that no commit of the group speaks for: new ones, and those that were lost."""
        bounds = await client.bounds(missing, end - monotonic())
        others = await self._others(client, {place.topic for place in missing}, topics, end)
        return {
            place: self._lost(lost, _info(topics, place), *bounds[place])
            if lost is not None
            else self._first(place, _info(topics, place), *bounds[place], others)
            for place, lost in missing.items()
        }

    async def _others(
        self,
        client: TransportConsumer,
        begun: Collection[str],
        topics: Mapping[str, TopicInfo | None],
        end: float,
    ) -> Mapping[str, list[Stamp]]:
        """The stamps of the group's commits, by topic: for these topics, or for all that match the pattern."""
        if self._reset == "earliest" and not self._seen.keys() & begun:
            return {}
        sources = [name for name, info in topics.items() if _may_read(info) and (name in begun or self._pattern)]
        places = [TopicPartition(name, n) for name in sources for n in range(_partitions(topics.get(name)))]
        found: dict[str, list[Stamp]] = {}
        for place, commit in (await client.committed(places, end - monotonic())).items():
            commit = without_foreign_metadata(commit, _info(topics, place).cluster)
            found.setdefault(place.topic, []).append(decode_stamp(commit.metadata))
        return found

    def _first(
        self, place: TopicPartition, info: TopicInfo, first: int, end: int, others: Mapping[str, list[Stamp]]
    ) -> Start:
        found = others.get(place.topic, [])
        stamps = [stamp for stamp in found if not _differ(stamp.topic_id, info.id)]
        recreated = len(stamps) < len(found) or _differ(self._seen.get(place.topic, b""), info.id)
        counts = [stamp.partitions for stamp in stamps if stamp.began]
        later = recreated or self._came_later(place, counts, known=bool(stamps), began=self._began(others))
        count = min(counts, default=0 if later else info.partitions)
        stamp = Stamp(info.id, count, self._began(others), info.cluster)
        return Start(
            committed=_stamped(end if self._reset == "latest" and not later else first, stamp),
            stamp=stamp,
            cause="recreated" if recreated else "begun",
            to_commit=True,
        )

    def _came_later(self, place: TopicPartition, counts: Collection[int], *, known: bool, began: int) -> bool:
        """True if the partition was added after the group had begun: then all that it holds came later.

        `counts`: how many partitions the topic had when the group began, as its commits say. `known`: the topic has
        commits.
        """
        if self._is_own(place.topic) or (self._seen and place.topic not in self._seen):
            return True
        if known:
            return bool(counts) and place.partition >= min(counts)
        return self._pattern and began < time() - BEGIN_TOGETHER_SECONDS

    def _began(self, others: Mapping[str, Collection[Stamp]]) -> int:
        """When the group began, in seconds since the epoch; now, if no commit says it."""
        return min((stamp.began for stamps in others.values() for stamp in stamps if stamp.began), default=int(time()))

    def _lost(self, lost: Lost, info: TopicInfo, first: int, end: int) -> Start:
        stamp = _stamp_now(info)
        if _differ(lost.topic_id, info.id):
            stamp = stamp._replace(partitions=0)
            return Start(committed=_stamped(first, stamp), stamp=stamp, cause="recreated", to_commit=True)
        if lost.position < first:
            dropped = first - lost.position
            return Start(committed=_stamped(first, stamp), stamp=stamp, cause="retention", dropped=dropped)
        if lost.position <= end:  # the position is fine: a broker that lagged behind had said otherwise
            return Start(committed=_stamped(lost.position, stamp), stamp=stamp, cause="committed")
        return Start(committed=_stamped(first, stamp), stamp=stamp, cause="truncated", to_commit=True)


def report(name: str, starts: Mapping[TopicPartition, Start]) -> None:
    """Logs where the consumer `name` reads on, and why, unless a commit said so. First positions are in one line."""
    begun: dict[tuple[str, int], list[int]] = {}  # numbers of partitions, by topic and offset
    for place, start in starts.items():
        if start.cause == "begun":
            begun.setdefault((place.topic, start.committed.offset), []).append(place.partition)
        else:
            _report_other(name, place, start)
    if begun:
        places = (f"{topic}{sorted(numbers)} from offset {offset}" for (topic, offset), numbers in begun.items())
        logger.info("%s: nothing is committed yet, reading begins at: %s", name, ", ".join(places))


def _report_other(name: str, place: TopicPartition, start: Start) -> None:
    offset = start.committed.offset
    if start.cause == "retention":
        logger.warning(
            "%s: %s: retention dropped offsets %d to %d before they were read: up to %d messages are lost. Reading "
            "goes on at the oldest message that is kept. To prevent this, raise the topic's retention",
            *(name, place, offset - start.dropped, offset - 1, start.dropped),
        )
    elif start.cause == "recreated":
        logger.warning(
            "%s: topic %s was deleted and made anew: %s is read from its beginning, offset %d",
            *(name, place.topic, place, offset),
        )
    elif start.cause == "truncated":
        logger.error(
            "%s: %s ends before the position that was reached: the broker has lost messages (an unclean leader "
            "election?). What it still has is read from its beginning, offset %d: messages will repeat",
            *(name, place, offset),
        )


def _info(topics: Mapping[str, TopicInfo | None], place: TopicPartition) -> TopicInfo:
    info = topics[place.topic]
    assert info is not None, "partitions of topics that are gone were left out"
    return info


def _may_read(info: TopicInfo | None) -> bool:
    """Asking for the offsets of a topic that must not be read, or committing one, fails for all others, too."""
    return info is not None and "Read" not in info.denied


def _stamp_now(info: TopicInfo) -> Stamp:
    return Stamp(info.id, info.partitions, int(time()), info.cluster)


def _partitions(info: TopicInfo | None) -> int:
    return info.partitions if info is not None else 0


def _differ(one: bytes, other: bytes) -> bool:
    return bool(one and other) and one != other


def _stamped(offset: int, stamp: Stamp) -> CommittedOffset:
    return CommittedOffset(offset, encode_note(0, stamp, offset))
