"""From Python values to bytes and back: a serializer, then the steps that work on the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from ..error_text import located
from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadError
from ..messages import Headers
from .json_format import Json
from .orders import check_order
from .steps import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    BytesStep,
    Decoder,
    Incoming,
    Later,
    Outgoing,
    Received,
    Serializer,
    header,
)

SourceOf = Callable[[str], str]
"""The topic in which the messages of a topic were first: another one for a retry or redrive topic."""


class PayloadStep(Protocol):
    """Something done to the bytes, such as compression or encryption. What `decode` raises makes a dead letter."""

    @property
    def name(self) -> str:
        """Names the step in errors."""
        ...

    def encode(self, data: bytes) -> bytes:
        """Called when a message is published."""
        ...

    def decode(self, data: bytes) -> bytes:
        """Undoes `encode`; called before a message is handled."""
        ...


class PayloadPipeline:
    """Serializes messages and runs the given steps in their order; decoding runs in reverse.

    Args:
        steps: first a serializer (without one it is `Json`), then what is done to the bytes, in the order of
            publishing: compression, encryption, claim check.
        reads: other serializers, whose messages are read, too, but not written: for a topic that moves to another one.
        key: the serializer of keys. None: a key is `str`, `bytes`, `int` or `UUID`, as text.

    One pipeline serves both directions, and may be shared by topics, handlers and apps. None becomes a null value (a
    tombstone), which skips the steps. A null value reaches only handlers whose type allows None.

    Raises:
        ConfigurationError: something is no step, or the order makes no sense.
    """

    def __init__(
        self,
        steps: Sequence[Serializer | BytesStep | PayloadStep] = (),
        *,
        reads: Sequence[Serializer] = (),
        key: Serializer | None = None,
    ) -> None:
        self.serializer, self.steps = _sorted_out(steps)
        self.reads = tuple(reads)
        self.key = key
        check_order(self.serializer, self.steps, self.reads, key)
        self._writers = tuple(step for step in self.steps if step.writes)
        self._encodings = ", ".join(step.name for step in self._writers).encode()
        self._is_plain = type(self.serializer) is Json and not self.steps and not reads
        """JSON as ever: nothing is said in headers, and only the serializer is asked."""
        self.waits = any(part.waits for part in self.parts)
        """Whether `write` and decoders may give a `Later`."""

    @property
    def parts(self) -> Iterator[Serializer | BytesStep]:
        """All serializers and steps."""
        yield self.serializer
        yield from self.steps
        yield from self.reads
        if self.key is not None:
            yield self.key

    # --- writing

    def encode(self, message: object) -> bytes | None:
        """The bytes of a message, by a pipeline that needs neither a topic nor anything that it must wait for.

        Raises:
            PayloadEncodeError: names the step and the kind of error, or the field that would not be read back as the
                same value; never shows the message.
            ConfigurationError: the pipeline has to wait for something: `await` what `write` gives.
        """
        data = self.write(message, Outgoing(""))
        if isinstance(data, Later):
            raise ConfigurationError("this pipeline waits for something: publish through it")
        return data

    def write(self, message: object, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        """The bytes of a message; what its headers must say is added to `outgoing`. Raises as `encode` does.

        Raises:
            PayloadUnavailableError: (also when a `Later` is awaited) something that is needed cannot be reached.
        """
        try:
            data = self.serializer.encode(message, outgoing)
        except PayloadError:
            raise
        except Exception as error:
            raise PayloadEncodeError(_failed(self.serializer, "encode", error), step=self.serializer.name) from error
        if self._is_plain:
            return data
        if isinstance(data, Later):
            return Later(partial(self._write_later, data, 0, outgoing))
        return self._write_steps(data, 0, outgoing)

    def write_key(self, key: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        """The bytes of a key, by the pipeline's serializer of keys."""
        if self.key is None:
            raise ConfigurationError("the pipeline has no serializer for keys")
        return self.key.encode(key, outgoing)

    def _write_steps(self, data: bytes | None, first: int, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        if data is not None:
            for number in range(first, len(self._writers)):
                done = _do(self._writers[number], data, outgoing)
                if isinstance(done, Later):
                    return Later(partial(self._write_later, done, number + 1, outgoing))
                data = done
            if self._encodings:
                outgoing.add(CONTENT_ENCODING, self._encodings)
        if self.serializer.content_type is not None and data is not None:
            outgoing.add(CONTENT_TYPE, self.serializer.content_type.encode())
        return data

    async def _write_later(self, later: Later[Any], following: int, outgoing: Outgoing) -> bytes | None:
        data = self._write_steps(await later, following, outgoing)
        return await data if isinstance(data, Later) else data

    # --- reading

    def decoder(self, target_type: Any, source_of: SourceOf | None = None) -> Decoder:
        """A function from messages to the type. It raises `PayloadDecodeError`, which never shows the payload.

        It may give a `Later`, if the pipeline `waits`.

        Args:
            target_type: what the messages are decoded into.
            source_of: gives the topic in which the messages of a topic were first; None: they are in it.

        Raises:
            ConfigurationError: the serializer cannot give this type.
        """
        deserialize = self._deserializer(target_type)
        if not self.steps:
            return deserialize
        return _Unwrapping(self.steps[::-1], deserialize, source_of).decode

    def key_decoder(self, target_type: Any) -> Decoder:
        """The same for keys: `value` of the messages that it is called with is the key."""
        return (self.key or Json()).decoder(target_type, "key")

    def _deserializer(self, target_type: Any) -> Decoder:
        first = self.serializer.decoder(target_type)
        if not self.reads:
            return first
        others = [(each.recognizes, each.decoder(target_type)) for each in self.reads]
        known = ((self.serializer.recognizes, first), *others)

        def decode(message: Received) -> Any:
            for recognizes, read in known:
                if recognizes(message):
                    return read(message)
            return first(message)

        return decode

    # --- life

    async def open(self) -> None:
        """Called in the event loop of the consumers, before anything is read or written."""
        for part in self.parts:
            await part.open()

    async def close(self) -> None:
        """Called when the app stops."""
        for part in self.parts:
            await part.close()


class _Unwrapping:
    """Undoes the steps of a pipeline, the last one first, then deserializes."""

    def __init__(self, steps: Sequence[BytesStep], deserialize: Decoder, source_of: SourceOf | None) -> None:
        self._steps = steps
        self._deserialize = deserialize
        self._source_of = source_of

    def decode(self, message: Received) -> Any:
        topic = message.topic if self._source_of is None else self._source_of(message.topic)
        incoming = Incoming(topic, message.key, message.value, message.headers)
        if incoming.value is None:
            return self._deserialize(incoming)
        return self._go_on(0, incoming)

    def _go_on(self, first: int, incoming: Incoming) -> Any:
        data = incoming.value or b""
        for number in range(first, len(self._steps)):
            step = self._steps[number]
            if not (step.required or _has(step, data, incoming.headers)):
                continue
            done = _undo(step, data, incoming)
            if isinstance(done, Later):
                return Later(partial(self._later, done, step, number + 1, incoming))
            data = done
        return self._deserialize(Incoming(incoming.topic, incoming.key, data, incoming.headers))

    async def _later(self, later: Later[bytes], step: BytesStep, following: int, incoming: Incoming) -> Any:
        try:
            data = await later
        except PayloadError:
            raise
        except Exception as error:
            raise PayloadDecodeError(_failed(step, "decode", error), step=step.name) from None
        value = self._go_on(following, Incoming(incoming.topic, incoming.key, data, incoming.headers))
        return await value if isinstance(value, Later) else value


class _Adapted(BytesStep):
    """A step of the user's with `encode(data)` and `decode(data)`."""

    def __init__(self, step: PayloadStep) -> None:
        self.name = step.name
        self._step = step

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return self._step.encode(data)

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return self._step.decode(data)


def _sorted_out(
    steps: Sequence[Serializer | BytesStep | PayloadStep],
) -> tuple[Serializer, tuple[BytesStep, ...]]:
    serializer: Serializer = Json()
    found: list[BytesStep] = []
    for number, step in enumerate(steps):
        if isinstance(step, Serializer):
            if number:
                raise ConfigurationError(
                    f"the serializer {step.name} must be the first step of its pipeline: what is before it would get "
                    "no bytes"
                )
            serializer = step
        elif isinstance(step, BytesStep):
            found.append(step)
        elif (
            isinstance(getattr(step, "name", None), str)
            and callable(getattr(step, "encode", None))
            and callable(getattr(step, "decode", None))
        ):
            found.append(_Adapted(step))
        else:
            raise ConfigurationError(f"{type(step).__name__} is not a payload step: it needs name, encode and decode")
    return serializer, tuple(found)


def _has(step: BytesStep, data: bytes, headers: Headers) -> bool:
    """Whether this step was done to the message: its header says so, or else the bytes look like it."""
    encodings = header(Incoming("", None, None, headers), CONTENT_ENCODING)
    if encodings is None:
        return step.recognizes(data)
    return step.name in (each.strip().lower() for each in encodings.decode("ascii", "replace").split(","))


def _do(step: BytesStep, data: bytes, outgoing: Outgoing) -> bytes | Later[bytes]:
    try:
        return step.encode(data, outgoing)
    except PayloadError:
        raise
    except Exception as error:
        raise PayloadEncodeError(_failed(step, "encode", error), step=step.name) from error


def _undo(step: BytesStep, data: bytes, incoming: Incoming) -> bytes | Later[bytes]:
    try:
        return step.decode(data, incoming)
    except (KeyboardInterrupt, PayloadError):
        raise
    except BaseException as error:
        raise PayloadDecodeError(_failed(step, "decode", error), step=step.name) from None


def _failed(step: Serializer | BytesStep, doing: str, error: BaseException) -> str:
    return f"step {step.name} could not {doing} the payload: {located(error)}"
