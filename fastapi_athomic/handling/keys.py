"""`Key[...]`: a handler's parameter for the key of its message, decoded into a type."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from ..payload.annotations import split

T = TypeVar("T")


class _KeyMarker:
    """Says that a parameter gets the message's key."""

    def __repr__(self) -> str:
        return "Key"


_MARKER = _KeyMarker()

Key = Annotated[T, _MARKER]
"""The key of a message, for handlers and their dependencies: `async def handle(order: Order, key: Key[UUID])`.

To type checkers it is the type itself. A handler of batches takes `list[Key[UUID]]`: one for each message. Keys are
read by the pipeline's serializer of keys; without one `bytes` and `str` as they are, other types from their text
(`int`, `UUID`, a date), models from JSON. A null key needs a type that allows None. A key that cannot be decoded makes
a dead letter, as a payload does.
"""


def key_type(annotation: Any, *, batch: bool) -> Any | None:
    """What keys are decoded into for a parameter of this annotation; None: it is not for keys.

    `batch`: the parameter must be a list of keys. Raises `ValueError`, with a sentence, if it is for keys and wrong.
    """
    kind, markers = split(annotation)
    if any(isinstance(marker, _KeyMarker) for marker in markers):
        if batch:
            raise ValueError("is the key of one message: a handler of batches takes list[Key[...]]")
        return _checked(kind, markers)
    arguments = get_args(kind)
    if get_origin(kind) in (list, Sequence) and len(arguments) == 1:
        inner = key_type(arguments[0], batch=False)
        if inner is not None and not batch:
            raise ValueError("is for the keys of a batch: without batch_size it is Key[...]")
        return inner
    if get_origin(kind) in (Union, UnionType):
        found = [key_type(each, batch=batch) for each in arguments if each is not NoneType]
        if any(each is not None for each in found):
            raise ValueError("may be null: write Key[... | None], with the None inside")
    return None


def _checked(kind: Any, markers: Sequence[Any]) -> Any:
    if isinstance(kind, TypeVar):
        raise ValueError("says no type: write Key[str], Key[UUID] or the like")
    others = [marker for marker in markers if not isinstance(marker, _KeyMarker)]
    return Annotated[(kind, *others)] if others else kind
