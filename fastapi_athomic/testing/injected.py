"""Failures that a test wants: the next attempts of a handler raise instead of running, or after it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..checks import is_whole, shown
from ..exceptions import ConfigurationError

Error = BaseException | type[BaseException]
INJECTED = RuntimeError("injected by the test")
"""What is raised where a test does not say."""


@dataclass(frozen=True, slots=True)
class Injected:
    """One attempt that is to fail."""

    error: Error
    before: bool  # instead of the handler; False: after it has run


def _check_error(error: object) -> None:
    if isinstance(error, BaseException):
        return
    if not (isinstance(error, type) and issubclass(error, BaseException)):
        raise ConfigurationError(f"error must be an exception, or a type of exceptions, not {shown(error)}")
    try:
        error()
    except TypeError as missing:
        raise ConfigurationError(f"error must be an object, as {error.__name__} needs arguments: {missing}") from None


class Injections:
    """The failures that are still to come, by handler."""

    def __init__(self) -> None:
        self._coming: dict[str, deque[Injected]] = {}
        self._raised: list[BaseException] = []  # kept, as others may get the ids of objects that are gone

    def add(self, handler_id: str, times: int, injected: Injected) -> None:
        """The next `times` attempts fail so, after those that were asked for before.

        Raises:
            ConfigurationError: `times` is no whole number above 0, or the error can not be raised.
        """
        if not is_whole(times) or times < 1:
            raise ConfigurationError(f"times must be a whole number above 0, not {shown(times)}")
        _check_error(injected.error)
        self._coming.setdefault(handler_id, deque()).extend([injected] * times)

    def next_of(self, handler_id: str) -> Injected | None:
        """What the attempt that begins now is to fail with; None: it is not to fail."""
        coming = self._coming.get(handler_id)
        return coming.popleft() if coming else None

    def fail(self, injected: Injected) -> None:
        """Raises it. The same object each time, if that is what the test gave."""
        error = injected.error() if isinstance(injected.error, type) else injected.error.with_traceback(None)
        self._raised.append(error)
        raise error

    def is_ours(self, error: BaseException) -> bool:
        """Whether the test wanted this error, or the one that it was raised from."""
        seen: BaseException | None = error
        while seen is not None:
            if any(seen is raised for raised in self._raised):
                return True
            seen = seen.__cause__
        return False
