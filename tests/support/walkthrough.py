"""Pages as programs: what a reader would type in, in the order of the page, and what the page says comes of it.

A Python block whose first line is a comment with a file's name is that file. A block of the language `console` has
commands; `text` has lines that the commands before it print, or the server does, with `...` for what differs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.support.processes import Process, free_port

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
NOT_TYPED = ("mkdir", "python -m venv", "pip install", "docker")
"""Commands that only get the reader where the test is already."""


class Block(NamedTuple):
    language: str
    text: str

    @property
    def file(self) -> str | None:
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else None


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)]


def files(page: Path) -> dict[str, str]:
    """The files of a page that shows each once."""
    found = [(block.file, block.text) for block in blocks(page) if block.file is not None]
    named = dict(found)
    assert len(named) == len(found), f"{page.name} shows a file twice"
    return named


def write(page: Path, folder: Path) -> None:
    for name, text in files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class Walkthrough:
    """Does in `folder` what a page says. `addresses` are those of the page, and what stands for them here."""

    def __init__(self, page: Path, folder: Path, addresses: Mapping[str, str]) -> None:
        self._page, self._folder = page, folder
        port = str(free_port())
        self._base = f"http://127.0.0.1:{port}"
        self._addresses = {**addresses, "localhost:8000": f"127.0.0.1:{port}"}
        self._serving = ["--host", "127.0.0.1", "--port", port]
        self._server: Process | None = None
        self._printed = ""
        binaries = Path(sys.executable).parent
        here = {name: value for name, value in os.environ.items() if not name.startswith(("ATHOMIC_", "PYTEST_"))}
        self._environment = {**here, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(self) -> None:
        try:
            for block in blocks(self._page):
                self._do(block)
        finally:
            self._stop()

    def _do(self, block: Block) -> None:
        if block.file is not None:
            (self._folder / block.file).write_text(block.text)
        elif block.language == "console":
            self._printed = ""
            for line in block.text.splitlines():
                if not line.startswith(NOT_TYPED):
                    self._type(self._here(line))
        elif block.language == "text":
            self._expect(block.text)

    def _here(self, text: str) -> str:
        for theirs, ours in self._addresses.items():
            text = text.replace(theirs, ours)
        return text

    def _type(self, command: str) -> None:
        if "uvicorn " in command:
            self._serve(command)
            return
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self._printed += f"{done.stdout}\n"  # curl ends no line

    def _serve(self, command: str) -> None:
        """Ends the server that runs, as with Ctrl-C, and starts this one; returns when its consumers consume."""
        self._stop()
        words = shlex.split(command)
        begin = words.index("uvicorn")
        variables = dict(word.split("=", 1) for word in words[:begin])
        log = self._folder / f"server-{len(list(self._folder.glob('server-*')))}.log"
        module = [sys.executable, "-m", *words[begin:], *self._serving, "--app-dir", str(self._folder)]
        self._server = Process(module, log, **self._environment, **variables)
        self._server.start()
        self._server.wait_until(
            lambda: httpx.get(f"{self._base}/consumers/health", timeout=5).raise_for_status(), SECONDS
        )

    def _expect(self, text: str) -> None:
        wanted = [re.escape(self._here(line)).replace(re.escape("..."), ".*") for line in text.splitlines()]

        def is_there() -> None:
            seen = self._printed + (self._server.output() if self._server else "")
            missing = [line for line in wanted if not re.search(f"^{line}$", seen, re.MULTILINE)]
            assert not missing, f"{self._page.name}: {missing}\nis not in\n{self._printed}"

        if self._server is None:
            is_there()
        else:
            self._server.wait_until(is_there, SECONDS)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            assert "has stopped its consumers" in self._server.output(), self._server.output()
            self._server = None


def shown(pages: Path) -> Iterator[tuple[Path, int, Block]]:
    """The Python blocks of all pages that are no files."""
    for page in sorted(pages.glob("*.md")):
        python = [block for block in blocks(page) if block.language == "python"]
        for number, block in enumerate(python):
            if block.file is None:
                yield page, number, block
