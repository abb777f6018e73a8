"""Publishers that an app declares: a topic, and the type of what is published there.

`Athomic.publisher` makes them. The AsyncAPI document lists them, and type checkers know what they take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, UnionType
from typing import Any, Generic, TypeVar, _SpecialForm, overload

from .exceptions import ConfigurationError
from .loop.dropped import told_if_dropped
from .messages import PublishedMessage
from .payload.annotations import type_name
from .payload.instances import InstanceCheck
from .payload.pipeline import PayloadPipeline
from .payload.routing import checked
from .publisher import GivenHeaders
from .publishing import Publishing
from .subscriptions import check_topic

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration(Generic[T]):
    """What one call of `Athomic.publisher` says."""

    topic: str
    model: Any  # the type of the messages
    key: Callable[[T], Any] | None
    payload: PayloadPipeline | None
    title: str | None
    description: str | None

    def differs_in(self, other: Declaration[Any]) -> list[str]:
        """The names of what another declaration for the same topic and type says otherwise."""
        named = [name for name in ("payload", "title", "description") if getattr(self, name) != getattr(other, name)]
        return named if _same_function(self.key, other.key) else ["key", *named]


def _not_sent(call: str, what: str, given: Mapping[str, Any]) -> str:
    return f"{what} not sent to {given['self'].topic!r}; in a `def` function call publisher.{call}_sync"


class Publisher(Generic[T]):
    """Publishes messages of one type to one topic: `athomic.publisher("orders.placed", Order)`.

    Its methods do what those of `Athomic` with the same names do, and raise the same. Before anything is sent they
    refuse a message that is not of the type, with a `ConfigurationError`: instances of subclasses are taken, values
    are not converted, and constraints of a model's fields are not checked again. The key of a message is what the
    declared function gives for it, unless a call says otherwise.
    """

    def __init__(self, sends: Publishing, declaration: Declaration[T]) -> None:
        self.declaration = declaration
        self._sends = sends
        self._instances = InstanceCheck(declaration.model)

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self.declaration.topic

    def __repr__(self) -> str:
        return f"<Publisher of {type_name(self.declaration.model)} to {self.topic}>"

    @told_if_dropped(partial(_not_sent, "publish", "the message was"), of="publisher")
    async def publish(
        self, message: T, *, key: Any = None, headers: GivenHeaders = None, partition: int | None = None
    ) -> PublishedMessage:
        """Publishes one message and returns where the broker put it: see `Athomic.publish`.

        Raises:
            ConfigurationError: the message is not of the declared type.
        """
        self._check(message)
        return await self._sends.publish(
            self.topic,
            message,
            key=self._key(message, key),
            headers=headers,
            partition=partition,
            payload=self.declaration.payload,
        )

    @told_if_dropped(partial(_not_sent, "publish_many", "the messages were"), of="publisher")
    async def publish_many(self, messages: Iterable[T], *, headers: GivenHeaders = None) -> list[PublishedMessage]:
        """Publishes messages in the given order, in few requests: see `Athomic.publish_many`.

        Raises:
            ConfigurationError: one of them is not of the declared type; none is published.
        """
        return await self._sends.publish_many(
            self.topic,
            self._checked(messages),
            key=self.declaration.key,
            headers=headers,
            payload=self.declaration.payload,
        )

    def publish_sync(
        self,
        message: T,
        *,
        key: Any = None,
        headers: GivenHeaders = None,
        partition: int | None = None,
        timeout: float | None = None,
    ) -> PublishedMessage:
        """`publish` for sync code: see `Athomic.publish_sync`.

        Raises:
            ConfigurationError: the message is not of the declared type.
        """
        self._check(message)
        return self._sends.publish_sync(
            self.topic,
            message,
            key=self._key(message, key),
            headers=headers,
            partition=partition,
            payload=self.declaration.payload,
            timeout=timeout,
        )

    def publish_many_sync(
        self, messages: Iterable[T], *, headers: GivenHeaders = None, timeout: float | None = None
    ) -> list[PublishedMessage]:
        """`publish_many` for sync code: see `Athomic.publish_many_sync`.

        Raises:
            ConfigurationError: one of them is not of the declared type; none is published.
        """
        return self._sends.publish_many_sync(
            self.topic,
            self._checked(messages),
            key=self.declaration.key,
            headers=headers,
            payload=self.declaration.payload,
            timeout=timeout,
        )

    def _check(self, message: T, where: str = "") -> None:
        problem = self._instances.problem(message)
        if problem is not None:
            raise ConfigurationError(f"publisher of {self.topic}: {where}{problem}")

    def _key(self, message: T, given: Any) -> Any:
        of_message = self.declaration.key
        return of_message(message) if given is None and of_message is not None else given

    def _checked(self, messages: Iterable[T]) -> list[T]:
        given = [*messages]
        for number, message in enumerate(given, 1):
            self._check(message, f"message {number} of {len(given)}: ")
        return given


class DeclaredPublishers:
    """The publishers of one app, in the order of their declarations. May be used from any thread."""

    def __init__(self, sends: Publishing) -> None:
        self._sends = sends
        self._declared: list[Publisher[Any]] = []
        self._lock = threading.Lock()

    @property
    def all(self) -> Sequence[Publisher[Any]]:
        """All that were declared so far."""
        return tuple(self._declared)

    def declare(self, declaration: Declaration[T]) -> Publisher[T]:
        """The publisher of this topic and type: the same object for all that say the same.

        So a declaration inside a function, called for each request, adds nothing.

        Raises:
            ConfigurationError: it is declared already, and otherwise; or the topic, the type or the pipeline is none.
        """
        with self._lock:
            for known in self._declared:
                if (known.topic, known.declaration.model) == (declaration.topic, declaration.model):
                    _refuse_others(known, declaration)
                    return known
            new = Publisher(self._sends, _sound(declaration))
            self._declared.append(new)
            return new


class Declaring(Publishing):
    """Declares publishers. `Athomic` inherits it."""

    def __init__(self) -> None:
        super().__init__()
        self.publishers = DeclaredPublishers(self)

    @overload
    def publisher(
        self,
        topic: str,
        model: type[T],
        *,
        key: Callable[[T], Any] | None = None,
        payload: PayloadPipeline | None = None,
        title: str | None = None,
        description: str | None = None,
    ) -> Publisher[T]: ...

    @overload  # of unions, type checkers do not know what they are types of
    def publisher(
        self,
        topic: str,
        model: UnionType | _SpecialForm,
        *,
        key: Callable[[Any], Any] | None = None,
        payload: PayloadPipeline | None = None,
        title: str | None = None,
        description: str | None = None,
    ) -> Publisher[Any]: ...

    @overload  # with a key, mypy would take this one for classes, too, as it does not know what a lambda takes
    def publisher(
        self,
        topic: str,
        model: Any,
        *,
        key: None = None,
        payload: PayloadPipeline | None = None,
        title: str | None = None,
        description: str | None = None,
    ) -> Publisher[Any]: ...

    def publisher(
        self,
        topic: str,
        model: Any,
        *,
        key: Callable[[Any], Any] | None = None,
        payload: PayloadPipeline | None = None,
        title: str | None = None,
        description: str | None = None,
    ) -> Publisher[Any]:
        """Declares that the app publishes messages of a type to a topic; works at any time, best beside the routes.

        What the publisher takes is checked, and the AsyncAPI document lists it. The same topic and type again give the
        same object.

        Args:
            model: what pydantic takes as a type: `Order`, `Order | None` (with tombstones), `list[Order]`, `bytes`.
            key: a function that gives the key of a message.
            payload: as for `publish`.
            title, description: for readers of the document; None: the name and the docstring of the type.

        Raises:
            ConfigurationError: the topic, the type or an option is wrong, or it is declared already with others.
        """
        return self.publishers.declare(
            Declaration(topic=topic, model=model, key=key, payload=payload, title=title, description=description)
        )


def _sound(declaration: Declaration[T]) -> Declaration[T]:
    """The declaration, of which everything is what it must be."""
    where = f"publisher({declaration.topic!r}, {type_name(declaration.model)})"
    check_topic(declaration.topic, where)
    if declaration.payload is not None:
        checked(f"{where}: payload", declaration.payload)
    for name in ("title", "description"):
        text = getattr(declaration, name)
        if text is not None and not isinstance(text, str):
            raise ConfigurationError(f"{where}: {name} must be a text, not {type_name(type(text))}")
    if declaration.key is not None and not callable(declaration.key):
        raise ConfigurationError(
            f"{where}: key must be a function that takes a message and gives its key, as in key=lambda order: "
            f"order.id, not {type_name(type(declaration.key))}"
        )
    return declaration


def _refuse_others(known: Publisher[Any], declaration: Declaration[Any]) -> None:
    differing = known.declaration.differs_in(declaration)
    if differing:
        raise ConfigurationError(
            f"publisher({known.topic!r}, {type_name(declaration.model)}) is declared twice, with different "
            f"{' and '.join(differing)}: declare it once, and import it where it is used"
        )


def _same_function(one: Callable[..., Any] | None, other: Callable[..., Any] | None) -> bool:
    """Whether two functions do the same: a lambda in a function is another object in each call of that."""
    if not (isinstance(one, FunctionType) and isinstance(other, FunctionType)):
        return one == other
    return one is other or (_made_of(one) == _made_of(other))


def _made_of(function: FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__, function.__closure__
