"""docs/settings.md has every setting, with the default and the meaning that the code gives it, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastapi_athomic import operation_settings, payload_settings, settings
from fastapi_athomic.settings import AthomicSettings
from fastapi_athomic.variables import PREFIX, Checked, nearest_setting
from tests.support.settings_page import PAGE, TABLES, page

TEXT = PAGE.read_text()


def test_the_tables_are_those_of_the_code() -> None:
    assert page() == TEXT, "write docs/settings.md again: python -m tests.support.settings_page"


def test_every_section_has_a_table() -> None:
    known = {**vars(settings), **vars(payload_settings), **vars(operation_settings)}
    sections = {name for name, found in known.items() if isinstance(found, type) and issubclass(found, Checked)}
    assert sections - {"Checked"} == TABLES.keys()


def test_every_setting_says_what_it_means() -> None:
    silent = re.findall(r"^\| `(ATHOMIC_\w+)` \|[^|]*\| \|$", TEXT, re.MULTILINE)
    assert silent == [], "give it a comment in fastapi_athomic/settings.py"


def test_every_variable_that_a_page_names_is_a_setting() -> None:
    pages = [PAGE.parents[1] / "README.md", *PAGE.parent.glob("*.md")]
    named = {(path.name, name) for path in pages for name in _variables(path.read_text())}
    assert {name for page, name in named if page == "README.md"} >= {"ATHOMIC_BROKER_URL", "ATHOMIC_REQUIRE_BROKER"}
    assert {(page, name) for page, name in named if not _is_setting(name)} == set()


def _variables(text: str) -> Iterator[str]:
    """Those of apps, without the examples of wrong ones and without what is only the beginning of names."""
    text = re.sub(r"(ATHOMIC_BROKERURL|ATHOMIC_IGNORED_VARIABLES=\S+|ATHOMIC_TEST_\w*)", "", text)
    return (match for match in re.findall(r"\bATHOMIC_[A-Z0-9_]+\b(?!\*|<)", text) if not match.endswith("_"))


def _is_setting(name: str) -> bool:
    path = name.removeprefix(PREFIX).lower().split("__")
    return nearest_setting(AthomicSettings, path) == tuple(path)


def test_the_example_of_the_page_runs() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, PAGE.name, "exec"), {"__name__": "settings_page"})
