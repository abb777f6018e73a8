"""Does JSON follow a JSON Schema? Asked of `jsonschema-rs`, which gets schemas from the registry only.

Nothing that a schema refers to (`$ref`, `$schema`) is fetched from the network or read from a file: it is one of the
schema's references in the registry, or a meta-schema that the library has with it.

As in confluent-kafka's serializers, a schema without `$schema` is of draft 2020-12, and `format` is not checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import urldefrag, urljoin

from pydantic_core import from_json

from ..error_text import MAX_ERRORS
from ..extras import needed
from ..payload.slices import give_way

_OWN_BASE = "json-schema:///"
"""What `jsonschema-rs` resolves references against in a schema without `$id`."""


class UnusableSchemaError(Exception):
    """A schema that nothing can be checked by. The text says why."""


class JsonValidator:
    """Checks JSON by one schema.

    Args:
        text: the schema.
        references: texts of the schemas that it and its references use, by the names that they use for them.

    Raises:
        ConfigurationError: `jsonschema-rs` is not installed.
        UnusableSchemaError: the schema is invalid, or refers to something that is not among the references.
    """

    def __init__(self, text: str, references: Mapping[str, str]) -> None:
        library = needed("jsonschema_rs", extra="json-schema", what="JsonSchema")
        schema = _parsed(text, "it")
        used = {name: _parsed(each, f"its reference {name}") for name, each in references.items()}
        find = _Finder(schema, used)
        try:
            self._validator = library.validator_for(schema, retriever=find, validate_formats=False)
        except Exception as error:
            reason = find.problem or str(getattr(error, "message", error)).partition("\n")[0]
        else:
            self._names = frozenset(_names_in([schema, *used.values()]))
            return
        raise UnusableSchemaError(reason)

    def problem(self, data: bytes, *, in_slices: bool = False) -> str | None:
        """Why the JSON does not follow the schema: places and keywords, and no values. None: it does.

        It must be JSON that pydantic reads: nesting is limited there, and `jsonschema-rs` does not limit it.

        `in_slices`: it is done in a thread, and lets the event loop go on while the JSON is parsed. `jsonschema-rs`
        holds Python's lock (GIL), but needs less than half of that time.
        """
        instance = json.loads(data.decode(), object_hook=give_way) if in_slices else from_json(data)
        if self._validator.is_valid(instance):
            return None
        found = list(islice(self._validator.iter_errors(instance), MAX_ERRORS + 1))
        told = [f"{self._place(error.instance_path)}{_keyword(error)}" for error in found[:MAX_ERRORS]]
        return "; ".join(told) + ("; ..." if len(found) > MAX_ERRORS else "")

    def _place(self, path: Sequence[str | int]) -> str:
        """Keys that the schema does not name come from the value, so they become a question mark."""
        parts = [str(part) if isinstance(part, int) or part in self._names else "?" for part in path]
        return f"{'.'.join(parts)}: " if parts else ""


def title_of(text: str) -> str | None:
    """The title of a schema, which subjects may be named after."""
    schema = _parsed(text, "it")
    title = schema.get("title") if isinstance(schema, dict) else None
    return title if isinstance(title, str) else None


class _Finder:
    """Gives `jsonschema-rs` what a schema refers to."""

    def __init__(self, schema: Any, references: Mapping[str, Any]) -> None:
        self._by_uri: dict[str, Any] = {}
        self.problem: str | None = None
        bases = {_OWN_BASE, *filter(None, map(_id_of, (schema, *references.values())))}
        for name, used in references.items():
            for uri in (name, _id_of(used), *(_joined(base, name) for base in bases)):
                if uri:
                    self._by_uri.setdefault(urldefrag(uri).url, used)

    def __call__(self, uri: str) -> Any:
        found = self._by_uri.get(urldefrag(uri).url)
        if found is None:
            self.problem = f"it refers to {uri.removeprefix(_OWN_BASE)}, which is not one of its references"
            raise LookupError(self.problem)
        return found


def _parsed(text: str, what: str) -> Any:
    try:
        schema = from_json(text)
    except ValueError:
        raise UnusableSchemaError(f"{what} is no JSON") from None
    if not isinstance(schema, dict | bool):
        raise UnusableSchemaError(f"{what} is neither an object nor a boolean")
    return schema


def _id_of(schema: Any) -> str | None:
    found = (schema.get("$id") or schema.get("id")) if isinstance(schema, dict) else None
    return found if isinstance(found, str) else None


def _joined(base: str, name: str) -> str | None:
    try:
        return urljoin(base, name) if base != _OWN_BASE else _OWN_BASE + name  # urljoin does not know its scheme
    except ValueError:
        return None


def _names_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _names_in(item)
    elif isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        required = schema.get("required")
        if isinstance(required, list):
            yield from (name for name in required if isinstance(name, str))
        for item in schema.values():
            yield from _names_in(item)


def _keyword(error: Any) -> str:
    """The keyword that is not met, with what the schema says about it where that is short."""
    kind = error.kind
    said = _SAID.get(kind.name)
    return kind.name if said is None else f"{kind.name} ({said(kind)})"


_SAID: Mapping[str, Callable[[Any], str]] = {
    "type": lambda kind: f"should be {' or '.join(map(str, getattr(kind, 'types', ())))}",
    "falseSchema": lambda _: "nothing may be there",
    "required": lambda kind: f"{kind.property} is missing",
    "maximum": lambda kind: f"at most {kind.limit}",
    "minimum": lambda kind: f"at least {kind.limit}",
    "maxLength": lambda kind: f"at most {kind.limit}",
    "minLength": lambda kind: f"at least {kind.limit}",
    "maxItems": lambda kind: f"at most {kind.limit}",
    "minItems": lambda kind: f"at least {kind.limit}",
}
