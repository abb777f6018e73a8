"""What settings say is what messages look like."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import zstandard
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import AthomicSettings, ConfigurationError, PayloadDecodeError, PayloadPipeline, include_athomic
from fastapi_athomic.payload.routing import Payloads
from fastapi_athomic.payload.steps import Later, Outgoing, header
from fastapi_athomic.payload_settings import PayloadSettings, RegistrySettings
from fastapi_athomic.pipelines import new_payloads, new_registry
from tests.support.payloads import arrived, message

KEY, OTHER = Fernet.generate_key().decode(), Fernet.generate_key().decode()
LONG = {"text": "lorem ipsum " * 100}


def built(**payload: Any) -> Payloads:
    return new_payloads(PayloadSettings.model_validate(payload), None, None)


async def written(pipeline: PayloadPipeline, value: Any, outgoing: Outgoing) -> bytes:
    data = pipeline.write(value, outgoing)
    data = await data if isinstance(data, Later) else data
    assert data is not None
    return data


async def read(pipeline: PayloadPipeline, data: bytes, outgoing: Outgoing, kind: Any = Any) -> Any:
    value = pipeline.decoder(kind)(arrived(data, outgoing))
    return await value if isinstance(value, Later) else value


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("codec", "unpack"),
    [
        ("gzip", gzip.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
        ("lz4", lz4.frame.decompress),
    ],
)
async def test_compression(codec: str, unpack: Any) -> None:
    pipeline = built(compression=codec, compression_level=3, compression_max_size=5_000).default
    outgoing = Outgoing("orders")
    data = await written(pipeline, LONG, outgoing)
    assert unpack(data) == PayloadPipeline().encode(LONG)
    assert header(arrived(data, outgoing), "content-encoding") == codec.encode()
    assert await read(pipeline, data, outgoing) == LONG
    assert await read(pipeline, b'{"as": "before"}', Outgoing("orders")) == {"as": "before"}
    larger = built(compression=codec).default
    too_large = await written(larger, {"text": "lorem ipsum " * 1_000}, outgoing)
    with pytest.raises(PayloadDecodeError, match="max_size"):
        await read(pipeline, too_large, outgoing)


async def test_other_codecs_are_unpacked_while_a_topic_moves() -> None:
    pipeline = built(compression="zstd", compression_reads=["gzip", "lz4"]).default
    for codec in ("gzip", "lz4", "zstd"):
        outgoing = Outgoing("orders")
        data = await written(built(compression=codec).default, LONG, outgoing)
        assert await read(pipeline, data, outgoing) == LONG
    assert await written(built(compression="gzip", compression_writes=False).default, LONG, Outgoing("t")) == (
        PayloadPipeline().encode(LONG)
    )


async def test_fernet_with_keys_that_rotate() -> None:
    before, after = (
        built(encryption="fernet", encryption_keys=[OTHER]),
        built(encryption="fernet", encryption_keys=[KEY, OTHER]),
    )
    old = await written(before.default, LONG, Outgoing("orders"))
    new = await written(after.default, LONG, Outgoing("orders"))
    assert Fernet(KEY).decrypt(new) == PayloadPipeline().encode(LONG)
    for data in (old, new):
        assert await read(after.default, data, Outgoing("orders")) == LONG
    with pytest.raises(PayloadDecodeError):
        await read(after.default, b"{}", Outgoing("orders"))


async def test_aes_gcm_with_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"new:{KEY}\nold:{OTHER}\n")
    before = built(encryption="aes-gcm", encryption_keys=[f"old:{OTHER}"])
    after = built(encryption="aes-gcm", encryption_keys_file=str(file), encryption_required=False)
    old = Outgoing("orders")
    data = await written(before.default, LONG, old)
    assert b"lorem" not in data
    assert await read(after.default, data, old) == LONG
    new = Outgoing("orders")
    assert b"new" in await written(after.default, LONG, new)
    assert await read(after.default, b"{}", Outgoing("orders")) == {}, "not required"


async def test_claim_check_in_a_folder(tmp_path: Path) -> None:
    payloads = built(
        claim_check=tmp_path.as_uri(),
        claim_check_threshold=100,
        by_topic={"small": {"claim_check": "none"}, "reads": {"claim_check_writes": False}},
    )
    outgoing = Outgoing("orders")
    data = await written(payloads.default, LONG, outgoing)
    (stored,) = files_in(tmp_path)
    assert stored.read_bytes() == PayloadPipeline().encode(LONG)
    assert await read(payloads.of_topic("reads"), data, outgoing) == LONG
    for topic in ("small", "reads"):
        assert await written(payloads.of_topic(topic), LONG, Outgoing(topic)) == stored.read_bytes()


async def test_claim_check_in_a_bucket() -> None:
    step = built(claim_check="s3://bucket/a/b", claim_check_endpoint="http://localhost:1").default.steps[-1]
    assert step.name == "claim-check"
    with pytest.raises(ConfigurationError, match=r"^ATHOMIC_PAYLOAD__CLAIM_CHECK: S3: the prefix"):
        built(claim_check="s3://bucket/a%20b")


def test_topics_and_patterns() -> None:
    payloads = built(
        serializer="messagepack",
        by_topic={"orders": {"serializer": "json"}, "re:shop[.].*": {"compression": "gzip"}, "shop.a": {}},
    )
    assert payloads.of_topic("orders").serializer.name == "json"
    assert payloads.of_topic("shop.b").serializer.name == "messagepack"
    assert [step.name for step in payloads.of_topic("shop.b").steps] == ["gzip"]
    assert payloads.of_topic("shop.a") is payloads.of_topic("else") is payloads.default, "the same settings"


async def test_a_pipeline_that_is_read_and_not_written() -> None:
    payloads = built(serializer="json", reads=["messagepack"])
    outgoing = Outgoing("t")
    data = await written(built(serializer="messagepack").default, {"a": 1}, outgoing)
    assert await read(payloads.default, data, outgoing) == {"a": 1}
    assert await written(payloads.default, {"a": 1}, Outgoing("t")) == b'{"a":1}'


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"compression": "gzip", "compression_level": 12}, "ATHOMIC_PAYLOAD__COMPRESSION: Gzip: level must be"),
        (
            {"topics": {"3": {"topic": "orders", "compression": "lz4", "compression_level": 99}}},
            "ATHOMIC_PAYLOAD__TOPICS__3__COMPRESSION: topic orders: Lz4: level must be",
        ),
        ({"encryption": "fernet", "encryption_keys": ["s3cret"]}, "ATHOMIC_PAYLOAD__ENCRYPTION_KEYS: Fernet: "),
        ({"encryption": "aes-gcm", "encryption_keys": ["s3cret"]}, "ATHOMIC_PAYLOAD__ENCRYPTION_KEYS: AesGcm: "),
        (
            {"encryption": "fernet", "encryption_keys_file": "/no/such"},
            "ATHOMIC_PAYLOAD__ENCRYPTION_KEYS_FILE: Fernet: ",
        ),
    ],
)
def test_what_cannot_be_made_names_its_variable(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        built(**payload)
    assert str(caught.value).startswith(said)
    assert "s3cret" not in str(caught.value)


def test_code_and_settings_exclude_each_other() -> None:
    settings = AthomicSettings(payload=PayloadSettings(compression="gzip", by_topic={}))
    with pytest.raises(
        ConfigurationError, match=r"^include_athomic\(payload=...\) and ATHOMIC_PAYLOAD__COMPRESSION both"
    ):
        include_athomic(FastAPI(), settings, payload=PayloadPipeline())
    with pytest.raises(ConfigurationError, match=r"^include_athomic\(topic_payloads=...\) and ATHOMIC_PAYLOAD__COMPR"):
        include_athomic(FastAPI(), settings, topic_payloads={re.compile("a.*"): PayloadPipeline()})
    pipeline = PayloadPipeline()
    assert include_athomic(FastAPI(), AthomicSettings(), payload=pipeline).payloads.default is pipeline
    assert include_athomic(FastAPI(), settings).payloads.default.steps[0].name == "gzip"


def test_only_json_loads_nothing() -> None:
    optional = (
        "cryptography",
        "lz4",
        "zstandard",
        "ormsgpack",
        "fastavro",
        "google",
        "jsonschema_rs",
        "httpx2",
        "obstore",
    )
    code = (
        "import sys, fastapi; from fastapi_athomic import include_athomic; include_athomic(fastapi.FastAPI()); "
        f"print(*[name for name in sys.modules if name.split('.')[0] in {optional} or '_athomic.schemas' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


async def test_tombstones_stay() -> None:
    pipeline = built(compression="gzip", encryption="fernet", encryption_keys=[KEY]).default
    assert pipeline.write(None, Outgoing("t")) is None
    assert pipeline.decoder(str | None)(message(None)) is None


class Order(BaseModel):
    number: int


@pytest.mark.parametrize("framing", ["prefix", "header"])
@pytest.mark.parametrize("serializer", ["avro", "json_schema"])
async def test_formats_with_a_registry(serializer: str, framing: str) -> None:
    payloads = built(
        serializer=serializer,
        schema_framing=framing,
        schema_auto_register=True,
        schema_subject="topic_record",
        registry={"url": f"memory://pipelines-{serializer}"},
        by_topic={"moved": {"serializer": "json", "reads": [serializer]}},
    )
    outgoing = Outgoing("orders")
    data = await written(payloads.default, Order(number=7), outgoing)
    assert (header(arrived(data, outgoing), "__value_schema_id") is not None) == (framing == "header")
    assert await read(payloads.default, data, outgoing, Order) == Order(number=7)
    assert await read(payloads.of_topic("moved"), data, outgoing, Order) == Order(number=7)
    registry = new_registry(RegistrySettings(url=f"memory://pipelines-{serializer}"))
    assert (await registry.latest("orders-Order")).version == 1


async def test_protobuf_with_a_registry() -> None:
    serializer = built(serializer="protobuf", registry={"url": "memory://"}).default.serializer
    assert serializer.name == "protobuf"
    assert serializer.decoder(Order) is not None


def test_options_of_the_registry_reach_it(tmp_path: Path) -> None:
    registry = {"url": "https://registry:1", "ssl_cafile": str(tmp_path / "nothing.crt")}
    with pytest.raises(ConfigurationError, match=r"^ATHOMIC_PAYLOAD__REGISTRY: .*ssl_cafile"):
        built(serializer="avro", registry=registry)
