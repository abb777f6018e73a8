"""ARCHITECTURE.md and CONTRIBUTING.md name only what exists: files, classes, functions, and the floors of the rooms.

Docstrings of rooms explain their words and, in large rooms, name all modules.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

import fastapi_athomic
from tests.support.sources import parsed
from tests.unit.test_layering import FLOORS, imports_of

PACKAGE = Path(fastapi_athomic.__file__).parent
ROOT = PACKAGE.parent
PAGES = {name: (ROOT / name).read_text() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")}
SOURCES = [
    path
    for folder in (PACKAGE, ROOT / "tests", ROOT / "benchmarks")
    for path in sorted(folder.rglob("*.py"))
    if path != Path(__file__)
]
FEWEST = {"ARCHITECTURE.md": 60, "CONTRIBUTING.md": 10}
"""So many references each page has at least: else the test no longer finds them."""

PLACE = re.compile(r"([\w./-]+\.py): ([A-Za-z_][\w.]*\w)")
"""`file.py: Class.method`"""
NODE = re.compile(r"([\w./-]+\.py)::(\w+)")
"""A test, as pytest names it."""
MEMBER = re.compile(r"(?<![\w./`])`?([A-Z]\w*[a-z]\w*)\.(\w+)")
"""`Class.member`"""
SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(/[\w.-]*)+|[\w.-]+\.(py|md|toml|yml)")
SCRIPT = re.compile(r"(?<![\w/])scripts/\w+")
NAME = re.compile(r"[A-Za-z_]\w*")
VARIABLE = re.compile(r"ATHOMIC_[A-Z_]+\b(?!\.)")
ENTRY = re.compile(r"^    (\w+) {2,}\S", re.MULTILINE)
"""One module, in a room's docstring."""


def located(path: str) -> Path | None:
    """A path counts from the root of the repository, or from the package."""
    return next((base / path for base in (ROOT, PACKAGE) if (base / path).exists()), None)


@cache
def tree(path: Path) -> ast.Module:
    return parsed(path.read_text())


def members(node: ast.AST) -> dict[str, ast.AST]:
    """What is defined in a module or a class; of a class also the attributes that its methods set."""
    found: dict[str, ast.AST] = {}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[child.name] = child
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            found |= {target.id: child for target in targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.ClassDef):
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _is_self(part.value):
                found.setdefault(part.attr, part)
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def is_defined(name: str, node: ast.AST) -> bool:
    first, _, rest = name.partition(".")
    found = members(node).get(first)
    return found is not None and (not rest or is_defined(rest, found))


@cache
def texts() -> dict[Path, str]:
    """They are many: a test looks here first, and into the trees of those only that have what it looks for."""
    return {path: path.read_text() for path in SOURCES}


def classes(name: str) -> Iterator[ast.ClassDef]:
    for path, text in texts().items():
        if f"class {name}" in text:
            yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef) and node.name == name)


@cache
def words(path: Path) -> frozenset[str]:
    """Every name in a source."""
    found = {*path.parts, path.stem}
    for node in ast.walk(tree(path)):
        for field in ("name", "id", "attr", "arg", "asname"):
            if isinstance(value := getattr(node, field, None), str):
                found.add(value)
    return frozenset(found)


def is_named(name: str) -> bool:
    """Something in the sources is, or one of them."""
    if any(name in (*path.parts, path.stem) for path in SOURCES):
        return True
    return any(name in text and name in words(path) for path, text in texts().items())


