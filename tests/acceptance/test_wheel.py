"""The wheel, installed where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastapi_athomic

ROOT = Path(__file__).parents[2]
EXTRAS = (
    *("confluent_kafka", "cryptography", "fastavro", "google.protobuf", "httpx2", "jsonschema_rs", "lz4", "msgpack"),
    *("obstore", "opentelemetry.sdk", "redis", "uvicorn", "zstandard"),
)
NEEDS_EXTRA = """
import sys
from importlib import import_module
from fastapi_athomic import ConfigurationError
from fastapi_athomic.payload.claim_check import S3, ClaimCheck, Folder
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry

memory = SchemaRegistry("memory://")
Gzip(), CloudEvents(source="shop"), ClaimCheck(Folder(sys.argv[1]))
for make in (
    lambda: AesGcm({"a": "A" * 43 + "="}),
    lambda: Avro(memory),
    lambda: Fernet(["A" * 43 + "="]),
    lambda: JsonSchema(memory),
    Lz4,
    MessagePack,
    lambda: Protobuf(memory),
    lambda: S3("bucket"),
    lambda: SchemaRegistry("https://registry:8081"),
    lambda: import_module("fastapi_athomic.testing"),
    Zstd,
):
    try:
        made = make()
    except ConfigurationError as error:
        print(error)
    else:
        print("made", made)
"""
SENTENCES = [
    "AesGcm needs fastapi-athomic[encryption]: No module named 'cryptography'",
    "Avro needs fastapi-athomic[avro]: No module named 'fastavro'",
    "Fernet needs fastapi-athomic[encryption]: No module named 'cryptography'",
    "JsonSchema needs fastapi-athomic[json-schema]: No module named 'jsonschema_rs'",
    "Lz4 needs fastapi-athomic[compression]: No module named 'lz4'",
    "MessagePack needs fastapi-athomic[msgpack]: No module named 'msgpack'",
    "Protobuf needs fastapi-athomic[protobuf]: No module named 'google'",
    "a claim check in S3 needs fastapi-athomic[s3]: No module named 'obstore'",
    "a schema registry needs fastapi-athomic[avro], [protobuf] or [json-schema]: No module named 'httpx2'",
    "fastapi_athomic.testing needs fastapi-athomic[testing]: No module named 'httpx'",
    "Zstd needs fastapi-athomic[compression]: No module named 'zstandard'",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(ROOT)], check=True)
    (found,) = target.glob("*.whl")
    return found


def metadata(wheel: Path) -> list[str]:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return archive.read(name).decode().splitlines()


def test_it_holds_the_package_its_types_and_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastapi_athomic/py.typed" in names
    said = metadata(wheel)
    assert "License-Expression: Apache-2.0 AND MIT" in said, "ours, and that of what is vendored (PEP 639)"
    for licence in ("LICENSE", "fastapi_athomic/web/static/uPlot.LICENSE"):
        assert f"License-File: {licence}" in said
        assert any(name.endswith(f".dist-info/licenses/{licence}") for name in names)
    static = {path.name for path in (ROOT / "fastapi_athomic" / "web" / "static").iterdir()}
    assert {name.rpartition("/")[2] for name in names if "/web/static/" in name and "dist-info" not in name} == static
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"fastapi_athomic", "pytest_fastapi_athomic.py"}


def test_pytest_finds_the_plugin(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "test_it.py").write_text("def test_it(athomic_kit): ...")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--athomic-store=memory://a", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "fastapi-athomic: test kits on memory://a" in done.stdout, done.stdout + done.stderr
    assert "fixture athomic_app: define one of this name" in done.stdout


def test_p19_fault_06_what_all_of_kafkas_codecs_need_comes_with_it(wheel: Path) -> None:
    needed = [line for line in metadata(wheel) if line.startswith("Requires-Dist:")]
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

    command = [str(python), "-W", "error", "-c", NEEDS_EXTRA, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (SENTENCES, "")
