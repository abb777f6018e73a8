"""The wheel, installed where nothing else is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastapi_athomic

ROOT = Path(__file__).parents[2]
EXTRAS = ("confluent_kafka", "cryptography", "opentelemetry.sdk", "redis", "uvicorn")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(ROOT)], check=True)
    (found,) = target.glob("*.whl")
    return found


def test_it_holds_the_package_its_types_and_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastapi_athomic/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastapi_athomic"}


def test_p19_fault_06_what_all_of_kafkas_codecs_need_comes_with_it(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    needed = [line for line in archive.read(metadata).decode().split("\n") if line.startswith("Requires-Dist:")]
    assert [line for line in needed if "cramjam" in line and "extra" not in line]


@pytest.mark.timeout(600)
def test_it_imports_in_a_clean_environment_without_extras(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    code = (
        "import fastapi_athomic, importlib.util as u; print(fastapi_athomic.__version__);"
        f"print([name for name in {EXTRAS!r} if u.find_spec(name.split('.')[0]) and u.find_spec(name)])"
    )
    done = subprocess.run([python, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [fastapi_athomic.__version__, "[]"]
