"""Steps of users: anything with a name, `encode(data)` and `decode(data)`, sync or async."""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Protocol

from .steps import BytesStep, Incoming, Later, Outgoing


class PayloadStep(Protocol):
    """Something done to the bytes, such as a checksum. What `decode` raises makes a dead letter.

    Either method may be `async`. A step that needs the topic, the key or the headers, or that a message may lack, is a
    subclass of `steps.BytesStep`.
    """

    @property
    def name(self) -> str:
        """Names the step in errors, and in the header `content-encoding`."""
        ...

    def encode(self, data: bytes) -> Any:
        """Gives `bytes`. Called when a message is published."""
        ...

    def decode(self, data: bytes) -> Any:
        """Undoes `encode`; called before a message is handled."""
        ...


class AdaptedStep(BytesStep):
    """A `PayloadStep` in a pipeline."""

    def __init__(self, step: PayloadStep) -> None:
        self.name = step.name
        self._step = step
        self._waits_to_write, self._waits_to_read = iscoroutinefunction(step.encode), iscoroutinefunction(step.decode)
        self.waits = self._waits_to_write or self._waits_to_read

    def encode(self, data: bytes, outgoing: Outgoing) -> Any:
        return Later(partial(self._step.encode, data)) if self._waits_to_write else self._step.encode(data)

    def decode(self, data: bytes, incoming: Incoming) -> Any:
        return Later(partial(self._step.decode, data)) if self._waits_to_read else self._step.decode(data)


def is_payload_step(thing: Any) -> bool:
    """Whether an object has what a `PayloadStep` needs."""
    return (
        not isinstance(thing, type)
        and isinstance(getattr(thing, "name", None), str)
        and callable(getattr(thing, "encode", None))
        and callable(getattr(thing, "decode", None))
    )
