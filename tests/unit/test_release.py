"""What a release changes, and which versions it was run with."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

from tests.support.release import ReleaseError, bumped, checked, current, notes, released

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A thing.

## [0.1.0] - 2026-01-02

- The first.
"""
DAY = date(2026, 11, 28)


def test_unreleased_changes_become_those_of_the_version() -> None:
    after = released(CHANGELOG, "0.2.0", DAY)
    assert "## [Unreleased]\n\n## [0.2.0] - 2026-11-28\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-01-02" in after
    assert notes(after, "0.2.0") == "### Added\n\n- A thing."
    assert notes(after, "0.1.0") == "- The first."


@pytest.mark.parametrize(
    ("changelog", "version", "sentence"),
    [
        (CHANGELOG, "0.1.0", "the changelog has 0.1.0 already"),
        (released(CHANGELOG, "0.2.0", DAY), "0.3.0", "there is nothing to release"),
        ("# Changelog", "0.2.0", "has no line ## [Unreleased]"),
    ],
)
def test_what_cannot_be_released_is_told(changelog: str, version: str, sentence: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(sentence)):
        released(changelog, version, DAY)


def test_a_version_without_a_section_has_no_notes() -> None:
    with pytest.raises(ReleaseError, match="no section for"):
        notes(CHANGELOG, "0.9.0")


@pytest.mark.parametrize("version", ["1.2", "v1.2.3", "1.2.3-rc1", "1.02.3", "latest", "1.2.3+local", "0.0.9"])
def test_a_version_is_written_in_one_way_and_not_lower_than_before(version: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(version)):
        checked(version, "0.1.0")


@pytest.mark.parametrize("version", ["0.1.0", "0.1.1", "1.0.0rc1", "1.0.0.post1"])
def test_versions_that_may_come_next(version: str) -> None:
    assert checked(version, "0.1.0") == version


def test_the_version_stands_in_one_place() -> None:
    source = (ROOT / "fastapi_athomic" / "__init__.py").read_text()
    assert current(bumped(source, "7.8.9")) == "7.8.9"
    assert bumped(source, current(source)) == source


def test_supported_pythons_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    script = (ROOT / "scripts" / "matrix").read_text()
    assert matrix["python"] == told
    assert f"all_pythons=({' '.join(told)}) all_sets=({' '.join(matrix['versions'])})" in script


def test_the_bill_of_what_is_vendored_names_its_version() -> None:
    static = ROOT / "fastapi_athomic" / "web" / "static"
    (component,) = json.loads((static.parent / "uPlot.cdx.json").read_text())["components"]
    (head,) = re.findall(r"v(\d+\.\d+\.\d+)", (static / "uPlot.iife.min.js").read_text()[:300])
    assert component["version"] == head
