"""What the pages about formats and types show runs, and the tests that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = ("types", "messagepack", "json-schema")
SAID = {"types": "?.1.amount: int_parsing", "messagepack": "sensor", "json-schema": "number: maximum (at most 9)"}


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": page})
    assert SAID[page] in capsys.readouterr().out


@pytest.mark.parametrize("page", [*PAGES, "payload"])
def test_the_tests_that_the_page_names_exist(page: str) -> None:
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    for name in re.findall(r"`(test_\w+)`", (ROOT / "docs" / f"{page}.md").read_text()):
        assert f"def {name}(" in tests
