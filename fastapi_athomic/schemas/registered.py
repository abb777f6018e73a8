"""A schema as a registry keeps it, and what serializers ask of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from ..exceptions import ConfigurationError

SchemaType = Literal["AVRO", "PROTOBUF", "JSON"]
SchemaId = int | UUID
"""Confluent's registries number schemas, and since version 8.0 give each a GUID, too."""
STEP = "schema registry"
"""The `step` of payload errors that come from a registry."""

ASK_AGAIN = 10.0
"""Seconds for which a serializer uses the newest schema of a subject before it asks its source, which keeps it for
longer."""


class Reference(NamedTuple):
    """Another schema that one uses."""

    name: str  # by which the schema names it: an Avro full name, a .proto file, a JSON Schema $id
    subject: str
    version: int


OR_REGISTER = ", or use auto_register=True"
"""The end of the error about a subject that has no schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredSchema:
    """One schema of a registry."""

    id: int | None  # None: it was asked for by its GUID, and the registry did not say
    guid: UUID | None  # None: the registry gives none
    type: SchemaType
    text: str  # Protobuf: a .proto file, or a FileDescriptorProto in Base64 if the registry gives that
    references: tuple[Reference, ...] = ()
    subject: str | None = None
    version: int | None = None


class SchemaSource(Protocol):
    """What serializers ask of a registry. Answers are kept: a schema never changes.

    All raise `PayloadUnavailableError` if the registry cannot be reached, refuses the credentials or answers with 5xx.
    """

    async def by_id(self, schema_id: SchemaId, subject: str | None = None) -> RegisteredSchema:
        """Raises `PayloadDecodeError` if there is no such schema, also after `unknown_after` seconds of asking."""
        ...

    async def latest(self, subject: str) -> RegisteredSchema:
        """The newest version, asked for again after `latest_for` seconds.

        Raises `PayloadUnavailableError` while the subject has none.
        """
        ...

    async def find(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> RegisteredSchema:
        """The version of the subject with this very schema.

        Raises `PayloadUnavailableError`, which says what to do, while it is not registered.
        """
        ...

    async def register(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> RegisteredSchema:
        """Registers a schema. Raises `PayloadEncodeError` if the registry refuses it as incompatible or invalid."""
        ...

    async def incompatibilities(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> list[str]:
        """Why the registry would refuse this as the next version; empty: it would not, or the subject is new."""
        ...

    async def referenced(self, schema: RegisteredSchema) -> dict[str, RegisteredSchema]:
        """The schemas that it uses, also those that these use, by the names of the references."""
        ...

    async def open(self) -> None:
        """Called by each serializer that uses the registry, before it asks. Does not ask the registry anything."""
        ...

    async def close(self) -> None:
        """Called as often as `open`, when the app stops."""
        ...


class SchemaRefusedError(Exception):
    """A registry refuses a schema: it is invalid, or does not go with the versions before it. The text says why."""


class RegistryBackend(Protocol):
    """One registry, asked afresh each time. None: there is no such schema. All may raise `PayloadUnavailableError`."""

    trouble: tuple[str, datetime] | None  # why the last request failed, and since when they do; None: it did not

    @property
    def shown(self) -> str:
        """Its address, without credentials."""
        ...

    async def by_id(self, schema_id: SchemaId, subject: str | None) -> RegisteredSchema | None: ...

    async def version(self, subject: str, version: int | None) -> RegisteredSchema | None:
        """A version of a subject; None: the newest."""
        ...

    async def find(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> RegisteredSchema | None: ...

    async def register(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> RegisteredSchema:
        """Raises `SchemaRefusedError`."""
        ...

    async def incompatibilities(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> list[str]: ...

    async def check(self) -> None:
        """Raises `PayloadUnavailableError` if there is no registry, or it refuses the credentials."""
        ...


def check_source(registry: object, serializer: str) -> None:
    """Raises `ConfigurationError` if the registry that a serializer was given is none, such as its URL alone."""
    if isinstance(registry, type) or not callable(getattr(registry, "by_id", None)):
        given = getattr(registry, "__name__", None) or type(registry).__name__
        raise ConfigurationError(f"{serializer} takes a SchemaRegistry(url), and was given {given}")
