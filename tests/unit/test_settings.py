from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from fastapi_athomic import AthomicSettings, ConfigurationError, KafkaSettings, include_athomic
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
        ("ATHOMIC_TUNING__0__NO_SUCH_THING", "0", "Extra inputs"),
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
    assert "ATHOMIC_" in str(caught.value)
    assert "pw@host" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drain_timeout": 301.0}, "drain_timeout must not exceed kafka.max_poll_interval"),
        ({"kafka": {"heartbeat_interval": 20}}, "heartbeat_interval must be smaller than session_timeout"),
        ({"kafka": {"session_timeout": 0}}, "greater than 0"),
        ({"no_such_setting": 1}, "Extra inputs"),
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


def test_p22_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in ("ATHOMIC_DRAIN_TIMOUT", "athomic_kafak__linger", "ATHOMIC_STUCK_AFTER", "ATHOMIC_COLOUR"):
        monkeypatch.setenv(name, "4711")
    include_athomic(FastAPI())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "environment variable ATHOMIC_COLOUR is unknown and ignored"),
        (
            "WARNING",
            "environment variable ATHOMIC_DRAIN_TIMOUT is unknown and ignored: did you mean ATHOMIC_DRAIN_TIMEOUT?",
        ),
        (
            "WARNING",
            "environment variable ATHOMIC_KAFAK__LINGER is unknown and ignored: did you mean ATHOMIC_KAFKA__LINGER?",
        ),
    ]
