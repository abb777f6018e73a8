"""Tests of a service, run by a pytest of their own with the plugin of this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def athomic_app():
    from fastapi import FastAPI
    from fastapi_athomic import AthomicSettings, include_athomic

    app = FastAPI()
    athomic = include_athomic(app, AthomicSettings())

    @athomic.subscribe_to("orders", group_id="billing", handler_id="bill")
    async def bill(order: dict[str, int]) -> int:
        return 1 // order["number"]

    return app

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
SYNC = """
def test_passes(athomic_kit):
    athomic_kit.publish("orders", {"number": 1})
    athomic_kit.drain()
    assert athomic_kit.handled("bill")[0].result == 1

def test_begins_empty(athomic_kit):
    assert athomic_kit.handled() == athomic_kit.published() == []

def test_fails(athomic_kit):
    athomic_kit.publish("orders", {"number": 0})
"""


def run(folder: Path, files: dict[str, str], *options: str) -> str:
    """What pytest prints of these tests."""
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    plugin = ("-p", "pytest_fastapi_athomic", "-p", "no:cacheprovider", "-rA", "--tb=short")
    command = [sys.executable, "-m", "pytest", *plugin, *options, *(f"test_{name}.py" for name in files)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
