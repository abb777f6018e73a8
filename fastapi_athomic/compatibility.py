"""What the oldest versions of libraries lack. Each thing here goes when `pyproject.toml` no longer allows them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from inspect import signature
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from operator import attrgetter
from typing import Any

import pydantic_core
from opentelemetry.metrics import Histogram, Meter
from pydantic import VERSION, SecretBytes, SecretStr, TypeAdapter
from pydantic_core import PydanticSerializationError, SchemaValidator
from starlette.responses import StreamingResponse

try:
    from fastapi.sse import EventSourceResponse as EventSourceResponse
except ImportError:  # before FastAPI 0.135

    class EventSourceResponse(StreamingResponse):  # type: ignore[no-redef]
        """A response of server-sent events."""

        media_type = "text/event-stream"


_PYDANTIC = tuple(int(part) for part in VERSION.split(".")[:2])

model_fields = attrgetter("__pydantic_fields__" if _PYDANTIC >= (2, 10) else "model_fields")
"""The fields of a model's class by name. `model_fields` is deprecated on instances, and a slow property since 2.10."""


def type_adapter(kind: Any) -> TypeAdapter[Any]:
    """The adapter of a type, complete. Raises what pydantic raises for a type that it cannot handle.

    pydantic 2.10 may put off building it, and has `rebuild`; earlier versions build it at once.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    if _PYDANTIC >= (2, 10):
        adapter.rebuild()
    return adapter


_AS_TEXT = frozenset((
    *(IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
    *(SecretBytes, SecretStr),
))  # fmt: skip


def _as_json(value: Any) -> Any:
    """What pydantic 2.14 writes for a value that the installed one does not know: secrets are known since 2.9,
    addresses since 2.12, deques since 2.14."""
    kind = type(value)
    if kind in _AS_TEXT:
        return str(value)
    if kind is deque:
        return list(value)
    raise PydanticSerializationError(f"Unable to serialize unknown type: {kind}")


_MORE: dict[str, Any] = {} if _PYDANTIC >= (2, 14) else {"fallback": _as_json}

to_json: Callable[..., bytes] = partial(pydantic_core.to_json, **_MORE)
"""JSON of a value for which no type is declared. Raises `ValueError` or `TypeError` for what JSON cannot hold."""
to_jsonable_python: Callable[..., Any] = partial(pydantic_core.to_jsonable_python, **_MORE)
"""The same, as Python objects."""


def json_writer(adapter: TypeAdapter[Any]) -> Callable[..., bytes]:
    """Writes values of a type as JSON. In a field of type Any it takes what `to_json` takes."""
    write: Callable[..., bytes] = adapter.serializer.to_json
    return partial(write, **_MORE) if _MORE else write


def validator_with_all(schema: Any) -> SchemaValidator:
    """A validator of this schema in all parts.

    From 2.11 to 2.12 pydantic takes those that it has made already for the models within it, and cannot be told not to.
    """
    try:
        return SchemaValidator(schema, _use_prebuilt=False)
    except TypeError:
        return SchemaValidator(schema)


def class_of(schema: Any) -> Any:
    """The class whose instances a core schema makes, or None. Before 2.14 a named tuple is a call of its class."""
    return schema["function"] if schema["type"] == "call" else schema.get("cls")


def histogram(meter: Meter, name: str, *, unit: str, description: str, bounds: Sequence[float]) -> Histogram:
    """A histogram with these bucket bounds, which the app's own views may replace.

    OpenTelemetry takes bounds from an instrument since 1.30; before, its own ones apply.
    """
    advice: dict[str, Any] = {"explicit_bucket_boundaries_advisory": bounds}
    known = advice.keys() <= signature(meter.create_histogram).parameters.keys()
    return meter.create_histogram(name, unit=unit, description=description, **(advice if known else {}))


def unpacked_list(value: Any) -> Any:
    """A list that came as JSON: pydantic-settings 2.6 leaves those inside of tables as they are."""
    if isinstance(value, str):
        with suppress(ValueError):
            return json.loads(value)
    return value


def is_repeated(field: Any) -> bool:
    """Whether a field of a Protobuf message is a list or map: before protobuf 6.31 only its label says so."""
    known = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if known is None else known)


def item_of_map(make: Callable[..., Any], parts: Any) -> Any:
    """A message as a value of a map: before protobuf 6.30, maps do not take its parts as a dict."""
    return make(**parts) if type(parts) is dict else parts
