"""What the routes that steer consumers and show dead letters work with, and who is allowed to use them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.params import Depends

from ..control.actions import Actor
from ..control.steering import Steering
from ..error_text import one_line
from ..exceptions import ConfigurationError
from ..failures.dead_letters import DeadLetters
from ..failures.letters import DeadLetter
from ..manager import ConsumerManager
from ..operation_settings import ControlSettings
from ..propagation.context import get_context
from .cross_site import refusing_other_sites
from .problems import (
    BROKER_UNAVAILABLE,
    CONSUMER_NOT_FOUND,
    CROSS_SITE,
    IN_PROGRESS,
    INVALID_REQUEST,
    NOT_JSON,
    NOT_RUNNING,
    TOO_LARGE,
    ProblemError,
    ProblemType,
    responses,
)

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
"""The actor where nobody says who asks."""
LONGEST_NAME = 200

Mask = Callable[[DeadLetter], DeadLetter | Awaitable[DeadLetter]]
"""Gets a dead letter, and returns what may be shown of it: `dataclasses.replace(letter, key=None)`, say."""
ActorOf = Callable[[Request], str | Awaitable[str | None] | None]
"""Says who sends a request, after the dependencies have let it through; None: nobody knows."""

CHANGING = (CONSUMER_NOT_FOUND, INVALID_REQUEST, TOO_LARGE, NOT_JSON, CROSS_SITE, NOT_RUNNING, BROKER_UNAVAILABLE)
"""Problems of every route that changes something."""
READING = (CONSUMER_NOT_FOUND, INVALID_REQUEST, NOT_RUNNING, BROKER_UNAVAILABLE)
"""Problems of every route that shows dead letters."""


def with_access(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that not everybody may use: the app's own authentication may answer, too."""
    theirs: dict[int | str, dict[str, Any]] = {
        status: {"description": "As the app's own authentication answers"} for status in (401, 403)
    }
    return {**theirs, **responses(*kinds)}


class ControlOptions(NamedTuple):
    """Who may use these routes, and how they know who it is. Arguments of `include_athomic`, which explains them."""

    control_dependencies: Sequence[Depends] = ()
    payload_dependencies: Sequence[Depends] = ()
    mask: Mask | None = None
    actor: ActorOf | None = None

    def check(self, settings: ControlSettings) -> None:
        """Raises `ConfigurationError` if everybody could use the routes, and nobody has said that they may.

        Warns if it is said who may use them, and nothing is said about whether there are any.
        """
        if settings.enabled and not self.control_dependencies and not settings.allow_anonymous:
            raise ConfigurationError(
                "control.enabled adds routes that pause consumers and discard dead letters: say who may use them, "
                "include_athomic(app, control_dependencies=[Depends(...)]); or set control.allow_anonymous if whoever "
                "reaches the app may"
            )
        for name in ("mask", "actor"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise ConfigurationError(f"include_athomic: {name} must be a function")
        if self.control_dependencies and "enabled" not in settings.model_fields_set:
            logger.warning(
                "control_dependencies are given, but there are no routes that steer consumers or show dead letters: "
                "set ATHOMIC_CONTROL__ENABLED=true to have them (or =false, if that is meant)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlParts:
    """What these routes of one `Athomic` work with."""

    steering: Steering
    manager: Callable[[], ConsumerManager | None]  # returns None while the app does not run
    letters: Callable[[str], DeadLetters]  # of a handler id
    settings: ControlSettings
    options: ControlOptions
    settling: set[str] = field(default_factory=set)  # ids of handlers whose letters are being settled

    @contextmanager
    def alone(self, handler_id: str, *, dry_run: bool) -> Iterator[None]:
        """Nobody else settles letters of this handler meanwhile, as far as this process knows.

        Raises:
            ProblemError: somebody does.
        """
        if dry_run:
            yield
            return
        if handler_id in self.settling:
            raise ProblemError(IN_PROGRESS, f"dead letters of {handler_id} are being settled: wait until that is done")
        self.settling.add(handler_id)
        try:
            yield
        finally:
            self.settling.discard(handler_id)

    async def actor(self, request: Request, reason: str | None) -> Actor:
        """Who sends the request. The name is cleaned: it goes into log lines."""
        given = self.options.actor(request) if self.options.actor is not None else get_context().user_id
        name = await given if isawaitable(given) else given
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`actor` of include_athomic must return text or None, not {type(name).__name__}")
        return Actor(name=one_line(name or "", LONGEST_NAME) or ANONYMOUS, reason=reason)


RouterOf = Callable[[Sequence[Depends]], APIRouter]
"""Makes a router below the prefix of the package's routes, with these dependencies besides those of all routes."""


def changing_router(new_router: RouterOf, parts: ControlParts) -> APIRouter:
    """For routes that change something."""
    own = Depends(refusing_other_sites(parts.settings))
    return new_router([*parts.options.control_dependencies, own])


def reading_router(new_router: RouterOf, parts: ControlParts) -> APIRouter:
    """For routes that show dead letters, without their payloads."""
    return new_router([*parts.options.control_dependencies, Depends(_not_kept)])


def payload_router(new_router: RouterOf, parts: ControlParts) -> APIRouter:
    """For the route that shows payloads."""
    options = parts.options
    return new_router([*options.control_dependencies, *options.payload_dependencies, Depends(_not_kept)])


async def _not_kept(response: Response) -> None:
    """What is shown stays in no cache, and is taken for nothing else than JSON."""
    response.headers["cache-control"] = "no-store"
    response.headers["x-content-type-options"] = "nosniff"
