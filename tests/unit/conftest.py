"""What tests of several rooms start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.modules import Write, importable


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    with importable(tmp_path, monkeypatch) as write_modules:
        yield write_modules
