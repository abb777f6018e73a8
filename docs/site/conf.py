"""How Sphinx makes a site of the pages: `scripts/docs`.

The pages are GitHub's Markdown and stay where they are. docs/index.md is their table of contents, on GitHub and here.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from fastapi_athomic import __version__

sys.path.insert(0, str(Path(__file__).parent))
from routes import routes

project = "fastapi-athomic"
copyright = "fastapi-athomic's authors, Apache-2.0"  # noqa: A001 : Sphinx's name
release = version = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "benchmarks/results/*.md"]
exclude_patterns = [".*", "build", "dist", "fastapi_athomic", "tests"]  # not walked through
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"  # a backtick in a docstring is Markdown's

myst_heading_anchors = 6  # those that GitHub makes; the parser warns of links to others
suppress_warnings = ["misc.highlighting_failure"]  # Pygments knows no functions of Terraform

html_theme = "furo"
html_title = f"{project} {release}"
html_additional_pages = {"index": "home.html"}
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False

CONTENTS = re.compile(r"^## (.+)$|^- \[(.+?)\]\((\S+?)\.md\)", re.MULTILINE)


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """The table of contents is Sphinx's, too. Measurements are found from docs/performance.md only."""
    if page == root_doc:
        source[0] += "".join(trees(source[0]))
    elif page == "docs/routes":
        source[0] += "\n".join(routes())
    elif page.startswith("benchmarks/"):
        title = "" if source[0].startswith("# ") else f"# {Path(page).name}\n\n"
        source[0] = f"---\norphan: true\n---\n{title}{source[0]}"


def trees(contents: str) -> list[str]:
    """A section is a part of the navigation, with the pages of its list in their order."""
    parts: dict[str, list[str]] = {}
    for section, title, page in CONTENTS.findall(contents):
        if section:
            parts[section] = []
        else:
            path = os.path.normpath(Path("docs") / page)
            parts[next(reversed(parts))].append(f"{title.replace('`', '')} </{path}>")
    return [
        f"\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n:titlesonly:\n:caption: {section}\n\n"
        + "\n".join(pages)
        + "\n```\n"
        for section, pages in parts.items()
    ]
