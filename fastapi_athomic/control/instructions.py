"""What all processes that have a consumer are told to do with it: restart, or another concurrency, rate or breaker.

They hear of it through the state store. Settings are kept there, one document for each kind of setting of a handler,
until the next one of that kind: each process takes it over once, also one that starts later. A restart is a document
that ends by itself after some seconds, with the order in which the processes restart: one after the other, so that the
others go on. Each process answers; whoever asked tells them apart by what `StatusSharing` knows of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from ..clock import utc_now
from ..consumption.service import ConsumerService
from ..error_text import exc_info, one_line
from ..exceptions import AthomicError, ControlRefusedError, StateStoreError
from ..observation.process import this_process
from ..observation.sharing import ELSEWHERE, NOBODY
from ..observation.status import MemberStatus, ProcessInfo
from .actions import Actor, ControlAction
from .carrying_out import carry_out
from .parts import DeskParts
from .results import Outcome, ProcessResult, SteeringResult, result_of

logger = logging.getLogger(__name__)

INSTRUCTIONS, ANSWERS = "instructions", "instruction-answers"
SILENT_SECONDS = 10.0
"""Who has not answered by then is waited for no longer; processes look every 3 seconds."""
MOST_SECONDS = 50.0
"""So long whoever asked waits at most: below the minute that clients and proxies commonly allow."""
KEPT_ANSWER_SECONDS = 120.0
"""Then the store forgets an answer."""
REJOIN_SECONDS = 10.0
"""So long a process that restarts keeps the next one waiting, if it does not get its partitions before."""
STAGGER_SECONDS = 1.0
"""Between two who wait for one that does not answer: they do not restart together."""
ANSWER_PAUSE = 0.25
"""Seconds between two looks for answers."""

KEPT = "a process that starts later takes it over"


class Instruction(BaseModel):
    """What the processes are told."""

    id: str
    group_id: str
    handler_id: str
    action: ControlAction
    values: dict[str, Any]
    actor: str
    reason: str | None
    at: AwareDatetime = Field(default_factory=utc_now)
    turns: list[str] = []  # names of the processes that restart, in this order; others come last

    @property
    def name(self) -> str:
        """Of its document. A setting takes the place of the one before."""
        about = [self.group_id, self.handler_id, self.action.value]
        return json.dumps([*about, self.id] if self.passes else about)

    @property
    def passes(self) -> bool:
        """It is done once, and nothing of it is kept."""
        return self.action is ControlAction.RESTART


class Answer(BaseModel):
    """What one process says. Without `result` it has heard of it, and begins."""

    id: str  # of the instruction
    process: ProcessInfo
    result: ProcessResult | None = None


class _Known(NamedTuple):
    """Who has the consumer, as far as this process knows."""

    processes: Mapping[str, ProcessInfo]
    note: str | None  # why there may be others


class Instructions:
    """Gives instructions to all processes, and follows those that others give. All in the consumers' event loop."""

    def __init__(self, parts: DeskParts) -> None:
        settings = parts.settings
        self._parts = parts
        self._web = settings.role == "web"  # it gives instructions, and has nothing to do
        self._process = this_process(settings.instance_id)
        self._patience = settings.drain_timeout + REJOIN_SECONDS + 5.0  # for one that has begun
        self._seen: set[str] | None = None  # ids that were followed, or came before this process; None: not looked yet
        self._looking = asyncio.Lock()  # what was read first is followed first
        self._doing = set[asyncio.Task[None]]()

    @property
    def heard(self) -> bool:
        """There is a store through which others may hear of it."""
        return self._parts.shared is not None and self._parts.shared.has_others

    # --- who is asked

    async def give(
        self, service: ConsumerService, action: ControlAction, values: Mapping[str, Any], actor: Actor
    ) -> SteeringResult:
        """Has it done here, and by all other processes that have the handler.

        Raises:
            ControlRefusedError: nobody has done it, nor will.
            StateStoreError: nothing is done here, and the store by which others would hear of it is away.
        """
        if not self._web and not (self.heard and self._parts.settings.control.enabled):
            unheard = "other processes are not told: control.enabled is not set" if self.heard else None
            in_force = await carry_out(service, action, values)
            return result_of(service.name, [self._result(Outcome.APPLIED, in_force=in_force)], unheard)
        known = await self._known(service.name)
        instruction = Instruction(
            id=uuid4().hex,
            group_id=service.subscription.group_id,
            handler_id=service.name,
            action=action,
            values=dict(values),
            actor=actor.name,
            reason=actor.reason,
            turns=sorted(known.processes) if action is ControlAction.RESTART else [],
        )
        try:
            await self._put(instruction)
        except StateStoreError as error:
            if self._web:
                raise
            in_force = await carry_out(service, action, values)
            unheard = f"other processes do not hear of it: {error}"
            return result_of(service.name, [self._result(Outcome.APPLIED, in_force=in_force)], unheard).model_copy(
                update={"done": False}
            )
        return await self._collected(service, instruction, known)

    async def _put(self, instruction: Instruction) -> None:
        assert self._parts.shared is not None, "ask `heard` first"
        document = instruction.model_dump_json().encode()
        ttl = SILENT_SECONDS if instruction.passes else None
        await self._parts.shared.put(INSTRUCTIONS, instruction.name, document, ttl=ttl)
        if not self._web:
            await self.look()

    async def _known(self, handler_id: str) -> _Known:
        status = await self._parts.status_of(handler_id)
        if status is None:
            return _Known({}, None)
        processes = {_key(each): _info(each) for each in status.members if each.state != ELSEWHERE}
        return _Known(processes, status.scope_note)

    async def _collected(self, service: ConsumerService, instruction: Instruction, known: _Known) -> SteeringResult:
        most = MOST_SECONDS if known.processes else SILENT_SECONDS
        answers = await self._follow(instruction.id, known.processes, SILENT_SECONDS, most)
        left = {key: info for key, info in known.processes.items() if key not in answers or not answers[key].result}
        gone = left.keys() - (await self._known(service.name)).processes if left else set()
        overtaken = any(key not in answers for key in left) and await self._overtaken(instruction)
        results = [_told(answer) for key, answer in answers.items() if key not in gone]
        silent = {key: info for key, info in left.items() if key in gone or key not in answers}
        results += [_silent(info, gone=key in gone, overtaken=overtaken) for key, info in silent.items()]
        results.sort(key=lambda each: each.instance_id)
        notes = [known.note] if known.note and not (answers and known.note == NOBODY) else []
        if instruction.passes:
            if not any(each.outcome in (Outcome.APPLIED, Outcome.UNFINISHED) for each in results):
                raise ControlRefusedError(_nobody(service, results), [each.detail or "" for each in results])
        else:
            notes.append(KEPT)
        return result_of(service.name, results, "; ".join(notes) or None)

    async def _overtaken(self, instruction: Instruction) -> bool:
        """Somebody else has set something else since."""
        assert self._parts.shared is not None
        try:
            document = (await self._parts.shared.all(INSTRUCTIONS)).get(instruction.name)
        except StateStoreError:
            return False
        other = _understood(document) if document is not None else None
        return other is not None and other.id != instruction.id

    async def _follow(self, given: str, wanted: Collection[str], silent: float, most: float) -> dict[str, Answer]:
        """The answers, as soon as all of `wanted` have said what became of it, or no more is to be expected.

        `silent`: seconds after which no more is, unless one has begun.
        """
        answers = dict[str, Answer]()
        began = changed_at = monotonic()
        while True:
            found = answers | await self._answers(given)  # the store forgets early ones, or is away
            if found != answers:
                answers, changed_at = found, monotonic()
            if wanted and all(key in answers and answers[key].result is not None for key in wanted):
                return answers
            at_work = any(answer.result is None for key, answer in answers.items() if key in wanted)
            now = monotonic()
            if now - changed_at > (max(silent, self._patience) if at_work else silent) or now - began > most:
                return answers
            await asyncio.sleep(ANSWER_PAUSE)

    async def _answers(self, given: str) -> dict[str, Answer]:
        """By process; none while the store is away."""
        assert self._parts.shared is not None
        try:
            documents = await self._parts.shared.all(ANSWERS)
        except StateStoreError:
            return {}
        found = dict[str, Answer]()
        for document in documents.values():
            try:
                answer = Answer.model_validate_json(document)
            except ValidationError:  # of a later version of this package
                continue
            if answer.id == given:
                found[_key(answer.process)] = answer
        return found

    # --- who is told

    async def begin(self) -> None:
        """Takes over what was set before this process. Never raises."""
        if self.heard and not self._web:
            try:
                async with asyncio.timeout(self._parts.settings.request_timeout):
                    await self.look()
            except (StateStoreError, TimeoutError) as error:
                said = str(error) or "the state store does not answer"
                logger.warning("what was set for the consumers of the group is not known yet: %s", said)
            except Exception as error:  # by a fault of ours; consumers start nevertheless
                exposed = self._parts.settings.expose_error_messages
                shown = exc_info(error, exposed=exposed)
                logger.error("what was set for the consumers of the group could not be read", exc_info=shown)

    async def look(self) -> None:
        """Follows instructions that are new. Raises `StateStoreError`."""
        if self._web or not self.heard:
            return
        assert self._parts.shared is not None
        async with self._looking:
            documents = await self._parts.shared.all(INSTRUCTIONS)
            found = [each for each in map(_understood, documents.values()) if each is not None]
            if self._seen is None:  # what was restarted before this process began is no matter of it
                self._seen = {each.id for each in found if each.passes}
            self._seen &= {each.id for each in found}
            for instruction in sorted(found, key=lambda each: each.at):
                service = self._parts.consumers.get(instruction.handler_id)
                if service is None or service.subscription.group_id != instruction.group_id:
                    continue
                if instruction.id not in self._seen:
                    self._seen.add(instruction.id)
                    await self._obey(service, instruction)

    async def _obey(self, service: ConsumerService, instruction: Instruction) -> None:
        """A setting is taken over before anybody else can set another; a restart takes its time."""
        logger.info("taken over from the group: %s", _said(instruction))
        if not instruction.passes:
            await self._do(service, instruction)
            return
        task = asyncio.create_task(self._in_turn(service, instruction), name="athomic-restart")
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _in_turn(self, service: ConsumerService, instruction: Instruction) -> None:
        own, turns = _key(self._process), instruction.turns
        before = turns[: turns.index(own)] if own in turns else turns
        try:
            await self._say(instruction)
            if before:
                silent = SILENT_SECONDS + STAGGER_SECONDS * len(before)
                await self._follow(instruction.id, before, silent, silent + len(before) * self._patience)
        except StateStoreError as error:
            logger.warning("%s: it restarts, and cannot say so: %s", service.name, error)
        await self._do(service, instruction)

    async def _do(self, service: ConsumerService, instruction: Instruction) -> None:
        try:
            in_force = await carry_out(service, instruction.action, instruction.values)
            if instruction.passes:
                await _rejoined(service)
            result = self._result(Outcome.APPLIED, in_force=in_force)
        except (AthomicError, TypeError, ValueError) as error:  # values of a later version of this package, perhaps
            logger.warning("%s: not done: %s", _said(instruction), error)
            result = self._result(Outcome.REFUSED, detail=one_line(str(error)))
        try:
            await self._say(instruction, result)
        except StateStoreError as error:
            logger.warning("%s: done, and whoever asked could not be told: %s", _said(instruction), error)

    async def _say(self, instruction: Instruction, result: ProcessResult | None = None) -> None:
        assert self._parts.shared is not None
        answer = Answer(id=instruction.id, process=self._process, result=result)
        name = f"{instruction.id} {_key(self._process)}"
        await self._parts.shared.put(ANSWERS, name, answer.model_dump_json().encode(), ttl=KEPT_ANSWER_SECONDS)

    def _result(
        self, outcome: Outcome, *, detail: str | None = None, in_force: Mapping[str, Any] | None = None
    ) -> ProcessResult:
        process = self._process.model_dump()
        return ProcessResult(**process, outcome=outcome, detail=detail, in_force=dict(in_force or {}))

    async def end(self) -> None:
        """Lets go of restarts that have not begun."""
        doing = list(self._doing)
        for task in doing:
            task.cancel()
        if doing:
            await asyncio.wait(doing)


