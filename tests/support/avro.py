"""Avro in tests: bytes by fastavro itself, and the two halves of the serializer without a registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from fastapi_athomic import PayloadDecodeError
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
    """What ours reads, into the type, or into Python's own types: the same in the event loop and in a thread."""
    node = parse(json.dumps(schema))
    if reader_schema is not None:
        node = resolved(node, parse(json.dumps(reader_schema)))
    into = None if target is UNTYPED else Target(target)
    at_once, in_slices = (SchemaReader(node, into, ReadingRules(**rules), in_slices=each) for each in (False, True))
    told = _told(in_slices, data)
    assert _told(at_once, data) == told
    return at_once(data)


def _told(reader: SchemaReader, data: bytes) -> str:
    try:
        return repr(reader(data))
    except PayloadDecodeError as error:
        return str(error)


def written(schema: Any, value: Any, records: Mapping[str, type] | None = None) -> bytes:
    """What ours writes."""
    return bytes(SchemaWriter(parse(json.dumps(schema)), records or {})(value))
