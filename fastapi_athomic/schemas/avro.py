"""`Avro`: the serializer. Reads by the schemas that messages name, writes by a given, a derived or the newest one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from time import monotonic
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError
from ..extras import needed
from ..payload.off_loop import threads
from ..payload.slices import THREAD_ABOVE, checked_limit, in_thread
from ..payload.steps import Decoder, Later, Outgoing, Part, Received, Serializer, media_type
from ..payload.target import Target
from .avro_logical import Duration
from .avro_schema import AvroSchemaError, Node, SchemaInput, parse, schema_text
from .avro_shapes import names_of
from .declared import DeclaredSchema
from .kept import Kept
from .registered import ASK_AGAIN, Reference, RegisteredSchema, SchemaId, SchemaSource, check_source
from .subjects import SubjectStrategy, check_strategy, subject_of
from .wire import Frame, Framing, has_frame, read_frame, schema_of

__all__ = ["Avro", "Duration"]

logger = logging.getLogger(__name__)

Read = Callable[[bytes], Any]


class Avro(Serializer):
    """Avro, by schemas in a registry. See docs/avro.md.

    Args:
        registry: where the schemas are.
        framing: where what is written says its schema's id; both are read.
        subject: how subjects are named.
        schema: what is written by, for all messages or by their classes. None: the newest version of the subject.
        references: other schemas that `schema` uses.
        reader_schema: what is read is resolved for this one, by the specification's rules, before it is validated.
        records: models by the full names of records, where neither name nor title of a model is that of its record.
        namespace: of records that are derived from models, and of models' names in subjects.
        auto_register: registers `schema`, or without one the schema that is derived from the message's class.
        nanoseconds: what a datetime cannot hold of `timestamp-nanos`: "refuse" the message, or "cut" it off. A field
            that is annotated `int` gets all of it.
        thread_above: larger payloads (in bytes) are read in a thread, which lets the event loop go on between records
            and the items of lists; validators of models run there, too. None: all are read in the event loop.

    Raises:
        ConfigurationError: a library is missing, an option is wrong, or a schema is none.
    """

    name = "avro"
    content_type = "application/avro"
    waits = True

    def __init__(
        self,
        registry: SchemaSource,
        *,
        framing: Framing = "prefix",
        subject: SubjectStrategy = "topic",
        schema: SchemaInput | Mapping[Any, SchemaInput] | None = None,  # keys are classes
        references: Sequence[Reference] = (),
        reader_schema: SchemaInput | None = None,
        records: Mapping[str, type] | None = None,
        namespace: str | None = None,
        auto_register: bool = False,
        nanoseconds: Literal["refuse", "cut"] = "refuse",
        thread_above: int | None = THREAD_ABOVE,
    ) -> None:
        needed("fastavro", extra="avro", what="Avro")
        from .avro_messages import reading_rules

        check_strategy(subject)
        if framing not in get_args(Framing):
            raise ConfigurationError(f"framing must be one of {', '.join(get_args(Framing))}")
        check_source(registry, "Avro")
        self.registry = registry
        self.thread_above = thread_above
        self._limit = checked_limit(self)
        self.framing = framing
        self._subject = subject
        self._references = tuple(references)
        self._namespace = namespace
        self.auto_register = auto_register
        self._rules = reading_rules(records or {}, nanoseconds)
        self._names = {kind: name for name, kind in self._rules.records.items()}
        self._texts = _texts_of(schema)
        self._reader = None if reader_schema is None else parse(_text_of(reader_schema))
        self._writers: dict[tuple[type, str, Part], _Writer] = {}

    # --- reading

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        target = Target(target_type)
        readers: Kept[Read] = Kept()
        reader_of = readers.get
        no_null = (
            f"step avro: the {'payload' if part == 'value' else 'key'} is null, and the handler's type {target.name}"
        )

        def decode(message: Received) -> Any:
            if message.value is None:
                if target.allows_none:
                    return None
                raise PayloadDecodeError(f"{no_null} does not allow None", step="avro")
            schema_id, data, _ = self._frame_of(message, part)
            read = reader_of(schema_id)
            if read is None:
                return Later(partial(self._read_later, schema_id, data, target, readers))
            return read(data)

        return decode

    def _frame_of(self, message: Received, part: Part) -> tuple[SchemaId, bytes, bytes | None]:
        try:
            return read_frame(message, part, "avro")
        except PayloadDecodeError as error:
            hint = _other_formats(message.value or b"")
            if hint is None:
                raise
            text = f"{error}: {hint}"
        raise PayloadDecodeError(text, step="avro")

    async def _read_later(self, schema_id: SchemaId, data: bytes, target: Target, readers: Kept[Read]) -> Any:
        read = readers.get(schema_id)
        if read is None:
            schema = await schema_of(self.registry, schema_id, "avro")
            try:
                read = self._reader_of(schema_id, await self._node_of(schema), target)
            except PayloadDecodeError as error:  # it will never do, and to find that out again costs milliseconds
                read = partial(_refuse, str(error))
            readers.keep(schema_id, read)
        value = read(data)
        return await value if isinstance(value, Later) else value

    def _reader_of(self, schema_id: SchemaId, node: Node, target: Target) -> Read:
        from .avro_reading import SchemaReader

        try:
            if self._reader is not None:
                from .avro_resolution import resolved

                node = resolved(node, self._reader)
            in_slices = in_thread(lambda: SchemaReader(node, target, self._rules, in_slices=True))
            reader = SchemaReader(node, target, self._rules, thread_above=self._limit, read_later=in_slices)
        except (AvroSchemaError, ValueError, RecursionError) as error:
            reason = str(error)
            raise PayloadDecodeError(
                f"step avro: the schema {schema_id} does not fit {target.name}: {reason}", step="avro"
            ) from None
        self._tell_misfits(schema_id, node, target)
        return reader

    def _tell_misfits(self, schema_id: SchemaId, node: Node, target: Target) -> None:
        from .avro_fit import misfits_of_reading

        if problems := misfits_of_reading(node, target, self._rules.records):
            logger.warning("the Avro schema %s does not fit %s: %s", schema_id, target.name, "; ".join(problems))

    async def _node_of(self, schema: RegisteredSchema) -> Node:
        if schema.type != "AVRO":
            raise PayloadDecodeError(f"step avro: the schema {schema.id or schema.guid} is {schema.type}", step="avro")
        used = await self.registry.referenced(schema) if schema.references else {}
        try:
            return parse(schema.text, {name: each.text for name, each in used.items()})
        except (AvroSchemaError, RecursionError) as error:
            reason = str(error)
        raise PayloadDecodeError(
            f"step avro: the schema {schema.id or schema.guid} of the registry is none: {reason}", step="avro"
        )

    def recognizes(self, message: Received) -> bool:
        """By the content type; without one, by the id of a schema."""
        kind = media_type(message)
        return kind == self.content_type if kind is not None else has_frame(message)

    # --- writing

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        if message is None:
            return None
        known = self._writers.get((type(message), outgoing.topic, outgoing.part))
        if known is None or known.until < monotonic():
            return Later(partial(self._encode_later, message, outgoing))
        return known.write(message, outgoing)

    async def _encode_later(self, message: Any, outgoing: Outgoing) -> bytes | None:
        key = (type(message), outgoing.topic, outgoing.part)
        schema, until = await self._schema_for(*key)
        known = self._writers.get(key)
        if known is None or known.schema is not schema:
            known = self._writers[key] = await self._writer(type(message), schema, outgoing.part)
        known.until = until
        return known.write(message, outgoing)

    async def _schema_for(self, kind: type, topic: str, part: Part) -> tuple[RegisteredSchema, float]:
        """The schema that a class is written by, and until when it is used."""
        text = self._text_for(kind)
        if text is None:
            subject = subject_of(self._subject, topic, part, self._record_name(kind))
            return await self.registry.latest(subject), monotonic() + ASK_AGAIN
        subject = subject_of(self._subject, topic, part, _name_in(text))
        ask = self.registry.register if self.auto_register else self.registry.find
        return await ask(subject, "AVRO", text, self._references), float("inf")

    async def _writer(self, kind: type, schema: RegisteredSchema, part: Part) -> _Writer:
        from .avro_messages import MessageWriter

        try:
            node = await self._node_of(schema)
        except PayloadDecodeError as error:
            raise PayloadEncodeError(str(error), step="avro") from None
        return _Writer(MessageWriter(kind, node, Frame(self.framing, schema, part), self._rules), schema)

    def _text_for(self, kind: type) -> str | None:
        """The text of the schema that a class is written by; None: the registry has it."""
        if isinstance(self._texts, str):
            return self._texts
        text = self._given(kind)
        if text is not None:
            return text
        if self._texts:
            raise PayloadEncodeError(f"step avro: no schema is given for {kind.__name__}", step="avro")
        return self._derived_for_writing(kind) if self.auto_register else None

    def _derived_for_writing(self, kind: type) -> str:
        try:
            return self.derived(kind)
        except ConfigurationError:
            if self._record_name(kind) is not None:
                raise  # it names the field
        raise PayloadEncodeError(
            f"step avro: a {kind.__name__} declares no schema that could be registered: publish a model, or give Avro "
            "one with schema=...",
            step="avro",
        )

    def _given(self, kind: type) -> str | None:
        """The text that was given for a class, or for one of its bases."""
        assert not isinstance(self._texts, str)
        return next((self._texts[base] for base in kind.__mro__ if base in self._texts), None)

    def derived(self, kind: Any) -> str:
        """The text of the schema that a model, dataclass or other type would have. See docs/avro.md.

        Raises:
            ConfigurationError: there is no Avro type for something in it; the text names the field.
        """
        from .avro_derivation import derived_schema

        return derived_schema(kind, self._namespace, self._names)

    def _record_name(self, kind: type) -> str | None:
        """The full name of the record that a class stands for: by `records`, a title with a dot, or its own name.

        None: it is neither a model nor a dataclass.
        """
        if kind in self._names:
            return self._names[kind]
        if not (issubclass(kind, BaseModel) or is_dataclass(kind)):
            return None
        titles = [name for name in names_of(kind) if "." in name]
        own = kind.__name__.partition("[")[0]
        return titles[0] if titles else f"{self._namespace}.{own}" if self._namespace else own

    # --- checking

    def declared(self, target_type: Any, topic: str, part: Part = "value") -> DeclaredSchema | None:
        """What would be registered for a type: the given schema, or the derived one if that would be registered.

        None: only the registry has one.

        Raises:
            ConfigurationError: there is no Avro type for something in it.
        """
        kind = target_type if isinstance(target_type, type) else object
        text = self._texts if isinstance(self._texts, str) else self._given(kind)
        if text is None and self.auto_register and target_type not in (Any, object):
            text = self.derived(target_type)
        if text is None:
            return None
        name = _name_in(text)
        if name is None and self._subject in ("record", "topic_record"):  # a union: each record has its own subject
            return None
        subject = subject_of(self._subject, topic, part, name)
        return DeclaredSchema(subject, "AVRO", text, self._references)

    async def incompatibilities(self, kind: Any, topic: str, *, writes: bool, part: Part = "value") -> list[str]:
        """What does not fit between a type and its subject's schema in the registry, a sentence each.

        Args:
            kind: what a handler takes, or the class of what is published.
            topic: where it is consumed or published.
            writes: it is published: then the schema is the one that it is written by, and if that is given or derived,
                the registry tells whether it would take it as the next version.
            part: the value or the key.

        Raises:
            PayloadUnavailableError: the registry cannot be reached, or has no such subject.
        """
        from .avro_fit import misfits_of_reading, misfits_of_writing

        if self._subject != "topic" and get_origin(kind) in (Union, UnionType):
            several = [each for each in get_args(kind) if each is not type(None)]
            return [
                problem
                for each in several
                for problem in await self.incompatibilities(each, topic, writes=writes, part=part)
            ]
        target = Target(kind)
        text = self._text_for(kind) if writes and isinstance(kind, type) else None
        if text is None:
            name = self._record_name(kind) if isinstance(kind, type) else None
            if name is None and self._subject in ("record", "topic_record"):  # it takes whatever there is
                return []
            schema = await self.registry.latest(subject_of(self._subject, topic, part, name))
            node = await self._node_of(schema)
            found: list[str] = []
        else:
            subject = subject_of(self._subject, topic, part, _name_in(text))
            found = await self.registry.incompatibilities(subject, "AVRO", text, self._references)
            node = parse(text, _Anything())
        look = misfits_of_writing if writes else misfits_of_reading
        return [*found, *look(node, target, self._rules.records)]

    # --- life

    async def open(self) -> None:
        opened = getattr(self.registry, "open", None)
        if opened is not None:
            await opened()
        if self.thread_above is not None:
            threads.open()

    async def close(self) -> None:
        if self.thread_above is not None:
            threads.close()
        closed = getattr(self.registry, "close", None)
        if closed is not None:
            await closed()


class _Writer:
    """Writes messages of one class to one topic, until the registry is asked again."""

    __slots__ = ("schema", "until", "write")

    def __init__(self, write: Callable[[Any, Outgoing], bytes], schema: RegisteredSchema) -> None:
        self.write = write
        self.schema = schema
        self.until = 0.0  # on the monotonic clock


class _Anything(Mapping[str, str]):
    """Stands in for references that are not at hand, where only the name of a record is asked for."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return json.dumps({"type": "record", "name": name, "fields": []})

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def _refuse(text: str, _: bytes) -> Any:
    raise PayloadDecodeError(text, step="avro")


def _texts_of(schema: SchemaInput | Mapping[Any, SchemaInput] | None) -> str | dict[type, str]:
    if schema is None:
        return {}
    if isinstance(schema, Mapping) and all(isinstance(key, type) for key in schema):
        return {kind: _text_of(each) for kind, each in schema.items() if isinstance(kind, type)}
    return _text_of(schema)  # type: ignore[arg-type]


def _name_in(text: str) -> str | None:
    """The full name of a schema's record; None: it has none."""
    return parse(text, _Anything()).name or None


def _text_of(schema: SchemaInput) -> str:
    try:
        text = schema_text(schema)
        parse(text, _Anything())
    except AvroSchemaError as error:
        raise ConfigurationError(f"this is no Avro schema: {error}") from None
    return text


def _other_formats(data: bytes) -> str | None:
    if data.startswith(b"Obj\x01"):
        return "this is an object container file (.avro), and a message holds one value without a header"
    if data.startswith(b"\xc3\x01"):
        return "this is Avro's single-object encoding, which names its schema by a fingerprint"
    return None
