"""Rooms stand on floors: what is in one imports only from floors below. Inside a folder nothing imports in circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fastapi_athomic
from tests.support.sources import parsed

PACKAGE = Path(fastapi_athomic.__file__).parent
NAME = PACKAGE.name

FLOORS = [
    ["__main__"],
    ["cli", "testing"],
    ["inclusion", "workers"],
    ["athomic"],
    ["web"],
    ["run"],
    ["assembly", "exporters", "control", "asyncapi"],
    ["manager"],
    ["factory"],
    ["sequencing"],
    ["consumption", "observers", "declared_publishers"],
    ["handling", "publishing"],
    ["failures", "unclaimed", "uplink"],
    ["publisher", "decorators", "discovery", "observation", "pipelines"],
    ["broker", "subscriptions", "propagation", "schemas"],
    ["retry", "limits", "payload", "stores", "transports", "loop", "lifecycle"],
    ["settings", "outcomes", "complaints", "extras", "tls"],
    ["payload_settings", "operation_settings"],
    [
        "messages",
        "variables",
        "addresses",
        "announcements",
        "exceptions",
        "sightings",
        "error_text",
        "checks",
        "rights",
        "bell",
        "clock",
        "compatibility",
        "unpacking",
    ],
]
"""From the top. ARCHITECTURE.md says what each room is for."""
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """All modules but the package's own `__init__`, which gathers the public names."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    }


def room(module: str) -> str:
    """The folder that a module is in, or the module itself where it is in none."""
    return module.partition(".")[0]


def imports_of(name: str, path: Path) -> Iterator[str]:
    """The package's own modules that a module imports, wherever in it, `TYPE_CHECKING` blocks included."""
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(f"{NAME}.") for alias in node.names if alias.name.startswith(NAME))
        elif isinstance(node, ast.ImportFrom):
            target = (node.module or "").split(".") if node.module else []
            if node.level:
                base = name.split(".")[: -node.level]
                yield from _modules([*base, *target], node)
            elif target[:1] == [NAME]:
                yield from _modules(target[1:], node)


def _modules(target: list[str], node: ast.ImportFrom) -> Iterator[str]:
    """`from .x import y` names the module x, or the module y in the package x."""
    known = modules()
    if ".".join(target) in known:
        yield ".".join(target)
    else:
        yield from (".".join([*target, alias.name]) for alias in node.names)


def test_every_room_has_one_floor() -> None:
    assert {room(module) for module in modules()} == FLOOR_OF.keys()
    assert sum(map(len, FLOORS)) == len(FLOOR_OF)


def test_imports_go_down() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        for imported in imports_of(name, path)
        if room(imported) != room(name) and FLOOR_OF.get(room(imported), -1) <= FLOOR_OF[room(name)]
    ]
    assert wrong == []


def test_nothing_imports_in_circles() -> None:
    graph = {name: set(imports_of(name, path)) for name, path in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_every_folder_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("__init__.py")
        if not ast.get_docstring(parsed(path.read_text()))
    ]
    assert silent == []


def test_the_test_sees_imports() -> None:
    schemes = set(imports_of("transports.schemes", PACKAGE / "transports" / "schemes.py"))
    assert "transports.memory.transport" in schemes
    assert "transports.kafka.transport" in schemes, "inside a function too"
    memory = PACKAGE / "transports" / "memory" / "transport.py"
    assert "settings" in set(imports_of("transports.memory.transport", memory))
