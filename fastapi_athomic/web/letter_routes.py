"""Dead letters over HTTP: look at them, send them back, discard them. `DeadLetters` does the work."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from inspect import isawaitable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic_core import to_jsonable_python

from ..control.actions import Actor, ControlAction
from ..error_text import type_name
from ..exceptions import PayloadDecodeError
from ..failures.letters import DeadLetter
from ..messages import RawMessage
from .control_parts import (
    CHANGING,
    READING,
    ControlParts,
    RouterOf,
    changing_router,
    payload_router,
    reading_router,
    with_access,
)
from .fields import MOST_OFFSETS, MOST_PARTITIONS, ConsumerId, ErrorType, Time, Topic
from .letter_models import Data, Discard, HeaderValue, Letter, LetterPage, LetterPayload, Redrive, Settle, Settled
from .problems import (
    IN_PROGRESS,
    INVALID_REQUEST,
    LETTER_NOT_FOUND,
    NOT_POSSIBLE,
    PAYLOAD_UNAVAILABLE,
    TOPIC_NOT_FOUND,
    ProblemError,
    as_problems,
)

logger = logging.getLogger(__name__)

MOST_SHOWN = 500
"""No page has more letters."""

PartitionPath = Annotated[int, Path(ge=0, lt=MOST_PARTITIONS, description="Partition of the DLQ topic")]
OffsetPath = Annotated[int, Path(ge=0, lt=MOST_OFFSETS, description="Offset in the DLQ topic")]
Source = Annotated[Topic | None, Query(description="Only those of this source topic; needed for handlers of patterns")]


def letter_routers(new_router: RouterOf, parts: ControlParts) -> Iterator[APIRouter]:
    """The routers of these routes. That of payloads only exists if the app says who may see them."""
    reading = reading_router(new_router, parts)
    _add_list(reading, parts)
    _add_single(reading, parts)
    yield reading
    if parts.options.payload_dependencies:
        payloads = payload_router(new_router, parts)
        _add_payload(payloads, parts)
        yield payloads
    changing = changing_router(new_router, parts)
    _add_settling(changing, parts)
    yield changing


def _add_list(router: APIRouter, parts: ControlParts) -> None:
    @router.get(
        "/{consumer_id}/dlq",
        summary="Open dead letters",
        name="consumers_letters",
        responses=with_access(*READING, TOPIC_NOT_FOUND, NOT_POSSIBLE),
    )
    async def letters(
        consumer_id: ConsumerId,
        source: Source = None,
        partition: Annotated[int | None, Query(ge=0, lt=MOST_PARTITIONS, description="Of the DLQ topic")] = None,
        offset: Annotated[int, Query(ge=0, lt=MOST_OFFSETS, description="In the DLQ topic: from here on")] = 0,
        since: Annotated[Time | None, Query(description="Only those that failed then or later")] = None,
        error_type: Annotated[ErrorType | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 50,
    ) -> LetterPage:
        """Reads the DLQ topics from end to end. Without key, value and headers, which may be personal data."""
        with as_problems():
            found = await parts.letters(consumer_id).browse(
                source=source, partition=partition, offset=offset, since=since, error_type=error_type, limit=limit + 1
            )
        shown, more = found[:limit], len(found) > limit
        next_offset = shown[-1].offset + 1 if more and partition is not None else None
        return LetterPage(letters=[Letter.of(each) for each in shown], more=more, next_offset=next_offset)


def _add_single(router: APIRouter, parts: ControlParts) -> None:
    @router.get(
        "/{consumer_id}/dlq/{partition}/{offset}",
        summary="One open dead letter",
        name="consumers_letter",
        responses=with_access(*READING, TOPIC_NOT_FOUND, LETTER_NOT_FOUND, NOT_POSSIBLE),
    )
    async def letter(
        consumer_id: ConsumerId, partition: PartitionPath, offset: OffsetPath, source: Source = None
    ) -> Letter:
        """Without key, value and headers, which may be personal data."""
        return Letter.of(await _letter(parts, consumer_id, partition, offset, source))


async def _letter(parts: ControlParts, consumer_id: str, partition: int, offset: int, source: str | None) -> DeadLetter:
    with as_problems():
        found = await parts.letters(consumer_id).get(partition, offset, source=source)
    if found is None:
        raise ProblemError(LETTER_NOT_FOUND, "there is no dead letter at this place, or it is settled already")
    return found


# --- payloads


def _add_payload(router: APIRouter, parts: ControlParts) -> None:
    @router.get(
        "/{consumer_id}/dlq/{partition}/{offset}/payload",
        summary="What is in a dead letter",
        name="consumers_letter_payload",
        responses=with_access(*READING, TOPIC_NOT_FOUND, LETTER_NOT_FOUND, NOT_POSSIBLE, PAYLOAD_UNAVAILABLE),
    )
    async def payload(
        consumer_id: ConsumerId,
        partition: PartitionPath,
        offset: OffsetPath,
        request: Request,
        source: Source = None,
    ) -> LetterPayload:
        """Key, value and headers, after the app's `mask`; and the value as the handler gets it. Who asks is logged."""
        found = await _letter(parts, consumer_id, partition, offset, source)
        actor = await parts.actor(request, None)
        logger.info("%s: the payload of dead letter %s is shown to %s", consumer_id, found.id, actor.name)
        shown = await _masked(parts, found)
        decoded, not_decoded = await _decoded(parts, consumer_id, shown)
        return LetterPayload(
            letter=Letter.of(shown),
            key=Data.of(shown.key),
            value=None if "value" in shown.omitted else Data.of(shown.value),
            headers=[HeaderValue(name=name, value=Data.of(value)) for name, value in shown.headers.raw],
            decoded=decoded,
            not_decoded=not_decoded,
            masked=parts.options.mask is not None,
        )


