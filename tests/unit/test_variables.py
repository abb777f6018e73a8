"""Variables that are no settings are refused, wherever they stand, and the nearest setting is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from fastapi_athomic import AthomicSettings, ConfigurationError, include_athomic
from fastapi_athomic.settings import read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ATHOMIC_")]:
        monkeypatch.delenv(name)


MISSPELT = {
    "ATHOMIC_BROKERURL": "ATHOMIC_BROKER_URL",
    "ATHOMIC_KAFKA_SECURITY_PROTOCOL": "ATHOMIC_KAFKA__SECURITY_PROTOCOL",
    "ATHOMIC_SECURITY_PROTOCOL": "ATHOMIC_KAFKA__SECURITY_PROTOCOL",
    "ATHOMIC_KAFKA__SECURTY_PROTOCOL": "ATHOMIC_KAFKA__SECURITY_PROTOCOL",
    "ATHOMIC_KAFAK__LINGER": "ATHOMIC_KAFKA__LINGER",
    "athomic_drain_timout": "ATHOMIC_DRAIN_TIMEOUT",
    "ATHOMIC_TUNING__0__CONCURENCY": "ATHOMIC_TUNING__0__CONCURRENCY",
    "ATHOMIC_TUNING__0__RETRY__MAX_ATEMPTS": "ATHOMIC_TUNING__0__RETRY__MAX_ATTEMPTS",
    "ATHOMIC_TUNING_0_HANDLER": "ATHOMIC_TUNING__0__HANDLER",
    "ATHOMIC_TUNING____HANDLER": "ATHOMIC_TUNING__0__HANDLER",
    "ATHOMIC_BROKER_URL__HOST": "ATHOMIC_BROKER_URL",
    "ATHOMIC_KAFKA__LINGER__MS": "ATHOMIC_KAFKA__LINGER",
    "ATHOMIC_KAFKA__BOOTSTRAP_SERVERS": "ATHOMIC_BROKER_URL",
    "ATHOMIC_REDIS_URL": "ATHOMIC_STATE_STORE_URL",
}


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_p22_a_misspelt_variable_is_refused_with_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "s3cret")
    with pytest.raises(ConfigurationError) as caught:
        include_athomic(FastAPI())
    assert str(caught.value).splitlines() == [
        "the settings of fastapi_athomic are wrong:",
        f"  {name.upper()}: there is no such setting: did you mean {meant}?",
    ]


def test_p22_settings_given_in_code_do_not_hide_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_BROKERURL", "kafka://a:9092")
    with pytest.raises(ValidationError, match=r"ATHOMIC_BROKERURL\n  .*did you mean ATHOMIC_BROKER_URL\?"):
        include_athomic(FastAPI(), AthomicSettings(client_id="shop"))


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_BROKERURL", "kafka://a:9092")
    monkeypatch.setenv("ATHOMIC_COMMIT_COUNT", "0")
    monkeypatch.setenv("ATHOMIC_REQUIRE_BROKER", "1")
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert "ATHOMIC_BROKERURL: there is no such setting" in str(caught.value)
    assert "ATHOMIC_COMMIT_COUNT: Input should be greater than or equal to 1" in str(caught.value)


def test_a_variable_that_resembles_no_setting_has_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATHOMIC_LICENCE", "ATHOMIC_SHELL_COLOUR", "ATHOMIC_SHELL_PROMPT"):
        monkeypatch.setenv(name, "green")
    with pytest.raises(ConfigurationError, match=r"ATHOMIC_LICENCE: .* name it in ATHOMIC_IGNORED_VARIABLES"):
        read_settings()
    monkeypatch.setenv("ATHOMIC_IGNORED_VARIABLES", "ATHOMIC_LICENCE, athomic_shell_*")
    assert read_settings().ignored_variables == ("ATHOMIC_LICENCE", "athomic_shell_*")
    monkeypatch.delenv("ATHOMIC_IGNORED_VARIABLES")
    assert AthomicSettings(ignored_variables=("ATHOMIC_LICENCE", "ATHOMIC_SHELL_*")).scheme == "memory"


def test_no_pattern_lets_a_wrong_value_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_KAFKA", "{")
    with pytest.raises(ValidationError, match="must be a JSON object"):
        AthomicSettings(ignored_variables=("ATHOMIC_*",))


SERVICE_LINKS = {
    "{0}_SERVICE_HOST": "10.0.0.1",
    "{0}_SERVICE_PORT": "8000",
    "{0}_SERVICE_PORT_HTTP_METRICS": "8000",
    "{0}_PORT": "tcp://10.0.0.1:8000",
    "{0}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "{0}_PORT_8000_TCP_PROTO": "tcp",
    "{0}_PORT_8000_TCP_PORT": "8000",
    "{0}_PORT_8000_TCP_ADDR": "10.0.0.1",
    "{0}_PORT_53_UDP": "udp://10.0.0.1:53",
}


@pytest.mark.parametrize("service", ["ATHOMIC", "ATHOMIC_KAFKA", "ATHOMIC_REDIS", "ATHOMIC_KAFKA__DEV"])
def test_what_kubernetes_makes_for_a_service_is_left_alone(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name.format(service), value)
    assert read_settings() == AthomicSettings()


@pytest.mark.parametrize("name", ["ATHOMIC_PORT", "ATHOMIC_KAFKA_PORT", "ATHOMIC_SERVICE_NAME", "ATHOMIC_KAFKA__PORT"])
def test_a_port_or_a_service_that_is_no_link_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "9092")
    with pytest.raises(ConfigurationError, match=f"{name}: there is no such setting"):
        read_settings()


def test_the_variables_of_our_own_tests_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_TEST_SEED", "7")
    assert read_settings().scheme == "memory"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ATHOMIC_KAFKA", "{bad", "ATHOMIC_KAFKA: must be a JSON object; or .* that begin with ATHOMIC_KAFKA__"),
        ("ATHOMIC_KAFKA", "", "ATHOMIC_KAFKA: must be a JSON object"),
        ("ATHOMIC_KAFKA", '{"lingr": 1}', "ATHOMIC_KAFKA, lingr: .*did you mean ATHOMIC_KAFKA__LINGER"),
        ("ATHOMIC_KAFKA", '{"linger": "soon"}', "ATHOMIC_KAFKA, linger: must be a number without a unit"),
        ("ATHOMIC_TUNING", "[1]", "ATHOMIC_TUNING: must be a JSON object"),
        ("ATHOMIC_TUNING__0", "7", "ATHOMIC_TUNING__0: must be a JSON object"),
        ("ATHOMIC_DLQ_HEADER_SPELLINGS", "[spring", "ATHOMIC_DLQ_HEADER_SPELLINGS: must be a list in JSON"),
        ("ATHOMIC_DLQ_HEADER_SPELLINGS", "sprung", "ATHOMIC_DLQ_HEADER_SPELLINGS, 0: Input should be 'spring' or"),
    ],
)
def test_what_is_wrong_in_json_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        read_settings()


def test_json_and_single_variables_make_one_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_KAFKA", '{"linger": 0.5, "request_timeout": 9}')
    monkeypatch.setenv("ATHOMIC_KAFKA__LINGER", "0.7")
    kafka = read_settings().kafka
    assert (kafka.linger, kafka.request_timeout) == (0.7, 9.0)


@pytest.mark.parametrize("value", ["spring,smallrye", " spring , smallrye ", '["spring", "smallrye"]'])
def test_a_list_is_written_with_commas_or_in_json(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ATHOMIC_DLQ_HEADER_SPELLINGS", value)
    assert read_settings().dlq_header_spellings == ("spring", "smallrye")


# --- in code


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"drain_timout": 4}, r"drain_timout\n  there is no such setting: did you mean drain_timeout\?"),
        ({"kafka": {"lingr": 4}}, r"kafka.lingr\n  there is no such setting: did you mean linger\?"),
        ({"security_protocol": "SSL"}, r"security_protocol\n  .*did you mean kafka.security_protocol\?"),
        ({"colour": "green"}, r"colour\n  there is no such setting \["),
    ],
)
def test_a_misspelt_keyword_is_refused_with_the_nearest_one(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AthomicSettings(**given)


# --- .env files and secrets


def reading(env_file: Path | None = None, secrets_dir: Path | None = None, **given: Any) -> AthomicSettings:
    """pydantic-settings' own parameters: type checkers know them only with pydantic's plugin."""
    return AthomicSettings(**{"_env_file": env_file, "_secrets_dir": secrets_dir, **given})


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text(
        "# of the whole service\nDATABASE_URL=postgres://db\nBROKER_URL=amqp://x\nkafka=4\nKAFKA__LINGER=7\n"
        "ATHOMIC_BROKER_URL=kafka://a:9092\nATHOMIC_KAFKA__LINGER=0.25\nATHOMIC_DLQ_HEADER_SPELLINGS=spring\n"
    )
    return path


def test_an_env_file_may_have_lines_of_others(env_file: Path) -> None:
    settings = reading(env_file=env_file)
    assert (settings.broker_url, settings.kafka.linger) == ("kafka://a:9092", 0.25)
    assert settings.dlq_header_spellings == ("spring",)
    assert include_athomic(FastAPI(), settings).settings.broker_address == "a:9092"


def test_a_subclass_may_name_the_env_file(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(AthomicSettings):
        model_config = SettingsConfigDict(env_file=env_file)

    assert Settings().broker_url == "kafka://a:9092"
    monkeypatch.setenv("ATHOMIC_BROKER_URL", "kafka://b:9092")
    assert Settings().broker_url == "kafka://b:9092", "the environment wins"


def test_p22_a_misspelt_line_of_an_env_file_is_refused(env_file: Path) -> None:
    env_file.write_text("ATHOMIC_BROKERURL=kafka://a:9092\nATHOMIC_KAFKA__LINGR=1\n")
    with pytest.raises(ValidationError) as caught:
        reading(env_file=env_file)
    assert "in the .env file: there is no such setting: did you mean ATHOMIC_BROKER_URL?" in str(caught.value)
    assert "did you mean ATHOMIC_KAFKA__LINGER?" in str(caught.value)


def test_an_env_file_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    assert reading(env_file=tmp_path / "nowhere").broker_url == "memory://"


def test_p22_a_subclass_that_ignores_extras_still_refuses_misspelt_variables(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Settings(AthomicSettings):
        model_config = SettingsConfigDict(env_file=env_file, extra="ignore")

    assert Settings().broker_url == "kafka://a:9092"
    monkeypatch.setenv("ATHOMIC_DRAIN_TIMOUT", "3")
    with pytest.raises(ValidationError, match="did you mean ATHOMIC_DRAIN_TIMEOUT"):
        Settings()


def test_a_subclass_may_add_fields_and_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(AthomicSettings):
        shop: str = "none"
        broker_url: str = Field(default="memory://", validation_alias=AliasChoices("ATHOMIC_BROKERS", "KAFKA_URL"))

    monkeypatch.setenv("ATHOMIC_SHOP", "books")
    monkeypatch.setenv("ATHOMIC_BROKERS", "kafka://a:9092")
    assert (Settings().shop, Settings().broker_url) == ("books", "kafka://a:9092")


def test_p22_a_subclass_may_add_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(AthomicSettings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            vault = InitSettingsSource(settings_cls, {"client_id": "shop"})
            return *super().settings_customise_sources(settings_cls, *sources, **named), vault

    assert Settings().client_id == "shop"
    monkeypatch.setenv("ATHOMIC_CLIENTID", "books")
    with pytest.raises(ValidationError, match="did you mean ATHOMIC_CLIENT_ID"):
        Settings()


def test_the_variables_of_another_prefix_are_not_ours_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(AthomicSettings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")

    monkeypatch.setenv("SHOP_DATABASE", "postgres://db")
    monkeypatch.setenv("SHOP_BROKER_URL", "kafka://a:9092")
    monkeypatch.setenv("ATHOMIC_BROKERURL", "kafka://b:9092")
    assert Settings().broker_url == "kafka://a:9092"


def test_secrets_are_read_from_files_also_of_sections(tmp_path: Path) -> None:
    (tmp_path / "athomic_broker_url").write_text("kafka://a:9092\n")
    (tmp_path / "ATHOMIC_KAFKA__SASL_PASSWORD").write_text("s3cret\n")
    (tmp_path / "database_password").write_text("other")
    kafka = {"security_protocol": "SASL_SSL", "sasl_username": "ann"}
    settings = reading(secrets_dir=tmp_path, kafka=kafka)
    assert settings.broker_url == "kafka://a:9092"
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "s3cret"
    assert settings.kafka.sasl_username == "ann"
    (tmp_path / "athomic_kafka__sasl_pasword").write_text("s3cret")
    with pytest.raises(ValidationError, match=r"directory of secrets: .* did you mean ATHOMIC_KAFKA__SASL_PASSWORD\?"):
        reading(secrets_dir=tmp_path)
