"""docs/errors.md has every error and every refusal, in the words that users see."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import fastapi_athomic
from fastapi_athomic import ConfigurationError, exceptions
from tests.support import error_tree
from tests.support.sources import parsed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()
PACKAGE = Path(fastapi_athomic.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
SHORTEST = 10
"""Characters of a text by which it can be found."""
REFUSALS = {
    name for name, kind in vars(exceptions).items() if inspect.isclass(kind) and issubclass(kind, ConfigurationError)
}


def refusals() -> Iterator[tuple[str, list[str]]]:
    """Where the package refuses something, and what it says there for sure."""
    for path in SOURCES:
        for node in ast.walk(parsed(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in REFUSALS:
                texts = [
                    one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                if said := [text for text in texts if len(text.strip()) >= SHORTEST]:
                    yield f"{path.name}:{node.lineno}", said


def quoted() -> list[str]:
    """The fragments of texts in the left columns of the page."""
    rows = re.findall(r"^\| (.+) \| .+ \|$", PAGE.partition("## Refusals to start")[2], re.MULTILINE)
    texts = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    return [part.strip() for text in texts for part in text.split("…") if len(part.strip()) >= SHORTEST]


def test_every_error_has_a_section() -> None:
    errors = [name for name, kind in vars(exceptions).items() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert set(re.findall(r"^##+ (\w+Error)$", PAGE, re.MULTILINE)) == set(errors)


def test_every_refusal_to_start_has_a_row() -> None:
    fragments = quoted()
    missing = [
        f"{place}: {said}" for place, said in refusals() if not any(part in text for part in fragments for text in said)
    ]
    assert not missing, "say in docs/errors.md why it is refused"


def test_no_row_quotes_what_nothing_says() -> None:
    said = "\n".join(
        " ".join(one.value.split())
        for path in SOURCES
        for one in ast.walk(parsed(path.read_text()))
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )
    assert not [part for part in quoted() if part not in said]


def test_the_picture_is_that_of_the_classes() -> None:
    assert error_tree.PICTURE.read_text() == error_tree.picture(), "run python -m tests.support.error_tree"
