"""`memory://`: a schema registry inside the process, for development, tests and demonstrations.

It gives ids, GUIDs and versions as a server does, keeps references, and finds schemas again however their JSON is
spaced. A new version must be able to read what the one before has written (`BACKWARD`, Confluent's default); what is
checked of that says `compatibility_rules`. Whether a schema is valid is not checked, only that Avro and JSON schemas
are JSON.

The registry of `memory://` is private to its `SchemaRegistry`; all in the process with `memory://name` share one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import md5
from uuid import UUID

from .compatibility_rules import problems
from .registered import Reference, RegisteredSchema, SchemaId, SchemaRefusedError, SchemaType

_shared: dict[str, MemoryRegistry] = {}


def memory_registry(url: str) -> MemoryRegistry:
    """The registry that all with the URL `memory://name` share. A new one if the name is empty."""
    name = url.removeprefix("memory://")
    if not name:
        return MemoryRegistry(url)
    return _shared.setdefault(name, MemoryRegistry(url))


@dataclass
class MemoryRegistry:
    """A `RegistryBackend` in memory. Threads may share it: each change is one step."""

    shown: str = "memory://"
    trouble: tuple[str, datetime] | None = None
    _schemas: list[RegisteredSchema] = field(default_factory=list)  # the one with id 1 comes first
    _subjects: dict[str, list[RegisteredSchema]] = field(default_factory=dict)

    async def by_id(self, schema_id: SchemaId, subject: str | None) -> RegisteredSchema | None:
        return next((known for known in self._schemas if schema_id in (known.id, known.guid)), None)

    async def version(self, subject: str, version: int | None) -> RegisteredSchema | None:
        versions = self._subjects.get(subject, [])
        if version is None:
            return versions[-1] if versions else None
        return versions[version - 1] if 0 < version <= len(versions) else None

    async def find(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> RegisteredSchema | None:
        guid = _guid(kind, text, references)
        return next((known for known in self._subjects.get(subject, []) if known.guid == guid), None)

    async def register(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> RegisteredSchema:
        for name, used, version in references:
            if await self.version(used, version) is None:
                raise SchemaRefusedError(f"there is no version {version} of {used}, which it uses as {name}")
        known = await self.find(subject, kind, text, references)
        if known is not None:
            return known
        if reasons := await self.incompatibilities(subject, kind, text, references):
            raise SchemaRefusedError("; ".join(reasons))
        guid = _guid(kind, text, references)
        schema = await self.by_id(guid, None)
        if schema is None:
            schema = RegisteredSchema(
                id=len(self._schemas) + 1, guid=guid, type=kind, text=text, references=tuple(references)
            )
            self._schemas.append(schema)
        versions = self._subjects.setdefault(subject, [])
        versions.append(replace(schema, subject=subject, version=len(versions) + 1))
        return versions[-1]

    async def incompatibilities(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> list[str]:
        before = await self.version(subject, None)
        if before is None:
            return []
        if before.type != kind:
            return [f"it is {kind}, and the version before is {before.type}"]
        used: dict[str, str] = {}
        waiting = [*references, *before.references]
        while waiting:
            name, other, number = waiting.pop()
            schema = await self.version(other, number)
            if schema is not None and name not in used:
                used[name] = schema.text
                waiting.extend(schema.references)
        try:
            return problems(kind, text, before.text, used)
        except (ValueError, LookupError, TypeError, AttributeError):
            return [f"the {kind} schema is not valid"]

    async def check(self) -> None:
        """It is always there."""


def _guid(kind: SchemaType, text: str, references: Sequence[Reference]) -> UUID:
    """The same for the same schema, as in Confluent's registry, whose GUID is an MD5 sum, too."""
    if kind != "PROTOBUF":
        try:
            text = json.dumps(json.loads(text))
        except ValueError:
            raise SchemaRefusedError(f"the {kind} schema is no JSON") from None
    return UUID(bytes=md5(repr((kind, text, list(references))).encode(), usedforsecurity=False).digest())
