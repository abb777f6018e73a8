"""Everything the README shows works as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from fastapi_athomic.subscriptions import subscriptions_of
from tests.support.processes import Process, free_port
from tests.support.walkthrough import shown

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECONDS = 120.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`scripts/demo`, as a new user runs it; gives its port."""
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PORT": str(port), "PYTHON": sys.executable}
    process = Process([str(ROOT / "scripts" / "demo")], tmp_path_factory.mktemp("demo") / "log", **environment)
    process.start()
    process.wait_until(lambda: fetch(port, "/consumers/health"), SECONDS)
    yield port
    process.stop()
    assert "Finished server process" in process.output(), "it stopped as it should"
    assert f"open http://127.0.0.1:{port}/docs" in process.output(), "the user is told where to look"


def fetch(port: int, path: str) -> object:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).raise_for_status().json()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_blocks_run(number: int) -> None:
    names: dict[str, object] = {"__name__": f"readme_{number}"}
    exec(compile(blocks("python")[number], "README.md", "exec"), names)
    assert any(subscriptions_of(value) for value in names.values())


SHOWN = [
    pytest.param(page, number, block.text, id=f"{page.stem}-{number}") for page, number, block in shown(ROOT / "docs")
]


@pytest.mark.parametrize(("page", "number", "block"), SHOWN)
def test_the_python_blocks_of_the_other_pages_run(
    page: Path, number: int, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType(f"{page.stem}_{number}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pydantic looks there
    exec(compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True), module.__dict__)


def test_the_tests_that_pages_name_exist() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    missing = [
        f"{page.name}: {file or ''} {name or ''}"
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`", page.read_text())
        if (file and file not in sources)
        or (name and not any(f"def {name}(" in text for at, text in sources.items() if file in ("", at)))
    ]
    assert not missing


@pytest.mark.timeout(300)
def test_the_demo_and_the_curl_lines(demo: int) -> None:
    (commands,) = blocks("bash")
    order, *rest = commands.strip().replace("localhost:8000", f"127.0.0.1:{demo}").splitlines()
    placed = json.loads(subprocess.run(["bash", "-c", order], capture_output=True, check=True).stdout)
    end = time.monotonic() + SECONDS
    while not fetch(demo, "/invoices") and time.monotonic() < end:
        time.sleep(0.02)  # the invoice is written behind the request's back
    invoices, consumers = (
        json.loads(subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout) for line in rest
    )
    assert [invoice["order_id"] for invoice in invoices] == [placed["order_id"]]
    handlers = {"orders", "billing", "stock", "analytics", "shipping", "notifications"}
    assert {consumer["id"] for consumer in consumers} == handlers
    (billing,) = [consumer for consumer in consumers if consumer["id"] == "billing"]
    assert billing["counters"]["processed"] == 1


def test_the_commands_exist() -> None:
    commands = "\n".join(blocks("console"))
    scripts = set(re.findall(r"scripts/\w+", commands))
    assert scripts >= {"scripts/demo", "scripts/test"}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_it_takes_a_screen_and_a_half() -> None:
    assert len(README.splitlines()) <= 100


@pytest.mark.parametrize("part", ["figures", "everyday load"])
def test_its_figures_are_those_of_the_last_run(part: str) -> None:
    """`scripts/bench` writes those into the page; the sentence is written by hand."""
    between = re.compile(rf"<!-- {part} -->(.*?)<!-- end of {part} -->", re.DOTALL)
    (sentence,), (page,) = between.findall(README), between.findall((ROOT / "docs" / "performance.md").read_text())
    figures = re.findall(r"\d+\.\d+", sentence)
    assert len(figures) == 3
    assert [figure for figure in figures if f"| {figure} |" not in page] == []


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        led_to = page.parent / target if target else page
        assert led_to.exists(), target
        assert not anchor or anchor in anchors(led_to), f"{target}#{anchor}"


def test_the_table_of_contents_leads_to_every_document_and_the_readme_to_it() -> None:
    index = ROOT / "docs" / "index.md"
    linked = [
        os.path.normpath(f"docs/{page}")
        for page in re.findall(r"^- \[.+?\]\(([^)#\s]+)\)", index.read_text(), re.MULTILINE)
    ]
    assert sorted(linked) == sorted(set(PAGES) - {"docs/index.md"}), "each once"
    assert "(docs/index.md)" in README


def test_every_promise_names_tests_that_exist() -> None:
    promises = re.findall(r"^\| P(\d+) \|.*\| (.*) \|$", (ROOT / "docs/promises.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in promises] == list(range(1, 23))
    for number, files in promises:
        sources = [(ROOT / name).read_text() for name in re.findall(r"`([^`]+)`", files)]
        assert any(f"def test_p{int(number):02d}_" in source for source in sources), f"P{number}"


def test_a_demo_whose_port_is_taken_says_how_to_take_another(demo: int) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PORT": str(demo), "PYTHON": sys.executable}
    done = subprocess.run([ROOT / "scripts" / "demo"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"127.0.0.1:{demo}" in done.stderr
    assert "PORT=8001 scripts/demo" in done.stderr


def test_scripts_test_runs_every_folder_of_tests() -> None:
    folders = {f"tests/{file.relative_to(ROOT / 'tests').parts[0]}" for file in (ROOT / "tests").rglob("test_*.py")}
    told = (ROOT / "scripts" / "test").read_text().partition("coverage=(")[2]
    assert set(re.findall(r"tests/\w+", told)) == folders
