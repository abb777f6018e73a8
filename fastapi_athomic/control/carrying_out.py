"""Has one consumer of this process do what an operator asks for, checked before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..checks import COUNT, shown
from ..consumption.service import ConsumerService
from ..exceptions import ConfigurationError
from ..limits import RateLimit
from .actions import ControlAction

Breaker = Literal["open", "closed", "auto"]
BREAKER_STATES = get_args(Breaker)


def check(action: ControlAction, values: Mapping[str, Any]) -> None:
    """Raises `ConfigurationError` if they are not what the action takes."""
    match action:
        case ControlAction.CONCURRENCY:
            value = values.get("value")
            if value is not None and not COUNT.holds(value):
                raise ConfigurationError(f"concurrency must be {COUNT.text}, or None (as declared), not {shown(value)}")
        case ControlAction.RATE:
            _limit(values)
        case ControlAction.BREAKER:
            if (state := values.get("state")) not in BREAKER_STATES:
                raise ConfigurationError(f"state must be 'open', 'closed' or 'auto', not {shown(state)}")


async def carry_out(service: ConsumerService, action: ControlAction, values: Mapping[str, Any]) -> dict[str, Any]:
    """Does it, and returns what is in force then.

    Raises:
        ConfigurationError: as `check` does.
        ControlRefusedError: it cannot be done now.
    """
    check(action, values)
    match action:
        case ControlAction.CONCURRENCY:
            return {"concurrency": service.set_concurrency(values.get("value"))}
        case ControlAction.RATE:
            limit = service.set_rate(_limit(values))
            rate, burst = (limit.messages_per_second, limit.capacity) if limit is not None else (None, None)
            return {"messages_per_second": rate, "burst": burst}
        case ControlAction.BREAKER:
            service.set_breaker(values["state"])
            return {"state": service.controls.limits.breaker.state.value}
        case ControlAction.RESTART:
            await service.restart()
            return {}
    raise ConfigurationError(f"no process does this for another: {action}")


def _limit(values: Mapping[str, Any]) -> RateLimit | None:
    """None: as declared."""
    rate, burst = values.get("messages_per_second"), values.get("burst")
    if rate is not None:
        return RateLimit(messages_per_second=rate, burst=burst)
    if burst is not None:
        raise ConfigurationError("burst needs messages_per_second")
    return None
