"""A schema registry, as serializers use it: what it has answered is kept, and nobody asks the same twice at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import SecretStr

from ..addresses import checked_registry_url
from ..exceptions import (
    ConfigurationError,
    PayloadDecodeError,
    PayloadEncodeError,
    PayloadError,
    PayloadUnavailableError,
)
from .kept import Kept
from .memory_registry import memory_registry
from .registered import (
    OR_REGISTER,
    STEP,
    Reference,
    RegisteredSchema,
    RegistryBackend,
    SchemaId,
    SchemaRefusedError,
    SchemaType,
)
from .rest_registry import TIMEOUT, Access, RestRegistry, Secret

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two questions for an id that is unknown as yet; each pause is twice as long as the one before."""
UNKNOWN_FOR = 30.0
"""Seconds for which an id counts as unknown before it is asked for again."""
HOPELESS_FOR = 60.0
"""Seconds after which an unknown id is waited for as long as at first, though others never came."""
STALE_FOR = 60.0
"""Seconds until the newest version is asked for again if the registry was away."""
FAILED_FOR = 1.0
"""Seconds for which a question that failed is not asked again."""


class SchemaRegistry:
    """A registry that speaks Confluent's REST API. One is shared by all serializers that use it.

    Args:
        url: where it is, such as `http://registry:8081`; several nodes of one registry with commas between them;
            `memory://` or `memory://name` for one inside the process.
        username, password: for basic authentication (also of an API key and its secret). The password may be a
            `Path` of a file that has it, which is read again for each request.
        token: a bearer token instead, or the `Path` of a file that has it.
        timeout: seconds that one request may take.
        latest_for: seconds for which the newest version of a subject is used before it is asked for again.
        unknown_after: seconds for which an unknown id is asked for again, as the nodes of a registry need a moment to
            tell each other of new schemas.
        normalize: the registry compares schemas, and keeps new ones, in its normal form.
        ssl_cafile: a file of certificates to trust; None: those of the system.
        ssl_certfile, ssl_keyfile, ssl_password: the client's own certificate, its key if that is in another file, and
            the key's password. All three files are read again when they change.
        ssl_check_hostname: the certificate of the registry must be for its host.

    It may be used in several event loops, and keeps no connection open. Nothing is asked before the first message.

    Raises:
        ConfigurationError: the URL is none of those, a certificate cannot be read, the extra is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: Secret | None = None,
        token: Secret | None = None,
        timeout: float = TIMEOUT,
        latest_for: float = 300.0,
        unknown_after: float = 5.0,
        normalize: bool = False,
        ssl_cafile: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_password: SecretStr | None = None,
        ssl_check_hostname: bool = True,
    ) -> None:
        if token is not None and username is not None:
            raise ConfigurationError("a schema registry takes a username with a password, or a token, not both")
        if username is None and password is not None:
            raise ConfigurationError("the password of a schema registry needs a username")
        access = Access(
            username=username,
            password=password,
            token=token,
            timeout=timeout,
            normalize=normalize,
            ssl_cafile=ssl_cafile,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            ssl_password=ssl_password,
            ssl_check_hostname=ssl_check_hostname,
        )
        self._backend = _backend(url, access)
        self.address = None if url.strip().startswith("memory:") else checked_registry_url(url).partition(",")[0]
        """Of its first node, for documents; None inside the process. It has no credentials."""
        self._latest_for = latest_for
        self._unknown_after = unknown_after
        self._schemas: Kept[RegisteredSchema] = Kept()  # by question; they never change
        self._latest: Kept[tuple[float, RegisteredSchema]] = Kept()  # until when, in monotonic seconds
        self._failed: Kept[tuple[float, PayloadError]] = Kept()
        self._questions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Question]] = WeakKeyDictionary()
        self._never_came, self._last_unknown = 0, 0.0

    def __repr__(self) -> str:
        return f"SchemaRegistry({self._backend.shown})"

    @property
    def trouble(self) -> tuple[str, datetime] | None:
        """Why the last request failed, and since when they do; None: it did not. May be asked from another thread."""
        return self._backend.trouble

    async def open(self) -> None:
        """Called by each serializer that uses the registry. Does not ask the registry anything."""

    async def close(self) -> None:
        """Called as often as `open`. There is nothing to close."""

    async def check(self) -> None:
        """Raises `PayloadUnavailableError` if there is no registry at this URL, or it refuses the credentials."""
        await self._backend.check()

    # --- reading

    async def by_id(self, schema_id: SchemaId, subject: str | None = None) -> RegisteredSchema:
        question = ("id", schema_id)
        return self._schemas.get(question) or await self._once(question, lambda: self._by_id(schema_id, subject))

    async def _by_id(self, schema_id: SchemaId, subject: str | None) -> RegisteredSchema:
        until, pause = monotonic() + self._patience(), FIRST_PAUSE
        while (schema := await self._backend.by_id(schema_id, subject)) is None:
            left = until - monotonic()
            if left <= 0:
                raise self._unknown(schema_id)
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
        if pause > FIRST_PAUSE:
            self._never_came = 0
        self._schemas.keep(("id", schema_id), schema)
        return schema

    def _patience(self) -> float:
        """Half as long for each id that never came: a topic full of garbage would else stand still for hours."""
        if monotonic() - self._last_unknown > HOPELESS_FOR:
            self._never_came = 0
        return float(self._unknown_after / 2**self._never_came)

    def _unknown(self, schema_id: SchemaId) -> PayloadDecodeError:
        self._never_came = min(self._never_came + 1, 20)
        self._last_unknown = monotonic()
        named = "the GUID that the message names" if isinstance(schema_id, UUID) else f"the id {schema_id}"
        return PayloadDecodeError(f"{self._backend.shown} has no schema with {named}", step=STEP)

    async def referenced(self, schema: RegisteredSchema) -> dict[str, RegisteredSchema]:
        found: dict[str, RegisteredSchema] = {}
        waiting = list(schema.references)
        while waiting:
            reference = waiting.pop()
            if reference.name not in found:
                used = found[reference.name] = await self._version(reference.subject, reference.version)
                waiting.extend(used.references)
        return found

    async def _version(self, subject: str, version: int) -> RegisteredSchema:
        question = ("version", subject, version)

        async def ask() -> RegisteredSchema:
            schema = await self._backend.version(subject, version)
            if schema is None:
                text = f"{self._backend.shown} has no version {version} of {subject}, which another schema refers to"
                raise PayloadUnavailableError(text, step=STEP)
            self._schemas.keep(question, schema)
            return schema

        return self._schemas.get(question) or await self._once(question, ask)

    # --- writing

    async def latest(self, subject: str) -> RegisteredSchema:
        until, known = self._latest.get(subject) or (0.0, None)
        if known is not None and monotonic() < until:
            return known
        try:
            return await self._once(("latest", subject), lambda: self._ask_latest(subject))
        except PayloadUnavailableError as error:
            if known is None:
                raise
            logger.warning("version %s of %s stays in use: %s", known.version, subject, error)
            self._latest.keep(subject, (monotonic() + min(STALE_FOR, self._latest_for), known))
            return known

    async def _ask_latest(self, subject: str) -> RegisteredSchema:
        asked = monotonic()
        schema = await self._backend.version(subject, None)
        if schema is None:
            raise PayloadUnavailableError(
                f"{self._backend.shown} has no subject {subject}: register its schema{OR_REGISTER}",
                step=STEP,
            )
        self._latest.keep(subject, (asked + self._latest_for, schema))
        return schema

    async def find(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> RegisteredSchema:
        question = ("schema", subject, kind, text, tuple(references))

        async def ask() -> RegisteredSchema:
            schema = await self._accepted(subject, self._backend.find(subject, kind, text, references))
            if schema is None:
                raise PayloadUnavailableError(
                    f"{self._backend.shown} has no version of {subject} with this very schema: register it, or use "
                    "auto_register=True",
                    step=STEP,
                )
            self._schemas.keep(question, schema)
            return schema

        return self._schemas.get(question) or await self._once(question, ask)

    async def register(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> RegisteredSchema:
        question = ("schema", subject, kind, text, tuple(references))

        async def ask() -> RegisteredSchema:
            schema = await self._accepted(subject, self._backend.register(subject, kind, text, references))
            self._schemas.keep(question, schema)
            self._latest.drop(subject)
            return schema

        return self._schemas.get(question) or await self._once(("register", *question), ask)

    async def incompatibilities(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference] = ()
    ) -> list[str]:
        return await self._backend.incompatibilities(subject, kind, text, references)

    async def _accepted(self, subject: str, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except SchemaRefusedError as error:
            reason = str(error)
        raise PayloadEncodeError(f"{self._backend.shown} refuses the schema for {subject}: {reason}", step=STEP)

    # --- asking

    async def _once(self, question: Any, ask: Callable[[], Awaitable[RegisteredSchema]]) -> RegisteredSchema:
        """Asks, or waits for the answer to somebody who asks the same. A failure is not tried again at once."""
        questions = self._questions.setdefault(asyncio.get_running_loop(), {})
        while True:
            until, failure = self._failed.get(question) or (0.0, None)
            if failure is not None and monotonic() < until:
                raise _again(failure)
            open_question = questions.get(question)
            if open_question is None:
                break
            await open_question.done.wait()
            if open_question.answer is not None:
                return open_question.answer
        questions[question] = own = _Question()
        try:
            own.answer = await ask()
            return own.answer
        except PayloadError as error:
            seconds = UNKNOWN_FOR if isinstance(error, PayloadDecodeError) else FAILED_FOR
            self._failed.keep(question, (monotonic() + seconds, _again(error)))
            raise
        finally:
            del questions[question]
            own.done.set()


class _Question:
    """One that is being asked. `answer` stays None if it failed, or if who asked was cancelled."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.answer: RegisteredSchema | None = None


def _again(error: PayloadError) -> PayloadError:
    """A new one: the traceback of one that is raised again and again would grow."""
    return type(error)(str(error), step=error.step)


def _backend(url: str, access: Access) -> RegistryBackend:
    try:
        url = checked_registry_url(url)
    except ValueError as error:
        raise ConfigurationError(f"the URL of a schema registry: {error}") from None
    if url.startswith("memory://"):
        return memory_registry(url)
    return RestRegistry(url.split(","), access)
