"""From messages to bytes, with the id of a registered schema that has the message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass
from pydantic import ValidationError

from ..exceptions import ConfigurationError, PayloadEncodeError, PayloadUnavailableError
from ..payload.annotations import type_name
from ..payload.losses import difference
from ..payload.objects import object_validator
from ..payload.steps import Later, Outgoing, Part
from ..payload.target import Target
from .declared import DeclaredSchema
from .protobuf_decoding import STEP, Files
from .protobuf_files import (
    UnusableSchemaError,
    as_text,
    has_singles,
    index_of,
    is_shipped,
    misfit,
    missing,
    written_index,
)
from .protobuf_known import UnwritableError
from .protobuf_reading import Kinds, MessageReader
from .protobuf_targets import compares_by_fields, record_of
from .protobuf_writing import MessageWriter
from .registered import ASK_AGAIN, OR_REGISTER, Reference, RegisteredSchema
from .subjects import SubjectStrategy, subject_of
from .wire import Frame, Framing

Write = Callable[[Any], bytes]


def refused(text: str) -> PayloadEncodeError:
    return PayloadEncodeError(text, step=STEP)


class Options(NamedTuple):
    """How messages are written."""

    framing: Framing
    subject: SubjectStrategy
    auto_register: bool


class _Plan:
    """Writes messages of one class to one topic, until the registry is asked again."""

    __slots__ = ("frame", "schema", "until", "write")

    def __init__(self, schema: RegisteredSchema, frame: Frame, write: Write) -> None:
        self.schema = schema
        self.frame = frame
        self.write = write
        self.until = 0.0  # on the monotonic clock


class ProtobufEncoder:
    """Encodes messages: generated ones, and what stands for one.

    Args:
        files: the schemas of the registry, where they are looked up, or registered.
        messages: which generated class a type of the user's stands for.
        schema: the generated class of whatever is not in `messages`. None: by the schema in the registry.
        options: how.
    """

    def __init__(self, files: Files, messages: Mapping[Any, Any], schema: Any, options: Options) -> None:
        self._files = files
        self._source = files.source
        self._messages = messages
        self._schema = schema
        self._options = options
        self._kinds = Kinds({kind: each.DESCRIPTOR.full_name for kind, each in messages.items()})
        self._plans: dict[tuple[str, Part, type], _Plan] = {}

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        if message is None:
            return None
        plan = self._plans.get((outgoing.topic, outgoing.part, type(message)))
        if plan is None or plan.until < monotonic():
            return Later(partial(self._later, message, outgoing))
        return plan.frame.put(plan.write(message), outgoing)

    async def _later(self, message: Any, outgoing: Outgoing) -> bytes | None:
        key = (outgoing.topic, outgoing.part, type(message))
        until = monotonic() + ASK_AGAIN
        schema, descriptor, index = await self._schema_for(*key)
        plan = self._plans.get(key)
        if plan is None or plan.schema is not schema:
            frame = Frame(self._options.framing, schema, outgoing.part, written_index(index))
            plan = self._plans[key] = _Plan(schema, frame, self._writer(type(message), descriptor))
        plan.until = float("inf") if self._options.auto_register else until
        return plan.frame.put(plan.write(message), outgoing)

    async def _schema_for(self, topic: str, part: Part, kind: Any) -> tuple[RegisteredSchema, Any, tuple[int, ...]]:
        """The schema that is named, the message that is written, and its index in the schema."""
        ours = self._descriptor_of(kind)
        if ours is None and self._options.subject in ("record", "topic_record"):
            raise refused(
                f"no generated class stands for a {type_name(kind)}, and its subject is named by one: "
                "say which with messages={...}, or schema=..."
            )
        subject = subject_of(self._options.subject, topic, part, None if ours is None else ours.full_name)
        try:
            if ours is not None:
                schema, index = await self._registered(subject, ours)
                return schema, ours, index
            schema = await self._newest(subject, kind)
            theirs = _message_for(kind, await self._files.of(schema))
            return schema, theirs, index_of(theirs)
        except UnusableSchemaError as error:
            raise refused(f"the schema of {subject} cannot be used: {error}") from None

    async def _newest(self, subject: str, kind: Any) -> RegisteredSchema:
        """For a type without a generated class. Says so, if its schema would be registered otherwise."""
        try:
            return await self._source.latest(subject)
        except PayloadUnavailableError as error:
            if not self._options.auto_register:
                raise
            text = (
                f"{str(error).removesuffix(OR_REGISTER)}. Nothing is registered for a {type_name(kind)}, as no "
                f"generated class stands for it: publish one, or say which with messages={{{kind.__name__}: ...}}, or "
                "schema=..."
            )
            raise PayloadUnavailableError(text, step=error.step) from None

    def _descriptor_of(self, kind: Any) -> Any:
        """The descriptor of a message of this type, if there is a generated class."""
        if issubclass(kind, Message):
            return kind.DESCRIPTOR
        found = self._messages.get(kind, self._schema)
        return None if found is None else found.DESCRIPTOR

    # --- schemas

    def declared(self, kind: Any, topic: str, part: Part) -> DeclaredSchema | None:
        """What would be registered for a type; None: there is no generated class, or it imports other files."""
        ours = self._descriptor_of(kind) if isinstance(kind, type) else None
        if ours is None or any(not is_shipped(each.name) for each in ours.file.dependencies):
            return None
        subject = subject_of(self._options.subject, topic, part, ours.full_name)
        return DeclaredSchema(subject, "PROTOBUF", as_text(ours.file))

    async def _registered(self, subject: str, ours: Any) -> tuple[RegisteredSchema, tuple[int, ...]]:
        """A registered schema that has all that may be written, and the message's index in it.

        That is the newest one, if it has; else the very schema of ours, of an earlier version.
        """
        if self._options.auto_register:
            return await self._register(subject, ours.file, {}), index_of(ours)
        schema = await self._source.latest(subject)
        theirs = _message_named(ours.full_name, await self._files.of(schema))
        if theirs is not None and missing(theirs, ours) is None and misfit(ours, theirs) is None:
            return schema, index_of(theirs)
        return await self._find(subject, ours.file), index_of(ours)

    async def _find(self, subject: str, file: Any) -> RegisteredSchema:
        """The version with this very schema. Raises `PayloadUnavailableError` while there is none."""
        references = [
            Reference(each.name, each.name, (await self._find(each.name, each)).version or 1)
            for each in file.dependencies
            if not is_shipped(each.name)
        ]
        return await self._source.find(subject, "PROTOBUF", as_text(file), references)

    async def _register(self, subject: str, file: Any, done: dict[str, Reference]) -> RegisteredSchema:
        """Registers a file after those that it imports, whose subjects are their names, as Confluent has it."""
        for each in file.dependencies:
            if not is_shipped(each.name) and each.name not in done:
                known = await self._register(each.name, each, done)
                done[each.name] = Reference(each.name, each.name, known.version or 1)
        references = [done[each.name] for each in file.dependencies if each.name in done]
        return await self._source.register(subject, "PROTOBUF", as_text(file), references)

    # --- writing

    def _writer(self, kind: Any, descriptor: Any) -> Write:
        if issubclass(kind, Message):
            return partial(_serialized, kind.__name__)
        target = _target_of(kind)
        write, reader = MessageWriter(self._kinds), MessageReader(self._kinds)
        record = kind if record_of(kind) is not None else None
        convert, name = reader.function(descriptor, record), type_name(kind)
        parse, validate = GetMessageClass(descriptor).FromString, object_validator(target.adapter)
        is_plain, rounded = record is not None and compares_by_fields(kind), has_singles(descriptor)

        def encode(message: Any) -> bytes:
            try:
                written = write.message(descriptor, message)
            except UnwritableError as error:
                place = f"{'.'.join(error.place)}: " if error.place else ""
                raise refused(f"a {name} cannot be encoded as {descriptor.full_name}: {place}{error}") from None
            data = _serialized(name, written)
            problem = _problem_of_reading(message, parse(data))
            if problem is not None:
                raise refused(f"a {name} would not be read back as it is: {problem}")
            return data

        def _problem_of_reading(message: Any, read: Any) -> str | None:
            try:
                if record is None:
                    bare = _restricted(convert(read), message, descriptor)
                    return difference(message, bare, declared=False, rounded=rounded)
                found = validate(convert(read))
                return None if is_plain and found == message else difference(message, found, rounded=rounded)
            except ValidationError as error:
                return target.describe(error)
            except MemoryError:
                raise
            except Exception as error:  # from a validator of the user's
                return f"{reader.place(error)} ({type(error).__name__})"

        return encode


def _serialized(name: str, message: Any) -> bytes:
    try:
        data: bytes = message.SerializeToString()
    except EncodeError as error:  # it names the fields of proto2 that are required and not set
        text = str(error)
    else:
        return data
    raise refused(f"a {name} cannot be encoded: {text}")


def _target_of(kind: Any) -> Target:
    try:
        return Target(kind)
    except ConfigurationError as error:
        raise refused(str(error).partition("\n")[0]) from None


def _message_named(full_name: str, file: Any) -> Any:
    """The message of a file with this name; None: it has none."""
    try:
        found = file.pool.FindMessageTypeByName(full_name)
    except KeyError:
        return None
    return found if found.file.name == file.name else None


def _message_for(kind: Any, file: Any) -> Any:
    """The message of the registry's schema that a type stands for: the one with its name, or the only one."""
    messages = list(file.message_types_by_name.values())
    named = [each for each in messages if each.name == getattr(kind, "__name__", None)]
    if named:
        return named[0]
    if len(messages) == 1:
        return messages[0]
    raise UnusableSchemaError(
        f"none of its {len(messages)} messages has the name {type_name(kind)}: say which one with messages={{...}}"
    )


def _restricted(read: Any, value: Any, descriptor: Any) -> Any:
    """What was read, with those keys only that the value has, as it has them. Fields that it leaves out are unset."""
    if not isinstance(read, dict) or not isinstance(value, Mapping):
        return read
    names = {field.json_name: field.name for field in descriptor.fields}
    found = {}
    for key, held in value.items():
        name = key if key in descriptor.fields_by_name else names.get(key, key)
        if name not in read:
            continue
        message = descriptor.fields_by_name[name].message_type
        found[key] = read[name] if message is None else _restricted_field(read[name], held, message)
    return found


def _restricted_field(read: Any, value: Any, message: Any) -> Any:
    if message.GetOptions().map_entry:
        inner = message.fields_by_number[2].message_type
        if inner is None or not isinstance(value, Mapping):
            return read
        return {key: _restricted(read[key], held, inner) for key, held in value.items() if key in read}
    if isinstance(read, list) and isinstance(value, list | tuple):
        return [_restricted(each, held, message) for each, held in zip(read, value, strict=False)]
    return _restricted(read, value, message)