async def _masked(parts: ControlParts, letter: DeadLetter) -> DeadLetter:
    if parts.options.mask is None:
        return letter
    shown = parts.options.mask(letter)
    shown = await shown if isawaitable(shown) else shown
    if not isinstance(shown, DeadLetter):
        raise TypeError(f"`mask` of include_athomic must return a DeadLetter, not {type(shown).__name__}")
    return shown


async def _decoded(parts: ControlParts, consumer_id: str, letter: DeadLetter) -> tuple[Any, str | None]:
    """The value as JSON, or why there is none."""
    manager = parts.manager()
    target = manager.consumers[consumer_id].target_type if manager is not None else RawMessage
    if target is RawMessage:
        return None, "the handler takes messages as they come"
    with as_problems():
        try:
            value = to_jsonable_python(
                await parts.letters(consumer_id).decode(letter, target), bytes_mode="base64", inf_nan_mode="strings"
            )
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair, say, could not be sent
        except PayloadDecodeError as error:
            return None, str(error)
        except (ValueError, TypeError, RecursionError) as error:
            return None, f"it cannot be shown as JSON: {type_name(error)}"
    return value, None


# --- settling


def _add_settling(router: APIRouter, parts: ControlParts) -> None:
    known = with_access(*CHANGING, TOPIC_NOT_FOUND, NOT_POSSIBLE, IN_PROGRESS)

    @router.post(
        "/{consumer_id}/dlq/redrive", summary="Send dead letters back", name="consumers_redrive", responses=known
    )
    async def redrive(consumer_id: ConsumerId, body: Redrive, request: Request) -> Settled:
        """To the group that failed, and to nobody else. One at a time for a consumer: two would send letters twice."""
        actor = await parts.actor(request, body.reason)
        return await _settle(parts, consumer_id, ControlAction.REDRIVE, body, {"rate": body.rate}, actor)

    @router.post(
        "/{consumer_id}/dlq/discard", summary="Discard dead letters", name="consumers_discard", responses=known
    )
    async def discard(consumer_id: ConsumerId, body: Discard, request: Request) -> Settled:
        """Settles them without sending them back. They stay in the topic, and the reason is kept with them."""
        actor = await parts.actor(request, body.reason)
        return await _settle(parts, consumer_id, ControlAction.DISCARD, body, {"reason": body.reason}, actor)


async def _settle(
    parts: ControlParts, consumer_id: str, action: ControlAction, body: Settle, more: dict[str, Any], actor: Actor
) -> Settled:
    """Redrives or discards. What is done, or was tried, `DeadLetters` tells."""
    most = parts.settings.most_letters
    if (body.limit or 0) > most:
        raise ProblemError(INVALID_REQUEST, f"limit must be {most} at most, as control.most_letters says")
    chosen = body.model_dump(include={"source", "partition", "offset", "error_type", "limit"})
    with as_problems(), parts.alone(consumer_id, dry_run=body.dry_run):
        letters = parts.letters(consumer_id)
        settle = letters.redrive if action is ControlAction.REDRIVE else letters.discard
        return Settled.model_validate(await settle(**chosen, **more, dry_run=body.dry_run, actor=actor))
