"""Settings of those who operate an app: health, control, the dashboard, and the part that a process plays."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from .addresses import checked_origin
from .variables import Checked, Count, PositiveSeconds

Role = Literal["all", "web", "worker"]


class HealthSettings(Checked):
    """What health calls late, and which of it takes an instance out of service."""


class ControlSettings(Checked):
    """Routes that change something, and those that show dead letters."""

    enabled: bool = False  # add these routes; then `include_athomic` needs `control_dependencies`
    allow_anonymous: bool = False  # they need no dependencies: whoever reaches the app may use them
    # other sites, such as https://ops.example.com, whose pages may call these routes in a browser
    allowed_origins: tuple[str, ...] = ()
    most_letters: Count = 1_000  # one request sends back or discards no more dead letters than that

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_origin(origin) for origin in origins)


class DashboardSettings(Checked):
    """The page for people, and what it is fed with."""

    enabled: bool = True  # add the page; what it can do depends on `control`
    interval: PositiveSeconds = 1.0  # between two looks at the consumers that are sent to an open page
    stream_seconds: PositiveSeconds = 30.0  # after so long a stream ends, and the page opens the next one
    most_streams: Count = 20  # of one process; whoever comes then is told to come back later


class WorkerSettings(Checked):
    """Processes that only consume (`role` worker): `fastapi-athomic run`."""
