"""Which state store the scheme of its URL stands for."""

from __future__ import annotations

from ..addresses import STORE_SCHEMES
from ..exceptions import ConfigurationError
from ..settings import AthomicSettings
from .base import StateStore


def create_store(settings: AthomicSettings) -> StateStore | None:
    """The state store that the settings ask for; it is imported only when it is used.

    Without `state_store_url`: a store in memory if the broker is in memory too, else None.

    Raises:
        ConfigurationError: the extra `redis` is not installed, or no store has this scheme.
    """
    if settings.state_store_url is not None:
        url = settings.state_store_url.get_secret_value()
    elif settings.scheme == "memory":
        url = "memory://"
    else:
        return None
    match url.partition("://")[0]:
        case "memory":
            from .memory import store_named

            return store_named(settings.broker_address if settings.scheme == "memory" else "")
        case "redis" | "rediss" | "unix":
            try:
                from .redis import RedisStateStore
            except ImportError:
                raise ConfigurationError("state_store_url needs fastapi-athomic[redis]") from None
            return RedisStateStore(url, prefix=settings.ordered.key_prefix, timeout=settings.ordered.timeout)
        case unknown:
            known = ", ".join(STORE_SCHEMES)
            raise ConfigurationError(
                f"no state store for {unknown}://; state_store_url must begin with one of: {known}"
            )
