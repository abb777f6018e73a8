"""What the oldest versions of libraries lack. Each thing here goes when `pyproject.toml` no longer allows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from operator import attrgetter
from typing import Any

from opentelemetry.metrics import Histogram, Meter
from pydantic import VERSION, TypeAdapter

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
