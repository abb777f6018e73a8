"""The site that `scripts/docs` makes: no warning, no dead link, nothing from elsewhere."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fastapi_athomic

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)  # the site takes 15 s, and a busy machine takes its time


@dataclass
class Page(HTMLParser):
    """What a page has: anchors, and the addresses that it leads to or loads."""

    path: Path
    anchors: set[str] = field(default_factory=lambda: {""})
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src", "srcset", "data", "poster") and value is not None:
                (self.links if tag == "a" else self.loads).append(value)

    def targets(self) -> Iterator[tuple[str, Path, str]]:
        """What it names of this site: as it is written, the file and the anchor."""
        for address in (*self.links, *self.loads):
            parts = urlsplit(address)
            if not parts.scheme and not parts.netloc:
                path = (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path
                yield address, path, unquote(parts.fragment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `scripts/docs` does."""
    place = tmp_path_factory.mktemp("site").resolve()
    lines = (ROOT / "scripts" / "docs").read_text().splitlines()
    (command,) = [line for line in lines if "--fail-on-warning" in line]
    arguments = command.replace("build/site", str(place)).split()[1:]
    built = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stdout, built.stderr) == (0, "", ""), "a warning is an error"
    return place


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there_and_the_first_one_leads_to_it(site: Path, pages: dict[Path, Page]) -> None:
    written = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    expected = {site / page.relative_to(ROOT).with_suffix(".html") for page in written}
    contents = site / "docs" / "index.html"
    assert {path for _, path, _ in pages[contents].targets()} >= expected - {contents}
    assert contents in {path for _, path, _ in pages[site / "index.html"].targets()}


def test_every_link_leads_to_a_file_and_an_anchor_of_the_site(pages: dict[Path, Page]) -> None:
    broken = [
        f"{page.path.name}: {address}"
        for page in pages.values()
        for address, path, anchor in page.targets()
        if not path.is_file() or (path in pages and anchor not in pages[path].anchors)
    ]
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {address for page in pages.values() for address in page.loads}
    assert not [address for address in loaded if urlsplit(address).scheme not in ("", "data") or address[:2] == "//"]
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert "@import" not in styles
    assert "url(http" not in styles.replace('"', "").replace("'", "")


def test_the_reference_has_every_public_name(site: Path, pages: dict[Path, Page]) -> None:
    documented = {anchor for path, page in pages.items() if "reference" in path.name for anchor in page.anchors}
    assert not {f"fastapi_athomic.{name}" for name in fastapi_athomic.__all__} - documented
    written = "".join(page.read_text() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
    shown = re.findall(
        r"^from (fastapi_athomic\.(?:payload|schemas|testing)[\w.]*) import (.+)$", written, re.MULTILINE
    )
    assert not {f"{module}.{name}" for module, names in shown for name in names.split(", ")} - documented


def test_every_public_name_says_what_it_is() -> None:
    silent = []
    for name in set(fastapi_athomic.__all__) - {"__version__", "Key"}:
        public = getattr(fastapi_athomic, name)
        own = vars(public).get("__doc__") if inspect.isclass(public) else public.__doc__
        silent += [name] if not own or own.startswith(f"{name}(") else []  # which dataclasses are given
        silent += [
            f"{name}.{member}"
            for member, what in (vars(public).items() if inspect.isclass(public) else ())
            if member[0] != "_" and (inspect.isroutine(what) or isinstance(what, property)) and not inspect.getdoc(what)
        ]
    assert not silent
