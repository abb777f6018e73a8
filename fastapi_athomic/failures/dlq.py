"""Decides what happens to a failure (again now, a retry topic, the DLQ) and has it done. Nothing is just dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, TypedDict
from weakref import WeakKeyDictionary

from ..clock import utc_now
from ..complaints import Complaints
from ..error_text import exc_info, type_name
from ..exceptions import ConfigurationError, NotAuthorizedError, TopicNotFoundError, TransportError
from ..loop.cancellation import is_interrupt
from ..messages import TopicPartition
from ..observation.reasons import Reason, ReasonCode
from ..outcomes import FailureContext, Stage
from ..retry import EXCUSED, RetryDecision, RetryPolicy
from ..rights import missing_right
from ..settings import AthomicSettings
from ..subscriptions import Subscription, is_topic_name
from ..transports.base import Transport
from .failure_log import FailureLog
from .name_clashes import Uses
from .own_topics import SHORTEST_FIT
from .return_topics import ReturnTopics
from .topic_watch import TopicWatch, missing
from .writing import NEVER, LetterWriter

logger = logging.getLogger(__name__)

FIRST_WRITE_DELAY = 0.2
MAX_WRITE_DELAY = 15.0
"""Seconds before a write that failed is tried again. The delay doubles from the first to the maximum."""

DEFAULT_POLICY = RetryPolicy()
"""Decides instead of a user's own policy that raises, or that returns no decision."""


def _none(failure: FailureContext) -> bool:
    """No failure is excused."""
    return False


class _Circumstances(TypedDict):
    """What `RetryPolicy.decide` is told besides the error."""

    stage: Stage
    attempt: int
    elapsed: float
    place: int


