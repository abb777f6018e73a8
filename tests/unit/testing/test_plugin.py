"""The pytest plugin, in a pytest of its own: does nothing unless asked, and its fixtures are kits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plugin import SYNC, run

FIRST = """
import sys

def test_nothing_is_imported():
    assert "fastapi_athomic" not in sys.modules
"""
ASYNC = """
import pytest
pytestmark = pytest.mark.MARK

async def test_passes(athomic_async_kit):
    await athomic_async_kit.publish("orders", {"number": 1})
    await athomic_async_kit.drain()
    assert athomic_async_kit.handled("bill")[0].result == 1

async def test_fails(athomic_async_kit):
    await athomic_async_kit.publish("orders", {"number": 0})
"""
WITHOUT = """
import pytest
from pytest_fastapi_athomic import athomic_app

def test_is_told(athomic_kit): ...
"""
OPTIONS = """
from fastapi_athomic.testing import TestKit

def test_says_where(athomic_app):
    settings = TestKit(athomic_app)._bench.settings
    assert settings.broker_url == "kafka://localhost:1"
    assert settings.state_store_url.get_secret_value() == "redis://localhost:1"
    assert TestKit(athomic_app, broker="memory://")._bench.settings.broker_url == "memory://"
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    files = {"first": FIRST, "sync": SYNC, "async": ASYNC.replace("MARK", "asyncio"), "without": WITHOUT}
    return run(tmp_path_factory.mktemp("asyncio"), files, "-o", "asyncio_mode=strict")


def test_the_package_is_imported_only_where_a_fixture_is_used(told: str) -> None:
    """Else coverage, which begins later than plugins are loaded, would not see what importing it runs."""
    assert "PASSED test_first.py::test_nothing_is_imported" in told, told
    assert "test kits on" not in told


def test_each_test_has_a_kit_of_its_own(told: str) -> None:
    assert "PASSED test_sync.py::test_passes" in told, told
    assert "PASSED test_sync.py::test_begins_empty" in told


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_failure_that_nobody_expected_fails_the_test(told: str, kind: str) -> None:
    assert f"ERROR test_{kind}.py::test_fails - fastapi_athomic.testing." in told, told
    assert "ZeroDivisionError: integer division or modulo by zero" in told


def test_tests_of_pytest_asyncio_have_an_async_kit(told: str) -> None:
    assert "PASSED test_async.py::test_passes" in told, told


def test_who_asks_for_a_kit_without_an_app_is_told_what_to_do(told: str) -> None:
    assert "fixture athomic_app: define one of this name in your conftest.py" in told, told


def test_tests_of_anyio_have_an_async_kit(tmp_path: Path) -> None:
    told = run(tmp_path, {"async": ASYNC.replace("MARK", "anyio")}, "-p", "no:asyncio")
    assert "PASSED test_async.py::test_passes" in told, told
    assert "ERROR test_async.py::test_fails - fastapi_athomic.testing." in told, told


def test_options_name_a_broker_and_a_store_for_every_kit(tmp_path: Path) -> None:
    told = run(
        tmp_path, {"options": OPTIONS}, "--athomic-broker=kafka://localhost:1", "--athomic-store=redis://localhost:1"
    )
    assert "fastapi-athomic: test kits on kafka://localhost:1, redis://localhost:1" in told, told
    assert "PASSED test_options.py::test_says_where" in told, told
