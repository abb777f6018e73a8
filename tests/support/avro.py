"""Avro in tests: bytes by fastavro itself, and the two halves of the serializer without a registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from fastapi_athomic.payload.target import Target
from fastapi_athomic.schemas.avro_reading import SchemaReader
from fastapi_athomic.schemas.avro_resolution import resolved
from fastapi_athomic.schemas.avro_schema import parse
from fastapi_athomic.schemas.avro_wire_schema import ReadingRules
from fastapi_athomic.schemas.avro_writing import SchemaWriter

UNTYPED = object()


def record(full_name: str = "shop.Order", /, **fields: Any) -> dict[str, Any]:
    """The schema of a record. A field is given by its type, or by a whole field in a list of one."""
    listed = [
        {"name": field, **kind[0]} if isinstance(kind, list) and len(kind) == 1 else {"name": field, "type": kind}
        for field, kind in fields.items()
    ]
    return {"type": "record", "name": full_name, "fields": listed}


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


def by_fastavro(schema: Any, value: Any) -> bytes:
    """What fastavro writes."""
    stream = BytesIO()
    schemaless_writer(stream, parse_schema(schema), value)
    return stream.getvalue()


def read(schema: Any, data: bytes, target: Any = UNTYPED, *, reader_schema: Any = None, **rules: Any) -> Any:
    """What ours reads, into the type, or into Python's own types."""
    node = parse(json.dumps(schema))
    if reader_schema is not None:
        node = resolved(node, parse(json.dumps(reader_schema)))
    return SchemaReader(node, None if target is UNTYPED else Target(target), ReadingRules(**rules))(data)


def written(schema: Any, value: Any, records: Mapping[str, type] | None = None) -> bytes:
    """What ours writes."""
    return bytes(SchemaWriter(parse(json.dumps(schema)), records or {})(value))
