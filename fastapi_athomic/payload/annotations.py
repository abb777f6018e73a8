"""What an annotation means: the type behind aliases (PEP 695) and `Annotated`, and its name for people."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, get_args, get_origin

import typing_extensions

# before Python 3.14 typing_extensions has a class of its own, besides that of Python 3.12 and 3.13
_ALIASES: tuple[type, ...] = (
    typing_extensions.TypeAliasType,
    getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType),
)


def unaliased(annotation: Any) -> Any:
    """What an alias (`type Order = ...`, also `Batch[Order]` of a generic one) stands for; anything else as it is.

    Raises:
        NameError: the alias names something that is not defined. An alias is evaluated when it is first used.
    """
    while True:
        if isinstance(annotation, _ALIASES):
            annotation = typing.cast(Any, annotation).__value__
        elif isinstance(get_origin(annotation), _ALIASES):
            filled_in = _filled_in(get_origin(annotation), get_args(annotation))
            if filled_in is annotation:
                return annotation
            annotation = filled_in
        else:
            return annotation


def _filled_in(alias: Any, arguments: tuple[Any, ...]) -> Any:
    """The value of a generic alias, with the arguments in place of its parameters."""
    by_parameter = dict(zip(alias.__type_params__, arguments, strict=False))
    value = alias.__value__
    if value in by_parameter:
        return by_parameter[value]
    wanted = getattr(value, "__parameters__", ())
    return value[tuple(by_parameter.get(parameter, parameter) for parameter in wanted)] if wanted else value


def split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type behind aliases and `Annotated`, and what was annotated: the innermost first, as in `Annotated`."""
    found: tuple[Any, ...] = ()
    while True:
        annotation = unaliased(annotation)
        if get_origin(annotation) is not Annotated:
            return annotation, found
        annotation, *metadata = get_args(annotation)
        found = (*metadata, *found)


def expanded(annotation: Any) -> Any:
    """The same annotation, in which no alias hides the type or what is annotated. Aliases inside the type stay."""
    kind, metadata = split(annotation)
    return Annotated[(kind, *metadata)] if metadata else kind


def type_name(kind: Any) -> str:
    """The name of a type for people, without modules: `list[Order]`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if origin is not None and arguments:
        return f"{type_name(origin)}[{', '.join(map(type_name, arguments))}]"
    if kind is type(None):
        return "None"
    if isinstance(kind, list):  # the parameters of a Callable
        return f"[{', '.join(map(type_name, kind))}]"
    return getattr(kind, "__name__", None) or repr(kind)
