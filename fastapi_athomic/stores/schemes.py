"""Which state store the scheme of its URL stands for."""

from __future__ import annotations

from ..exceptions import ConfigurationError
from ..settings import AthomicSettings
from .base import StateStore
from .memory import store_named


def create_store(settings: AthomicSettings) -> StateStore | None:
    """The state store that the settings ask for; None: there is none that would outlive the process.

    Raises:
        ConfigurationError: the extra `redis` is not installed.
    """
    url = settings.state_store_url.get_secret_value() if settings.state_store_url is not None else None
    if url is None and settings.scheme != "memory":
        return None
    if url is None or url.startswith("memory://"):
        return store_named(settings.broker_address if settings.scheme == "memory" else "")
    try:
        from .redis import RedisStateStore
    except ImportError:
        raise ConfigurationError("state_store_url needs fastapi-athomic[redis]") from None
    return RedisStateStore(url, prefix=settings.ordered.key_prefix, timeout=settings.ordered.timeout)
