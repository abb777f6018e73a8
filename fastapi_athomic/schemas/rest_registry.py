"""A schema registry behind Confluent's REST API: Confluent's own, Apicurio's (`/apis/ccompat/v7`), Karapace.

Why this is not the client of confluent-kafka (2.16.1 looked at), which the field uses: that one

    - drops the reasons for which a registry calls a schema incompatible (`test_compatibility` gives a bool),
    - keeps schemas by subject and id and not by the format that was asked for, and without a bound,
    - has no time-out unless it is given one, and that is for a step of a request, not for the whole,
    - loads certificates once, when it is made,
    - asks once for each of a hundred tasks that want the same schema at the same time,
    - raises errors of three libraries, and retries inside, up to 20 s between two attempts,
    - takes 340 ms to import, and librdkafka along; httpx2, which it uses too, takes 30 ms in an app with FastAPI.

Each request has a connection of its own. There are few: one for each schema, one for each subject every few minutes.
So nothing is left open between them, in no event loop, and renewed certificates and passwords count at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

from pydantic import SecretStr

from ..clock import utc_now
from ..error_text import one_line
from ..exceptions import PayloadUnavailableError
from ..extras import needed
from ..tls import RenewedContext, TlsFiles
from .registered import STEP, Reference, RegisteredSchema, SchemaId, SchemaRefusedError, SchemaType
from .registry_answers import Answer, is_descriptor, parsed_json, parsed_schema, refusal, seconds, shown_path

Secret = str | SecretStr | Path
"""A secret, or a file that has it, which is read again for each request."""

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
ACCEPT = f"{CONTENT_TYPE}, application/json;q=0.9"
TIMEOUT = 10.0
"""Seconds for one request, where nothing else is said."""
MAX_BYTES = 16 * 2**20
"""No answer of a registry is longer."""
AT_ONCE = 8
"""Requests at one time in one event loop."""
PAUSE = 1.0
"""Seconds for which nobody asks again after a registry was away."""
OVERLOADED = (429, 502, 503, 504)
"""Statuses that concern any request: another node is asked, and then none for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a registry is asked. `KafkaSettings` says what the `ssl_` options mean."""

    username: str | None = None  # with a password: basic authentication
    password: Secret | None = None
    token: Secret | None = None  # a bearer token, instead
    timeout: float = TIMEOUT  # seconds for one request, all in all
    normalize: bool = False  # the registry compares and keeps schemas in its normal form
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: SecretStr | None = None
    ssl_check_hostname: bool = True


_EXTRAS = "avro], [protobuf] or [json-schema"
"""All of them bring httpx2. Who is told of `registry` only would have to come back for the format's own."""


