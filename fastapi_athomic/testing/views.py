"""What both kits show of what they have seen, and what a test says of failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from fastapi import FastAPI

from ..athomic import Athomic
from ..exceptions import ConfigurationError
from .bench import Bench
from .expectations import Expected, Types, UnexpectedFailuresError, told
from .hints import tell_if_undrained
from .injected import INJECTED, Error, Injected
from .observer import Handler
from .records import Deferred, Handled, Published

E = TypeVar("E", Deferred, Handled)


class KitView:
    """The part of a kit that waits for nothing. `app` and `athomic` are those of the test."""

    __test__ = False  # of pytest

    def __init__(self, bench: Bench, *, strict: bool) -> None:
        self._bench = bench
        self._strict = strict
        self._begun = False
        self.app: FastAPI = bench.app
        self.athomic: Athomic = bench.athomic

    def _begin(self) -> None:
        if self._begun:
            raise ConfigurationError("a test kit is used once: make another one, which begins with nothing")
        self._begun = True

    # --- what was seen

    def published(self, topic: str | None = None) -> list[Published]:
        """What the app and the kit have published, to this topic or to any, in order.

        Without what the package writes itself: retry topics, dead letters, redrives.
        """
        return [each for each in self._bench.records.published if topic in (None, each.topic)]

    def handled(self, handler: Handler | None = None) -> list[Handled]:
        """The messages that this handler, or any, is done with, in that order. A batch handler: one for each message.

        A message that waits for another attempt is not among them, nor one that waits in a retry topic: `deferred`.

        Raises:
            HandlerNotFoundError: the app has no such handler.
        """
        found = self._of(handler, self._bench.records.handled)
        if not found:
            tell_if_undrained(self._bench.records.undrained)
        return found

    def deferred(self, handler: Handler | None = None) -> list[Deferred]:
        """The messages that wait in retry topics now, of this handler or of any.

        Raises:
            HandlerNotFoundError: the app has no such handler.
        """
        return self._of(handler, self._bench.records.deferred())

    def _of(self, handler: Handler | None, records: Sequence[E]) -> list[E]:
        if handler is None:
            return list(records)
        ids = self._bench.observer.ids(handler)
        return [each for each in records if each.handler_id in ids]

    # --- failures

    def fail(
        self,
        handler: Handler,
        *,
        times: int = 1,
        error: Error = INJECTED,
        before: bool = True,
    ) -> None:
        """The next attempts of this handler raise `error`: instead of running it, or after it has run (`before=False`).

        Those failures are expected. Attempts of a batch handler are its calls.

        Raises:
            HandlerNotFoundError: the app has no such handler.
            ConfigurationError: the function has several subscriptions: give the id of one; or `times` or `error` is
                wrong.
        """
        self._bench.observer.injections.add(
            self._bench.observer.one(handler).handler_id, times, Injected(error, before)
        )

    def expect_failures(self, handler: Handler | None = None, error: Types = Exception) -> Expected:
        """Failures of these types, of this handler or of any, are what the test is about: they do not fail it.

        From now on; as a context manager, those that happen inside the `with` block: `drain` in there.

        Raises:
            HandlerNotFoundError: the app has no such handler.
            ConfigurationError: `error` is neither a type of errors nor a tuple of such.
        """
        ids = self._bench.observer.ids(handler) if handler is not None else None
        return self._bench.observer.expectations.add(ids, error)

    def _keep(self, error: BaseException | None, failure: Exception) -> None:
        """What fails when the app ends comes after the test's own error, which is told of it."""
        if error is None:
            raise failure
        error.add_note(f"the app did not end well, either: {type(failure).__name__}: {failure}")

    def _judge(self, waiting: str | None, error: BaseException | None) -> None:
        """Raises `UnexpectedFailuresError`, unless the test has an error of its own: then that is told of them."""
        failures = [failure.context for failure in self._bench.records.failures if not failure.expected]
        text = told(failures, waiting)
        if text is None or not self._strict:
            return
        if error is None:
            raise UnexpectedFailuresError(text, failures)
        if failures:
            error.add_note(text)
