from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from fastapi_athomic import AthomicSettings, ConfigurationError, KafkaSettings, include_athomic, subscribe_to
from fastapi_athomic.settings import HandlerTuning, read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("ATHOMIC_")]:
        monkeypatch.delenv(name)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ATHOMIC_BROKER_URL": "kafka://a:9092,b:9092",
        "ATHOMIC_DRAIN_TIMEOUT": "7.5",
        "ATHOMIC_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "ATHOMIC_KAFKA__SASL_USERNAME": "ann",
        "ATHOMIC_KAFKA__SASL_PASSWORD": "s3cret",
        "ATHOMIC_STATE_STORE_URL": "redis://ann:s3cret@host:6379/0",
        "ATHOMIC_TUNING__0__HANDLER": "shop.billing.bill",
        "ATHOMIC_TUNING__0__CONCURRENCY": "5",
        "ATHOMIC_TUNING__0__RETRY__MAX_ATTEMPTS": "9",
    }.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert (settings.scheme, settings.broker_address) == ("kafka", "a:9092,b:9092")
    assert settings.drain_timeout == 7.5
    assert settings.kafka.sasl_password is not None
    assert "s3cret" not in repr(settings) + settings.model_dump_json()
    tuning = settings.tuning_by_handler()["shop.billing.bill"]
    assert tuning.concurrency == 5
    assert tuning.retry is not None
    assert tuning.retry.max_attempts == 9


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ATHOMIC_BROKER_URL", "amqp://x", "memory"),
        ("ATHOMIC_BROKER_URL", "kafka://no-port", "host:port"),
        ("ATHOMIC_BROKER_URL", "kafka://user:pw@host:9092", "credentials do not belong in the URL"),
        ("ATHOMIC_STATE_STORE_URL", "http://ann:pw@host", "must begin with one of memory://, redis://"),
        ("ATHOMIC_ORDERED__KEY_PREFIX", "{a}", "should match pattern"),
        ("ATHOMIC_DRAIN_TIMEOUT", "-1", "greater than 0"),
        ("ATHOMIC_MAX_BUFFERED_MESSAGES", "100", "max_poll_messages must not exceed"),
        ("ATHOMIC_DLQ_TOPIC", "{nothing}", "may use {topic}"),
        ("ATHOMIC_DLQ_TOPIC", "{topic}", "must differ"),
        ("ATHOMIC_TUNING__0__CONCURRENCY", "0", "greater than or equal to 1"),
        ("ATHOMIC_TUNING__0__NO_SUCH_THING", "0", "ATHOMIC_TUNING__0__NO_SUCH_THING: there is no such setting"),
        ("ATHOMIC_DRAIN_TIMEOUT", "20s", "ATHOMIC_DRAIN_TIMEOUT: must be a number without a unit (durations are in se"),
        ("ATHOMIC_COMMIT_COUNT", "ten", "ATHOMIC_COMMIT_COUNT: must be a whole number without a unit"),
        ("ATHOMIC_TUNE_GC", "perhaps", "ATHOMIC_TUNE_GC: must be true or false"),
        ("ATHOMIC_REQUIRE_BROKER", "1", "set ATHOMIC_BROKER_URL to kafka://host:port"),
        ("ATHOMIC_KAFKA__SECURITY_PROTOCOL", "SASL_SSL", "needs sasl_username"),
    ],
)
def test_a_wrong_setting_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="the settings of fastapi_athomic are wrong") as caught:
        read_settings()
    assert said in str(caught.value)
    assert "pw@host" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drain_timeout": 301.0}, "drain_timeout must not exceed kafka.max_poll_interval"),
        ({"kafka": {"group_instance_id": "my pod"}}, "1 to 240 of the characters a-z A-Z 0-9 . _ - are allowed"),
        ({"kafka": {"group_instance_id": ""}}, "1 to 240 of the characters"),
        ({"kafka": {"group_instance_id": "{pod}"}}, "besides {pid} and {hostname}"),
        ({"kafka": {"group_instance_id": "x" * 241}}, "1 to 240 of the characters"),
        ({"kafka": {"heartbeat_interval": 20}}, "heartbeat_interval must be smaller than session_timeout"),
        ({"kafka": {"session_timeout": 0}}, "greater than 0"),
        ({"kafka": {"fetch_max_wait": 61}}, "less than or equal to 60"),
        ({"no_such_setting": 1}, "no_such_setting\n  there is no such setting"),
        ({"dlq_topic": "{topic.x}"}, "may use {topic}"),
        ({"dlq_topic": "{topic} letters"}, "may have letters, digits, dots, - and _"),
        (
            {"tuning": {"0": HandlerTuning(handler="bill"), "1": HandlerTuning(handler="bill")}},
            "tuning.0 and tuning.1 are for the same handler: bill",
        ),
    ],
)
def test_settings_that_do_not_fit_together_say_so(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AthomicSettings(**({"broker_url": "kafka://a:1"} | changes))


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        AthomicSettings().drain_timeout = 1
    with pytest.raises(ValidationError):
        KafkaSettings().session_timeout = 1


def test_a_tuning_by_number_needs_its_handler() -> None:
    with pytest.raises(ValidationError, match="needs `handler`"):
        AthomicSettings(tuning={"0": HandlerTuning(concurrency=1)})


@pytest.mark.parametrize(
    ("kafka", "said"),
    [
        (
            {"sasl_username": "ann", "sasl_password": "s3cret"},
            r"sasl_username, sasl_password would not .*PLAINTEXT: .* \(ATHOMIC_KAFKA__SECURITY_PROTOCOL\) to SASL_SSL",
        ),
        ({"sasl_mechanism": "GSSAPI"}, "sasl_mechanism would not be used with security_protocol PLAINTEXT"),
        ({"ssl_cafile": "ca.crt"}, "ssl_cafile would not be used with security_protocol PLAINTEXT: set .* to SSL"),
        ({"ssl_check_hostname": False}, "ssl_check_hostname would not be used"),
        (
            {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "a", "sasl_password": "b", "ssl_cafile": "ca.crt"},
            "ssl_cafile would not be used with security_protocol SASL_PLAINTEXT",
        ),
        ({"security_protocol": "SASL_SSL", "sasl_username": "", "sasl_password": ""}, "and ATHOMIC_KAFKA__SASL_PASS"),
    ],
)
def test_credentials_that_the_protocol_would_not_use_are_refused(kafka: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        AthomicSettings(kafka=kafka)
    assert "s3cret" not in str(caught.value)


def test_credentials_that_are_empty_are_not_given() -> None:
    assert KafkaSettings(sasl_username="", sasl_password=SecretStr(""), ssl_cafile="").security_protocol == "PLAINTEXT"


@pytest.mark.parametrize(
    "given",
    [
        {"broker_url": "kafka://ann:s3cret@host:9092"},
        {"state_store_url": "http://ann:s3cret@host"},
        {"kafka": {"sasl_password": "s3cret", "sasl_user": "ann"}},
        {"kafka": {"sasl_pasword": "s3cret"}},
        {"commit_count": "s3cret"},
        {"state_store_url": "redis://ann:s3cret@host", "require_broker": True},
    ],
)
def test_errors_show_no_values(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        AthomicSettings(**given)
    assert "s3cret" not in str(caught.value)


def test_errors_of_a_section_show_no_values() -> None:
    with pytest.raises(ValidationError, match="would not be used") as caught:
        KafkaSettings(sasl_username="ann", sasl_password=SecretStr("p"), ssl_cafile="s3cret")
    assert "s3cret" not in str(caught.value)


def test_a_broker_can_be_required() -> None:
    assert AthomicSettings(require_broker=True, broker_url="kafka://a:9092").scheme == "kafka"
    with pytest.raises(ValidationError, match="ATHOMIC_REQUIRE_BROKER is set, but the broker is memory://"):
        AthomicSettings(require_broker=True)


async def test_a_tuning_for_an_unknown_handler_names_the_nearest() -> None:
    async def bill(order: bytes) -> None: ...

    app = FastAPI()
    misspelt = {"0": HandlerTuning(handler="biling"), "1": HandlerTuning(handler="mail")}
    settings = AthomicSettings(tuning=misspelt)
    include_athomic(app, settings, handlers=[subscribe_to("orders", group_id="g", handler_id="billing")(bill)])
    with pytest.raises(ConfigurationError, match="unknown handler biling") as caught:
        async with app.router.lifespan_context(app):
            pass
    assert str(caught.value) == (
        "tuning for unknown handler biling (ATHOMIC_TUNING__0__HANDLER): did you mean 'billing'?; "
        "mail (ATHOMIC_TUNING__1__HANDLER); the handlers are: billing"
    )
