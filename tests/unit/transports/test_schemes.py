"""A scheme that has no transport is refused by the settings, and again where the transport is chosen."""

from __future__ import annotations

import pytest

from fastapi_athomic import AthomicSettings, ConfigurationError
from fastapi_athomic.addresses import SCHEMES
from fastapi_athomic.transports.schemes import create_transport


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_each_scheme_of_the_settings_has_a_transport(scheme: str) -> None:
    settings = AthomicSettings().model_copy(update={"broker_url": f"{scheme}://127.0.0.1:9092"})
    assert create_transport(settings).scheme == scheme


def test_an_unknown_scheme_is_refused_by_name() -> None:
    unchecked = AthomicSettings().model_copy(update={"broker_url": "amqp://127.0.0.1"})
    with pytest.raises(ConfigurationError, match=r"no transport for amqp://.*memory, kafka"):
        create_transport(unchecked)
