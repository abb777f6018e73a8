"""Is a value of a type? It is not converted, and the fields of a model are not validated again."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, PlainValidator, ValidationError
from pydantic_core import PydanticKnownError

from ..compatibility import model_fields
from ..exceptions import ConfigurationError
from .annotations import type_name, unaliased
from .target import Target


class InstanceCheck:
    """Tells whether values are of a type, as a type checker would: constraints and validators are left aside.

    Raises:
        ConfigurationError: nothing can be of this type.
    """

    def __init__(self, kind: Any) -> None:
        self._name = type_name(kind)
        value = unaliased(kind)
        bare = kind if isinstance(value, str) else value  # an alias of quoted text, which pydantic resolves
        try:
            self._target = Target(_checked_by_class(bare))
        except ConfigurationError as error:
            if not isinstance(bare, type):
                raise ConfigurationError(f"messages cannot be checked to be {self._name}: {error.__cause__}") from error
            self._target = Target(_by_class(bare))  # pydantic does not know it, such as one that Protobuf generates

    def problem(self, value: object) -> str | None:
        """Why the value is not of the type, without showing any of it; None if it is."""
        try:
            self._target.adapter.validate_python(value, strict=True)
        except ValidationError as error:
            return f"it takes {self._name}, not {type_name(type(value))}: {self._target.describe(error)}"
        return None


def _checked_by_class(kind: Any) -> Any:
    """The type, in which models and dataclasses ask for instances only: pydantic takes dicts for them, too."""
    kind = getattr(kind, "__supertype__", kind)  # of a `NewType`
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _checked_by_class(arguments[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_checked_by_class, arguments))]  # noqa: UP007 - of a tuple
    if _is_record(origin or kind):
        return _by_class(origin or kind)
    if origin is None or not arguments or origin is Literal or not isinstance(origin, type):
        return kind
    container: Any = origin
    return container[tuple(map(_checked_by_class, arguments))]


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))


def _by_class(kind: type) -> Any:
    origin = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin")
    if origin is None:
        return Annotated[Any, PlainValidator(partial(_instance, kind))]
    return Annotated[Any, PlainValidator(partial(_instance_of_generic, kind, origin, _filled_in(kind, origin)))]


def _instance(kind: type, value: object) -> object:
    if isinstance(value, kind):
        return value
    raise PydanticKnownError("is_instance_of", {"class": type_name(kind)})


def _filled_in(kind: type, origin: type) -> dict[str, InstanceCheck]:
    """Checks of the fields in which `Envelope[Order]` differs from `Envelope`."""
    declared = model_fields(origin)
    differing = ((name, field) for name, field in model_fields(kind).items() if name in declared)
    return {
        name: InstanceCheck(field.annotation)
        for name, field in differing
        if field.annotation != declared[name].annotation
    }


def _instance_of_generic(kind: type, origin: type, checks: dict[str, InstanceCheck], value: object) -> object:
    """`Envelope(data=order)` is an `Envelope[Order]` for a type checker, and no instance of it."""
    if isinstance(value, kind) or (isinstance(value, origin) and _all_fit(value, checks.items())):
        return value
    raise PydanticKnownError("is_instance_of", {"class": type_name(kind)})


def _all_fit(value: object, checks: Iterable[tuple[str, InstanceCheck]]) -> bool:
    return not any(check.problem(getattr(value, name)) for name, check in checks)
