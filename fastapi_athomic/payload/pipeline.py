"""From Python values to bytes and back: serialization, then the steps that work on the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..error_text import located
from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError
from .deserialization import Decoder, deserializer
from .serialization import serialize


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

    It publishes pydantic models, dataclasses and anything else that JSON can hold, if it can be read back as the same
    value (see docs/payload.md). `bytes` and `str` (in UTF-8) are published as they are. None becomes a null value (a
    tombstone), which skips the steps.

    A handler's type decides what the handler gets: `bytes` and `str` as they came, anything else validated by pydantic
    straight from the JSON bytes. A null value reaches only handlers whose type allows None.
    """

    def __init__(self, steps: Sequence[PayloadStep] = ()) -> None:
        for step in steps:
            if not (getattr(step, "name", None) and callable(getattr(step, "encode", None)) and callable(step.decode)):
                raise ConfigurationError(
                    f"{type(step).__name__} is not a payload step: it needs name, encode and decode"
                )
        self._steps = tuple(steps)

    def encode(self, message: object) -> bytes | None:
        """The bytes of a message.

        Raises:
            PayloadEncodeError: names the step and the kind of error, or the field that would not be read back as the
                same value; never shows the message.
        """
        if message is None:
            return None
        data = serialize(message)
        for step in self._steps:
            try:
                data = step.encode(data)
            except Exception as error:
                raise PayloadEncodeError(_failed(step, "encode", error), step=step.name) from error
        return data

    def decoder(self, target_type: Any) -> Decoder:
        """A function from bytes to the type. It raises `PayloadDecodeError`, which never shows the payload.

        Raises:
            ConfigurationError: pydantic cannot validate the type.
        """
        deserialize = deserializer(target_type)
        if not self._steps:
            return deserialize
        steps = self._steps[::-1]

        def decode(data: bytes | None) -> Any:
            if data is not None:
                for step in steps:
                    data = _undo(step, data)
            return deserialize(data)

        return decode


def _undo(step: PayloadStep, data: bytes) -> bytes:
    try:
        return step.decode(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PayloadDecodeError(_failed(step, "decode", error), step=step.name) from None


def _failed(step: PayloadStep, doing: str, error: BaseException) -> str:
    return f"step {step.name} could not {doing} the payload: {located(error)}"