async def _rejoined(service: ConsumerService) -> None:
    """Returns when it consumes again, or after `REJOIN_SECONDS`."""
    end = monotonic() + REJOIN_SECONDS
    while not service.ready and monotonic() < end:  # noqa: ASYNC110 - there is no event for a second time
        await asyncio.sleep(ANSWER_PAUSE)


def _understood(document: bytes) -> Instruction | None:
    """None: it is of a later version of this package, which does something else."""
    try:
        return Instruction.model_validate_json(document)
    except ValidationError:
        return None


def _key(process: ProcessInfo | MemberStatus) -> str:
    """Tells processes apart, also two with the same `instance_id`."""
    return f"{process.instance_id} {process.host} {process.pid}"


def _info(member: MemberStatus) -> ProcessInfo:
    return ProcessInfo(instance_id=member.instance_id, host=member.host, pid=member.pid)


def _told(answer: Answer) -> ProcessResult:
    if answer.result is not None:
        return answer.result
    detail = "it has begun, or waits for its turn: look at its status"
    return ProcessResult(**answer.process.model_dump(), outcome=Outcome.UNFINISHED, detail=detail)


def _silent(process: ProcessInfo, *, gone: bool, overtaken: bool) -> ProcessResult:
    if gone:
        outcome, detail = Outcome.GONE, "it has ended meanwhile"
    elif overtaken:
        outcome, detail = Outcome.REFUSED, "somebody has set something else meanwhile"
    else:
        why = "it hangs or has crashed, control.enabled is not set there, or it runs an older version of this package"
        outcome, detail = Outcome.NO_ANSWER, f"it did not answer within {SILENT_SECONDS:g} s: {why}"
    return ProcessResult(**process.model_dump(), outcome=outcome, detail=detail)


def _nobody(service: ConsumerService, results: Sequence[ProcessResult]) -> str:
    if not results:
        return f"{service.name}: no process that consumes it has answered within {SILENT_SECONDS:g} s"
    return "; ".join(f"{each.instance_id}: {each.detail}" for each in results)


def _said(instruction: Instruction) -> str:
    values = ", ".join(f"{name} {value}" for name, value in instruction.values.items() if value is not None)
    told = f"{instruction.handler_id}: {instruction.action}{f' ({values})' if values else ''}, by {instruction.actor}"
    return one_line(f"{told}: {instruction.reason}" if instruction.reason else told, 500)
