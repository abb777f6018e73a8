"""What the pages show of the example app is what stands in it: blocks that are marked `py` begin with a file's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number, block in enumerate(re.findall(r"^```py\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("block", SHOWN)
def test_what_a_page_shows_of_the_example_stands_in_it(block: str) -> None:
    first, _, shown = block.partition("\n")
    source = ROOT / first.removeprefix("# ")
    assert source.is_relative_to(ROOT / "example_app"), f"the first line names a file of the example, not: {first}"
    assert shown in source.read_text()


def test_the_page_names_each_module_with_a_handler() -> None:
    page = (ROOT / "docs" / "example.md").read_text()
    modules = [
        path.name
        for path in (ROOT / "example_app").glob("*.py")
        if re.search(r"^@(subscribe_to|ordered_consumer)\(", path.read_text(), re.MULTILINE)
    ]
    assert len(modules) == 6
    assert [name for name in modules if f"| `{name}` |" not in page] == []
