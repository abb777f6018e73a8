"""What pages show besides Python is right: commands, JSON, YAML, names of variables. Python blocks: test_readme.py."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fastapi_athomic import AthomicSettings
from fastapi_athomic.cli import _parser
from fastapi_athomic.variables import PREFIX, _kind_at

ROOT = Path(__file__).parents[2]
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
BLOCKS = [
    (page.name, language, text)
    for page in PAGES
    for language, text in re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
]
KNOWN = {"python", "py", "bash", "console", "shell", "json", "yaml", "text", "hcl", "{eval-rst}"}
"""`py` is a part of the example app (test_example_page.py), `text` is what a program prints. `{eval-rst}` is run when
the site is made, `hcl` by nobody."""
SHELL_WORDS = {">", ">>", "<", "|", "&&", "||", ";"}
"""What follows is not for the command itself."""
OTHERS = ("ATHOMIC_TEST_", "ATHOMIC_BROKERURL", "ATHOMIC_LICENCE")
"""Variables of the tests, and what docs/settings.md shows as refused."""


def blocks(*languages: str) -> list[tuple[str, str]]:
    return [(page, text) for page, language, text in BLOCKS if language in languages]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each line of a console, with what it continues on."""
    for page, text in blocks("bash", "console", "shell"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                del words[0]
            ends = next((at for at, word in enumerate(words) if word in SHELL_WORDS), len(words))
            if words[:ends]:
                yield page, words[:ends]


def test_each_block_says_what_it_is() -> None:
    assert {language for _, language, _ in BLOCKS} <= KNOWN


@pytest.mark.parametrize(("page", "text"), blocks("bash", "console", "shell"))
def test_a_shell_understands_the_commands(page: str, text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_command_line_understands_ours() -> None:
    ours = [words for _, words in commands() if words[0] == "fastapi-athomic"]
    assert len(ours) > 10
    for words in ours:
        _parser().parse_args(words[1:])  # exits if it does not


def test_the_scripts_that_are_called_exist() -> None:
    called = {words[0] for _, words in commands() if words[0].startswith("scripts/")}
    assert called
    assert not [script for script in called if not os.access(ROOT / script, os.X_OK)]


def test_json_and_yaml_can_be_read() -> None:
    for _, text in blocks("json"):
        json.loads(text)
    for _, text in blocks("yaml"):
        assert list(yaml.safe_load_all(text))


def test_the_variables_that_are_named_are_settings() -> None:
    """A name that ends with `_` stands for several."""
    unknown = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(rf"\b{PREFIX}[A-Z]\w*[A-Z0-9]\b", page.read_text())
        if not name.startswith(OTHERS)
        and _kind_at(AthomicSettings, name.removeprefix(PREFIX).lower().split("__")) is None
    ]
    assert not unknown
