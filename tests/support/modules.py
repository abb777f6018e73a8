"""Modules of users' apps, written by a test."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Write = Callable[..., None]


@contextmanager
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules that can be imported inside the block: `write(**{"shop/billing": source})`."""
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(**sources: str) -> None:
        for path, source in sources.items():
            file = folder / f"{path}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if not name.startswith("fastapi_athomic."):  # what the package loads when it is used stays as it is
            del sys.modules[name]