class Verdict(Enum):
    """The decision on a failed message."""

    RETRY = "retry"  # call the handler again, after the delay
    DEFERRED = "deferred"  # moved to a retry topic and acknowledged
    DEAD_LETTERED = "dead_lettered"  # written to the DLQ and acknowledged
    SKIPPED = "skipped"  # written nowhere: the handler has no DLQ, or it is a dead letter of another handler
    BLOCKED = "blocked"  # the DLQ or retry topic cannot be written: judge again, after the delay
    WAITS = "waits"  # it has not failed: something is away that its payload needs. The same attempt, after the delay


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one failure. `delay` is in seconds."""

    verdict: Verdict
    failure: FailureContext
    delay: float = 0.0
    free: bool = False  # of a RETRY: the attempt that failed does not count

    @property
    def settled(self) -> bool:
        """The offset may be committed."""
        return self.verdict in (Verdict.DEFERRED, Verdict.DEAD_LETTERED, Verdict.SKIPPED)


class Witness(Protocol):
    """Is told of the failures of one handler: for tests. It is called in the scope of the message."""

    def failed(self, failure: FailureContext) -> None:
        """An attempt has failed. Told once for each, before it is decided what happens to the message."""

    def settled(self, judgement: Judgement) -> None:
        """The message is in its retry topic or its DLQ, or is skipped: the handler is done with it."""


class _Nobody:
    """See `Witness`."""

    def failed(self, failure: FailureContext) -> None:
        """Does nothing."""

    def settled(self, judgement: Judgement) -> None:
        """Does nothing."""


class DLQHandler:
    """Decides what happens to the failures of one subscription, and has them written to its DLQ and retry topics.

    There is one for each handler. It is used by:

    - the processors: `handle`, `decide`, `move` and `hold` judge failures; `log` tells what became of those that are
      not judged here; `returns` tells whether a message came back, and where it was first;
    - the session: `prepare` when partitions are assigned, `forget` when they are revoked, sought to another offset, or
      lost with their topic;
    - the service: `blocked` and `problems` for health, `topic_for`, `returns` and `log` for status;
    - `Mailbox` and `Settling`: `topic_for`, `returns` and `redrive_topic`;
    - `LeftBehind`: `topic_for`, `returns`, `handler_id` and `group_id`;
    - the factory: `check_names` and `uses`, once, before anything starts.

    `returns` and `blocked` are for reading only.
    """

    def __init__(
        self,
        subscription: Subscription,
        transport: Transport,
        settings: AthomicSettings,
        returns: ReturnTopics,
        topics: TopicWatch,
        excuses: Callable[[FailureContext], bool] = _none,
        witness: Witness | None = None,
    ) -> None:
        """`excuses` is told of each failure once; true: the attempt does not count, as a circuit breaker has opened."""
        self._subscription = subscription
        self._transport = transport
        self._settings = settings
        self.returns = returns
        self._topics = topics
        self._excuses = excuses
        self._witness = witness or _Nobody()
        self.handler_id, self.group_id = subscription.handler_id, subscription.group_id
        self._complaints = Complaints()
        self.log = FailureLog(subscription.retry, settings)
        self._decisions = WeakKeyDictionary[FailureContext, RetryDecision]()
        self._writer = LetterWriter(transport, settings, returns, topics, self.log.tell)
        self._write_delays: dict[TopicPartition, float] = {}
        self.blocked: dict[TopicPartition, Reason] = {}  # partitions that wait since a write failed, and why it failed

    def topic_for(self, source: str) -> str | None:
        """The DLQ topic for messages of `source`; None if the handler has none."""
        dlq = self._subscription.dlq
        if dlq is False:
            return None
        if isinstance(dlq, str):
            return dlq
        return self.returns.name(self._settings.dlq_topic, source)

    @property
    def uses(self) -> Uses:
        """The topics that the handler names or may need. Those of a pattern are not known."""
        dead_letters = {source: self.topic_for(source) for source in self._subscription.topics}
        return Uses(self.handler_id, dead_letters, self.returns.expected())

    def check_names(self) -> None:
        """Checks the names of the topics that this handler may need.

        For a pattern only what the templates add is checked: long names of its topics are shortened.

        Raises:
            ConfigurationError: Kafka would not take a name; or the DLQ is a retry or redrive topic of this handler,
                and its dead letters would come back without end.
        """
        handler_id, pattern = self._subscription.handler_id, self._subscription.pattern
        for source in self._subscription.topics if pattern is None else (SHORTEST_FIT,):
            dlq = self.topic_for(source)
            if dlq is not None and self.returns.place(dlq) is not None:
                raise ConfigurationError(
                    f"handler {handler_id}: its dead letters must not go to {dlq}, from which messages come back"
                )
            for topic in self._own(source):
                if not is_topic_name(topic):
                    raise ConfigurationError(
                        f"handler {handler_id}: what fails would go to the topic {topic!r}, a name of {len(topic)} "
                        "characters that Kafka does not take (1 to 249 of a-z A-Z 0-9 . _ -): change the group_id, "
                        "the topic's name, or the templates dlq_topic, retry_topic and redrive_topic of the settings"
                    )

    async def handle(self, failure: FailureContext) -> Judgement:
        """RETRY if the policy wants another attempt in place, else as `move`. Does not raise if the broker is down."""
        decision = self.decide(failure)
        if decision.free:
            self.log.excused(failure)
            return Judgement(Verdict.RETRY, failure, free=True)
        if decision.delay is not None:
            self.log.again(failure, decision.delay)
            return Judgement(Verdict.RETRY, failure, decision.delay)
        return await self.move(failure)

    def decide(self, failure: FailureContext) -> RetryDecision:
        """The retry policy's decision on this failure. The policy is asked once: later calls give the same answer."""
        decision = self._decisions.get(failure)
        if decision is not None:
            return decision
        self.log.note(failure)
        self._witness.failed(failure)
        if self._excuses(failure):
            self._decisions[failure] = EXCUSED
            return EXCUSED
        decision = self._decisions[failure] = self._decided(self._subscription.retry, failure)
        if decision.problem is not None and self._complaints.due(decision.problem) is not None:
            logger.warning("%s: RetryPolicy: %s; the default is used", failure.handler_id, decision.problem)
        return decision

    def _decided(self, policy: RetryPolicy, failure: FailureContext) -> RetryDecision:
        """If a user's own policy raises or returns no decision, the default decides: no message may wait forever."""
        circumstances: _Circumstances = {
            "stage": failure.stage,
            "attempt": failure.attempt,
            "elapsed": failure.failed_at - failure.first_failed_at,
            "place": self.returns.stage_of(failure.message.topic),
        }
        try:
            decision: object = policy.decide(failure.error, **circumstances)
            if isinstance(decision, RetryDecision):
                return decision
            problem = f"decide returned a {type(decision).__name__} instead of a RetryDecision"
        except BaseException as broken:
            if is_interrupt(broken):
                raise
            problem = f"decide raised {type(broken).__name__}"
        return replace(DEFAULT_POLICY.decide(failure.error, **circumstances), problem=problem)

    async def move(self, failure: FailureContext) -> Judgement:
        """Writes the message to its next retry topic, else to the DLQ, and waits for the acknowledgement.

        BLOCKED with a growing delay if the write fails. What a retry topic will never take goes to the DLQ.
        """
        judgement = await self._move(failure)
        if judgement.settled:
            self._witness.settled(judgement)
        return judgement

    async def _move(self, failure: FailureContext) -> Judgement:
        later = self.decide(failure).later
        if self.returns.is_dead_letter(failure.message):
            what = "it is left alone, as it is already a dead letter of another handler"
            self.log.tell(failure, logging.ERROR, what, traceback=True)
            return Judgement(Verdict.SKIPPED, failure)
        if later is not None:
            topic = self.returns.retry(failure.origin.topic, self.returns.stage_of(failure.message.topic) + 1)
            problem = await self._writer.write(topic, failure, later)
            if not isinstance(problem, NEVER):
                return self._moved(Verdict.DEFERRED, topic, failure, problem)
            what = f"it cannot go to the retry topic {topic}, and goes to the DLQ instead: {problem}"
            self.log.tell(failure, logging.WARNING, what)
        dlq = self.topic_for(failure.origin.topic)
        if dlq is None:
            self.log.tell(failure, logging.ERROR, "it is skipped, as the handler has no DLQ topic", traceback=True)
            return Judgement(Verdict.SKIPPED, failure)
        return self._moved(Verdict.DEAD_LETTERED, dlq, failure, await self._writer.write(dlq, failure, None))

    def _moved(self, verdict: Verdict, topic: str, failure: FailureContext, problem: Exception | None) -> Judgement:
        partition = failure.message.topic_partition
        dead = verdict is Verdict.DEAD_LETTERED
        if problem is not None:
            what = "dead letter to" if dead else "message to the retry topic"
            return self._block(partition, failure, f"{what} {topic} refused: {problem}")
        self._unblock(partition)
        where = f"it went to the DLQ topic {topic}" if dead else f"it went to the retry topic {topic}"
        self.log.tell(failure, logging.ERROR if dead else logging.WARNING, where, traceback=True)
        return Judgement(verdict, failure)

    async def prepare(self, sources: Collection[str]) -> None:
        """Called when partitions of these topics are assigned to this process.

        Checks that their DLQ and retry topics may be written to and, with `create_topics` "never", that they exist.
        "at_start" creates those that are missing, and redrive topics, too. Writing checks again.

        Raises:
            TransportError: topics are missing, must not be written to or cannot be created, the error names them; or
                the broker does not answer.
        """
        self._topics.note_move()
        origins = {self.returns.source_of(source) for source in sources}
        needed = sorted({topic for source in origins for topic in self._needed(source)})
        counts = await self._topics.counts(needed, recent=True)
        denied = [topic for topic in needed if counts.denies("Write", topic)]
        absent = [topic for topic in needed if topic not in counts and topic not in denied]
        problems = [missing(absent)] if absent and not self._settings.makes_topics else []
        if self._settings.create_topics == "at_start":
            await self._make(origins)
        if denied:
            problems.append(f"what fails will wait, {missing_right('Write', 'Topic', ', '.join(denied))}")
            raise NotAuthorizedError("; ".join(problems), denied)
        if problems:
            raise TopicNotFoundError(problems[0])

    def _needed(self, source: str) -> list[str]:
        dlq = self.topic_for(source)
        return [*([dlq] if dlq is not None else []), *self.returns.retries(source)]

    async def make_at_start(self) -> None:
        """Creates the own topics of the sources that are named, if `create_topics` says so. Does not raise.

        What goes wrong is told after the start, see `prepare`.
        """
        if self._settings.create_topics == "at_start":
            try:
                await self._make(self._subscription.topics)
            except TransportError as error:
                logger.debug("%s: %s", self.handler_id, error)

    async def _make(self, sources: Collection[str]) -> None:
        """Creates missing own topics of these, with the largest partition count of their sources.

        Raises:
            TransportError: one cannot be created, or the broker does not answer.
        """
        own = {source: self._own(source) for source in sources}
        counts = await self._topics.counts({*own, *(topic for topics in own.values() for topic in topics)})
        missing = dict[str, int]()
        for source, topics in own.items():
            for topic in topics:
                if topic not in counts and not counts.denies("Describe", topic):
                    missing[topic] = max(missing.get(topic, -1), counts.get(source, -1))
        if missing:
            await self._topics.make(missing)
            logger.info("%s: created %s", self.handler_id, ", ".join(missing))

    def _own(self, source: str) -> list[str]:
        """All own topics of a source: those that fail need them, and a redrive if there is a DLQ."""
        redrives = [self.returns.redrive(source)] if self.topic_for(source) is not None else []
        return [*self._needed(source), *redrives]

    def problems(self) -> list[Reason]:
        """What is wrong with the retry and redrive topics that come back to this handler."""
        return self._topics.problems(self.returns.brings_back)

    async def redrive_topic(self, source: str) -> str:
        """The topic through which dead letters of `source` come back. It is created if it is missing.

        Raises:
            TransportError: it is missing and may not be created, or the broker does not answer.
        """
        topic = self.returns.redrive(source)
        await self._topics.partitions_of(topic, source)
        return topic

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Called when these partitions were revoked, sought to another offset, or lost with their topic.

        Clears their block.
        """
        for partition in partitions:
            self._unblock(partition)

    def hold(self, failure: FailureContext, problem: BaseException) -> Judgement:
        """BLOCKED, for a failure that could not be judged because of a problem of ours."""
        partition = failure.message.topic_partition
        reason = f"its failure could not be judged: {type_name(problem)}"
        if partition not in self.blocked:
            shown = exc_info(problem, exposed=self._settings.expose_error_messages)
            logger.error("%s: %s waits: %s", self.handler_id, partition, reason, exc_info=shown)
        return self._block(partition, failure, reason)

    def _block(self, partition: TopicPartition, failure: FailureContext, reason: str) -> Judgement:
        delay = self._write_delays.get(partition, FIRST_WRITE_DELAY)
        self._write_delays[partition] = min(delay * 2, MAX_WRITE_DELAY)
        if partition not in self.blocked:
            self.log.tell(failure, logging.ERROR, f"{partition} waits: {reason}", traceback=True)
        before, code = self.blocked.get(partition), ReasonCode.DEAD_LETTER_UNWRITABLE
        since = before.since if before is not None else utc_now()
        self.blocked[partition] = Reason(code=code, message=f"{partition} waits: {reason}", since=since)
        return Judgement(Verdict.BLOCKED, failure, delay)

    def _unblock(self, partition: TopicPartition) -> None:
        self.blocked.pop(partition, None)
        self._write_delays.pop(partition, None)
