"""How a message is written: its content type, its schema in the format that this has, where the schema's id stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import AthomicError
from ..payload.annotations import split
from ..payload.pipeline import PayloadPipeline
from ..payload.steps import CONTENT_ENCODING, CONTENT_TYPE, Serializer
from ..schemas.declared import DeclaredSchema, DeclaresSchemas
from ..schemas.wire import HEADERS
from .flows import Flow
from .proto_text import proto_text
from .schemas import TypeUse

FORMATS: Mapping[str, str] = {
    "AVRO": "application/vnd.apache.avro+json;version=1.9.0",
    "PROTOBUF": "application/vnd.google.protobuf;version=3",
}
"""By the type of a registered schema, as the specification lists them; JSON is as AsyncAPI has it."""
CLOUD_EVENTS, STRUCTURED = "cloudevents", "application/cloudevents+json"
_DONE = {"compression": "compressed", "encryption": "encrypted", "storage": "kept in an object store if it is large"}
_ATTRIBUTES = {
    "specversion": "the version of CloudEvents: 1.0",
    "id": "the id of the event",
    "source": "where it happened",
    "type": "what happened",
}
_MORE_ATTRIBUTES = {"time": "when it happened (RFC 3339)", "subject": "what it is about", "dataschema": "of the data"}


@dataclass(slots=True, kw_only=True)
class Payload:
    """What a message object says of its payload."""

    schema: Any
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)  # those that the pipeline adds, and what they mean
    binding: dict[str, str] = field(default_factory=dict)  # of Kafka: where the id of the schema is
    notes: list[str] = field(default_factory=list)  # sentences for people
    steps: list[str] = field(default_factory=list)  # the names of what is done to a value, in that order
    subject: str | None = None  # of the schema, in its registry


def data_of(flow: Flow) -> TypeUse:
    """The type that the payload is written from: of a `CloudEvent[Order]` its data."""
    bare, _ = split(flow.use.kind)
    if getattr(bare, "is_cloud_event", False) is not True:
        return flow.use
    given = getattr(bare, "__pydantic_generic_metadata__", {}).get("args") or (Any,)
    return TypeUse(given[0], flow.use.mode)


def payload_of(flow: Flow, schema: Mapping[str, Any]) -> Payload:
    """The payload of a flow. `schema`: of `data_of`, as JSON."""
    pipeline = flow.pipeline
    if pipeline is None:
        return Payload(schema={}, notes=["The handler takes messages as they come, whatever is in them."])
    payload = _serialized(pipeline.serializer, flow, data_of(flow), schema)
    payload.steps = [pipeline.serializer.name, *(step.name for step in pipeline.steps if step.writes)]
    payload.notes += _notes(pipeline)
    if pipeline.steps:
        payload.headers[CONTENT_ENCODING] = "what was done to the payload, in that order"
        if payload.content_type is not None:
            payload.headers[CONTENT_TYPE] = "the format of the payload"
    return payload


def _serialized(serializer: Serializer, flow: Flow, use: TypeUse, schema: Mapping[str, Any]) -> Payload:
    if serializer.name == CLOUD_EVENTS:
        return _event(serializer, flow, use, schema)
    plain = _as_it_is(use) if serializer.name == "json" else None
    found = Payload(schema=dict(schema), content_type=plain or serializer.content_type)
    if isinstance(serializer, DeclaresSchemas):
        _registered(serializer, flow, use, found)
    return found


def _as_it_is(use: TypeUse) -> str | None:
    """The content type of text and bytes, which `Json` leaves as they are."""
    bare, _ = split(use.kind)
    return "text/plain" if bare is str else "application/octet-stream" if bare is bytes else None


def _registered(serializer: DeclaresSchemas, flow: Flow, use: TypeUse, found: Payload) -> None:
    """Adds what is known of the schema in a registry, which is not asked."""
    if serializer.framing == "header":
        found.binding["schemaIdLocation"] = "header"
        found.headers[HEADERS["value"]] = "the id of the schema: 0x01 and the 16 bytes of a GUID"
    else:
        found.binding |= {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent"}
    declared = _declared(serializer, flow, use)
    if declared is None:
        name = f"{flow.source}-value"
        found.notes.append(
            f"Its schema is in the schema registry (subject {name} by default); this is the type in the app."
        )
        return
    found.subject = declared.subject
    if declared.subject == f"{flow.source}-value":
        found.binding["schemaLookupStrategy"] = "TopicNameStrategy"
    if declared.type in FORMATS:
        found.schema = {"schemaFormat": FORMATS[declared.type], "schema": _in_its_format(declared)}


def _in_its_format(declared: DeclaredSchema) -> Any:
    return json.loads(declared.text) if declared.type == "AVRO" else proto_text(declared.text)


def _declared(serializer: DeclaresSchemas, flow: Flow, use: TypeUse) -> DeclaredSchema | None:
    try:
        return serializer.declared(use.kind, flow.source)
    except AthomicError:  # a start says so
        return None


def _event(serializer: Any, flow: Flow, use: TypeUse, schema: Mapping[str, Any]) -> Payload:
    """A CloudEvent: attributes in headers, or around the data."""
    data = _serialized(serializer.serializer, flow, use, schema)
    if serializer.mode == "binary":
        data.headers |= {f"ce_{name}": meaning for name, meaning in (_ATTRIBUTES | _MORE_ATTRIBUTES).items()}
        data.headers[CONTENT_TYPE] = "the format of the data"
        data.notes.append("A CloudEvent in binary mode.")
        return data
    data.schema = {
        "type": "object",
        "required": [*_ATTRIBUTES],
        "properties": {
            **{
                name: {"type": "string", "description": meaning}
                for name, meaning in (_ATTRIBUTES | _MORE_ATTRIBUTES).items()
            },
            "datacontenttype": {"type": "string"},
            "data": {} if "schemaFormat" in data.schema else data.schema,
        },
    }
    data.content_type = STRUCTURED
    data.notes.append("A CloudEvent in structured mode.")
    return data


def _notes(pipeline: PayloadPipeline) -> Iterator[str]:
    done = [f"{_DONE.get(step.kind, 'changed')} ({step.name})" for step in pipeline.steps if step.writes]
    if done:
        yield f"The payload is {', then '.join(done)}; the schema is that of what was there before."
    read = [*(each.name for each in pipeline.reads), *(step.name for step in pipeline.steps if not step.writes)]
    if read:
        yield f"Read as well: {', '.join(read)}."
