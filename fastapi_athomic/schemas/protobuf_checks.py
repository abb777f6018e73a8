"""Do the types of an app go with the schemas of its registry? For `fastapi-athomic check`, before messages come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import isclass
from typing import Any

from google.protobuf.message import Message

from ..payload.annotations import type_name
from ..payload.steps import Part
from .declared import DeclaredSchema
from .protobuf_decoding import Files
from .protobuf_files import UnusableSchemaError, as_text, is_shipped, misfit, missing
from .protobuf_reading import camel
from .protobuf_targets import choice_of, record_of
from .subjects import SubjectStrategy, subject_of


class Checks:
    """Compares types with schemas.

    Args:
        files: the schemas of the registry.
        messages: which generated class a type of the user's stands for.
        schema: the generated class of whatever is published and not in `messages`, or None.
        subject: how subjects are named.
    """

    def __init__(self, files: Files, messages: Mapping[Any, Any], schema: Any, subject: SubjectStrategy) -> None:
        self._files = files
        self._messages = messages
        self._schema = schema
        self._subject = subject

    def declared(self, target_type: Any, topic: str, part: Part) -> DeclaredSchema | None:
        """The schema of the generated class behind a type; None: there is none, or several, or it needs other files.

        In which version a registry has those files, only the registry knows.
        """
        members = choice_of(target_type).members
        ours = self._class_of(members[0]) if len(members) == 1 else None
        if ours is None or not all(is_shipped(each.name) for each in ours.DESCRIPTOR.file.dependencies):
            return None
        subject = subject_of(self._subject, topic, part, ours.DESCRIPTOR.full_name)
        return DeclaredSchema(subject, "PROTOBUF", as_text(ours.DESCRIPTOR.file))

    async def incompatibilities(self, kind: Any, topic: str, part: Part, *, writes: bool) -> list[str]:
        """What does not fit between a type and the newest schema of its subject, a sentence each."""
        return [
            problem
            for member in choice_of(kind).members
            for problem in await self._of_member(member, topic, part, writes=writes)
        ]

    async def _of_member(self, member: Any, topic: str, part: Part, *, writes: bool) -> list[str]:
        ours = self._class_of(member, writes=writes)
        name = None if ours is None else ours.DESCRIPTOR.full_name
        if name is None and self._subject in ("record", "topic_record"):  # only a generated class tells the subject
            return []
        subject = subject_of(self._subject, topic, part, name)
        schema = await self._files.source.latest(subject)
        try:
            file = await self._files.of(schema)
        except UnusableSchemaError as error:
            return [f"the schema of {subject} cannot be used: {error}"]
        messages = {each.full_name: each for each in _all_messages(file.message_types_by_name.values())}
        if ours is None:
            theirs = _for_model(member, messages)
            return [] if theirs is None else list(_lacking(member, theirs))
        theirs = messages.get(ours.DESCRIPTOR.full_name)
        if theirs is None:
            return [f"the schema of {subject} has no message {ours.DESCRIPTOR.full_name}"]
        problems = [misfit(theirs, ours.DESCRIPTOR)]
        if writes and (lacking := missing(theirs, ours.DESCRIPTOR)) is not None:
            problems.append(f"{lacking} is not in the schema of {subject}")
        return [problem for problem in problems if problem is not None]

    def _class_of(self, kind: Any, *, writes: bool = False) -> Any:
        if isclass(kind) and issubclass(kind, Message):
            return kind
        try:
            return self._messages.get(kind, self._schema if writes else None)
        except TypeError:  # it cannot be hashed
            return None


def _for_model(kind: Any, messages: Mapping[str, Any]) -> Any:
    """The message that a model surely stands for: the one with its name, or the only one; else None."""
    named = [each for each in messages.values() if each.name == getattr(kind, "__name__", None)]
    if named:
        return named[0]
    return next(iter(messages.values())) if len(messages) == 1 else None


def _all_messages(messages: Any) -> Iterator[Any]:
    for each in messages:
        yield each
        yield from _all_messages(each.nested_types)


def _lacking(kind: Any, message: Any) -> Iterator[str]:
    """Fields that a record needs, and the message does not have."""
    record = record_of(kind)
    if record is None:
        return
    names = {each.name for each in message.fields} | {each.json_name for each in message.fields}
    names |= {name for each in message.oneofs for name in (each.name, camel(each.name))}
    for field in record.fields:
        if field.required and not names & field.names:
            yield f"{field.name} of {type_name(kind)} is not in the message {message.full_name}"
