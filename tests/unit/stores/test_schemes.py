"""A scheme that has no state store is refused by the settings, and again where the store is chosen."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from fastapi_athomic import AthomicSettings, ConfigurationError
from fastapi_athomic.addresses import STORE_SCHEMES
from fastapi_athomic.stores.schemes import create_store


@pytest.mark.parametrize("scheme", STORE_SCHEMES)
def test_each_scheme_of_the_settings_has_a_store(scheme: str) -> None:
    assert create_store(AthomicSettings(state_store_url=SecretStr(f"{scheme}/0"))) is not None


def test_without_a_url_only_a_broker_in_memory_has_a_store() -> None:
    assert create_store(AthomicSettings()) is not None
    assert create_store(AthomicSettings(broker_url="kafka://127.0.0.1:9092")) is None


def test_an_unknown_scheme_is_refused_by_name() -> None:
    unchecked = AthomicSettings().model_copy(update={"state_store_url": SecretStr("etcd://127.0.0.1")})
    with pytest.raises(ConfigurationError, match="no state store for etcd://"):
        create_store(unchecked)
