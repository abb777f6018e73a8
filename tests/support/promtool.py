"""Prometheus' own checker of rules and queries, and series for it that were scraped from apps.

promtool is the one on the path, or comes out of Debian's package `prometheus`, which is fetched once and not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

SECONDS = 120.0
FETCH_SECONDS = 600.0
MISSING = "_"
STALE = "stale"
"""What Prometheus writes for a series that the answer to a scrape does not have any more."""


class PromtoolUnavailableError(Exception):
    """promtool cannot be provided here; the text says why."""


class Promtool:
    """Checks and tests rule files."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self.description = "promtool"

    def check(self, rules: Path) -> None:
        """Raises `AssertionError` with what promtool says if the file has an error."""
        self._run("check", "rules", str(rules))

    def test(self, rules: Sequence[Path], *tests: Mapping[str, Any]) -> None:
        """Runs tests of rules, in the form of Prometheus' documentation, or raises `AssertionError`.

        Each has an `interval`, and gets the name `test` and its number.
        """
        named = [{"name": f"test {number}", **test} for number, test in enumerate(tests)]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "tests.yml"
            path.write_text(json.dumps({"rule_files": [str(each) for each in rules], "tests": named}))
            self._run("test", "rules", str(path))

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._binary, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def find_promtool() -> Promtool:
    """Raises `PromtoolUnavailableError` if there is none, and no Debian to fetch it from."""
    if found := shutil.which("promtool"):
        return Promtool(found)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi-athomic"
    complete = cache / "promtool" / "usr" / "bin" / "promtool"
    if not complete.exists():
        _fetch(cache)
    return Promtool(str(complete))


def _fetch(cache: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise PromtoolUnavailableError("no promtool: install Prometheus")
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache, prefix="partial-promtool-") as folder:
        for command in (["apt-get", "download", "-qq", "prometheus"], ["apt-get", "update", "-qq"]) * 2:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
            )
            if packages := [*Path(folder).glob("prometheus_*.deb")]:
                break
        else:
            raise PromtoolUnavailableError(f"no promtool: Debian's package prometheus cannot be fetched: {done.stderr}")
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], cwd=folder, check=True, timeout=SECONDS)
        shutil.rmtree(cache / "promtool", ignore_errors=True)
        (Path(folder) / "unpacked").rename(cache / "promtool")


# --- series


class Scrapes(NamedTuple):
    """What a target answered to scrapes, one a minute."""

    exposition: str | None  # None: another worker of the same address was met
    times: int


def series(*scrapes: Scrapes, **labels: str) -> list[dict[str, str]]:
    """The answers of one process, in the form of `input_series`. `labels`: those that Prometheus adds (`job`, say)."""
    found: dict[str, list[str]] = {}
    past = 0
    for scrape in scrapes:
        values = _values(scrape.exposition, labels) if scrape.exposition is not None else {}
        for name in {*found, *values}:
            before = found.setdefault(name, [MISSING] * past)
            if name in values:
                before += [values[name]] * scrape.times
            else:
                before += [STALE] + [MISSING] * (scrape.times - 1)
        past += scrape.times
    return [{"series": name, "values": " ".join(values)} for name, values in sorted(found.items())]


def _values(exposition: str, labels: Mapping[str, str]) -> dict[str, str]:
    return {
        _selector(sample.name, {**sample.labels, **labels}): repr(float(sample.value))
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def _selector(name: str, labels: Mapping[str, str]) -> str:
    return f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in sorted(labels.items()))}}}"


def names(expositions: Iterable[str]) -> set[str]:
    """The names of all samples, as queries use them."""
    return {
        sample.name
        for exposition in expositions
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }
