"""The package as it was at a revision of this repository, to be measured beside the one that is here.

A process takes its `fastapi_athomic` from the build's folder; the interpreter, the libraries and the programs in
`benchmarks/` are the same for both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "fastapi_athomic"
OURS = "fastapi-athomic"
"""Begins the names of the contenders that are ours."""
BEFORE = "e441c89"
"""The revision that everyday load is measured beside by default: the last one before it was worked on."""
FOLDER_VARIABLE = "BENCH_PACKAGE_IN"


class UnknownRevisionError(Exception):
    """This clone has no such revision of the package; the text says what to do."""


@dataclass(frozen=True)
class Build:
    """A folder that holds the package."""

    folder: Path
    revision: str = ""  # as it was asked for; empty for the one that is here

    def twin(self, name: str) -> str:
        """What this build's version of one of our contenders is called."""
        return f"{name}, {self.revision}"

    def environment(self, **more: str) -> dict[str, str]:
        """Makes a process take the package from here. Without a safe path, the working directory would come first."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        path = os.pathsep.join(dict.fromkeys((str(self.folder), str(ROOT))))
        return inherited | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", FOLDER_VARIABLE: str(self.folder)} | more


HERE = Build(ROOT)


def with_twins(names: Iterable[str], against: Build | None) -> list[str]:
    """The contenders, each of ours followed by its twin of the other build."""
    twins = [(name, against.twin(name)) if against and name.startswith(OURS) else (name,) for name in names]
    return [name for pair in twins for name in pair]


def origin(name: str, against: Build | None) -> tuple[str, Build]:
    """The contender that a name stands for, and the build that it runs."""
    if against is not None and name.endswith(against.twin("")):
        return name.removesuffix(against.twin("")), against
    return name, HERE


def uvicorn(app: str, port: int, build: Build) -> list[str]:
    """The command that serves the app that a factory makes. uvicorn puts `--app-dir` before everything else."""
    command = [sys.executable, "-m", "uvicorn", "--factory", app, "--port", str(port), "--app-dir", str(build.folder)]
    return [*command, "--log-level", "error", "--no-access-log"]


def built(revision: str, repository: Path = ROOT) -> Build:
    """Raises `UnknownRevisionError`. Builds are kept in the user's cache."""
    commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise UnknownRevisionError(
            f"no revision {revision} in this clone; if it is a shallow one, `git fetch --unshallow` brings the rest. "
            "--against names another revision"
        )
    name = commit.decode().strip()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi-athomic" / "builds"
    if not (cache / name).is_dir():
        archive = _git(repository, "archive", "--format=tar", name, PACKAGE)
        if archive is None:
            raise UnknownRevisionError(f"revision {revision} has no package {PACKAGE}")
        _unpack(archive, cache / name)
    return Build(cache / name, revision)


def _unpack(archive: bytes, folder: Path) -> None:
    """The folder exists only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    subprocess.run(["tar", "-x", "-C", str(partial)], input=archive, check=True)
    try:
        partial.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(partial)


def _git(repository: Path, *arguments: str) -> bytes | None:
    """What it prints; None if it fails."""
    done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=False)
    return None if done.returncode else done.stdout


def check_build(environment: Mapping[str, str] = os.environ) -> None:
    """Raises `RuntimeError` if this process has another build than it should have."""
    import fastapi_athomic

    folder = Path(fastapi_athomic.__file__).parents[1]
    if folder != Path(environment.get(FOLDER_VARIABLE, folder)):
        raise RuntimeError(f"it runs the package in {folder} instead of {environment[FOLDER_VARIABLE]}")
