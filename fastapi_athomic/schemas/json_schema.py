"""JSON whose schema is in a registry, as Confluent's JSON Schema serializers write and read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError
from ..extras import needed
from ..payload.losses import MAX_TYPES
from ..payload.off_loop import threads
from ..payload.serialization import write_json
from ..payload.slices import THREAD_ABOVE, checked_limit, in_thread, sliced_validator
from ..payload.steps import Decoder, Later, Outgoing, Part, Received, Serializer, header, media_type
from ..payload.target import Target
from ..payload.validated import Read, validated
from .declared import DeclaredSchema
from .json_validation import JsonValidator, UnusableSchemaError, title_of
from .registered import Reference, RegisteredSchema, SchemaId, SchemaSource, check_source
from .subjects import SubjectStrategy, check_strategy, subject_of
from .wire import HEADERS, Frame, Framing, has_frame, read_frame, schema_of

STEP = "json-schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""What pydantic writes."""
_CONTENT_TYPES: Mapping[Framing, str] = {
    "prefix": "application/vnd.confluent.json-schema",  # not registered; five bytes before it make it no JSON
    "header": "application/json",
}
_PREFIX = 5
"""Bytes of a numeric id in front of the JSON."""
_MAX_VALIDATORS = 1_000
"""So many schemas are kept ready. A registry's ids are a message's word: it could name any number of them."""
Mode = Literal["validation", "serialization"]


