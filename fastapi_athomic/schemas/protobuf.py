"""Protobuf with a schema registry: generated classes, and pydantic models that stand for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..exceptions import ConfigurationError
from ..extras import needed
from ..payload.off_loop import threads
from ..payload.slices import THREAD_ABOVE, checked_limit
from ..payload.steps import Decoder, Later, Outgoing, Part, Received, Serializer, media_type
from .declared import DeclaredSchema
from .registered import SchemaSource, check_source
from .subjects import SubjectStrategy, check_strategy
from .wire import Framing, has_frame


class Protobuf(Serializer):
    """Protobuf in Confluent's wire formats, with the schemas of a registry.

    Args:
        registry: where the schemas are: a `SchemaRegistry`.
        framing: where the schema's id is written, in front of the bytes ("prefix") or in a header. Both are read.
        subject: under which subject the schema of a message is looked up, or registered.
        messages: which generated class stands behind a type of yours: `{Order: order_pb2.Order}`. What is not in it
            follows the schema in the registry.
        schema: the generated class of all published values that are no generated ones and not in `messages`.
        auto_register: registers the schema of the generated class when the first message of its kind is published.
        nanoseconds: what a `datetime` or `timedelta` cannot hold of a Timestamp or Duration: "refuse" the message, or
            "cut" it off. A field annotated `int` gets all nanoseconds.
        thread_above: larger payloads (in bytes) are made models of in a thread, which lets the event loop go on between
            the items of lists; validators of models run there, too. None: never.

    A handler's type is a generated class (or several: `A | B`), or anything that pydantic validates; see
    docs/protobuf.md for what its fields may be. `bytes` is the bare message.

    Raises:
        ConfigurationError: `protobuf` is not installed, or an argument is not what it must be.
    """

    name = "protobuf"
    content_type = "application/protobuf"
    waits = True

    def __init__(
        self,
        registry: SchemaSource,
        *,
        framing: Framing = "prefix",
        subject: SubjectStrategy = "topic",
        messages: Mapping[Any, Any] | None = None,
        schema: Any = None,
        auto_register: bool = False,
        nanoseconds: Literal["refuse", "cut"] = "refuse",
        thread_above: int | None = THREAD_ABOVE,
    ) -> None:
        message = needed("google.protobuf.message", extra="protobuf", what="Protobuf").Message
        if framing not in ("prefix", "header"):
            raise ConfigurationError("framing must be 'prefix' or 'header'")
        if nanoseconds not in ("refuse", "cut"):
            raise ConfigurationError("nanoseconds must be 'refuse' or 'cut'")
        check_strategy(subject)
        check_source(registry, "Protobuf")
        self._messages = dict(messages or {})
        for each in (*self._messages.values(), *(() if schema is None else (schema,))):
            if not (isinstance(each, type) and issubclass(each, message)):
                raise ConfigurationError("messages and schema of Protobuf take classes that protoc has generated")
        self.registry = registry
        self.auto_register = auto_register
        self.framing = framing
        self._cuts_nanoseconds = nanoseconds == "cut"
        self.thread_above = thread_above
        self._limit = checked_limit(self)
        from .protobuf_checks import Checks  # these need the library
        from .protobuf_decoding import Files
        from .protobuf_encoding import Options, ProtobufEncoder

        self._files = Files(registry)
        options = Options(framing, subject, auto_register)
        self._checks = Checks(self._files, self._messages, schema, subject)
        self._encoder = ProtobufEncoder(self._files, self._messages, schema, options)

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        return self._encoder.encode(message, outgoing)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        from .protobuf_decoding import ProtobufDecoder

        decoder = ProtobufDecoder(
            self._files,
            self._messages,
            target_type,
            part,
            cuts_nanoseconds=self._cuts_nanoseconds,
            thread_above=self._limit,
        )
        return decoder.decode

    def recognizes(self, message: Received) -> bool:
        """By the content type; without one, anything that has a schema id."""
        kind = media_type(message)
        return has_frame(message) if kind is None else kind == self.content_type

    def declared(self, target_type: Any, topic: str, part: Part = "value") -> DeclaredSchema | None:
        """What would be registered for a type; None: only the registry has its schema, or knows the files it needs."""
        return self._checks.declared(target_type, topic, part)

    async def incompatibilities(self, kind: Any, topic: str, *, writes: bool, part: Part = "value") -> list[str]:
        """What does not fit between a type and the newest schema of its subject, a sentence each.

        Args:
            kind: what a handler takes, or the class of what is published.
            topic: where it is consumed or published.
            writes: it is published: then the schema must have all of its fields.
            part: the value or the key.

        Raises:
            PayloadUnavailableError: the registry cannot be reached, or has no such subject.
        """
        return await self._checks.incompatibilities(kind, topic, part, writes=writes)

    async def open(self) -> None:
        await self.registry.open()
        if self.thread_above is not None:
            threads.open()

    async def close(self) -> None:
        if self.thread_above is not None:
            threads.close()
        await self.registry.close()
