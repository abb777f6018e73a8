"""What a schema registry answers by Confluent's REST API."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from ..error_text import one_line
from .registered import Reference, RegisteredSchema, SchemaType

LONGEST_PAUSE = 60.0
"""Seconds that a registry may ask for with `Retry-After`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node answered."""

    url: str
    status: int
    body: Any  # None: no JSON
    retry_after: str | None

    @property
    def is_of_a_registry(self) -> bool:
        """Whether an error is the registry's own: those have codes of five digits, or that of incompatible schemas."""
        return self._code >= 10_000 or self._code == self.status == 409

    @property
    def reason(self) -> str:
        message = self.body.get("message") if isinstance(self.body, dict) else None
        return one_line(message, 500) if isinstance(message, str) else f"status {self.status}"

    @property
    def _code(self) -> int:
        code = self.body.get("error_code") if isinstance(self.body, dict) else None
        return code if isinstance(code, int) else 0


def refusal(answer: Answer, path: str) -> str:
    """Why the registry does not answer the question; empty if it does."""
    begin = f"the schema registry {answer.url}"
    if answer.status == 401:
        return f"{begin} refuses the credentials (401): check username and password, or the token"
    if answer.status in (403, 407):
        return f"{begin} does not allow this ({answer.status}): the user needs the right for /{shown_path(path)}"
    if answer.status == 429:
        return f"{begin} is asked too often (429)"
    if answer.status >= 500:
        said = f": {answer.reason}" if isinstance(answer.body, dict) and "message" in answer.body else ""
        return f"{begin} answers {answer.status}{said}"
    return ""


def shown_path(path: str) -> str:
    """A path for texts: without a GUID, which may be the first bytes of a payload that has none."""
    return "schemas/guids/..." if path.startswith("schemas/guids/") else path


def seconds(retry_after: str | None) -> float:
    """For how long a registry does not want to be asked, by its header `Retry-After`."""
    return min(float(retry_after), LONGEST_PAUSE) if retry_after is not None and retry_after.isdigit() else 0.0


def parsed_json(data: bytes | bytearray) -> Any:
    """None: it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def parsed_schema(answer: Answer, **known: Any) -> RegisteredSchema:
    """Raises `ValueError` if the answer is no schema. What is known already counts more than what it says."""
    body = answer.body
    if not isinstance(body, dict):
        raise ValueError("no object")
    text, kind = known.get("text", body.get("schema")), known.get("kind", body.get("schemaType", "AVRO"))
    number, version = known.get("id", body.get("id")), body.get("version")
    if not isinstance(text, str) or not isinstance(kind, str):
        raise ValueError("no schema")
    return RegisteredSchema(
        id=number if isinstance(number, int) else None,
        guid=known.get("guid") or _guid(body.get("guid")),
        type=cast(SchemaType, kind),
        text=text,
        references=known["references"] if "references" in known else _references(body.get("references")),
        subject=known.get("subject") or body.get("subject"),
        version=version if isinstance(version, int) else None,
    )


def _guid(text: object) -> UUID | None:
    return UUID(text) if isinstance(text, str) else None


def _references(found: object) -> tuple[Reference, ...]:
    if not found:
        return ()
    if not isinstance(found, list):
        raise ValueError("no list of references")
    try:
        return tuple(Reference(str(each["name"]), str(each["subject"]), int(each["version"])) for each in found)
    except (KeyError, TypeError):
        raise ValueError("no references") from None


def is_descriptor(text: str) -> bool:
    """Whether a Protobuf schema is a compiled file (a `FileDescriptorProto` in Base64), not the text of one."""
    try:
        return base64.b64decode(text, validate=True)[:1] == b"\n"  # its first field is the file's name
    except (binascii.Error, ValueError):
        return False
