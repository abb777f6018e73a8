"""From the bytes of a message to the handler's type. Which message was written is said by schema id and index."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from inspect import isclass
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from pydantic import ValidationError

from ..error_text import located
from ..exceptions import ConfigurationError, PayloadDecodeError
from ..payload.annotations import type_name
from ..payload.objects import object_validator
from ..payload.slices import in_thread
from ..payload.steps import Later, Part, Received
from ..payload.target import Target
from .kept import Kept
from .protobuf_files import UnusableSchemaError, file_of, message_at, misfit, read_index
from .protobuf_known import UnreadableError
from .protobuf_reading import Kinds, MessageReader
from .protobuf_targets import choice_of
from .registered import RegisteredSchema, SchemaId, SchemaSource
from .wire import HEADERS, read_frame, schema_of

STEP = "protobuf"
Read = Callable[[bytes], Any]
Validate = Callable[[Any], Any]
Index = tuple[int, ...]
PREFIX = 5
"""Bytes of 0x00 and a schema's number."""


def refused(text: str) -> PayloadDecodeError:
    return PayloadDecodeError(f"step {STEP}: {text}", step=STEP)


class Files:
    """The file descriptors of registered schemas: each is made once, and if it cannot be, that is remembered, too."""

    def __init__(self, source: SchemaSource) -> None:
        self.source = source
        self._files: Kept[Any] = Kept()

    async def of(self, schema: RegisteredSchema) -> Any:
        """Raises `UnusableSchemaError`."""
        key = (schema.id, schema.guid)
        file = self._files.get(key)
        if file is None:
            referenced = await self.source.referenced(schema) if schema.references else {}
            try:
                file = file_of(schema, referenced)
            except UnusableSchemaError as error:
                file = str(error)
            self._files.keep(key, file)
        if isinstance(file, str):
            raise UnusableSchemaError(file)
        return file


class ProtobufDecoder:
    """Decodes messages into one type.

    Args:
        files: the schemas of the registry.
        messages: which generated class a type of the user's stands for.
        target_type: the handler's type: generated classes, or anything that pydantic validates.
        part: of the message.
        cuts_nanoseconds: what a datetime or timedelta cannot hold is cut off, else it is refused.
        thread_above: larger payloads (in bytes) are read in a thread.

    Raises:
        ConfigurationError: pydantic cannot validate the type, or it mixes generated classes with others.
    """

    def __init__(
        self,
        files: Files,
        messages: Mapping[Any, Any],
        target_type: Any,
        part: Part,
        *,
        cuts_nanoseconds: bool = False,
        thread_above: int = sys.maxsize,
    ) -> None:
        self._files = files
        self._part = part
        self._readers = _readers_into(target_type, messages, cuts_nanoseconds=cuts_nanoseconds)
        self._readers.thread_above = thread_above
        self._allows_none = self._readers.allows_none
        self._name = type_name(target_type)
        self._known: Kept[Read] = Kept()  # by schema and message
        # The same by what stands in front of the data. As long as all numbers of the index are below 64.
        self._by_beginning: Kept[Read] = Kept()
        self._header = HEADERS[part]

    def decode(self, message: Received) -> Any:
        """The value, or a `Later` of it for the first message of its kind. Most messages take the short way."""
        data = message.value
        if data is None:
            if self._allows_none:
                return None
            raise refused(f"the {self._part} is null, and the handler's type {self._name} does not allow None")
        for name, _ in message.headers:
            if name == self._header:
                return self._decode(message)
        if len(data) > PREFIX:
            end = PREFIX + 1 + (data[PREFIX] >> 1)  # the index has a count, as zigzag, and so many numbers
            read = self._by_beginning.get(data[:end])
            if read is not None:
                return read(data[end:])
        return self._decode(message)

    def _decode(self, message: Received) -> Any:
        schema_id, data, in_header = read_frame(message, self._part, STEP)
        index, payload = _index(in_header, data)
        read = self._known.get((schema_id, index))
        if read is None:
            return Later(partial(self._later, schema_id, index, payload))
        if in_header is None and message.value is not None:
            beginning = message.value[: len(message.value) - len(payload)]
            if beginning[:1] == b"\0" and len(beginning) == PREFIX + 1 + (beginning[PREFIX] >> 1):
                self._by_beginning.keep(beginning, read)
        return read(payload)

    async def _later(self, schema_id: SchemaId, index: Index, data: bytes) -> Any:
        schema = await schema_of(self._files.source, schema_id, STEP)
        try:
            read = self._readers.reader(message_at(await self._files.of(schema), index))
        except UnusableSchemaError as error:
            raise refused(f"the schema {schema_id} cannot be used: {error}") from None
        except PayloadDecodeError as error:  # it will never do, and to find that out again costs milliseconds
            read = partial(_refuse, str(error))
        self._known.keep((schema_id, index), read)
        value = read(data)
        return await value if isinstance(value, Later) else value


def _refuse(text: str, _: bytes) -> Any:
    raise PayloadDecodeError(text, step=STEP)


def _index(index: bytes | None, data: bytes) -> tuple[Index, bytes]:
    """The index of the message, and the data behind it."""
    try:
        if index is None:
            found, end = read_index(data)
            return found, data[end:]
        found, end = read_index(index)
    except ValueError:
        raise refused("there is no valid message index behind the schema's id") from None
    if end != len(index):
        raise refused("there is more than a message index behind the schema's id in the header")
    return found, data


# --- readers


