from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fastapi_athomic
from fastapi_athomic import testing

HEAVY = (
    "aiokafka",
    "confluent_kafka",
    "cramjam",
    "cryptography",
    "fastapi_athomic.cli",
    "fastavro",
    "google.protobuf",
    "httpx2",
    "jsonschema_rs",
    "lz4",
    "msgpack",
    "obstore",
    "openlineage",
    "opentelemetry.sdk",
    "ormsgpack",
    "prometheus_client",
    "redis",
    "uvicorn",
    "zstandard",
)
OPTIONAL_PARTS = (
    "fastapi_athomic.payload.claim_check",
    "fastapi_athomic.payload.compression",
    "fastapi_athomic.payload.encryption",
    "fastapi_athomic.payload.messagepack",
    "fastapi_athomic.schemas",
    "fastapi_athomic.sequencing.strategy",
    "fastapi_athomic.stores.memory",
    "fastapi_athomic.stores.redis",
    "fastapi_athomic.testing",
    "fastapi_athomic.transports.kafka",
    "fastapi_athomic.transports.memory",
    "fastapi_athomic.web.control_routes",
    "fastapi_athomic.web.letter_routes",
)


def test_all_is_sorted_and_complete() -> None:
    exported = fastapi_athomic.__all__
    assert exported == sorted(exported)
    modules = {path.stem for path in Path(fastapi_athomic.__file__).parent.iterdir()}
    public = {name for name in vars(fastapi_athomic) if not name.startswith("_")} - modules
    assert set(exported) == public | {"__version__"}


def test_all_of_the_test_kit_is_sorted() -> None:
    assert testing.__all__ == sorted(testing.__all__)


def test_completion_shows_no_modules() -> None:
    assert dir(fastapi_athomic) == fastapi_athomic.__all__


def test_importing_the_package_loads_no_client_library_and_no_extra() -> None:
    code = f"import fastapi_athomic, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_the_package_loads_none_of_its_parts_that_not_every_app_needs() -> None:
    code = f"import fastapi_athomic, sys; print(*[name for name in {OPTIONAL_PARTS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_method_is_there_after_the_import() -> None:
    code = "import fastapi_athomic, fastapi; assert callable(fastapi.FastAPI.include_athomic)"
    subprocess.run([sys.executable, "-c", code], check=True)
