"""The routes as OpenAPI has them, for docs/routes.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, include_athomic
from fastapi_athomic.operation_settings import ControlSettings


def routes() -> Iterator[str]:
    """A section for each route: parameters, body, answers."""
    app = FastAPI()
    include_athomic(app, settings=AthomicSettings(control=ControlSettings(enabled=True, allow_anonymous=True)))
    described = app.openapi()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            yield f"## `{method.upper()} {path}`\n"
            yield f"{operation['summary']}. {operation.get('description', '')}\n"
            yield from table("parameter", [parameter(one) for one in operation.get("parameters", [])])
            yield from table("in the body", body(operation, described["components"]["schemas"]))
            yield from table("answer", list(answers(operation)))


def table(title: str, rows: list[str]) -> Iterator[str]:
    if rows:
        yield "\n".join([f"| {title} | |", "|---|---|", *rows, ""])


def parameter(described: dict[str, Any]) -> str:
    default = described["schema"].get("default")
    return row(described["name"], described.get("description", ""), default)


def row(name: str, meaning: str, default: object) -> str:
    shown = "" if default is None else f" (default: {default})"
    return f"| `{name}` | {meaning.replace('|', chr(92) + '|')}{shown} |"


def body(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """The fields of the body. Bodies are models with a name."""
    content = operation.get("requestBody", {}).get("content", {})
    names = [one["schema"]["$ref"].rpartition("/")[2] for one in content.values()]
    return [
        row(field, described.get("description", ""), described.get("default"))
        for name in names
        for field, described in schemas[name]["properties"].items()
    ]


def answers(operation: dict[str, Any]) -> Iterator[str]:
    for status, answer in operation["responses"].items():
        models = [
            one.get("schema", {}).get("$ref", "").rpartition("/")[2] for one in answer.get("content", {}).values()
        ]
        model = "".join(f" (`{name}`)" for name in models if name)
        yield f"| {status} | {answer['description']}{model} |"