class JsonSchema(Serializer):
    """JSON that follows a schema in a registry (extra `json-schema`).

    Args:
        registry: a `SchemaRegistry`.
        framing: where the schema's id is written: in front of the JSON, or in a header. Both are read.
        subject: how subjects are named.
        schema: what is published follows this JSON Schema, which is looked up in the registry. None: the newest version
            of the subject, or with `auto_register` the schema that pydantic derives from the message's class.
        references: the schemas in the registry that `schema` uses.
        auto_register: registers the schema, if the subject does not have it.
        validate: whether what is published is checked against the schema, beside what its class says.
        validate_reads: whether what is read is, too: against the schema whose id the message has. Without it, the
            registry is not asked for anything that is read.
        thread_above: larger payloads (in bytes) are read in a thread, which lets the event loop go on between objects
            and the items of lists; validators of models run there, too. None: all are read in the event loop.

    Raises:
        ConfigurationError: `jsonschema-rs` is not installed, or `schema` is no JSON Schema.
    """

    name = STEP
    waits = True

    def __init__(
        self,
        registry: SchemaSource,
        *,
        framing: Framing = "prefix",
        subject: SubjectStrategy = "topic",
        schema: str | Mapping[str, Any] | None = None,
        references: Sequence[Reference] = (),
        auto_register: bool = False,
        validate: bool = True,
        validate_reads: bool = False,
        thread_above: int | None = THREAD_ABOVE,
    ) -> None:
        needed("jsonschema_rs", extra="json-schema", what="JsonSchema")
        if framing not in _CONTENT_TYPES:
            raise ConfigurationError("framing must be prefix or header")
        check_strategy(subject)
        check_source(registry, "JsonSchema")
        self.registry = registry
        self.auto_register = auto_register
        self.thread_above = thread_above
        self._limit = checked_limit(self)
        self.content_type = _CONTENT_TYPES[framing]
        self.framing = framing
        self._subject = subject
        self._text = schema if isinstance(schema, str) or schema is None else json.dumps(schema)
        self._references = tuple(references)
        self._validates, self._validates_reads = validate, validate_reads
        self._title = None
        if self._text is not None:
            try:
                self._title = title_of(self._text)
            except UnusableSchemaError as error:
                raise ConfigurationError(f"the schema of JsonSchema cannot be used: {error}") from None
        self._writers: dict[tuple[str, Part, str], _Writer] = {}  # by subject, part and text
        self._validators: dict[tuple[str, tuple[Reference, ...]], JsonValidator] = {}
        self._schema_of = lru_cache(MAX_TYPES)(_derived)

    # --- writing

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        if message is None:
            return None
        data = write_json(message)
        subject = subject_of(self._subject, outgoing.topic, outgoing.part, self._record_of(message))
        text = self._text_for(message)
        if text is not None:
            writer = self._writers.get((subject, outgoing.part, text))
            if writer is not None:
                return writer.write(message, data, outgoing)
        return Later(partial(self._write_later, message, data, subject, text, outgoing))

    async def _write_later(
        self, message: Any, data: bytes, subject: str, text: str | None, outgoing: Outgoing
    ) -> bytes | None:
        if text is None:
            writer = await self._writer_for(await self.registry.latest(subject), outgoing.part)
        else:
            ask = self.registry.register if self.auto_register else self.registry.find
            schema = await ask(subject, "JSON", text, self._references)
            writer = await self._writer_for(schema, outgoing.part)
            if len(self._writers) < _MAX_VALIDATORS:
                self._writers[subject, outgoing.part, text] = writer
        return writer.write(message, data, outgoing)

    async def _writer_for(self, schema: RegisteredSchema, part: Part) -> _Writer:
        if schema.type != "JSON":
            raise PayloadEncodeError(f"step {STEP}: the schema of {schema.subject} is of type {schema.type}", step=STEP)
        validator = None
        if self._validates:
            try:
                validator = await self._validator_of(schema)
            except UnusableSchemaError as error:
                text = f"step {STEP}: the schema of {schema.subject} cannot be used: {error}"
                raise PayloadEncodeError(text, step=STEP) from None
        return _Writer(Frame(self.framing, schema, part), validator, schema)

    def _text_for(self, message: Any) -> str | None:
        """The schema to look up or register; None: the newest version of the subject is used."""
        if self._text is not None or not self.auto_register:
            return self._text
        kind: Any = type(message)
        if not _describes(kind):
            raise PayloadEncodeError(
                f"step {STEP}: a {kind.__name__} declares no schema that could be registered: publish a model, or give "
                "JsonSchema one with schema=...",
                step=STEP,
            )
        return self._written_schema(kind)

    def _written_schema(self, kind: Any) -> str:
        try:
            return self._schema_of(kind, "serialization")
        except ConfigurationError as error:
            raise PayloadEncodeError(f"step {STEP}: {error}", step=STEP) from None

    def _record_of(self, message: Any) -> str | None:
        kind: Any = type(message)
        return self._record(kind if _describes(kind) else None)

    def _record(self, kind: Any) -> str | None:
        """The name of the record: the title of the schema, or of the class."""
        if self._text is not None:
            return self._title
        if self._subject == "topic" or kind is None:
            return None
        return title_of(self._written_schema(kind))

    # --- reading

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        target = Target(target_type)
        read = validated(target, target.adapter.validator.validate_json, step=STEP, name="JSON")

        def in_slices() -> Read:
            return validated(target, sliced_validator(target.adapter).validate_json, step=STEP, name="JSON")

        if self._validates_reads:
            large = in_thread(lambda: _following(in_slices(), in_slices=True))
            return partial(self._read_later, _Reads(read, _following(read), large), part)
        read_large, limit = in_thread(in_slices), self._limit

        def decode(message: Received) -> Any:
            data = message.value
            if data is None:
                return read(None)
            if data[limit:]:  # it is larger: a slice, as `len` would be a call for each message
                return read_large(read_frame(message, part, STEP).data)
            if data[:1] == b"\0" and len(data) > _PREFIX:  # an id, as no JSON begins with this byte
                return read(data[_PREFIX:])
            return read(read_frame(message, part, STEP).data)

        return decode

    def _read_later(self, reads: _Reads, part: Part, message: Received) -> Any:
        if message.value is None:
            return reads.null(None)
        return Later(partial(self._read_validated, reads, part, message))

    async def _read_validated(self, reads: _Reads, part: Part, message: Received) -> Any:
        frame = read_frame(message, part, STEP)
        schema = await schema_of(self.registry, frame.schema_id, STEP)
        if schema.type != "JSON":
            raise PayloadDecodeError(f"step {STEP}: the message's schema is of type {schema.type}", step=STEP)
        try:
            validator = await self._validator_of(schema)
        except UnusableSchemaError as error:
            text = f"step {STEP}: the schema {frame.schema_id} cannot be used: {error}"
            raise PayloadDecodeError(text, step=STEP) from None
        payload = _Payload(frame.data, validator, frame.schema_id)
        return reads.checked(payload) if len(frame.data) <= self._limit else await reads.large(payload)

    def recognizes(self, message: Received) -> bool:
        """By the content type, if it is one of ours; and by the schema's id."""
        kind = media_type(message)
        if kind in (None, _CONTENT_TYPES["header"]):
            in_header = header(message, HEADERS["value"]) is not None
            return in_header or (kind is None and has_frame(message))
        return kind == _CONTENT_TYPES["prefix"]

    # --- schemas

    def declared(self, target_type: Any, topic: str, part: Part = "value") -> DeclaredSchema | None:
        """The schema of the type, or the one that this was given; None: only the registry has one.

        Raises:
            ConfigurationError: the type has no JSON Schema.
        """
        if self._text is not None:
            subject = subject_of(self._subject, topic, part, self._title)
            return DeclaredSchema(subject, "JSON", self._text, self._references)
        if target_type in (Any, object, str, bytes):
            return None
        text = self._schema_of(target_type, "validation")
        title = title_of(text)
        if title is None and self._subject in ("record", "topic_record"):  # it takes whatever there is
            return None
        subject = subject_of(self._subject, topic, part, title)
        return DeclaredSchema(subject, "JSON", text, is_written=self.auto_register)

    async def _validator_of(self, schema: RegisteredSchema) -> JsonValidator:
        """Raises `UnusableSchemaError`."""
        key = schema.text, schema.references
        found = self._validators.get(key)
        if found is None:
            used = await self.registry.referenced(schema)
            found = JsonValidator(schema.text, {name: each.text for name, each in used.items()})
            while len(self._validators) >= _MAX_VALIDATORS:
                del self._validators[next(iter(self._validators))]
            self._validators[key] = found
        return found

    async def open(self) -> None:
        await self.registry.open()
        if self.thread_above is not None:
            threads.open()

    async def close(self) -> None:
        if self.thread_above is not None:
            threads.close()
        await self.registry.close()


