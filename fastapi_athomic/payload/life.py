"""Opens and closes the parts of pipelines: once in each event loop, however many apps and pipelines share a part."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable

from ..error_text import located
from ..exceptions import AthomicError, ConfigurationError
from .pipeline import PayloadPipeline
from .steps import BytesStep, Serializer

logger = logging.getLogger(__name__)

_users: dict[tuple[int, int], int] = {}
"""How many apps use a part in an event loop, by the ids of the loop and the part. Who uses a part keeps it alive."""
_lock = threading.Lock()


class OpenParts:
    """The parts that one run of an app has opened. All calls are made in the event loop of its consumers."""

    def __init__(self) -> None:
        self._parts: dict[int, Serializer | BytesStep] = {}

    async def open(self, pipelines: Iterable[PayloadPipeline], timeout: float) -> None:
        """Opens what is not open yet, all at once, for up to `timeout` seconds. A failure is logged, no more.

        Raises:
            ConfigurationError: raised by a part: it can never work.
        """
        every = {id(part): part for pipeline in pipelines for part in pipeline.parts}
        new = {number: part for number, part in every.items() if number not in self._parts}
        self._parts |= new
        problems = await asyncio.gather(*(_open(part, timeout) for part in new.values()))
        for problem in filter(None, problems):
            raise problem

    async def close(self, timeout: float) -> None:
        """Closes what no other app uses in this event loop. Never raises."""
        parts, self._parts = list(self._parts.values()), {}
        await asyncio.gather(*(_close(part, timeout) for part in parts))


async def _open(part: Serializer | BytesStep, timeout: float) -> ConfigurationError | None:
    if _count(part, 1) > 1:
        return None
    try:
        async with asyncio.timeout(timeout):
            await part.open()
    except ConfigurationError as error:
        return error
    except Exception as error:
        logger.warning("payload step %s could not be opened, and is used all the same: %s", part.name, _said(error))
    return None


async def _close(part: Serializer | BytesStep, timeout: float) -> None:
    if _count(part, -1) > 0:
        return
    try:
        async with asyncio.timeout(timeout):
            await part.close()
    except Exception as error:
        logger.warning("payload step %s could not be closed: %s", part.name, _said(error))


def _count(part: Serializer | BytesStep, change: int) -> int:
    """How many use it in this event loop now."""
    place = (id(asyncio.get_running_loop()), id(part))
    with _lock:
        users = _users.get(place, 0) + change
        if users > 0:
            _users[place] = users
        else:
            _users.pop(place, None)
        return users


def _said(error: Exception) -> str:
    """Our own errors in full; of others, whose text may hold a secret, where they were raised."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) if isinstance(error, AthomicError) else located(error)
