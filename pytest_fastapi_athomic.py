"""The pytest plugin of fastapi-athomic: an option, and fixtures with the kits of `fastapi_athomic.testing`.

It does nothing unless a test asks for a fixture, or the option is given. pytest loads it before anything else. So it
stands beside the package, and imports that only where a fixture is used: coverage would not see what was imported
before it began.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

NEEDS_APP = (
    "fixture athomic_app: define one of this name in your conftest.py that returns your FastAPI app, the one for which "
    "include_athomic(app) was called"
)

broker: str | None = None
store: str | None = None
"""What the options say. Kits that are not given a broker or a store look here."""


def _async_fixture(function: Callable[..., Any]) -> Any:
    """A fixture for tests of pytest-asyncio if that is installed, else of anyio."""
    try:
        from pytest_asyncio import fixture
    except ImportError:
        return pytest.fixture(function)
    return fixture(function)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("fastapi-athomic", "test kits of fastapi-athomic")
    group.addoption(
        "--athomic-broker",
        metavar="URL",
        help="run the tests of test kits against this broker, such as kafka://localhost:9092, instead of memory://; "
        "each test has topics and groups of its own there, which are removed at its end",
    )
    group.addoption(
        "--athomic-store",
        metavar="URL",
        help="the state store of ordered consumers in test kits, such as redis://localhost:6379, instead of memory://",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Notes what the options say."""
    global broker, store
    broker, store = config.getoption("--athomic-broker"), config.getoption("--athomic-store")


def pytest_report_header() -> str | None:
    """Says where the tests run, if an option does."""
    chosen = ", ".join(url for url in (broker, store) if url is not None)
    return f"fastapi-athomic: test kits on {chosen}" if chosen else None


@pytest.fixture
def athomic_app() -> Any:
    """The FastAPI app of `athomic_kit` and `athomic_async_kit`. Override it: a fixture of this name returns yours."""
    pytest.fail(NEEDS_APP, pytrace=False)


@pytest.fixture
def athomic_kit(athomic_app: Any) -> Iterator[Any]:
    """A `fastapi_athomic.testing.TestKit` of `athomic_app`, which runs for this test."""
    from fastapi_athomic.testing import TestKit

    with TestKit(athomic_app) as kit:
        yield kit


@_async_fixture
async def athomic_async_kit(athomic_app: Any) -> AsyncIterator[Any]:
    """A `fastapi_athomic.testing.AsyncTestKit` of `athomic_app`, which runs for this test."""
    from fastapi_athomic.testing import AsyncTestKit

    async with AsyncTestKit(athomic_app) as kit:
        yield kit
