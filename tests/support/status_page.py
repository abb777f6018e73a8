"""The tables of docs/status.md, made of the models: `python -m tests.support.status_page` writes them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from fastapi_athomic.observation.status import ConsumerStatus

PAGE = Path(__file__).parents[2] / "docs" / "status.md"
BEGIN, END = "<!-- fields -->\n", "<!-- /fields -->"


def page() -> str:
    """The page with its tables as they should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(tables()) + "\n" + END + after


def tables() -> Iterator[str]:
    """A table for each model that the status is made of."""
    for model in models(ConsumerStatus):
        yield f"### {model.__name__}\n"
        yield f"{first_paragraph(model)}\n"
        yield "| field | type | |"
        yield "|---|---|---|"
        for name, field in model.model_fields.items():
            yield f"| `{name}` | {shown(field.annotation)} | {escaped(field.description or '')} |"
        yield ""


def models(root: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and all that its fields refer to, each once, in the order in which they are met."""
    found, waiting = list[type[BaseModel]](), [root]
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found.append(model)
            waiting += [kind for field in model.model_fields.values() for kind in inside(field.annotation)]
    return found


def inside(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation."""
    for kind in (annotation, *get_args(annotation)):
        if kind is not annotation:
            yield from inside(kind)
        elif isinstance(kind, type) and not get_args(kind) and issubclass(kind, BaseModel):
            yield kind


def first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").partition("\n\n")[0].split())


def shown(annotation: Any) -> str:
    """A type as JSON has it."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if type(None) in get_args(annotation):
        return f"{' or '.join(shown(kind) for kind in kinds)}, null"
    if getattr(annotation, "__origin__", None) is list:
        return f"list of {shown(kinds[0])}"
    if getattr(annotation, "__origin__", None) is dict:
        return f"{shown(kinds[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}
    names |= {"datetime": "time", "AwareDatetime": "time"}
    return names.get(annotation.__name__, "text")


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE.name}\n")
