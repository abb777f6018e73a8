"""The files that a release changes: the version, and the changelog. `scripts/release` calls it.

`check VERSION` says whether it can be the next one, `write VERSION` changes both files, `notes VERSION` prints what
the changelog says of it.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "fastapi_athomic" / "__init__.py"
CHANGELOG = ROOT / "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


class ReleaseError(Exception):
    """A sentence for who wants to release."""


def current(source: str) -> str:
    """The version that the package has."""
    found = _VERSION.search(source)
    if found is None:
        raise ReleaseError(f"{SOURCE.name} has no line __version__ = ...")
    return found[1]


def checked(version: str, before: str) -> str:
    """The version, if it is one by PEP 440, in its normal form, and not lower than that of the package.

    The same one is allowed as long as nothing was released under it: the changelog knows.
    """
    try:
        parsed = Version(version)
    except InvalidVersion:
        raise ReleaseError(f"{version!r} is no version: write 1.2.3, or 1.2.3rc1") from None
    if str(parsed) != version or parsed.local or len(parsed.release) != 3:
        raise ReleaseError(f"{version!r} is not written as 1.2.3, or 1.2.3rc1")
    if parsed < Version(before):
        raise ReleaseError(f"{version} is lower than {before}, which the package has")
    return version


def bumped(source: str, version: str) -> str:
    """The package's source with this version."""
    return _VERSION.sub(f'__version__ = "{version}"', source, count=1)


def section(changelog: str, heading: str) -> str:
    """What stands below this heading, up to the next of its kind."""
    _, _, rest = changelog.partition(heading)
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()


def released(changelog: str, version: str, day: date) -> str:
    """The changelog with its unreleased changes under this version, and an empty place for those to come."""
    if f"## [{version}]" in changelog:
        raise ReleaseError(f"the changelog has {version} already: it was released, or begun to be")
    if UNRELEASED not in changelog:
        raise ReleaseError(f"the changelog has no line {UNRELEASED.strip()}")
    if not section(changelog, UNRELEASED):
        raise ReleaseError("the changelog has no unreleased change: there is nothing to release")
    return changelog.replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] - {day.isoformat()}\n", 1)


def notes(changelog: str, version: str) -> str:
    """What the changelog says of a released version."""
    heading = re.search(rf"^## \[{re.escape(version)}\].*$", changelog, re.MULTILINE)
    if heading is None:
        raise ReleaseError(f"the changelog has no section for {version}")
    return section(changelog, heading[0])


def main(command: str, version: str) -> None:
    source, changelog = SOURCE.read_text(), CHANGELOG.read_text()
    if command == "notes":
        sys.stdout.write(notes(changelog, version) + "\n")
        return
    checked(version, current(source))
    changed = released(changelog, version, datetime.now(UTC).date())
    if command == "write":
        SOURCE.write_text(bumped(source, version))
        CHANGELOG.write_text(changed)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("check", "write", "notes"):
        sys.exit("usage: python -m tests.support.release check|write|notes VERSION")
    try:
        main(*sys.argv[1:])
    except ReleaseError as error:
        sys.exit(f"release: {error}")
