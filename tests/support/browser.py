"""A real browser: Chromium from the system's packages, or the one that playwright has downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Playwright, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


class BrowserUnavailableError(Exception):
    """There is no browser here."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A headless Chromium.

    Raises:
        BrowserUnavailableError: none was found.
    """
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # as root it has no sandbox
        browser = await playwright.chromium.launch(executable_path=_path(playwright), args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


def _path(playwright: Playwright) -> str:
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    own = playwright.chromium.executable_path
    if not Path(own).exists():
        raise BrowserUnavailableError(
            f"a browser: install one of {', '.join(NAMES)}, or run `playwright install chromium`"
        )
    return own
