from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fastapi_athomic import AthomicSettings, ConfigurationError
from fastapi_athomic.payload_settings import PayloadSettings, TopicSettings
from fastapi_athomic.settings import read_settings

REGISTRY = {"url": "https://registry:8081"}
KEY = "0123456789abcdef-secret"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("ATHOMIC_")]:
        monkeypatch.delenv(name)


def test_an_operator_sets_pipelines_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SERIALIZER": "avro",
        "READS": "json,messagepack",
        "COMPRESSION": "zstd",
        "COMPRESSION_LEVEL": "5",
        "ENCRYPTION": "fernet",
        "ENCRYPTION_KEYS": f"{KEY},old",
        "REGISTRY__URL": "https://registry:8081",
        "REGISTRY__USERNAME": "ann",
        "REGISTRY__PASSWORD": "s3cret",
        "TOPICS__10__TOPIC": "re:orders[.].*",
        "TOPICS__10__COMPRESSION": "none",
        "TOPICS__9__TOPIC": "Orders.placed",
        "TOPICS__9__SERIALIZER": "json",
        "TOPICS__9__READS": "avro",
        "BY_TOPIC": '{"Shop.Events": {"encryption": "none"}}',
    }.items():
        monkeypatch.setenv(f"ATHOMIC_PAYLOAD__{name}", value)
    settings = read_settings()
    assert not {KEY, "s3cret"} & set(repr(settings).split("'"))
    assert KEY not in repr(settings) + settings.model_dump_json()
    own, *topics = settings.payload.pipelines()
    assert (own.topic, own.settings.serializer, own.settings.reads) == (None, "avro", ("json", "messagepack"))
    assert [key.get_secret_value() for key in own.settings.encryption_keys or ()] == [KEY, "old"]
    assert [planned.topic for planned in topics] == ["Shop.Events", "Orders.placed", "re:orders[.].*"]
    events, placed, orders = (planned.settings for planned in topics)
    assert (events.encryption, events.encryption_keys, events.compression) == ("none", None, "zstd")
    assert (placed.serializer, placed.reads, placed.compression_level) == ("json", ("avro",), 5)
    assert (orders.compression, orders.compression_level, orders.encryption) == ("none", None, "fernet")


def test_nothing_set_is_nothing_configured() -> None:
    assert not AthomicSettings().payload.configured
    assert AthomicSettings(payload=PayloadSettings(serializer="json")).payload.configured


def test_settings_in_code_are_as_those_of_the_environment() -> None:
    payload = PayloadSettings(compression="zstd", by_topic={"orders": TopicSettings(compression="gzip")})
    own, orders = AthomicSettings(payload=payload).payload.pipelines()
    assert (own.settings.compression, orders.settings.compression) == ("zstd", "gzip")
    assert orders.settings.serializer is None


