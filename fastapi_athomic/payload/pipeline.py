"""From Python values to bytes and back: a serializer, then the steps that work on the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadError
from ..messages import Headers, MessageHeaders
from .json_format import Json
from .orders import check_order, not_a_step, sequence_of
from .own_steps import AdaptedStep, PayloadStep, is_payload_step
from .reading import ENDINGS, IDENTITY, SourceOf, Unwrapping, as_bytes, by_format, failed, hint, listed
from .stale_headers import STALE, StaleHeaders
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
)
from .target import Target
from .text_keys import STEP as KEY
from .text_keys import key_decoder

_NONE: frozenset[str] = frozenset()
_SAYING = frozenset((CONTENT_ENCODING, CONTENT_TYPE))
"""Headers that say how a message was written."""
_Writer = tuple[BytesStep, Callable[[bytes, Outgoing], Any]]
"""A step, and its `encode`."""


class Kept(Protocol):
    """A message as it was kept: a `RawMessage` or a `DeadLetter`."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers | MessageHeaders: ...


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
        self.serializer, self.steps = _sorted_out(sequence_of("the steps of a pipeline", steps))
        self.reads = sequence_of("`reads`", reads)
        self.key = key
        check_order(self.serializer, self.steps, self.reads, key)
        self.parts = _parts(self)
        """All serializers and steps, each once."""
        self._writers: Sequence[_Writer] = [(step, step.encode) for step in self.steps if step.writes]
        self._names = frozenset(step.name.lower() for step in self.steps)
        self._said: dict[frozenset[str], Headers] = {}  # by the names of steps that left a message as it was
        self._is_plain = type(self.serializer) is Json and not self.steps and not self.reads
        """JSON as ever: nothing is said in headers, and only the serializer is asked."""
        self._stale = StaleHeaders(self.serializer, self.reads)
        self.waits = any(part.waits for part in self.parts)
        """Whether `write` and decoders may give a `Later`."""
        self.opens = any(_opens(part) for part in self.parts)
        """Whether any part does something when it is opened or closed."""

    def __repr__(self) -> str:
        return f"<PayloadPipeline {', '.join([self.serializer.name, *(step.name for step in self.steps)])}>"

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
        for name, _ in outgoing.headers:
            if name in STALE:
                if not isinstance(message, bytes):  # which are published as they are, and so may well be what these say
                    outgoing.headers = self._stale.without(outgoing.headers)
                break
        try:
            data: Any = self.serializer.encode(message, outgoing)
        except BaseException as error:
            raise _encode_error(self.serializer, error) from None
        if self._is_plain:
            return data  # type: ignore[no-any-return]
        if data.__class__ is not bytes:
            if data is None:
                return None
            if isinstance(data, Later):
                return Later(partial(self._write_first_later, data, outgoing, outgoing.headers))
            data = as_bytes(self.serializer, "encode", data)
        return self._write_steps(data, self._writers, _NONE, outgoing)

    def write_key(self, key: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        """The bytes of a key, by the pipeline's serializer of keys. Raises as `write` does, and names the key."""
        if self.key is None:
            raise ConfigurationError("the pipeline has no serializer for keys")
        try:
            data = self.key.encode(key, outgoing)
        except BaseException as error:
            raise _of_key(_encode_error(self.key, error)) from None
        return Later(partial(_key_later, self.key, data)) if isinstance(data, Later) else data

    def _write_steps(
        self, data: bytes, writers: Sequence[_Writer], skipped: frozenset[str], outgoing: Outgoing
    ) -> bytes | Later[Any]:
        """`skipped`: steps that are not required and gave back what they got: they are not said to be done."""
        for step, encode in writers:
            try:
                done: Any = encode(data, outgoing)
            except BaseException as error:
                raise _encode_error(step, error) from None
            if done.__class__ is not bytes:
                if isinstance(done, Later):
                    following = writers[[id(each) for each, _ in writers].index(id(step)) + 1 :]
                    later = partial(self._write_later, done, data, step, following, skipped, outgoing, outgoing.headers)
                    return Later(later)
                done = as_bytes(step, "encode", done)
            if done is data and not step.required:
                skipped |= {step.name}
            data = done
        said = self._said.get(skipped)
        if said is None:
            said = self._said[skipped] = _said(self.serializer, self.steps, skipped)
        given = outgoing.headers
        if not given:
            outgoing.headers = said
            return data
        for name, _ in given:
            if name in _SAYING:
                self._say_beside(said, outgoing)
                return data
        outgoing.headers = (*given, *said)
        return data

    def _say_beside(self, said: Headers, outgoing: Outgoing) -> None:
        """Adds the headers that say how a message was written to those that the caller gave, which say some of it."""
        for name, value in said:
            if name == CONTENT_ENCODING:
                self._say_encodings(value or b"", outgoing)
            else:
                outgoing.add(name, value or b"")

    def _say_encodings(self, done: bytes, outgoing: Outgoing) -> None:
        """Adds `content-encoding`. What the caller says there counts for others' encodings only.

        The headers of a message that is passed on may name steps that were not done to this one.
        """
        given = next((value for name, value in reversed(outgoing.headers) if name == CONTENT_ENCODING), None)
        others = [name for name in listed(given or b"") if name.lower() not in self._names | {IDENTITY}]
        true = ", ".join([*others, *(name for name in listed(done) if name != IDENTITY)]) or IDENTITY
        if given is None or [*listed(given)] != [*listed(true.encode())]:
            outgoing.headers = (*outgoing.headers, (CONTENT_ENCODING, true.encode()))  # of several the last counts

    async def _write_first_later(self, later: Later[Any], outgoing: Outgoing, headers: Headers) -> bytes | None:
        """`headers`: those so far. Each attempt begins with them, as the last one may have added some."""
        outgoing.headers = headers
        try:
            data = await later
        except BaseException as error:
            raise _encode_error(self.serializer, error, waited=True) from None
        if data is None:
            return None
        done = self._write_steps(as_bytes(self.serializer, "encode", data), self._writers, _NONE, outgoing)
        return await done if isinstance(done, Later) else done

    async def _write_later(
        self,
        later: Later[Any],
        data: bytes,
        step: BytesStep,
        following: Sequence[_Writer],
        skipped: frozenset[str],
        outgoing: Outgoing,
        headers: Headers,
    ) -> bytes:
        """`headers`: as for `_write_first_later`."""
        outgoing.headers = headers
        try:
            done = as_bytes(step, "encode", await later)
        except BaseException as error:
            raise _encode_error(step, error, waited=True) from None
        if done is data and not step.required:
            skipped |= {step.name}
        rest = self._write_steps(done, following, skipped, outgoing)
        return await rest if isinstance(rest, Later) else rest

    # --- reading

    def decoder(self, target_type: Any, source_of: SourceOf | None = None) -> Decoder:
        """A function from messages to the type. It raises `PayloadDecodeError`, which never shows the payload.

        It may give a `Later`, if the pipeline `waits`.

        Args:
            target_type: what the messages are decoded into.
            source_of: gives the topic in which a message was first published; None: its own.

        Raises:
            ConfigurationError: the serializer cannot give this type.
        """
        if self._is_plain:
            return self.serializer.decoder(target_type)
        read = by_format([self.serializer, *self.reads], target_type) if self.reads else None
        deserialize = read or self.serializer.decoder(target_type)
        return Unwrapping(self.steps, self.serializer, deserialize, source_of).decode

    def key_decoder(self, target_type: Any, source_of: SourceOf | None = None) -> Decoder:
        """A function from messages to the type of their key. Its errors name the key; else it is as `decoder`."""
        read = key_decoder(target_type) if self.key is None else self.key.decoder(target_type, "key")
        return _KeyReading(read, self.key, target_type, source_of).decode

    async def read(self, message: Kept, target_type: Any, *, topic: str | None = None) -> Any:
        """The value of a message that was kept: a `RawMessage`, or a `DeadLetter`. For tools and tests.

        `topic`: where it was first published; None: as a dead letter says, else its own.

        Raises:
            PayloadDecodeError: it cannot be decoded.
            PayloadUnavailableError: something that is needed cannot be reached.
            ConfigurationError: the serializer cannot give this type.
        """
        first = topic or getattr(message, "first_topic", None) or message.topic
        headers = message.headers.raw if isinstance(message.headers, MessageHeaders) else message.headers
        incoming = Incoming(first, message.key, message.value, headers)
        try:
            value = self.decoder(target_type)(incoming)
            return await value if isinstance(value, Later) else value
        except PayloadDecodeError as error:
            raise PayloadDecodeError(f"{error}{self.hint(incoming)}", step=error.step) from None

    def hint(self, message: Received) -> str:
        """For the end of a decode error: what tells that the message was written by another pipeline; may be empty."""
        return hint(message, self.steps, (self.serializer, *self.reads))

    @property
    def has_only_json(self) -> bool:
        """Whether no other format is read."""
        return all(type(each) is Json for each in (self.serializer, *self.reads))

    # --- life

    async def open(self) -> None:
        """Opens all parts. An app does it in the event loop of its consumers, see `Serializer.open`."""
        for part in self.parts:
            await part.open()

    async def close(self) -> None:
        """Closes all parts."""
        for part in self.parts:
            await part.close()


class _KeyReading:
    """Reads keys. Null keys are given, as None, to types that allow it."""

    def __init__(
        self, read: Decoder, serializer: Serializer | None, target_type: Any, source_of: SourceOf | None
    ) -> None:
        target = Target(target_type)
        self._name, self._allows_none = target.name, target.allows_none
        self._read, self._serializer, self._source_of = read, serializer, source_of

    def decode(self, message: Received) -> Any:
        key = message.key
        if key is None:
            if self._allows_none:
                return None
            raise PayloadDecodeError(f"the key is null, and {self._name} does not allow None", step=KEY)
        topic = message.topic if self._source_of is None else self._source_of(message)
        try:
            value = self._read(Incoming(topic, key, key, message.headers))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise self._explained(error) from None
        return Later(partial(self._later, value)) if isinstance(value, Later) else value

    async def _later(self, later: Later[Any]) -> Any:
        try:
            return await later
        except ENDINGS:
            raise
        except BaseException as error:
            raise self._explained(error) from None

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, PayloadError):
            return _of_key(error)
        name = KEY if self._serializer is None else self._serializer.name
        text = failed(self._serializer, "decode", error) if self._serializer is not None else type(error).__name__
        return PayloadDecodeError(f"the key: {text}", step=name)


