"""The versions that pyproject.toml allows: low ones that have been tried, high ones that nothing forbids."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fastapi_athomic.transports.kafka as kafka
from tests.support.bounds import FOR_USERS, ROOT, lower_bounds, name_of, tools, upper_bounds
from tests.support.sources import parsed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TABLE = (ROOT / "CONTRIBUTING.md").read_text().partition("## The oldest versions")[2].partition("\n## ")[0]


def test_what_users_install_has_a_lower_bound_that_was_tried() -> None:
    tried = dict(re.findall(r"^\| ([\w-]+) \| ([\d.b]+) \|", TABLE, re.M))
    assert tried == lower_bounds(), "run scripts/lowest, then correct the table in CONTRIBUTING.md"
    named = {name for extra in FOR_USERS for name in map(_name, PROJECT["optional-dependencies"][extra])}
    named |= set(map(_name, PROJECT["dependencies"]))
    assert named - {"fastapi-athomic"} == lower_bounds().keys()


def test_new_versions_are_forbidden_only_where_private_parts_are_used() -> None:
    assert upper_bounds() == {"aiokafka": "0.15"}
    assert kafka.__doc__ is not None
    assert "private parts" in kafka.__doc__


def test_a_package_that_is_held_back_gets_what_it_asks_for() -> None:
    """aiokafka's versions are few: what all of them ask for, users have."""
    bounds = lower_bounds()
    for held_back in upper_bounds():
        for requirement in map(Requirement, requires(held_back) or ()):
            lowest = bounds.get(canonicalize_name(requirement.name))
            assert lowest is None or lowest in requirement.specifier, f"{held_back} needs {requirement}"


def test_one_extra_brings_everything_that_users_may_want() -> None:
    (everything,) = PROJECT["optional-dependencies"]["all"]
    brought = everything.removeprefix("fastapi-athomic[").removesuffix("]").split(",")
    assert set(brought) == set(FOR_USERS) - {"example"}
    assert set(PROJECT["optional-dependencies"]) == {*FOR_USERS, "all", "test", "docs", "bench", "dev"}


def test_only_what_tests_need_is_new() -> None:
    assert "pytest" in tools()
    assert not set(map(name_of, tools())) & lower_bounds().keys(), "what users get with an extra, `all` brings to tests"


def test_what_tests_import_is_asked_for() -> None:
    """Not by chance there, because something else brings it today."""
    declared = {canonicalize_name(name) for name in (*lower_bounds(), *map(name_of, tools()))}
    brought = {"anyio", "pydantic-core", "starlette"}  # pydantic and fastapi speak of them
    namespaces = {"google", "opentelemetry"}
    homes = packages_distributions()
    imported = {name for path in (ROOT / "tests").rglob("*.py") for name in _imports(path)}
    undeclared = {
        name
        for name in imported - sys.stdlib_module_names - namespaces
        if name in homes and not {canonicalize_name(home) for home in homes[name]} & (declared | brought)
    }
    assert undeclared - {"fastapi_athomic", "example_app", "tests"} == set()
    assert {"aiokafka", "ormsgpack", "pytest"} <= imported


def _imports(path: Path) -> set[str]:
    """The top-level packages that a module imports."""
    nodes = list(ast.walk(parsed(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in names}


def _name(requirement: str) -> str:
    found = re.match(r"[\w-]+", requirement)
    assert found
    return found[0]