class RestRegistry:
    """A `RegistryBackend`.

    Args:
        urls: of the nodes of one registry. The one that answered last is asked first.
        access: credentials, certificates and so on.

    Raises:
        ConfigurationError: a certificate cannot be read, or httpx2 is not installed.
    """

    def __init__(self, urls: Sequence[str], access: Access) -> None:
        self._httpx = needed("httpx2", extra=_EXTRAS, what="a schema registry")
        self._urls = list(urls)
        self._access = access
        self._tls = _tls(urls, access)
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self.trouble: tuple[str, datetime] | None = None  # why the last request failed, and since when they do
        self._away: tuple[float, str] | None = None  # until when nobody asks, in monotonic seconds, and why
        self._is_registry = False

    @property
    def shown(self) -> str:
        return f"the schema registry {', '.join(self._urls)}"

    # --- what is asked

    async def by_id(self, schema_id: SchemaId, subject: str | None) -> RegisteredSchema | None:
        kind = "guids" if isinstance(schema_id, UUID) else "ids"
        path = f"schemas/{kind}/{schema_id}"
        query = {"subject": subject} if subject is not None and subject.startswith(":.") else {}
        answer = await self._ask("GET", path, query)
        if not isinstance(schema_id, UUID):
            return await self._schema(answer, path, query, id=schema_id)
        if answer.status == 404 and not answer.is_of_a_registry:  # older ones know no GUIDs
            await self.check()
            return None
        return await self._schema(answer, path, query, guid=schema_id)

    async def version(self, subject: str, version: int | None) -> RegisteredSchema | None:
        path = f"{_path(subject)}/versions/{'latest' if version is None else version}"
        return await self._schema(await self._ask("GET", path), path, {})

    async def find(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> RegisteredSchema | None:
        answer = await self._ask("POST", _path(subject), self._normalized(), _body(kind, text, references))
        if answer.status == 404 and answer.is_of_a_registry:
            return None
        self._must_be_accepted(answer, _path(subject))
        # what was sent is what counts: a registry may write it in another way
        return self._understood(answer, _path(subject), kind=kind, text=text, references=tuple(references))

    async def register(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> RegisteredSchema:
        path = f"{_path(subject)}/versions"
        answer = await self._ask("POST", path, self._normalized(), _body(kind, text, references))
        self._must_be_accepted(answer, path)
        given = {"kind": kind, "text": text, "references": tuple(references), "subject": subject}
        schema = self._understood(answer, path, **given)
        if schema.version is None or schema.guid is None:  # older ones tell the id only
            return await self.find(subject, kind, text, references) or schema
        return schema

    async def incompatibilities(
        self, subject: str, kind: SchemaType, text: str, references: Sequence[Reference]
    ) -> list[str]:
        path = f"compatibility/{_path(subject)}/versions"
        answer = await self._ask("POST", path, {"verbose": "true"}, _body(kind, text, references))
        if answer.status == 404 and answer.is_of_a_registry:
            return []
        if answer.status == 422 and answer.is_of_a_registry:
            return [answer.reason]
        if answer.status != 200 or not isinstance(answer.body, dict) or "is_compatible" not in answer.body:
            raise self._nonsense(answer, path)
        if answer.body["is_compatible"]:
            return []
        messages = answer.body.get("messages")
        reasons = [one_line(str(each), 500) for each in messages] if isinstance(messages, list) else []
        return reasons or ["the registry calls it incompatible with an earlier version, and does not say why"]

    async def check(self) -> None:
        """Raises `PayloadUnavailableError` if there is no registry at this URL, or it refuses the credentials."""
        if self._is_registry:
            return
        answer = await self._ask("GET", "schemas/types")
        if answer.status != 200 or not isinstance(answer.body, list):
            raise self._nonsense(answer, "schemas/types")
        self._is_registry = True

    # --- what is answered

    async def _schema(
        self, answer: Answer, path: str, query: Mapping[str, str], **known: Any
    ) -> RegisteredSchema | None:
        if answer.status == 404 and answer.is_of_a_registry:
            return None
        if answer.status != 200:
            raise self._nonsense(answer, path)
        schema = self._understood(answer, path, **known)
        if schema.type == "PROTOBUF" and not is_descriptor(schema.text):
            # what Java writes is registered as a .proto file; Confluent's registry can compile it
            compiled = await self._ask("GET", path, {**query, "format": "serialized"}, may_fail=True)
            text = compiled.body.get("schema") if compiled.status == 200 and isinstance(compiled.body, dict) else None
            if isinstance(text, str) and is_descriptor(text):  # Apicurio gives bytes that were taken for text
                return self._understood(compiled, path, **known, text=text)
        return schema

    def _must_be_accepted(self, answer: Answer, path: str) -> None:
        if answer.status in (409, 422) and answer.is_of_a_registry:
            raise SchemaRefusedError(answer.reason)
        if answer.status != 200 or not isinstance(answer.body, dict) or not isinstance(answer.body.get("id"), int):
            raise self._nonsense(answer, path)

    def _understood(self, answer: Answer, path: str, **known: Any) -> RegisteredSchema:
        try:
            return parsed_schema(answer, **known)
        except ValueError:
            raise self._nonsense(answer, path) from None

    def _nonsense(self, answer: Answer, path: str) -> PayloadUnavailableError:
        said = answer.reason if answer.is_of_a_registry else f"status {answer.status}, not what a schema registry says"
        text = f"the schema registry {answer.url} answers /{shown_path(path)} with {said}: is its URL right?"
        if not urlsplit(answer.url).path.strip("/"):
            text += " That of Apicurio ends in /apis/ccompat/v7"
        return PayloadUnavailableError(text, step=STEP)

    def _normalized(self) -> dict[str, str]:
        return {"normalize": "true"} if self._access.normalize else {}

    # --- the way there

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        may_fail: bool = False,
    ) -> Answer:
        """Asks one node after the other.

        Raises `PayloadUnavailableError` if none answers for the registry; not for a status of 500 if it `may_fail`.
        """
        async with self._slot():
            if self._away is not None and monotonic() < self._away[0]:
                raise PayloadUnavailableError(self._away[1], step=STEP)
            pause = PAUSE
            for url in tuple(self._urls):
                try:
                    answer = await self._send(method, url, path, query, body)
                except _AwayError as error:
                    problem = str(error)
                    continue
                problem = refusal(answer, path)
                if answer.status not in OVERLOADED:
                    self._prefer(url)
                    self._away = self.trouble = None
                    if problem and not (may_fail and answer.status == 500):
                        raise PayloadUnavailableError(problem, step=STEP)
                    return answer
                pause = max(pause, seconds(answer.retry_after))
            self._away = monotonic() + pause, problem
            self.trouble = problem, self.trouble[1] if self.trouble is not None else utc_now()
            raise PayloadUnavailableError(problem, step=STEP)

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = loop, asyncio.Semaphore(AT_ONCE)
        return self._slots[1]

    def _prefer(self, url: str) -> None:
        if self._urls[0] != url:
            self._urls = [url, *(other for other in self._urls if other != url)]

    async def _send(self, method: str, url: str, path: str, query: Mapping[str, str] | None, body: Any) -> Answer:
        headers = {"Accept": ACCEPT, **(await self._authorization())}
        content = None
        if body is not None:
            headers["Content-Type"] = CONTENT_TYPE
            content = json.dumps(body).encode()
        httpx, limit = self._httpx, self._access.timeout
        try:
            async with (
                asyncio.timeout(limit),
                httpx.AsyncClient(verify=self._tls, timeout=limit) as client,
                client.stream(method, f"{url}/{path}", params=query, headers=headers, content=content) as response,
            ):
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise _AwayError(f"the schema registry {url} answers more than {MAX_BYTES} bytes")
                return Answer(url, response.status_code, parsed_json(data), response.headers.get("retry-after"))
        except (TimeoutError, httpx.TimeoutException):
            text = f"the schema registry {url} does not answer within {limit:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # SSLError is an OSError
            text = f"the schema registry {url} cannot be reached: {_said(error)}"
        raise _AwayError(text)

    async def _authorization(self) -> dict[str, str]:
        access = self._access
        if access.token is not None:
            return {"Authorization": f"Bearer {await _revealed(access.token)}"}
        if access.username is None:
            return {}
        password = "" if access.password is None else await _revealed(access.password)
        return {"Authorization": f"Basic {base64.b64encode(f'{access.username}:{password}'.encode()).decode()}"}


class _AwayError(Exception):
    """A node cannot be asked. The text says why."""


def _tls(urls: Sequence[str], access: TlsFiles) -> ssl.SSLContext:
    if any(url.startswith("https:") for url in urls):
        return RenewedContext(access, "")
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; without one each client would load certificates


async def _revealed(secret: Secret) -> str:
    if isinstance(secret, Path):
        try:
            return (await asyncio.to_thread(secret.read_text)).strip()
        except (OSError, ValueError) as error:
            raise _AwayError(
                f"the schema registry's secret in {secret} cannot be read: {type(error).__name__}"
            ) from None
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__} {error}".strip(), 200)


def _path(subject: str) -> str:
    return f"subjects/{quote(subject, safe='')}"


def _body(kind: SchemaType, text: str, references: Sequence[Reference]) -> dict[str, Any]:
    body: dict[str, Any] = {"schema": text}
    if kind != "AVRO":
        body["schemaType"] = kind
    if references:
        body["references"] = [reference._asdict() for reference in references]
    return body