def test_keys_of_a_topic_take_the_place_of_the_file_of_the_app() -> None:
    payload = PayloadSettings.model_validate(
        {
            "encryption": "fernet",
            "encryption_keys_file": "/run/keys",
            "by_topic": {"a": {"encryption_keys": ["k"]}, "b": {"encryption": "aes-gcm", "encryption_keys": ["1:k"]}},
        }
    )
    _, a, b = (planned.settings for planned in payload.pipelines())
    assert (a.encryption, a.encryption_keys_file, b.encryption_keys_file) == ("fernet", None, None)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"serializer": "avro"}, "avro needs a schema registry: set ATHOMIC_PAYLOAD__REGISTRY__URL"),
        ({"reads": ["protobuf"]}, "protobuf needs a schema registry"),
        ({"serializer": "avro", "registry": REGISTRY, "reads": ["avro"]}, "reads names avro, which is the serializer"),
        ({"reads": ["json"]}, "reads names json, which is the serializer"),
        (
            {"schema_framing": "header", "schema_auto_register": True},
            "schema_framing, schema_auto_register would not be used with serializer json: set ATHOMIC_",
        ),
        (
            {"compression_level": 3},
            "compression_level would not be used with compression none: set ATHOMIC_PAYLOAD__COMPRESSION to gzip, zstd",
        ),
        ({"compression": "gzip", "compression_reads": ["gzip"]}, "compression_reads names gzip, which is"),
        (
            {"compression": "gzip", "compression_reads": ["zstd"], "compression_required": True},
            "compression_required and compression_reads exclude each other",
        ),
        (
            {"compression": "gzip", "compression_writes": False, "compression_required": True},
            "what this app publishes would be refused",
        ),
        (
            {"encryption_keys": [KEY]},
            "encryption_keys would not be used with encryption none: set ATHOMIC_PAYLOAD__ENC",
        ),
        (
            {"encryption": "aes-gcm"},
            "aes-gcm needs keys: set ATHOMIC_PAYLOAD__ENCRYPTION_KEYS or ATHOMIC_PAYLOAD__ENCRYPTION_KEYS_FILE",
        ),
        ({"encryption": "fernet", "encryption_keys": []}, "fernet needs keys"),
        (
            {"encryption": "fernet", "encryption_keys": [KEY], "encryption_keys_file": "/run/keys"},
            "encryption_keys and encryption_keys_file are both set",
        ),
        (
            {"encryption": "fernet", "encryption_keys": [KEY], "encryption_writes": False},
            "set ATHOMIC_PAYLOAD__ENCRYPTION_REQUIRED to false, too",
        ),
        ({"claim_check_threshold": 1000}, "claim_check_threshold would not be used with claim_check none"),
        ({"claim_check": "/var/payloads"}, "CLAIM_CHECK must be file:///folder, s3://bucket/prefix or none"),
        ({"claim_check": "file://"}, "CLAIM_CHECK must be file:///folder"),
        ({"claim_check": "s3:///prefix"}, "CLAIM_CHECK must be file:///folder"),
        ({"claim_check": f"s3://{KEY}@bucket"}, "credentials do not belong in claim_check"),
        (
            {"claim_check": "file:///var/payloads", "claim_check_endpoint": "https://minio:9000"},
            "claim_check_endpoint is the URL of a store that speaks S3, and claim_check s3://bucket/prefix",
        ),
        (
            {"claim_check": "s3://bucket", "claim_check_endpoint": f"https://user:{KEY}@minio:9000"},
            "claim_check_endpoint has more than https://host:port/path",
        ),
        (
            {"claim_check": "s3://bucket", "claim_check_endpoint": f"https://minio:9000/?token={KEY}"},
            "claim_check_endpoint has more than https://host:port/path",
        ),
        ({"by_topic": {"orders": {"compression_level": 3}}}, "topic orders: compression_level would not be used"),
        ({"topics": {"0": {"serializer": "json"}}}, "topics.0 needs `topic`: the name of a topic, or re:"),
        (
            {"topics": {"0": {"topic": "a"}, "1": {"topic": "a"}}},
            "topics.0 and topics.1 are for the same topic: a",
        ),
        ({"topics": {"0": {"topic": "a"}}, "by_topic": {"a": {}}}, "by_topic.a and topics.0 are for the same topic"),
        ({"by_topic": {"a": {"topic": "b"}}}, "by_topic.a has another name as its `topic`"),
        ({"by_topic": {"re:(": {}}}, "by_topic.re:(: the regular expression of its topic is wrong"),
        ({"topics": {"0": {"topic": "orders.*"}}}, "topics.0: 'orders.*' is no name of a topic"),
        ({"registry": REGISTRY}, "registry.url would not be used: no serializer needs a registry"),
        (
            {"serializer": "avro", "registry": {"url": f"https://ann:{KEY}@host"}},
            "registry.url: credentials do not belong",
        ),
        (
            {"serializer": "avro", "registry": {"url": "registry:8081"}},
            "registry.url: must be memory://, memory://name or http",
        ),
        (
            {"serializer": "avro", "registry": REGISTRY | {"username": "ann"}},
            "username and registry.password go together",
        ),
        (
            {"serializer": "avro", "registry": REGISTRY | {"ssl_keyfile": "k"}},
            "set ATHOMIC_PAYLOAD__REGISTRY__SSL_CERT",
        ),
        (
            {"serializer": "avro", "registry": {"url": "http://host:1", "ssl_cafile": "ca.crt"}},
            "registry.ssl_cafile would not be used with http://: set ATHOMIC_PAYLOAD__REGISTRY__URL to https://host:port",
        ),
        (
            {"serializer": "avro", "registry": {"url": "memory://", "username": "ann", "password": KEY}},
            "registry.username, registry.password would not be used with memory://",
        ),
        (
            {"serializer": "avro", "registry": REGISTRY | {"token": KEY, "username": "ann", "password": KEY}},
            "registry.token and registry.password are both set",
        ),
        ({"serialiser": "avro"}, "there is no such setting: did you mean serializer?"),
        ({"serializer": "xml"}, "'json', 'messagepack', 'avro', 'protobuf' or 'json_schema'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_a_sentence(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AthomicSettings.model_validate({"payload": payload})
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SERIALIZER", "xml", "ATHOMIC_PAYLOAD__SERIALIZER: Input should be 'json'"),
        ("COMPRESSION_LEVEL", "high", "ATHOMIC_PAYLOAD__COMPRESSION_LEVEL: must be a whole number"),
        ("TOPICS__0__SERIALISER", "avro", "did you mean ATHOMIC_PAYLOAD__TOPICS__0__SERIALIZER?"),
        ("ENCRYPTION_KEY", KEY, "did you mean ATHOMIC_PAYLOAD__ENCRYPTION_KEYS?"),
        ("ENCRYPTION", "fernet", "ATHOMIC_PAYLOAD: encryption fernet needs keys: set ATHOMIC_PAYLOAD__ENCRYPTION_KEYS"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"ATHOMIC_PAYLOAD__{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        {"serializer": "avro", "registry": REGISTRY | {"ssl_cafile": "c", "ssl_certfile": "c", "ssl_keyfile": "k"}},
        {"reads": ["avro"], "registry": REGISTRY | {"username": "ann", "password": KEY}},
        {"by_topic": {"orders": {"serializer": "avro"}}, "registry": {"url": "memory://shop"}},
        {"claim_check": "file:///var/payloads", "by_topic": {"orders": {"claim_check": "none"}}},
        {"claim_check": "s3://bucket/prefix", "claim_check_threshold": 1000},
        {"compression": "zstd", "compression_level": 19, "by_topic": {"orders": {"compression": "gzip"}}},
        {"serializer": "avro", "reads": ["json"], "registry": REGISTRY, "by_topic": {"old": {"serializer": "json"}}},
        {"encryption": "fernet", "encryption_keys_file": "k", "encryption_required": False, "encryption_writes": False},
    ],
)
def test_what_makes_sense_is_allowed(payload: dict[str, Any]) -> None:
    assert AthomicSettings.model_validate({"payload": payload}).payload.configured
