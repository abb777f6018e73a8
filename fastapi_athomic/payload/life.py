"""Opens and closes the parts of pipelines: once in each event loop, however many apps and pipelines share a part."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from weakref import ReferenceType, WeakKeyDictionary, ref

from ..error_text import located
from ..exceptions import AthomicError, ConfigurationError
from .pipeline import PayloadPipeline
from .steps import BytesStep, Serializer

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_uses: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Use]] = WeakKeyDictionary()
"""By event loop, and the id of the part. Who uses a part keeps it alive."""


class _Use:
    """How a part is used in one event loop."""

    def __init__(self) -> None:
        self.users = 0  # apps
        self.is_open = False
        self.problem: ConfigurationError | None = None  # it can never work
        self.changing = asyncio.Lock()  # held while the part is opened or closed


class OpenParts:
    """The parts that one run of an app has opened. All calls are made in the event loop of its consumers."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[Serializer | BytesStep, _Use]] = {}
        self._loop: ReferenceType[asyncio.AbstractEventLoop] | None = None  # in which they are open

    @property
    def all(self) -> list[Serializer | BytesStep]:
        """Those that are open. May be asked from another thread."""
        return [part for part, _ in list(self._parts.values())]

    async def open(self, pipelines: Iterable[PayloadPipeline], timeout: float) -> None:
        """Opens what is not open yet, all at once, for up to `timeout` seconds. A failure is logged, no more.

        Returns when all parts are open, also those that somebody else is opening.

        Raises:
            ConfigurationError: raised by a part: it can never work.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop() is not loop:  # the last one was given up, with all that was open there
            self._parts, self._loop = {}, ref(loop)
        every = {id(part): part for pipeline in pipelines for part in pipeline.parts}
        for number, part in every.items():
            if number not in self._parts:
                self._parts[number] = part, _begin(part)
        uses = [self._parts[number] for number in every]
        await asyncio.gather(*(_open(part, use, timeout) for part, use in uses if not use.is_open))
        for _, use in uses:
            if use.problem is not None:
                raise use.problem

    async def close(self, timeout: float) -> None:
        """Closes what no other app uses in this event loop. Never raises."""
        parts, self._parts = list(self._parts.values()), {}
        await asyncio.gather(*(_close(part, use, timeout) for part, use in parts))


def _begin(part: Serializer | BytesStep) -> _Use:
    with _lock:
        use = _uses.setdefault(asyncio.get_running_loop(), {}).setdefault(id(part), _Use())
        use.users += 1
        return use


async def _open(part: Serializer | BytesStep, use: _Use, timeout: float) -> None:
    async with use.changing:
        if use.is_open:
            return
        use.problem = None
        try:
            async with asyncio.timeout(timeout):
                await part.open()
        except ConfigurationError as error:
            use.problem = error
        except Exception as error:
            logger.warning("payload step %s could not be opened, and is used all the same: %s", part.name, _said(error))
        use.is_open = True


async def _close(part: Serializer | BytesStep, use: _Use, timeout: float) -> None:
    use.users -= 1
    async with use.changing:
        if use.users:
            return
        use.is_open = False
        try:
            async with asyncio.timeout(timeout):
                await part.close()
        except Exception as error:
            logger.warning("payload step %s could not be closed: %s", part.name, _said(error))
        with _lock:
            if not use.users:
                _uses.get(asyncio.get_running_loop(), {}).pop(id(part), None)


def _said(error: Exception) -> str:
    """Our own errors in full; of others, whose text may hold a secret, where they were raised."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) if isinstance(error, AthomicError) else located(error)
