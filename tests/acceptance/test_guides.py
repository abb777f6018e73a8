"""Pages that show whole services: their files are written as the page shows them, and the page's tests are run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.walkthrough import ROOT, blocks, files, write

ELSEWHERE = {"tutorial.md", *(f"migrating-from-{name}.md" for name in ("aiokafka", "celery", "faststream"))}
"""Pages whose files test_tutorial.py and test_migrations.py run."""
PAGES = {
    page.name: page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if any(block.file is not None for block in blocks(page))
}


@pytest.mark.parametrize("name", sorted(set(PAGES) - ELSEWHERE))
def test_the_tests_of_the_page_pass(name: str, tmp_path: Path) -> None:
    write(PAGES[name], tmp_path)
    assert any(file.startswith("test_") for file in files(PAGES[name])), "nothing would run its files"
    here = {key: value for key, value in os.environ.items() if not key.startswith(("ATHOMIC_", "PYTEST_"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={**here, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_others_are_there() -> None:
    assert set(PAGES) >= ELSEWHERE
