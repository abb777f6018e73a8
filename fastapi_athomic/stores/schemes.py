"""Which state store the scheme of its URL stands for."""

from __future__ import annotations

from ..addresses import STORE_SCHEMES
from ..exceptions import ConfigurationError
from ..settings import AthomicSettings
from .base import StateStore
from .shared import SharedState

NEEDS_EXTRA = "state_store_url needs fastapi-athomic[redis]"


def create_store(settings: AthomicSettings) -> StateStore | None:
    """The state store that the settings ask for; it is imported only when it is used.

    Without `state_store_url`: a store in memory if the broker is in memory too, else None.

    Raises:
        ConfigurationError: the extra `redis` is not installed, or no store has this scheme.
    """
    match url := _url(settings):
        case None:
            return None
        case "memory":
            from .memory import store_named

            return store_named(_name(settings))
    try:
        from .redis import RedisStateStore
    except ImportError:
        raise ConfigurationError(NEEDS_EXTRA) from None
    return RedisStateStore(url, prefix=settings.ordered.key_prefix, timeout=settings.ordered.timeout)


def create_shared_state(settings: AthomicSettings) -> SharedState | None:
    """What the processes of a service share, in the store that `create_store` would choose.

    Raises:
        ConfigurationError: as `create_store` does.
    """
    match url := _url(settings):
        case None:
            return None
        case "memory":
            from .shared_memory import shared_named

            return shared_named(_name(settings))
    try:
        from .shared_redis import RedisSharedState
    except ImportError:
        raise ConfigurationError(NEEDS_EXTRA) from None
    return RedisSharedState(url, prefix=settings.ordered.key_prefix, timeout=settings.ordered.timeout)


def _url(settings: AthomicSettings) -> str | None:
    """The URL of a store in Redis; `memory` for one in memory; None for none."""
    if settings.state_store_url is None:
        return "memory" if settings.scheme == "memory" else None
    url = settings.state_store_url.get_secret_value()
    match url.partition("://")[0]:
        case "memory":
            return "memory"
        case "redis" | "rediss" | "unix":
            return url
        case unknown:
            known = ", ".join(STORE_SCHEMES)
            raise ConfigurationError(
                f"no state store for {unknown}://; state_store_url must begin with one of: {known}"
            )


def _name(settings: AthomicSettings) -> str:
    """Apps share what is in memory if they share a broker there that has a name."""
    return settings.broker_address if settings.scheme == "memory" else ""
