"""The routes that show the status of consumers: of this process, or over all that have them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query

from ..checks import nearest
from ..manager import ConsumerManager
from ..observation.process import instance_id
from ..observation.status import ConsumerStatus, StatusScope
from ..settings import AthomicSettings
from .examples import ALL, ONE
from .problems import CONSUMER_NOT_FOUND, INVALID_REQUEST, ProblemError, responses

INSTANCE_HEADER = "x-athomic-instance"
"""The response header that holds the setting `instance_id`: which of several workers has answered."""
SHOWN_IDS = 20
"""At most so many ids are listed in the answer to a request for an unknown one."""

WantedScope = Annotated[
    StatusScope,
    Query(description="`group`: over all processes that share a state store; `process`: of the one that answers"),
]


class StatusParts(NamedTuple):
    """What the routes answer from."""

    manager: Callable[[], ConsumerManager | None]  # returns None while the app does not run
    group_status: Callable[[str | None], Awaitable[list[ConsumerStatus]]]  # over all processes; None: of all consumers
    settings: AthomicSettings


def add_statuses(router: APIRouter, parts: StatusParts) -> None:
    """Adds the two routes. `/{consumer_id}` must come after all others with one segment."""

    async def statuses(scope: StatusScope, consumer_id: str | None = None) -> list[ConsumerStatus]:
        if scope is StatusScope.GROUP:
            return await parts.group_status(consumer_id)
        current = parts.manager()
        return current.statuses() if current else []

    @router.get("", summary="Status of all consumers", responses={200: ALL, **responses(INVALID_REQUEST)})
    async def consumers(scope: WantedScope = StatusScope.GROUP) -> list[ConsumerStatus]:
        """Over all processes where they share a state store in Redis; else each process speaks for itself."""
        return await statuses(scope)

    @router.get(
        "/{consumer_id}",
        summary="Status of one consumer",
        responses={200: ONE, **responses(CONSUMER_NOT_FOUND, INVALID_REQUEST)},
    )
    async def consumer(consumer_id: str, scope: WantedScope = StatusScope.GROUP) -> ConsumerStatus:
        """Over all processes where they share a state store in Redis; else of the process that answers."""
        for status in await statuses(scope, consumer_id):
            if status.id == consumer_id:
                return status
        current = parts.manager()
        headers = {INSTANCE_HEADER: instance_id(parts.settings.instance_id)}
        known = current.consumers if current else None
        raise ProblemError(CONSUMER_NOT_FOUND, _not_found(consumer_id, known), headers)


def _not_found(wanted: str, known: Iterable[str] | None) -> str:
    if known is None:
        return f"no consumer has the id {wanted!r}: the app has not started"
    ids = sorted(known)
    if not ids:
        return f"no consumer has the id {wanted!r}: the app has no handlers"
    if near := nearest(wanted, ids, most=3):
        return f"no consumer has the id {wanted!r}; did you mean {' or '.join(near)}?"
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"no consumer has the id {wanted!r}; there are {', '.join(ids[:SHOWN_IDS])}{more}"