def _readers_into(
    target_type: Any, messages: Mapping[Any, Any], *, cuts_nanoseconds: bool
) -> _IntoClasses | _IntoBytes | _IntoModels:
    choice = choice_of(target_type)
    classes = [member for member in choice.members if isclass(member) and issubclass(member, Message)]
    if classes and len(classes) == len(choice.members):
        return _IntoClasses(classes, allows_none=choice.allows_none)
    if classes:
        raise ConfigurationError(
            f"messages cannot be decoded into {type_name(target_type)}: generated classes stand beside other types"
        )
    if choice.members == (bytes,):
        return _IntoBytes(allows_none=choice.allows_none)
    return _IntoModels(target_type, messages, cuts_nanoseconds=cuts_nanoseconds)


class _IntoBytes:
    """The message without id and index, for those who parse it themselves."""

    thread_above: int = sys.maxsize

    def __init__(self, *, allows_none: bool) -> None:
        self.allows_none = allows_none

    def reader(self, written: Any) -> Read:
        return bytes


class _IntoClasses:
    """Generated classes, as they are. Unknown fields stay in them, as Protobuf has it. The library keeps Python's lock
    while it parses, so a thread would be of no use."""

    thread_above: int = sys.maxsize

    def __init__(self, classes: list[Any], *, allows_none: bool) -> None:
        self.allows_none = allows_none
        self._classes = {kind.DESCRIPTOR.full_name: kind for kind in classes}

    def reader(self, written: Any) -> Read:
        kind = self._classes.get(written.full_name)
        if kind is None:
            raise _wrong_message(written, list(self._classes))
        check_fit(written, kind.DESCRIPTOR)
        parse, name = kind.FromString, written.full_name

        def read(data: bytes) -> Any:
            try:
                return parse(data)
            except DecodeError:
                pass
            raise refused(f"the payload is no valid {name}")

        return read


class _IntoModels:
    """Models, dataclasses, TypedDicts and dicts, validated by pydantic."""

    thread_above: int = sys.maxsize

    def __init__(self, target_type: Any, messages: Mapping[Any, Any], *, cuts_nanoseconds: bool) -> None:
        self._cuts_nanoseconds = cuts_nanoseconds
        self._target = Target(target_type)
        self.allows_none = self._target.allows_none
        self._choice = choice_of(target_type)
        self._type = target_type
        self._messages = messages
        self._kinds = Kinds({kind: each.DESCRIPTOR.full_name for kind, each in messages.items()})

    def reader(self, written: Any) -> Read:
        kind = self._kind_for(written)
        mapped = self._messages.get(self._type) or self._messages.get(kind)
        read_as = written if mapped is None else mapped.DESCRIPTOR
        check_fit(written, read_as)
        reader = MessageReader(self._kinds, cuts_nanoseconds=self._cuts_nanoseconds)
        convert = reader.function(read_as, kind)
        if kind is not None and written.fields and not reader.shares_fields(read_as, kind):
            raise refused(f"the message {written.full_name} has none of the fields of {type_name(kind)}")
        compiled = partial(self._compiled, read_as, reader, convert)
        read_later = in_thread(lambda: compiled(*self._validators(kind, in_slices=True)))
        return compiled(*self._validators(kind, in_slices=False), self.thread_above, read_later)

    def _validators(self, kind: Any, *, in_slices: bool) -> tuple[Validate | None, Validate]:
        """Of the record, if there are several, and of the whole. `in_slices`: they let the event loop go on."""
        several = len(self._choice.records) > 1
        of_record = object_validator(Target(kind).adapter, in_slices=in_slices) if several else None
        return of_record, object_validator(self._target.adapter, in_slices=in_slices)

    def _kind_for(self, written: Any) -> Any:
        """The record that the message becomes; None: a dict."""
        if self._type in self._messages:
            if self._messages[self._type].DESCRIPTOR.full_name != written.full_name:
                raise _wrong_message(written, [self._messages[self._type].DESCRIPTOR.full_name])
            return self._choice.records[0] if len(self._choice.records) == 1 else None
        records = self._choice.records
        kind = self._kinds.pick(records, written)
        if kind is not None:
            return kind
        if len(records) == 1 and self._kinds.fits(records[0], written):
            return records[0]
        if self._choice.anything or not records:
            return None
        raise _wrong_message(written, [self._kinds.name_of(each) or type_name(each) for each in records])

    def _compiled(
        self,
        descriptor: Any,
        reader: MessageReader,
        convert: Callable[[Any], Any],
        union: Validate | None,
        validate: Validate,
        thread_above: int = sys.maxsize,
        read_later: Read | None = None,
    ) -> Read:
        parse, name = GetMessageClass(descriptor).FromString, descriptor.full_name
        target = self._target

        def read(data: bytes) -> Any:
            if read_later is not None and data[thread_above:]:  # it is larger: a slice, as `len` would be a call
                return read_later(data)
            try:
                if union is not None:
                    return validate(union(convert(parse(data))))
                return validate(convert(parse(data)))
            except DecodeError:
                problem = f"the payload is no valid {name}"
            except UnreadableError as error:
                problem = f"{_at(reader.place(error))}{error}"
            except ValidationError as error:
                problem = f"the payload is not a valid {target.name}: {target.describe(error)}"
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # from a validator of the user's
                problem = f"a validator raised {located(error)}"
            # outside the except block, as a traceback through the first error would show the payload
            raise refused(problem)

        return read


def _at(place: str) -> str:
    return f"{place}: " if place else ""


def check_fit(written: Any, read: Any) -> None:
    """Raises `PayloadDecodeError` if the writer's fields would be misread."""
    problem = None if written is read else misfit(written, read)
    if problem is not None:
        raise refused(f"the schema of the message does not fit: {problem}")


def _wrong_message(written: Any, wanted: list[str]) -> PayloadDecodeError:
    return refused(f"the message is a {written.full_name}, and not a {' or a '.join(wanted)}")
