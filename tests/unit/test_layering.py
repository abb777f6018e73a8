"""Every module has a layer and imports only from layers below its own; so there are no cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fastapi_athomic

PACKAGE = Path(fastapi_athomic.__file__).parent
NAME = PACKAGE.name

LAYERS = [
    ["exceptions", "messages", "timings", "status", "lag", "garbage", "fidelity", "cancellation", "termination"],
    ["settings", "outcomes", "context", "counters", "fairness", "isolation", "threads", "losses"],
    ["logs", "payload", "lifecycle", "retry", "lineage", "telemetry", "middleware", "injection", "transports.base"],
    ["headers", "offsets", "decorators", "transports.memory_broker", "stores.base", "parking"],
    ["own_topics"],
    ["redelivery", "sequences", "stores.memory", "stores.redis"],
    ["topic_watch", "letters"],
    ["partitions", "positions", "dlq", "discovery", "transports.memory"],
    [
        "transports.kafka_client",
        "transports.kafka_prefetch",
        "transports.kafka_records",
        "transports.kafka_membership",
        "transports.kafka_tls",
        "transports.kafka_topics",
    ],
    ["transports.kafka_connection", "transports.kafka_unreadable"],
    ["transports.kafka_single"],
    ["transports.kafka_consumer", "transports.kafka_producer", "transports.kafka_reader"],
    ["transports.kafka"],
    ["processors", "publisher", "dead_letters", "left_behind"],
    ["aggregates"],
    ["strategies", "ledger"],
    ["batches", "ordering"],
    ["session"],
    ["consumer"],
    ["openlineage_events"],
    ["factory"],
    ["manager"],
    ["metrics"],
    ["prometheus"],
    ["routes"],
    ["athomic"],
    ["cli"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def modules() -> dict[str, Path]:
    """All modules but the `__init__` files, which only gather names."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }


def imports_of(name: str, path: Path) -> Iterator[str]:
    """The package's own modules that a module imports, wherever in it, `TYPE_CHECKING` blocks included."""
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_every_module_has_one_layer() -> None:
    assert sorted(modules()) == sorted(LAYER_OF)


def test_imports_go_down() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        for imported in imports_of(name, path)
        if LAYER_OF.get(imported, len(LAYERS)) >= LAYER_OF[name]
    ]
    assert wrong == []


def test_the_test_sees_imports() -> None:
    assert "transports.memory" in set(imports_of("factory", PACKAGE / "factory.py"))
    assert "transports.kafka" in set(imports_of("factory", PACKAGE / "factory.py")), "inside a function too"
    assert "settings" in set(imports_of("transports.memory", PACKAGE / "transports" / "memory.py"))