def problems(text: str) -> tuple[list[str], int]:
    """What a page names that is not there, and how many references it has."""
    spans = SPAN.findall(text)
    paths = {span for span in spans if PATH.fullmatch(span)} | set(SCRIPT.findall(text))
    wrong = [f"{path} does not exist" for path in sorted(paths) if located(path) is None]
    places = PLACE.findall(text) + NODE.findall(text)
    for path, name in places:
        file = located(path)
        if file is None or not is_defined(name, tree(file)):
            wrong.append(f"{path}: {name} does not exist")
    own = [(name, member) for name, member in MEMBER.findall(text) if member not in ("md", "py")]
    for name, member in own:
        if not any(is_defined(member, node) for node in classes(name)):
            wrong.append(f"{name}.{member} does not exist")
    names = [span for span in spans if NAME.fullmatch(span) and not VARIABLE.fullmatch(span)]
    wrong += [f"nothing is named {name}" for name in names if not is_named(name)]
    settings = VARIABLE.findall(text)
    wrong += [f"nobody reads {name}" for name in settings if not is_read(name)]
    return list(dict.fromkeys(wrong)), len(places) + len(paths) + len(own)


def is_read(variable: str) -> bool:
    """By the tests, or as a setting."""
    field = variable.removeprefix("ATHOMIC_").lower()
    return field in fastapi_athomic.AthomicSettings.model_fields or any(
        f'"{variable}"' in text for text in texts().values()
    )


@pytest.mark.parametrize("page", PAGES)
def test_everything_that_is_named_exists(page: str) -> None:
    wrong, count = problems(PAGES[page])
    assert not wrong, "\n".join(wrong)
    assert count >= FEWEST[page]


@pytest.mark.parametrize(
    "text",
    [
        "`consumption/nowhere.py`",
        "`consumption/session.py: ConsumerSession.nothing`",
        "`consumption/session.py: Nobody`",
        "`PartitionState.nothing`",
        "```text\n  Nobody.nothing   in a drawing\n```",
        "`no_such_word`",
        "scripts/nothing",
        "`tests/delivery/test_delivery.py::test_nothing`",
        "`ATHOMIC_TEST_NOTHING`",
    ],
)
def test_the_test_sees_what_does_not_exist(text: str) -> None:
    wrong, _ = problems(text)
    assert wrong


def test_the_table_of_floors_is_that_of_the_test() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGES["ARCHITECTURE.md"], re.MULTILINE)
    floors = [(int(number), [room for _, room in group]) for number, group in groupby(rows, key=lambda row: row[0])]
    assert floors == list(zip(range(len(FLOORS), 0, -1), FLOORS, strict=True))


def docstring(room: str) -> str:
    """What a folder says of itself; that of its sub-folders included."""
    return "\n".join(ast.get_docstring(tree(path)) or "" for path in sorted((PACKAGE / room).rglob("__init__.py")))


def test_rooms_explain_the_words_that_the_table_says_are_theirs() -> None:
    rows = re.findall(r"^\| \d+ \| `(\w+)` \|.*\| ([^|]+) \|$", PAGES["ARCHITECTURE.md"], re.MULTILINE)
    owned = [(room, word.strip()) for room, words in rows if (PACKAGE / room).is_dir() for word in words.split(",")]
    missing = [f"{room}: {word}" for room, word in owned if word not in docstring(room).lower()]
    assert len(owned) > 20
    assert not missing


@pytest.mark.parametrize("room", ["consumption", "failures", "propagation", "sequencing"])
def test_large_rooms_list_their_modules_from_the_ground_up(room: str) -> None:
    listed = ENTRY.findall(docstring(room).partition("Modules, from the ground up:")[2])
    assert sorted(listed) == sorted(path.stem for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__")
    for number, module in enumerate(listed):
        own = {
            name.split(".")[1]
            for name in imports_of(f"{room}.{module}", PACKAGE / room / f"{module}.py")
            if name.startswith(f"{room}.")
        }
        assert own <= set(listed[:number]), f"{module} stands above what it imports"


def test_only_the_kafka_transport_knows_aiokafka() -> None:
    knowing = {
        path.relative_to(PACKAGE).parent.as_posix()
        for path in PACKAGE.rglob("*.py")
        if "aiokafka" in path.read_text()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] == "aiokafka"
    }
    assert knowing == {"transports/kafka"}


def test_the_commands_can_be_run() -> None:
    scripts = set(SCRIPT.findall(PAGES["CONTRIBUTING.md"]))
    assert scripts == {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir()}, "each is explained"
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
