"""Waiting for what a payload needs: a schema registry, an object store. That one is away is no message's fault."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

from ..exceptions import PayloadUnavailableError
from ..payload.steps import Later

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
"""Seconds between two attempts; each pause is twice as long as the one before."""


class Patience:
    """Waits for decoded values, as long as it takes. Health tells what is waited for."""

    def __init__(self, handler_id: str) -> None:
        self._handler_id = handler_id
        self._waiting: dict[object, tuple[float, str]] = {}  # since when, in monotonic seconds, and for what

    async def of(self, later: Later[Any]) -> Any:
        """The value. Raises what makes the message a failure, and nothing because something is away."""
        pause, token = FIRST_PAUSE, object()
        try:
            while True:
                try:
                    return await later
                except PayloadUnavailableError as error:
                    self._note(token, str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._forget(token)

    def problems(self) -> list[str]:
        """What is waited for now, a sentence each."""
        by_reason: dict[str, float] = {}
        for since, reason in self._waiting.values():
            by_reason[reason] = min(since, by_reason.get(reason, since))
        return [f"messages wait for {monotonic() - since:.0f} s: {reason}" for reason, since in by_reason.items()]

    def _note(self, token: object, reason: str) -> None:
        if token in self._waiting:
            self._waiting[token] = (self._waiting[token][0], reason)
            return
        if not self._waiting:
            logger.warning("%s: messages wait, and are not failed: %s", self._handler_id, reason)
        self._waiting[token] = (monotonic(), reason)

    def _forget(self, token: object) -> None:
        if self._waiting.pop(token, None) is not None and not self._waiting:
            logger.info("%s: what messages waited for is there again", self._handler_id)
