"""The lower bounds in pyproject.toml. `scripts/lowest` runs this file before anything is installed.

`constraints` prints them for pip, `tools` what only tests need, `check` whether these are the versions installed here.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOR_USERS = (
    *("cli", "otel", "prometheus", "lineage", "redis", "example"),
    *("avro", "compression", "encryption", "json-schema", "msgpack", "protobuf", "registry", "s3", "testing"),
)
"""The extras whose lower bounds are proven. Those of test, bench and dev are tools of this project, and may be new."""
_REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w,-]+\])?(?:>=([\w.]+))?(?:,<([\w.]+))?")
_PINS_INSTRUMENTATION = "opentelemetry-instrumentation-aiokafka"  # each version fits one of OpenTelemetry's only


def lower_bounds() -> dict[str, str]:
    """The lowest allowed version of each package that users install, by name."""
    return {name: lowest for name, lowest, _ in _for_users() if lowest}


def upper_bounds() -> dict[str, str]:
    """The versions of packages that are not allowed any more, by name."""
    return {name: highest for name, _, highest in _for_users() if highest}


def tools() -> list[str]:
    """What the tests need besides, with its extras, in its newest version that goes with the lowest ones."""
    needed = (requirement.partition(">=")[0] for requirement in _project()["optional-dependencies"]["test"])
    return [name for name in needed if name_of(name) not in ("fastapi-athomic", _PINS_INSTRUMENTATION)]


def name_of(requirement: str) -> str:
    """The package of a requirement, without extras and versions."""
    return next(_parsed([requirement]))[0]


def _project() -> dict[str, dict[str, list[str]]]:
    project: dict[str, dict[str, list[str]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _for_users() -> Iterator[tuple[str, str, str]]:
    project = _project()
    yield from _parsed(project["dependencies"])  # type: ignore[arg-type]
    for extra in FOR_USERS:
        yield from _parsed(project["optional-dependencies"][extra])


def _parsed(requirements: list[str]) -> Iterator[tuple[str, str, str]]:
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement)
        assert found, f"{requirement} should read name>=version, or name>=version,<version"
        yield found[1], found[2] or "", found[3] or ""


def main(what: str) -> int:
    if what == "tools":
        print(*tools(), sep="\n")
    elif what == "constraints":
        print(*(f"{name}=={lowest}" for name, lowest in lower_bounds().items()), sep="\n")
    else:
        used = {name: version(name) for name in lower_bounds()}
        print(*(f"{name} {installed}" for name, installed in used.items()), sep="\n")
        wrong = [name for name, lowest in lower_bounds().items() if not is_version(used[name], lowest)]
        if wrong:
            print("not the lowest version that pyproject.toml allows:", *wrong, file=sys.stderr)
        return bool(wrong)
    return 0


def is_version(installed: str, wanted: str) -> bool:
    """Whether they are the same version: 1.27 is 1.27.0."""
    return re.sub(r"(\.0)+$", "", installed) == re.sub(r"(\.0)+$", "", wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