class _Payload(NamedTuple):
    """What is read, and what it must follow."""

    data: bytes
    validator: JsonValidator
    schema_id: SchemaId


class _Reads(NamedTuple):
    """How one type is read by a serializer that validates what it reads."""

    null: Read
    checked: Callable[[_Payload], Any]
    large: Callable[[_Payload], Later[Any]]


def _following(read: Read, *, in_slices: bool = False) -> Callable[[_Payload], Any]:
    """`read`, for what follows its schema. `in_slices`: it is done in a thread, and lets the event loop go on."""

    def read_checked(payload: _Payload) -> Any:
        value = read(payload.data)
        try:
            problem = payload.validator.problem(payload.data, in_slices=in_slices)
        except ValueError as error:
            problem = type(error).__name__
        if problem is None:
            return value
        text = f"step {STEP}: the payload does not follow its schema {payload.schema_id}: {problem}"
        raise PayloadDecodeError(text, step=STEP)

    return read_checked


class _Writer:
    """Checks messages by one schema, and puts its id to them."""

    def __init__(self, frame: Frame, validator: JsonValidator | None, schema: RegisteredSchema) -> None:
        self._put = frame.put
        self._problem: Callable[[bytes], str | None] | None = None if validator is None else validator.problem
        self._of = f"{schema.subject}, version {schema.version}"

    def write(self, message: Any, data: bytes, outgoing: Outgoing) -> bytes:
        problem = None if self._problem is None else self._problem(data)
        if problem is None:
            return self._put(data, outgoing)
        text = f"step {STEP}: a {type(message).__name__} does not follow the schema of {self._of}: {problem}"
        raise PayloadEncodeError(text, step=STEP)


def _describes(kind: Any) -> bool:
    """Whether the class of a message says what is in it."""
    return issubclass(kind, BaseModel) or is_dataclass(kind)


def _derived(kind: Any, mode: Mode) -> str:
    """The schema that pydantic derives. Raises `ConfigurationError` if there is none."""
    target = Target(kind)
    try:
        schema = target.adapter.json_schema(mode=mode)
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigurationError(f"{target.name} has no JSON Schema: {reason}") from None
    return json.dumps({"$schema": DIALECT, **schema})
