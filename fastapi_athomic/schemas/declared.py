"""The schemas that an app declares by its types, before a message is written: `fastapi-athomic check` compares them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..payload.steps import Part
from .registered import Reference, SchemaSource, SchemaType
from .wire import Framing


class DeclaredSchema(NamedTuple):
    """What would be registered for a type.

    `is_written`: messages are, or would be, written by it. Else it only describes what the type reads: the subject's
    compatibility rule, which is about versions, need not hold for it.
    """

    subject: str
    type: SchemaType
    text: str
    references: tuple[Reference, ...] = ()
    is_written: bool = True


@runtime_checkable
class DeclaresSchemas(Protocol):
    """A serializer with a registry."""

    @property
    def registry(self) -> SchemaSource: ...
    @property
    def auto_register(self) -> bool: ...
    @property
    def framing(self) -> Framing: ...

    def declared(self, target_type: Any, topic: str, part: Part = "value") -> DeclaredSchema | None:
        """The schema of the type, or the one that the serializer was given; None: only the registry has one.

        Raises:
            ConfigurationError: the type has none in this format.
        """
        ...


@runtime_checkable
class ComparesTypes(Protocol):
    """A serializer that can tell whether a type goes with the newest schema of its subject."""

    async def incompatibilities(self, kind: Any, topic: str, *, writes: bool, part: Part = "value") -> list[str]:
        """What does not fit, a sentence each.

        Raises:
            PayloadUnavailableError: the registry cannot be reached, or has no such subject.
        """
        ...
