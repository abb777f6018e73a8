"""A schema registry, as serializers use it: what it has answered is kept, and nobody asks the same twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadUnavailableError
from .memory_registry import memory_registry
from .registered import Reference, RegisteredSchema, RegistryBackend, SchemaId, SchemaRefusedError, SchemaType

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two questions for an id that is unknown as yet; each pause is twice as long as the one before."""
STEP = "schema registry"


class SchemaRegistry:
    """A registry that speaks Confluent's REST API. One is shared by all serializers that use it.

    Args:
        url: where it is; `memory://` or `memory://name` for one inside the process.
        latest_for: for how many seconds the newest version of a subject is used before it is asked for again.
        unknown_after: for how many seconds an unknown id is asked for again, as registries need a moment to tell each
            other of new schemas.

    Raises:
        ConfigurationError: the URL is none of those.
    """

    def __init__(self, url: str, *, latest_for: float = 300.0, unknown_after: float = 5.0) -> None:
        if not url.startswith("memory://"):
            raise ConfigurationError("the URL of a schema registry must be memory:// or memory://name")
        self._backend: RegistryBackend = memory_registry(url)
        self._latest_for = latest_for
        self._unknown_after = unknown_after
        self._by_id: dict[SchemaId, RegisteredSchema] = {}
        self._latest: dict[str, tuple[float, RegisteredSchema]] = {}

    def __repr__(self) -> str:
        return f"SchemaRegistry({self._backend.shown})"

    async def open(self) -> None:
        """Called by each serializer that uses the registry. Does not ask the registry anything."""

    async def close(self) -> None:
        """Called as often as `open`."""

    async def by_id(self, schema_id: SchemaId, subject: str | None = None) -> RegisteredSchema:
        known = self._by_id.get(schema_id)
        if known is not None:
            return known
        until, pause = monotonic() + self._unknown_after, FIRST_PAUSE
        while (schema := await self._backend.by_id(schema_id, subject)) is None:
            if monotonic() + pause > until:
                raise PayloadDecodeError(f"{self._backend.shown} has no schema with the id {schema_id}", step=STEP)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._by_id[schema_id] = schema
        return schema

    async def latest(self, subject: str) -> RegisteredSchema:
        asked, known = self._latest.get(subject, (0.0, None))
        if known is not None and monotonic() < asked + self._latest_for:
            return known
        now = monotonic()
        schema = await self._backend.version(subject, None)
        if schema is None:
            raise PayloadUnavailableError(
                f"{self._backend.shown} has no subject {subject}: register a schema", step=STEP
            )
        self._latest[subject] = now, schema
        return schema

    async def find(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> RegisteredSchema:
        schema = await self._backend.find(subject, kind, text, references)
        if schema is None:
            raise PayloadUnavailableError(
                f"{self._backend.shown} has no version of {subject} with this schema: register it", step=STEP
            )
        return schema

    async def register(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> RegisteredSchema:
        try:
            return await self._backend.register(subject, kind, text, references)
        except SchemaRefusedError as error:
            reason = str(error)
        raise PayloadEncodeError(f"{self._backend.shown} refuses the schema for {subject}: {reason}", step=STEP)

    async def incompatibilities(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> list[str]:
        return await self._backend.incompatibilities(subject, kind, text, references)

    async def referenced(self, schema: RegisteredSchema) -> dict[str, RegisteredSchema]:
        found: dict[str, RegisteredSchema] = {}
        waiting = list(schema.references)
        while waiting:
            reference = waiting.pop()
            if reference.name in found:
                continue
            used = await self._backend.version(reference.subject, reference.version)
            if used is None:
                text = f"{self._backend.shown} has no version {reference.version} of {reference.subject}"
                raise PayloadUnavailableError(text, step=STEP)
            found[reference.name] = used
            waiting.extend(used.references)
        return found
