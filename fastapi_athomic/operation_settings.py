"""Settings of those who operate an app: health, control, the dashboard, and the part that a process plays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .variables import Checked, Count, PositiveSeconds

Role = Literal["all", "web", "worker"]


class HealthSettings(Checked):
    """What health calls late, and which of it takes an instance out of service."""


class ControlSettings(Checked):
    """Routes that change something, and those that show dead letters."""

    enabled: bool = False  # add these routes; then `include_athomic` needs `control_dependencies`
    allow_anonymous: bool = False  # they need no dependencies: whoever reaches the app may use them


class DashboardSettings(Checked):
    """The page for people, and what it is fed with."""

    enabled: bool = True  # add the page; what it can do depends on `control`
    interval: PositiveSeconds = 1.0  # between two looks at the consumers that are sent to an open page
    stream_seconds: PositiveSeconds = 30.0  # after so long a stream ends, and the page opens the next one
    most_streams: Count = 20  # of one process; whoever comes then is told to come back later


class WorkerSettings(Checked):
    """Processes that only consume (`role` worker): `fastapi-athomic run`, which has options of the same names."""

    processes: Count = 1  # each has consumers of its own: partitions that a process does not get, the others have
    host: str = "127.0.0.1"  # where probes, status and metrics of all processes are served; 0.0.0.0: everywhere
    port: Annotated[int, Field(ge=0, le=65535)] = 8081  # the same; 0: nowhere
    # serve `/consumers` and `/consumers/health` there, too, without any login. None: unless the app asks for one, by
    # `dependencies`
    show_status: bool | None = None
    restart_backoff: PositiveSeconds = 0.5  # the pause before a process that ended is started again; doubles each time
    restart_backoff_max: PositiveSeconds = 30.0  # that pause grows no longer
    silent_timeout: PositiveSeconds = 60.0  # a process whose event loop does not answer for so long is killed, replaced
