"""The tables of docs/settings.md, made of the settings' classes, where comments say what the fields mean.

`python -m tests.support.settings_page` writes them again.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fastapi_athomic import operation_settings, payload_settings, settings
from fastapi_athomic.settings import AthomicSettings
from fastapi_athomic.variables import PREFIX, variable
from tests.support.sources import parsed

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
SOURCES = [Path(str(module.__file__)).read_text() for module in (settings, payload_settings, operation_settings)]
TABLES = {
    "AthomicSettings": (),
    "KafkaSettings": ("kafka",),
    "MemorySettings": ("memory",),
    "ContextSettings": ("context",),
    "OrderedSettings": ("ordered",),
    "HealthSettings": ("health",),
    "ControlSettings": ("control",),
    "DashboardSettings": ("dashboard",),
    "AsyncApiSettings": ("asyncapi",),
    "SharingSettings": ("sharing",),
    "WorkerSettings": ("worker",),
    "PipelineSettings": ("payload",),
    "PayloadSettings": ("payload",),
    "TopicSettings": ("payload", "topics", "0"),
    "RegistrySettings": ("payload", "registry"),
    "HandlerTuning": ("tuning", "0"),
    "RetryTuning": ("tuning", "0", "retry"),
}
"""Each class with the path to its settings."""
IN_CODE = {"handler_tuning"}
"""Tables whose keys no environment variable can have."""


def page() -> str:
    """The page with its tables as they should be. What is between two markers is a table."""
    text = PAGE.read_text()
    for name in TABLES:
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + "\n".join(table(name)) + "\n\n" + end + rest.partition(end)[2]
    return text


def table(name: str) -> Iterator[str]:
    model = model_of(name)
    comments = comments_of(name)
    yield "| variable | default | |"
    yield "|---|---|---|"
    for field, _ in fields_of(name):  # those that it has inherited are in another table
        info = model.model_fields[field]
        if is_section(info.annotation):
            continue
        shown = f"{field} (in code only)" if field in IN_CODE else variable([*TABLES[name], field])
        meaning = comments[field] + values(info.annotation) + unit(model, field, info.default)
        default = shown_default(info.default, seconds="Seconds" in annotations_of(name)[field])
        yield f"| `{shown}` | {default} | {meaning} |".replace("|  |", "| |")


def model_of(name: str) -> type[BaseModel]:
    modules = (settings, payload_settings, operation_settings)
    found: type[BaseModel] = next(kind for module in modules if (kind := getattr(module, name, None)) is not None)
    return found


def is_section(annotation: Any) -> bool:
    kinds = [annotation, *get_args(annotation)]
    return (
        any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)
        and get_origin(annotation) is not dict
    )


def shown_default(default: Any, seconds: bool) -> str:
    if default is PydanticUndefined or default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return f"`{default}`"
    return f"{default:g} s" if seconds else str(default)


def values(annotation: Any) -> str:
    literal = next((kind for kind in inside(annotation) if get_origin(kind) is Literal), None)
    return "" if literal is None else f". One of {', '.join(f'`{value}`' for value in get_args(literal))}"


def inside(annotation: Any) -> Iterator[Any]:
    """The annotation and all that it is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from inside(argument)


def unit(model: type[BaseModel], field: str, default: Any) -> str:
    return " (seconds)" if default is None and "Seconds" in annotations_of(model.__name__)[field] else ""


def class_of(name: str) -> ast.ClassDef:
    found = (node for node in parsed(source_of(name)).body if isinstance(node, ast.ClassDef) and node.name == name)
    return next(found)


def source_of(name: str) -> str:
    return next(source for source in SOURCES if f"\nclass {name}(" in source)


def annotations_of(name: str) -> dict[str, str]:
    return {field: ast.unparse(node.annotation) for field, node in fields_of(name)}


def fields_of(name: str) -> Iterator[tuple[str, ast.AnnAssign]]:
    for node in class_of(name).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node


def comments_of(name: str) -> dict[str, str]:
    """The comment behind each field, or in the lines above it."""
    tokens = tokenize.generate_tokens(StringIO(source_of(name)).readline)
    lines = {
        token.start[0]: (token.string.lstrip("# "), not token.line.strip().startswith("#"))
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found = {}
    for field, node in fields_of(name):
        above: list[str] = []
        number = node.lineno - 1
        while number in lines and not lines[number][1]:
            above.insert(0, lines[number][0])
            number -= 1
        behind = [lines[number][0] for number in range(node.lineno, node.end_lineno + 1) if number in lines]  # type: ignore[operator]
        found[field] = as_variables(" ".join([*above, *behind]), name)
    return found


def as_variables(text: str, name: str) -> str:
    """Names of settings as a reader of the page knows them."""
    named = {field: variable([*TABLES[name], field]) for field, _ in fields_of(name)}
    named |= {field: variable([field]) for field in AthomicSettings.model_fields if field not in named}
    return re.sub(r"`(\w+)`", lambda match: f"`{named.get(match[1], match[1])}`", text)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}, variables begin with {PREFIX}")  # noqa: T201
