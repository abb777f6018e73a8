"""When and what is committed: soon after something is done, more rarely while the thread is busy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from threading import local
from time import monotonic
from weakref import ref

from ..exceptions import CommitFailedError, NotAuthorizedError, TopicNotFoundError, TransportError
from ..loop.load import ThreadLoad
from ..observation.reasons import Reason, ReasonCode, lasting
from ..transports.base import CommittedOffset, TransportConsumer
from .assignment import Assignment
from .partitions import PartitionState, WorkDone
from .parts import SessionParts

logger = logging.getLogger(__name__)

SOON = 0.001
"""Seconds that a commit waits for more offsets: messages that were fetched together are often done together. A shorter
`commit_interval` is raised to this."""
COMMIT_PAUSE = 0.005
"""The shortest time between two commits, in seconds: each costs about 0.3 ms of CPU."""
BUSY = 0.8
"""A thread that computes for more than this share of its time is busy: commits take time away from handlers then."""
BUSY_PAUSE = 0.03
"""The shortest time between two commits in a busy thread, in seconds."""
FEW = 3
"""Fewer messages than this are not worth a commit as often as every `commit_interval`: they trickle."""
WAIT_OF_FEW = 5
"""They wait for this many times `commit_interval` after the last commit."""
TRICKLES_A_SECOND = 100
"""So often do all consumers of a thread commit in which messages trickle, about: with more than five of them each
commits seldomer, and more at once."""
GOES_ALONG = 1 / 2
"""One that has waited for this share of its wait commits when another does: commits that follow each other closely
cost about half of what they cost one by one."""
TRICKLING_SECONDS = 1.0
"""A consumer that has committed within so many seconds counts."""
LOOK_SECONDS = 0.2
"""The pause after a failed commit, in seconds."""


class _Thread(local):
    """What the consumers of one thread know of each other: how busy it is, and in which of them messages trickle."""

    def __init__(self) -> None:
        self._at: dict[ref[Committer], float] = {}  # the newest last
        self._waiting: dict[WorkDone, float] = {}  # for more to commit, and from when on they go along
        self._load = ThreadLoad()

    def busy(self) -> bool:
        """The thread computes for more than `BUSY` of its time."""
        return self._load.share() > BUSY

    def count(self, committer: Committer, now: float) -> int:
        """How many there are. Counts this one from now on. `now` is on the monotonic clock."""
        counted, at = ref(committer), self._at
        at.pop(counted, None)
        at[counted] = now
        while not 0 <= now - at[oldest := next(iter(at))] < TRICKLING_SECONDS:
            del at[oldest]
        return len(at)

    async def wait(self, done: WorkDone, enough: int, seconds: float, goes_along: float) -> None:
        """Waits as `done` does, but from `goes_along` on, on the monotonic clock, only until another one commits."""
        self._waiting[done] = goes_along
        try:
            await done.wait(enough, seconds)
        finally:
            self._waiting.pop(done, None)

    def take_along(self, now: float) -> None:
        """One of them commits now: so does another that has waited long enough, which takes the next one along.

        They come one after the other, each in a turn of the event loop of its own: requests get on in between.
        """
        for done, goes_along in self._waiting.items():
            if now >= goes_along:
                del self._waiting[done]
                done.wake()
                return


_thread = _Thread()


class Committer:
    """Commits what is done in the partitions of one session, one commit at a time.

    `run` decides when. `commit` is for partitions that leave. A seek commits its own position, and holds `lock`
    meanwhile, so that no commit of the old position comes afterwards.

    Two others commit without the lock: `StartingPoints.take`, for positions from which nothing has been fetched yet,
    and `Membership.confirm`, to find out whether this process is still a member.
    """

    def __init__(
        self,
        parts: SessionParts,
        assignment: Assignment,
        client: Callable[[], TransportConsumer],
        topic_gone: Callable[[], None],
    ) -> None:
        self._name = parts.name
        self._settings = parts.settings
        self._counters = parts.counters
        self._assignment = assignment
        self._client = client
        self._topic_gone = topic_gone  # called when a commit was refused because its topic was deleted
        self.lock = asyncio.Lock()
        self.problem: Reason | None = None  # why the last commit failed; that does not stop consumption

    def expect_work(self) -> None:
        """There is something to commit besides concluded messages: a position has moved."""
        self._assignment.work_done.note(1)

    async def run(self) -> None:
        """Commits whenever it is due, until it is cancelled."""
        sent = answered = 0.0  # when the last commit was sent and when it was answered, on the monotonic clock
        while True:
            await self._due(sent, answered)
            sent = monotonic()
            _thread.take_along(sent)
            try:
                await self.commit(self._settled(), self._settings.request_timeout)
            except TopicNotFoundError as error:
                logger.info("%s: commit refused, a topic was deleted: %s", self._name, error)
                self._topic_gone()
                await self._pause_before_retry()
            except CommitFailedError as error:
                logger.info("%s: commit refused, a rebalance is on its way: %s", self._name, error)
                await self._pause_before_retry()
            except TransportError as error:
                self._tell(f"commit failed, it will be tried again: {error}")
                await self._pause_before_retry()
            else:
                self._tell(None)
            answered = monotonic()

    def _settled(self) -> list[PartitionState]:
        """All partitions, when all that is concluded by now has been counted: from here on the count begins anew."""
        self._settle_all()
        self._assignment.work_done.count = 0
        return list(self._assignment.states.values())

    def _settle_all(self) -> None:
        """Counts what was concluded while nobody waited. Call it before each wait."""
        for state in self._assignment.states.values():
            state.settle()

    async def _pause_before_retry(self) -> None:
        self._assignment.work_done.note(1)
        await asyncio.sleep(LOOK_SECONDS)

    def _tell(self, problem: str | None) -> None:
        if problem is not None and (self.problem is None or problem != self.problem.message):
            logger.warning("%s: %s", self._name, problem)
        elif problem is None and self.problem is not None:
            logger.warning("%s: commits are accepted again", self._name)
        self.problem = lasting(self.problem, ReasonCode.COMMIT_FAILING, problem)

    async def _due(self, sent: float, answered: float) -> None:
        """Returns when something is done and `commit_interval` has passed since the last commit was `sent`.

        Sooner when `commit_count` messages are done; later while there are `FEW`, but then along with other consumers;
        never at once after the last commit. In a busy thread, where much is done in little time, none of this counts:
        what is done is committed after `BUSY_PAUSE`.
        """
        interval, work_done = max(self._settings.commit_interval, SOON), self._assignment.work_done
        few, wait = self._few()
        trickled = not _thread.busy() and await self._trickle(few, sent, wait)
        self._settle_all()
        await work_done.wait(1)
        if _thread.busy():
            await asyncio.sleep(min(3 * interval, BUSY_PAUSE))
            return
        if (pause := answered + min(interval, COMMIT_PAUSE) - monotonic()) > 0:
            await asyncio.sleep(pause)
        if trickled or await self._trickle(few, sent, wait):
            return
        self._settle_all()
        now = monotonic()
        await work_done.wait(self._settings.commit_count, max(sent + interval, now + SOON) - now)

    async def _trickle(self, few: int, sent: float, wait: float) -> bool:
        """Waits until there are `few` messages to commit, but no longer than `wait` seconds from `sent` on.

        True: there are some, though fewer, and they have waited for long enough.
        """
        self._settle_all()
        work_done = self._assignment.work_done
        if (left := sent + wait - monotonic()) <= 0:
            return False
        await _thread.wait(work_done, few, left, sent + wait * GOES_ALONG)
        return 0 < work_done.count < few

    def _few(self) -> tuple[int, float]:
        """Fewer messages than this wait for more, and for how many seconds after the last commit."""
        wait = self._settings.commit_interval * WAIT_OF_FEW
        together = _thread.count(self, monotonic()) / TRICKLES_A_SECOND
        more = max(1.0, together / wait) if wait else 1.0
        return min(round(FEW * more), self._settings.commit_count), wait * more

    async def commit(self, states: Iterable[PartitionState], timeout: float) -> None:
        """Commits what is done and not yet committed in these partitions, and nothing of those that were revoked.

        Raises what `TransportConsumer.commit` does.
        """
        async with self.lock:
            due = {}
            for state in states:
                # reading `tracker` settles: what was just concluded is committed, too
                if not state.revoked and (offset := state.tracker.due()) is not None:
                    due[state] = offset
            if not due:
                return
            try:
                await self._client().commit({state.topic_partition: offset for state, offset in due.items()}, timeout)
            except NotAuthorizedError as error:
                if error.topics:  # the other topics' offsets were committed
                    refused = {state for state in due if state.topic_partition.topic in error.topics}
                    _note({state: offset for state, offset in due.items() if state not in refused})
                raise
            self._counters.commits += 1
            _note(due)


def _note(committed: Mapping[PartitionState, CommittedOffset]) -> None:
    for state, offset in committed.items():
        state.tracker.committed_as(offset)