async def _key_later(serializer: Serializer, later: Later[bytes | None]) -> bytes | None:
    try:
        return await later
    except BaseException as error:
        raise _of_key(_encode_error(serializer, error, waited=True)) from None


def _of_key(error: BaseException) -> BaseException:
    return type(error)(f"the key: {error}", step=error.step) if isinstance(error, PayloadError) else error


def _encode_error(step: Serializer | BytesStep, error: BaseException, *, waited: bool = False) -> BaseException:
    """Without its text, which may show the message. Our own are as they are, and so is what ends task or process.

    `waited`: it was raised while something was waited for, so it may be what ends the task.
    """
    ends = isinstance(error, ENDINGS if waited else KeyboardInterrupt)
    if ends or isinstance(error, PayloadError | ConfigurationError):
        return error
    return PayloadEncodeError(failed(step, "encode", error), step=step.name)


def _sorted_out(
    steps: Sequence[Any],
) -> tuple[Serializer, tuple[BytesStep, ...]]:
    serializer: Serializer | None = None
    found: list[BytesStep] = []
    for number, step in enumerate(steps):
        if isinstance(step, Serializer):
            if serializer is not None:
                raise ConfigurationError(
                    f"a pipeline writes with one serializer, and {serializer.name} and {step.name} are two: what is "
                    "only read goes into reads=[...]"
                )
            if number:
                raise ConfigurationError(
                    f"the serializer {step.name} must be the first step of its pipeline: what is before it would get "
                    "no bytes"
                )
            serializer = step
        elif isinstance(step, BytesStep):
            found.append(step)
        elif is_payload_step(step):
            found.append(AdaptedStep(step))
        else:
            raise not_a_step(step)
    return serializer or Json(), tuple(found)


def _parts(pipeline: PayloadPipeline) -> tuple[Serializer | BytesStep, ...]:
    key = () if pipeline.key is None else (pipeline.key,)
    every: Iterator[Serializer | BytesStep] = iter((pipeline.serializer, *pipeline.steps, *pipeline.reads, *key))
    return tuple({id(part): part for part in every}.values())


def _opens(part: Serializer | BytesStep) -> bool:
    base = Serializer if isinstance(part, Serializer) else BytesStep
    return type(part).open is not base.open or type(part).close is not base.close


def _said(serializer: Serializer, steps: Sequence[BytesStep], skipped: frozenset[str]) -> Headers:
    """The headers that say how a message was written."""
    done = ", ".join(step.name for step in steps if step.writes and step.name not in skipped) or (
        IDENTITY if steps else ""
    )
    kind = serializer.content_type
    return (
        *([(CONTENT_ENCODING, done.encode())] if done else []),
        *([(CONTENT_TYPE, kind.encode())] if kind is not None else []),
    )
